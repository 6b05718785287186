// The process's compute thread: measures and settles (compute_measure.cc), hears and tells the governor. Started at the first
// launch that is charged; a process without a compute limit has none.
#include <fcntl.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "hook/compute.h"
#include "hook/compute_books.h"
#include "hook/compute_quick.h"
#include "hook/gate.h"
#include "hook/mode.h"
#include "hook/nccl.h"
#include "hook/next.h"
#include "hook/process.h"

extern char** environ;

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr std::uint64_t kMs = 1'000'000;
constexpr long kHurried_ns = 50'000;  // while a launch waits for an end
constexpr int kIdleTicks = 50;        // then it sleeps until there is work

constexpr int kAttributeSms = 16, kAttributeThreadsPerSm = 39;

void step_rates() noexcept {
  for (int i = 0; i < process.device_count; ++i) {
    shm::ComputeEntry* const e = share_of(process.devices[i]);
    if (e != nullptr) step_rate(compute.device[i], *e);
  }
}

void rest(int& idle_ticks) noexcept {
  idle_ticks = compute.pending.load(kRelaxed) != 0 ? 0 : idle_ticks + 1;  // a look
  const bool hurried = compute.urgent.exchange(0, kRelaxed) != 0;         // a hint
  if (idle_ticks < kIdleTicks) {
    const timespec tick{0, hurried ? kHurried_ns : static_cast<long>(kMs)};
    if (hurried) {
      ::nanosleep(&tick, nullptr);
    } else {
      ::syscall(SYS_futex, &compute.urgent, FUTEX_WAIT_PRIVATE, 0, &tick, nullptr, 0);
    }
    return;
  }
  // seq_cst, both: a segment that ends now is seen here, or its thread sees that we sleep
  compute.asleep.store(1, std::memory_order_seq_cst);
  if (compute.pending.load(std::memory_order_seq_cst) == 0) {
    const timespec second{1, 0};
    ::syscall(SYS_futex, &compute.asleep, FUTEX_WAIT_PRIVATE, 1, &second, nullptr, 0);
  }
  compute.asleep.store(0, kRelaxed);  // a hint from here on
  idle_ticks = 0;
}

void* run(void*) noexcept {
  inside = true;  // nothing this thread does is the program's
  ::prctl(PR_SET_NAME, "bulkhead-gpu");
  ::prctl(PR_SET_TIMERSLACK, 1000ul);
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;  // our questions end no capture
  static_cast<void>(next.cuThreadExchangeStreamCaptureMode(&mode));
  int idle_ticks = 0;
  std::uint64_t looked_ns = 0;
  for (;;) {
    rest(idle_ticks);
    hear_governor(monotonic_ns());
    measure();
    step_rates();
    const std::uint64_t now = monotonic_ns();
    tell_governor(now);
    if (now - looked_ns >= 1'000 * kMs) look_for_observers();
    if (now - looked_ns >= 1'000 * kMs) looked_ns = now;
  }
  return nullptr;
}

bool traced() noexcept {
  const int fd = ::open("/proc/self/status", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char text[2048];
  const ssize_t n = ::read(fd, text, sizeof text - 1);
  ::close(fd);
  if (n <= 0) return false;
  text[n] = 0;
  const char* const at = ::strstr(text, "TracerPid:");
  if (at == nullptr) return false;
  const char* digit = at + 10;
  while (*digit == ' ' || *digit == '\t') ++digit;
  return *digit >= '1' && *digit <= '9';
}

bool starts(const char* text, const char* with) noexcept {
  return ::strncmp(text, with, ::strlen(with)) == 0;
}

// What Nsight, CUPTI's injection and compute-sanitizer set for the program they start.
bool injected() noexcept {
  for (char** v = environ; v != nullptr && *v != nullptr; ++v) {
    for (const char* name :
         {"CUDA_INJECTION64_PATH=", "NVTX_INJECTION64_PATH=", "NV_SANITIZER_INJECTION_"}) {
      if (starts(*v, name)) return true;
    }
  }
  return false;
}

constinit bool was_injected = false;  // the environment is read once, at the start

std::uint64_t threads_of(const Device& d) noexcept {
  int sms = 0, threads = 0;
  const auto ask = [&](int* out, int which) {
    return next.cuDeviceGetAttribute(out, static_cast<CUdevice_attribute>(which), d.ordinal) ==
               CUDA_SUCCESS &&
           *out > 0;
  };
  if (!ask(&sms, kAttributeSms) || !ask(&threads, kAttributeThreadsPerSm)) return 0;
  return static_cast<std::uint64_t>(sms) * static_cast<std::uint64_t>(threads);
}

}  // namespace

void look_for_observers() noexcept {
  // a flag of its own
  compute.account_only.store(was_injected || traced() || alone_in_partition(), kRelaxed);
}

void wake_measuring() noexcept {
  // seq_cst pairs with rest(): `pending` was raised before
  if (compute.asleep.load(std::memory_order_seq_cst) == 0) [[likely]]
    return;
  compute.asleep.store(0, kRelaxed);  // a hint
  ::syscall(SYS_futex, &compute.asleep, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

[[gnu::cold, gnu::noinline]] void start_measuring() noexcept {
  const Undisturbed keep;
  const Held held{compute.starting};
  if (compute.started.load(kRelaxed)) return;  // under the lock
  was_injected = injected();
  look_for_observers();
  for (int i = 0; i < process.device_count; ++i)
    compute.device[i].threads = threads_of(process.devices[i]);
  // Not started: what is predicted stands, and nothing is learned.
  if (!start_own_thread(run, nullptr)) count(Count::kFault);
  compute.started.store(true, std::memory_order_release);  // pairs with compute_begin()
}

ComputePause::ComputePause() noexcept
    : held_(compute.started.load(std::memory_order_acquire)) {  // pairs with start_measuring()
  if (held_) compute.measuring.lock();
}
ComputePause::~ComputePause() {
  if (held_) compute.measuring.unlock();
}

// Inside a ComputePause, or with no compute thread.
void compute_context_gone(CUcontext context) noexcept {
  if (!compute.started.load(kRelaxed)) return;  // the caller's pause acquired it
  for (ContextBook& c : compute.contexts) {
    if (c.context.load(kRelaxed) != context) continue;  // an identity
    for_each_book([&c](StreamBook& b) {
      if (b.context != &c) return;
      while (has_flight(b)) drop_flight(b);
      if (b.cut.open != nullptr) compute.queued.fetch_sub(1, kRelaxed);  // a sum
      b.open_until_ns.store(0, kRelaxed);                                // a time
      b.cut = {};  // who launches into a context that ends has lost anyway
      b.last_end = b.start = b.also = nullptr;
      b.lost = true;
    });
    for (auto& e : c.events) e.store(nullptr, kRelaxed);  // published below
    c.spares.store(0, kRelaxed);
    c.base = nullptr;
    c.cover = {};
    c.oldest_ns = 0;
    c.context.store(nullptr, std::memory_order_release);  // pairs with context_book()
  }
}

// The child has one thread and no driver state: its books begin anew.
void compute_forked_child() noexcept {
  compute_unbound();
  gate_forked_child();
  nccl_forked_child();
  captures.store(0, kRelaxed);  // alone
  forget_names();
  quick_forked_child();
  if (!compute.started.load(kRelaxed)) return;
  ::memset(static_cast<void*>(&compute), 0, sizeof compute);
}

}  // namespace bulkhead::hook
