#include "base/bus_guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace bulkhead {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAcquire = std::memory_order_acquire;
constexpr auto kRelease = std::memory_order_release;

// Written by the entry's owner, but `faulted`, which the handler raises. A handler reads begin and end
// between two looks at `version`: odd or changed, and the entry is not whole or is another's.
struct Entry {
  std::atomic<bool> taken;
  std::atomic<bool> faulted;
  std::atomic<std::uint32_t> version;
  std::atomic<std::uintptr_t> begin, end;  // whole pages
};
constinit Entry table[kMaxGuarded]{};
static_assert(std::atomic<std::uintptr_t>::is_always_lock_free &&
              std::atomic<bool>::is_always_lock_free);

pthread_once_t once = PTHREAD_ONCE_INIT;
bool installed = false;        // written under `once`
struct sigaction previous {};  // as above, before the handler is installed

// The order is a seqlock's: odd version, words, even version.
void write(Entry& e, std::uintptr_t begin, std::uintptr_t end) noexcept {
  e.version.fetch_add(1, std::memory_order_acq_rel);  // the words stay behind it: pairs with read()
  e.begin.store(begin, kRelease);                     // pairs with read(): who sees it sees odd
  e.end.store(end, kRelease);
  e.version.fetch_add(1, kRelease);  // pairs with read()
}

bool read(const Entry& e, std::uintptr_t& begin, std::uintptr_t& end) noexcept {
  const std::uint32_t before = e.version.load(kAcquire);  // pairs with write()
  begin = e.begin.load(kAcquire);
  end = e.end.load(kAcquire);
  // relaxed: the acquires above keep it behind them
  return (before & 1) == 0 && e.version.load(kRelaxed) == before;
}

// The range that holds `address` becomes zeros. False: no range of ours, or the kernel refuses.
// System calls directly: nothing between here and the kernel may take a lock.
bool replace(std::uintptr_t address) noexcept {
  for (Entry& e : table) {
    std::uintptr_t begin = 0, end = 0;
    // An entry that is being written holds no range that anybody uses yet or still.
    if (!read(e, begin, end) || address < begin || address >= end) continue;
    e.faulted.store(true, kRelease);  // before the zeros: pairs with faulted()
    const long at = ::syscall(SYS_mmap, begin, end - begin, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0L);
    return at != -1;
  }
  return false;
}

// What would have happened without us.
void pass_on(int signal, siginfo_t* info, void* context) noexcept {
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal, info, context);
    return;
  }
  const bool sent = info->si_code <= 0;  // by kill(2) and the like, not by an access
  if (previous.sa_handler == SIG_IGN && sent) return;
  if (previous.sa_handler != SIG_IGN && previous.sa_handler != SIG_DFL) {
    previous.sa_handler(signal);
    return;
  }
  // The default. An access is repeated on return, and ends the process where it happened; a signal
  // that was sent is sent again, and delivered when this handler returns.
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  ::sigaction(signal, &standard, nullptr);
  if (sent) ::syscall(SYS_tgkill, ::getpid(), ::syscall(SYS_gettid), signal);
}

void on_bus_error(int signal, siginfo_t* info, void* context) noexcept {
  const int keep_errno = errno;
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  if (info->si_code != BUS_ADRERR || !replace(address)) pass_on(signal, info, context);
  errno = keep_errno;
}

void install() noexcept {
  if (::sigaction(SIGBUS, nullptr, &previous) != 0) return;
  struct sigaction ours {};
  ours.sa_sigaction = on_bus_error;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&ours.sa_mask);
  installed = ::sigaction(SIGBUS, &ours, nullptr) == 0;
}

}  // namespace

Result<GuardedRange> guard(void* at, std::size_t bytes) noexcept {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(at);
  if (begin == 0 || begin % page != 0 || bytes == 0 || bytes > ~begin - page) {
    return Status{Errc::kInvalid, 0, "not a mapping that can be guarded"};
  }
  ::pthread_once(&once, install);
  if (!installed) return Status{Errc::kIo, errno, "cannot handle SIGBUS"};
  for (unsigned i = 0; i < kMaxGuarded; ++i) {
    Entry& e = table[i];
    bool taken = false;
    // acquire pairs with reset(): what the last owner wrote is behind us
    if (!e.taken.compare_exchange_strong(taken, true, kAcquire, kRelaxed)) continue;
    e.faulted.store(false, kRelaxed);  // ordered by write(), and nobody asks before we return
    write(e, begin, begin + (bytes + page - 1) / page * page);
    GuardedRange range;
    range.entry_ = static_cast<int>(i);
    return range;
  }
  return Status{Errc::kFull, 0, "too many mappings are guarded"};
}

bool GuardedRange::faulted() const noexcept {
  return ok() && table[entry_].faulted.load(kAcquire);  // pairs with replace()
}

void GuardedRange::reset() noexcept {
  if (!ok()) return;
  Entry& e = table[std::exchange(entry_, -1)];
  write(e, 0, 0);
  e.taken.store(false, kRelease);  // pairs with guard()
}

}  // namespace bulkhead
