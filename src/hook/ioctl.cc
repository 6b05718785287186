// ioctl: forwarded untouched. Only with the slice enforcer on is anything looked at, and then after the call. docs/spatial.md.
#include "hook/ioctl.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

#include "base/clock.h"
#include "hook/loader.h"
#include "hook/private_lock.h"
#include "hook/process.h"
#include "hook/slice.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// Until the constructor has found whoever comes after us: as libc does it.
int by_kernel(int fd, unsigned long request, void* argument) noexcept {
  return static_cast<int>(::syscall(SYS_ioctl, fd, request, argument));
}
constinit std::atomic<IoctlCall> next_ioctl{by_kernel};
constinit std::atomic<bool> sets{false};  // a thread of ours waits to set slices

int call_next(int fd, unsigned long request, void* argument) noexcept {
  return next_ioctl.load(kRelaxed)(fd, request, argument);  // relaxed: code that is there
}

// Ends when nothing waits.
void* set_later(void*) noexcept {
  for (unsigned waiting = 1; waiting != 0;) {
    const timespec pause{0, 250'000'000};
    ::nanosleep(&pause, nullptr);
    unsigned set = 0;
    waiting = set_slices(call_next, monotonic_ns(), &set);
  }
  sets.store(false, kRelaxed);  // a hint: a group noted right now is set with the next one
  return nullptr;
}

[[gnu::cold, gnu::noinline]] int ioctl_watched(int fd, unsigned long request,
                                               void* argument) noexcept {
  const int result = call_next(fd, request, argument);
  if (result != 0) return result;
  const Undisturbed keep;
  if (!note_ioctl(fd, request, argument, monotonic_ns())) return result;
  if (!sets.exchange(true, kRelaxed) && !start_own_thread(set_later, nullptr))  // a hint
    sets.store(false, kRelaxed);
  return result;
}

}  // namespace

void find_next_ioctl() noexcept {
  void* const found = real_dlsym(RTLD_NEXT, "ioctl");
  if (found != nullptr) next_ioctl.store(reinterpret_cast<IoctlCall>(found), kRelaxed);  // as above
}

}  // namespace bulkhead::hook

extern "C" [[gnu::visibility("default")]] int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list more;
  va_start(more, request);
  void* const argument = va_arg(more, void*);
  va_end(more);
  if (bulkhead::hook::slices_wanted() == 0) [[likely]]
    return bulkhead::hook::call_next(fd, request, argument);
  return bulkhead::hook::ioctl_watched(fd, request, argument);
}
