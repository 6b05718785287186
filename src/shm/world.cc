#include "shm/world.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "base/fd.h"

namespace bulkhead::shm {
namespace {

struct ProcStat {
  char state = 0;
  std::uint64_t threads = 0;
  std::uint64_t start_ticks = 0;
};

// Fields 3, 20 and 22 of /proc/PID/stat (proc(5)); the command name before them may hold anything,
// so the count starts after the last ')'.
bool parse_stat(const char* text, std::size_t length, ProcStat& out) noexcept {
  std::size_t at = length;
  while (at > 0 && text[at - 1] != ')') --at;
  if (at == 0) return false;
  unsigned field = 2;
  std::uint64_t number = 0;
  for (; at < length; ++at) {
    const char c = text[at];
    if (c == ' ' || c == '\n') {
      if (field == 20) out.threads = number;
      if (field == 22) {
        out.start_ticks = number;
        return true;
      }
      ++field;
      number = 0;
    } else if (c >= '0' && c <= '9') {
      number = number * 10 + static_cast<unsigned>(c - '0');
    } else if (field == 3) {
      out.state = c;
    }
  }
  return false;
}

bool read_stat(const char* path, ProcStat& out, int& error) noexcept {
  const UniqueFd fd{::open(path, O_RDONLY | O_CLOEXEC)};
  if (!fd.ok()) {
    error = errno;
    return false;
  }
  char text[1024];
  const ssize_t got = ::read(fd.get(), text, sizeof text);
  error = got < 0 ? errno : 0;
  return got > 0 && parse_stat(text, static_cast<std::size_t>(got), out);
}

void stat_path(std::uint32_t pid, char (&out)[32]) noexcept {
  char digits[10];
  unsigned count = 0;
  do {
    digits[count++] = static_cast<char>('0' + pid % 10);
    pid /= 10;
  } while (pid != 0);
  char* to = out;
  for (const char* from = "/proc/"; *from != 0; ++from) *to++ = *from;
  while (count > 0) *to++ = digits[--count];
  std::memcpy(to, "/stat", 6);
}

// /proc may be absent, or belong to another pid namespace (a container with the host's /proc): then
// /proc/self does not name our pid, and nothing there is about processes as we number them.
bool proc_is_ours(std::uint32_t pid) noexcept {
  char text[16];
  const ssize_t got = ::readlink("/proc/self", text, sizeof text);
  std::uint32_t named = 0;
  for (ssize_t i = 0; i < got; ++i) {
    if (text[i] < '0' || text[i] > '9') return false;
    named = named * 10 + static_cast<std::uint32_t>(text[i] - '0');
  }
  return got > 0 && named == pid;
}

// What /proc said of this process: it never changes, and a start asks for it half a dozen times. The page is wiped in a
// child of a fork, by the kernel (MADV_WIPEONFORK), so also if the child has its parent's pid in a namespace of its
// own; where the kernel cannot do that nothing is kept.
struct alignas(4096) Known {
  std::atomic<std::uint32_t> pid;  // 0: nothing; stored last
  std::atomic<std::uint64_t> start_ticks, pid_namespace;
  unsigned char rest[4096 - 24];
};
static_assert(sizeof(Known) == 4096);
constinit Known known{};

void remember(const Identity& id) noexcept {
  if (::madvise(&known, sizeof known, MADV_WIPEONFORK) != 0) return;
  known.start_ticks.store(id.start_ticks, std::memory_order_relaxed);      // published below
  known.pid_namespace.store(id.pid_namespace, std::memory_order_relaxed);  // as above
  known.pid.store(id.pid, std::memory_order_release);  // pairs with read_identity()
}

bool ask_lock(int fd, unsigned byte, struct flock& out) noexcept {
  out.l_type = F_WRLCK;
  out.l_whence = SEEK_SET;
  out.l_start = byte;
  out.l_len = 1;
  return ::fcntl(fd, F_GETLK, &out) == 0;
}

}  // namespace

Identity read_identity() noexcept {
  Identity id;
  id.pid = static_cast<std::uint32_t>(::getpid());
  id.uid = ::geteuid();
  // FNV-1a over the kernel's 16 random bytes: libc takes its guards from them, so they are never shown
  id.image = 0xcbf2'9ce4'8422'2325;
  if (const auto* random = reinterpret_cast<const unsigned char*>(::getauxval(AT_RANDOM))) {
    for (int i = 0; i < 16; ++i) id.image = (id.image ^ random[i]) * 0x100'0000'01b3;
  }
  if (known.pid.load(std::memory_order_acquire) == id.pid) {             // pairs with remember()
    id.start_ticks = known.start_ticks.load(std::memory_order_relaxed);  // as above
    id.pid_namespace = known.pid_namespace.load(std::memory_order_relaxed);
    return id;
  }
  if (!proc_is_ours(id.pid)) return id;
  ProcStat stat;
  int error = 0;
  if (!read_stat("/proc/self/stat", stat, error)) return id;
  struct stat ns {};
  // the system call itself: glibc's wrapper got a new symbol version in 2.33
  if (::syscall(SYS_newfstatat, AT_FDCWD, "/proc/self/ns/pid", &ns, 0) != 0) return id;
  id.start_ticks = stat.start_ticks;
  id.pid_namespace = ns.st_ino;
  remember(id);
  return id;
}

Presence presence_in_proc(std::uint32_t pid, std::uint64_t start_ticks) noexcept {
  if (pid == 0) return Presence::kUnknown;
  if (::kill(static_cast<pid_t>(pid), 0) != 0 && errno == ESRCH) return Presence::kGone;
  char path[32];
  stat_path(pid, path);
  ProcStat stat;
  int error = 0;
  if (!read_stat(path, stat, error)) {
    return error == ENOENT || error == ESRCH ? Presence::kGone : Presence::kUnknown;
  }
  if (start_ticks != 0 && stat.start_ticks != start_ticks) return Presence::kGone;
  // A zombie leader may still have running threads; the last of them takes the count to one.
  const bool zombie = stat.state == 'Z' || stat.state == 'X';
  return zombie && stat.threads <= 1 ? Presence::kGone : Presence::kThere;
}

Lock lock_state_of(int fd, unsigned byte) noexcept {
  struct flock found {};
  if (!ask_lock(fd, byte, found)) return Lock::kUnknown;
  return found.l_type == F_UNLCK ? Lock::kFree : Lock::kHeld;
}

std::uint32_t lock_holder_of(int fd, unsigned byte) noexcept {
  struct flock found {};
  // -1: a lock of an open file, which is nobody's
  if (!ask_lock(fd, byte, found) || found.l_type == F_UNLCK || found.l_pid <= 0) return 0;
  return static_cast<std::uint32_t>(found.l_pid);
}

bool set_lock(int fd, unsigned byte, bool take) noexcept {
  struct flock ask {};
  ask.l_type = static_cast<short>(take ? F_WRLCK : F_UNLCK);
  ask.l_whence = SEEK_SET;
  ask.l_start = byte;
  ask.l_len = 1;
  return ::fcntl(fd, F_SETLK, &ask) == 0;
}

}  // namespace bulkhead::shm
