// The process's compute thread: sees segments end, learns what keys cost, settles the bucket. Started at the first
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
#include "hook/gate.h"
#include "hook/nccl.h"
#include "hook/next.h"
#include "hook/process.h"

extern char** environ;

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr std::uint64_t kMs = 1'000'000;
constexpr long kHurried_ns = 50'000;               // while a launch waits for an end
constexpr int kIdleTicks = 50;                     // then it sleeps until there is work
constexpr std::uint64_t kRebase_ns = 1'000 * kMs;  // a float of ms is exact to 0.1 us until then

constexpr int kAttributeSms = 16, kAttributeThreadsPerSm = 39;

bool elapsed(CUevent from, CUevent to, std::uint64_t& ns) noexcept {
  float ms = 0;
  if (next.cuEventElapsedTime(&ms, from, to) != CUDA_SUCCESS) return false;
  ns = ms > 0 ? static_cast<std::uint64_t>(static_cast<double>(ms) * 1e6) : 0;
  return true;
}

void settle(Flight& f, std::uint64_t due_ns, std::uint64_t now) noexcept {
  shm::ComputeEntry* const e = share_of(process.devices[f.device]);
  if (e == nullptr) return;
  DeviceShare& share = compute.device[f.device];
  const auto delta = static_cast<std::int64_t>(due_ns - f.segment.charged_ns);
  f.segment.charged_ns = due_ns;
  const std::uint64_t lost = shares::settle(e->tat_ns, now, delta, in_force(share, *e).rules);
  if (lost != 0) e->forgiven_ns.fetch_add(lost, kRelaxed);  // a statistic
}

void longest(shm::ComputeEntry& e, std::uint64_t ns) noexcept {
  std::uint64_t seen = e.longest_op_ns.load(kRelaxed);  // a statistic
  while (ns > seen && !e.longest_op_ns.compare_exchange_weak(seen, ns, kRelaxed, kRelaxed)) {
  }
}

// Out of the ring: nobody measures it (its events are kept or gone with their context).
void drop(StreamBook& b) noexcept {
  const std::uint32_t tail = b.tail.load(kRelaxed);  // the measuring thread's own
  Flight& f = b.ring[tail % kInFlight];
  compute.device[f.device].in_flight_ns.fetch_sub(f.window_ns, kRelaxed);  // sums
  compute.pending.fetch_sub(1, kRelaxed);
  b.tail.store(tail + 1, std::memory_order_release);  // pairs with cut_before()
}

void count_used(const Flight& f) noexcept {
  shm::ComputeEntry* const e = share_of(process.devices[f.device]);
  if (e == nullptr) return;
  e->used_ns.fetch_add(f.segment.charged_ns, kRelaxed);  // statistics
  e->launches.fetch_add(f.launches, kRelaxed);
  if (f.segment.ops == 1) longest(*e, f.segment.charged_ns);
}

// The segment at the tail of a stream has ended.
void reap(StreamBook& b, Flight& f) noexcept {
  ContextBook& c = *f.context;
  shares::Reading r;
  const std::uint64_t between = f.end_ns - f.start_ns;
  r.elapsed_ns = between > f.others_ns ? between - f.others_ns : 0;
  // Without a daemon nobody keeps the shared clock, nor tells whether others had work.
  r.span_ns = r.fresh_ns = r.virtual_ns = r.paced_ns = r.elapsed_ns;
  if (f.collective) [[unlikely]]
    agree(f, r);
  shares::teach(f.segment, r);
  // Streams that wait for each other overlap, and only the time that none has spoken for is new.
  const std::uint64_t fresh = c.cover.take(f.start_ns, f.end_ns);
  const std::uint64_t cost = shares::cost_ns(f.segment, r);
  settle(f, cost < fresh ? cost : fresh, monotonic_ns());
  count_used(f);
  for (CUevent e : {f.start, f.also})
    if (e != nullptr) give_event(c, e);
  drop(b);
}

template <class Fn>
void for_each_book(Fn fn) noexcept {
  const std::uint32_t n = compute.used_count.load(kRelaxed);  // a look
  for (std::uint32_t i = 0; i < n && i < kStreamBooks; ++i) {
    const unsigned index = compute.used[i].load(kRelaxed);  // what it leads to orders itself
    if (index != 0) fn(compute.streams[index - 1]);
  }
}

Flight* tail_of(StreamBook& b) noexcept {
  const std::uint32_t tail = b.tail.load(kRelaxed);  // own
  // acquire pairs with end_open(): the flight is written
  return b.head.load(std::memory_order_acquire) == tail ? nullptr : &b.ring[tail % kInFlight];
}

// A segment that runs pays while it runs.
// Of several streams' it is the one that has run longest: together they take no more than the time that passes.
void accrue(ContextBook& c, Flight& f, std::uint64_t now) noexcept {
  if (f.began_ns == 0) {
    if (next.cuEventQuery(f.start) != CUDA_SUCCESS) return;  // others are before it
    f.began_ns = now;
  }
  if (c.next_oldest_ns == 0 || f.began_ns < c.next_oldest_ns) c.next_oldest_ns = f.began_ns;
  if (f.began_ns != c.oldest_ns) return;
  shares::Reading r;
  r.elapsed_ns = r.span_ns = r.virtual_ns = r.paced_ns = now - f.began_ns;
  const std::uint64_t due = shares::running_ns(f.segment, r);
  if (due > f.segment.charged_ns) settle(f, due, now);
}

// Whether a segment has ended, and when. False: not yet. A context in error ends it without a time.
bool has_ended(ContextBook& c, Flight& f, std::uint64_t now) noexcept {
  if (f.end_ns != 0) return true;
  if (f.looked_ns == now) return false;
  f.looked_ns = now;
  const CUresult state = next.cuEventQuery(f.end);
  if (state == CUDA_ERROR_NOT_READY) {
    accrue(c, f, now);
    return false;
  }
  if (c.base == nullptr && state == CUDA_SUCCESS) {
    c.base =
        f.start;  // an event of our own would be work of ours: the first segment's start is kept
    c.base_ns = now;
  }
  std::uint64_t length = 0, end = 0;
  if (state != CUDA_SUCCESS || !elapsed(f.start, f.end, length) || !elapsed(c.base, f.end, end)) {
    f.end_ns = f.start_ns = 1;  // what was predicted stands
    return true;
  }
  f.end_ns = c.base_ns + end;
  f.start_ns = f.end_ns - length;
  return true;
}

// A float of milliseconds loses what is small beside it: the clock's base follows.
void rebase(ContextBook& c, Flight& f) noexcept {
  if (f.start != c.base) {
    if (f.start_ns < c.base_ns + kRebase_ns) return;
    give_event(c, c.base);
    c.base = f.start;
    c.base_ns = f.start_ns;
  }
  f.start = nullptr;  // kept
}

// What of this context has ended, the earliest first. True: look again.
bool reap_one(ContextBook& c, std::uint64_t now) noexcept {
  StreamBook* first = nullptr;
  std::uint64_t first_ns = ~std::uint64_t{0};
  for_each_book([&](StreamBook& b) {
    Flight* const f = tail_of(b);
    if (f == nullptr || f->context != &c || !has_ended(c, *f, now) || f->end_ns >= first_ns) return;
    first = &b;
    first_ns = f->end_ns;
  });
  if (first == nullptr) return false;
  Flight& f = *tail_of(*first);
  if (f.end_ns <= 1) {
    count_used(f);
    drop(*first);
    return true;
  }
  rebase(c, f);
  reap(*first, f);
  return true;
}

void measure() noexcept {
  const Held held{compute.measuring};
  const std::uint64_t now = monotonic_ns();
  bool endless = false;
  for (ContextBook& c : compute.contexts) {
    const CUcontext context = c.context.load(kRelaxed);  // an identity; kept by `measuring`
    if (context == nullptr || next.cuCtxPushCurrent_v2(context) != CUDA_SUCCESS) continue;
    c.next_oldest_ns = 0;
    while (reap_one(c, now)) {
    }
    c.oldest_ns = c.next_oldest_ns;
    endless = endless || (c.oldest_ns != 0 && now - c.oldest_ns >= shares::kMaxDebt_ns);
    CUcontext popped = nullptr;
    static_cast<void>(next.cuCtxPopCurrent_v2(&popped));
  }
  compute.endless.store(endless, kRelaxed);  // a flag of its own
}

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
    measure();
    step_rates();
    const std::uint64_t now = monotonic_ns();
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
  compute.account_only.store(was_injected || traced(), kRelaxed);  // a flag of its own
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
      while (tail_of(b) != nullptr) drop(b);
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
  if (!compute.started.load(kRelaxed)) return;
  ::memset(static_cast<void*>(&compute), 0, sizeof compute);
}

}  // namespace bulkhead::hook
