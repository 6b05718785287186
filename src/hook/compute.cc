// The gate: where a launch waits for its tenant's share, and is charged. docs/compute.md.
#include "hook/compute.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "hook/compute_books.h"
#include "hook/gate.h"
#include "hook/hot.h"
#include "hook/nccl.h"
#include "hook/next.h"
#include "hook/process.h"
#include "hook/stream_class.h"
#include "hook/thread_launch.h"
#include "policy/compute/hold.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr std::uint64_t kMs = 1'000'000;
constexpr std::uint32_t kCollectiveSample = 64;         // one in so many has a segment of its own
constexpr std::uint64_t kLongestWindow_ns = 100 * kMs;  // a full window holds a launch no longer

}  // namespace

constinit const std::atomic<std::uint32_t> kNeverLimited{0};
constinit const std::atomic<std::uint32_t> kAskAlways{1};
constinit std::atomic<const std::atomic<std::uint32_t>*> compute_word{&kNeverLimited};
constinit std::atomic<std::uint32_t> captures{0};
thread_local constinit ThreadLaunch thread_launch{};
constinit Compute compute{};

namespace {

Device* device_for(CUstream stream) noexcept {
  return process.device_count == 1 ? &process.devices[0] : here(stream).device;
}

void pause_for(std::uint32_t times) noexcept {
  for (std::uint32_t i = 0; i < times; ++i) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("yield");
#endif
  }
}

// Until the instant, or until the governor says that the rules have changed.
void sleep_until(shm::ComputeEntry& e, std::uint32_t generation, std::uint64_t until_ns) noexcept {
  const timespec at{static_cast<time_t>(until_ns / 1'000'000'000),
                    static_cast<long>(until_ns % 1'000'000'000)};
  // FUTEX_WAIT_BITSET: the time is absolute, of CLOCK_MONOTONIC
  ::syscall(SYS_futex, &e.rules, FUTEX_WAIT_BITSET, generation, &at, nullptr,
            FUTEX_BITSET_MATCH_ANY);
}

struct Gate {
  DeviceShare& share;
  shm::ComputeEntry& entry;
  [[nodiscard]] std::uint64_t window_ns(const InForce& in, std::uint64_t now) const noexcept {
    if (!gate_anywhere()) [[likely]]
      return in.window_ns;
    const std::uint64_t beside = gate_window_ns(number_of(share), now);
    return beside < in.window_ns ? beside : in.window_ns;
  }
  [[nodiscard]] std::uint64_t in_flight_ns() const noexcept {
    return share.in_flight_ns.load(kRelaxed);  // a sum; looked at again soon
  }
};

// Somebody waits for a segment to end: the compute thread looks more often.
void hurry() noexcept {
  compute.urgent.store(1, kRelaxed);  // a hint, which the thread takes back
  ::syscall(SYS_futex, &compute.urgent, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

// How long to wait yet; `since_ns`: when the hold began, 0: it has not.
std::uint64_t left_ns(const Gate& g, const InForce& in, std::uint64_t now,
                      std::uint64_t since_ns) noexcept {
  const std::uint64_t tat = g.entry.tat_ns.load(kRelaxed);  // the word orders nothing but itself
  const bool held = since_ns != 0;
  const bool waited_out = held && now - since_ns >= kLongestWindow_ns;
  const std::uint64_t window = waited_out ? ~std::uint64_t{0} : g.window_ns(in, now);
  return shares::gate_ns(tat, now, in.rules, g.in_flight_ns(), window, held);
}

// Sleeps until the launch may go. Returns the time then. False limit: it was removed meanwhile.
[[gnu::cold, gnu::noinline]] std::uint64_t hold(const Gate& g, std::uint64_t now) noexcept {
  const Undisturbed keep;
  const std::uint64_t since = now;
  for (std::uint32_t step = 0;; ++step) {
    const InForce& in = in_force(g.share, g.entry);
    if (!in.limits.limited()) break;
    const std::uint64_t left = left_ns(g, in, now, since);
    if (left == 0 || compute.account_only.load(kRelaxed)) break;  // a flag of its own
    // What never ends may be waiting for this very launch: nobody is held longer than debt is kept.
    if (now - since >= in.rules.most_wait_ns && compute.endless.load(kRelaxed)) break;  // as above
    want(g.share, g.entry, now, Wants::kWaits);
    const std::uint64_t tat =
        g.entry.tat_ns.load(kRelaxed);  // a number; for the governor, as the next
    if (shares::gate_ns(tat, now, in.rules, 0, in.window_ns, true) != 0)
      g.entry.held_until_ns.store(
          now + (left < shares::kHoldSlice_ns ? left : shares::kHoldSlice_ns), kRelaxed);
    if (g.in_flight_ns() >= g.window_ns(in, now)) hurry();
    const shares::HoldStep next_step = shares::hold_step(step, now, left);
    if (next_step.pauses != 0) {
      pause_for(next_step.pauses);
    } else {
      sleep_until(g.entry, in.generation, next_step.sleep_until);
    }
    now = monotonic_ns();
  }
  g.entry.held_ns.fetch_add(now - since, kRelaxed);  // a statistic
  return now;
}

}  // namespace

void want(DeviceShare& share, shm::ComputeEntry& e, std::uint64_t now, Wants what) noexcept {
  std::atomic<std::uint64_t>& last = what == Wants::kLaunches ? share.launched_ns : share.waited_ns;
  // relaxed, all: hints for who shares out what is idle
  if (now < last.load(kRelaxed) + kWantStep_ns) return;
  last.store(now, kRelaxed);
  e.wanted_at_ns.store(now, kRelaxed);
  if (what == Wants::kLaunches) share.launched.store(1, kRelaxed);
  wake_measuring();  // it has to tell of it
}

bool is_capturing(CUstream stream, Twin twin) noexcept {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  const CUresult r = twin == Twin::kPerThread ? next.cuStreamIsCapturing_ptsz(stream, &status)
                                              : next.cuStreamIsCapturing(stream, &status);
  // the legacy stream while a blocking stream captures: an error, and not ours to touch
  return r != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_NONE;
}

[[gnu::noinline]] void compute_begin(Ticket& t, const What& what, CUstream stream,
                                     Twin twin) noexcept {
  Device* const d = device_for(stream);
  shm::ComputeEntry* const e = d == nullptr ? nullptr : share_of(*d);
  if (e == nullptr) return;
  DeviceShare& share = compute.device[d->number];
  const InForce* in = &in_force(share, *e);
  if (!in->limits.limited()) {  // beside latency tenants it soon is, as a whole
    gate_raise(d->number, stream);
    return;
  }
  // acquire pairs with a capture's beginning in this thread or one that told it
  bool any_capture = captures.load(std::memory_order_acquire) != 0;
  if (any_capture && is_capturing(stream, twin)) {  // nothing runs: the graph will be charged
    count_class(*e, StreamClass::kCapturing);
    return;
  }
  // acquire pairs with start_measuring()
  if (!compute.started.load(std::memory_order_acquire)) [[unlikely]]
    start_measuring();

  shares::CostEntry& cost = shares::find_or_add(compute.costs, what.key, what.prior_ns);
  const bool coarse = shares::is_coarse(compute.costs, cost);
  const std::uint64_t predicted = shares::predict(cost, what.prior_ns);
  std::uint64_t now = monotonic_ns();
  const Gate gate{share, *e};
  const bool collective = what.function != nullptr && is_collective(what.function);
  const bool never_held = thread_launch.in_callback || collective ||
                          thread_launch.nccl_groups != 0 ||
                          compute.account_only.load(kRelaxed);  // a flag of its own
  if (!never_held && left_ns(gate, *in, now, 0) != 0) [[unlikely]] {
    const std::uint64_t tat = e->tat_ns.load(kRelaxed);  // a number
    if (!any_capture)
      end_before_hold(stream, twin, now,
                      now + shares::gate_ns(tat, now, in->rules, 0, in->window_ns, true));
    now = hold(gate, now);
    in = &in_force(share, *e);
    if (!in->limits.limited()) return;  // the limit is gone
    any_capture = captures.load(std::memory_order_acquire) !=
                  0;  // acquire as above: one may have begun meanwhile
  }
  if (streams_shaped() && !never_held) [[unlikely]]
    now = stream_hold(*e, stream, predicted, now);
  if (what.dependent && !never_held && !any_capture && !coarse) [[unlikely]] {
    now = wait_for_rest(share, *e, {&cost, predicted, false, true, false}, stream, twin, now);
  }
  gate_raise(d->number, stream);
  if (gate_anywhere() && !never_held && gate_beside(d->number)) [[unlikely]]
    now = gate_hold(d->number, *e, now);
  want(share, *e, now, Wants::kLaunches);
  t.entry = e;
  t.cost = &cost;
  t.device = static_cast<std::uint8_t>(d->number);
  t.predicted_ns = predicted;
  const std::uint32_t kappa = share.kappa.load(kRelaxed);  // one number
  t.charged_ns = kappa == 0 ? predicted : shares::with_kappa(predicted, kappa);
  const bool sampled = coarse || cost.samples.load(kRelaxed) != 0;  // a statistic
  t.window_ns = shares::window_ns_of(predicted, sampled, gate.window_ns(*in, now));
  t.now_ns = now;
  t.dependent = what.dependent;
  const std::uint64_t lost = shares::charge(e->tat_ns, now, t.charged_ns, in->rules);
  if (lost != 0) [[unlikely]]
    e->forgiven_ns.fetch_add(lost, kRelaxed);  // a statistic
  // A dependent only while nothing is known of it: then it has waited for its stream.
  t.alone = shares::count_launch(cost) && !coarse &&
            (!what.dependent || cost.samples.load(kRelaxed) < shares::kLearnFirst);  // a statistic
  if (collective) [[unlikely]] {
    t.collective = true;
    const Collective c = nccl_launched(d->number);
    // All ranks measure the same ones, and each what the others do.
    if (c.place >= 0) t.alone = c.number % kCollectiveSample == 0 && !coarse && !what.dependent;
    t.comm_place = static_cast<std::int16_t>(c.place);
    t.comm_number = c.number;
  }
  count_class(*e, collective ? StreamClass::kCollective : StreamClass::kCompute);
  // While anything captures in the program-wide mode, a question to the driver would end it; acquire pairs as above: holds are long.
  any_capture = captures.load(std::memory_order_acquire) != 0;
  t.book = any_capture ? nullptr : take_book(stream, twin, predicted);
  t.stream = named(stream, twin);
  if (t.book == nullptr) return;
  t.book->device = t.device;
  // A collective is never held, and what it costs is what its ranks agree on: its events would only slow it down.
  const bool may_be_loose =
      t.book->cut.open == nullptr && predicted < shares::kSegment_ns &&
      (coarse || cost.samples.load(kRelaxed) >= 2) &&  // a statistic
      !gate_beside(t.device) &&
      (collective || (is_sparse(share, *in) && within(*t.book, now, in->window_ns)));
  // What begins on an idle device is no sample (cut_before()), and by the prediction it is idle: the device is asked, for a
  // prediction that is too low would say so always. relaxed: own
  t.loose = may_be_loose && (!t.alone || (now >= t.book->open_until_ns.load(kRelaxed) &&
                                          (collective || at_rest(t.stream))));
  if (t.loose) {
    if (what.dependent) t.book->pdl = true;  // no event may come between it and what is before it
    return;
  }
  shares::Op op{&cost, predicted, t.alone, what.dependent, false};
  if (!cut_before(*t.book, t.stream, op)) {
    release_book(*t.book);
    t.book = nullptr;
    return;
  }
  t.alone = op.alone;
}

[[gnu::noinline]] CUresult compute_end(Ticket& t, CUresult r) noexcept {
  if (t.entry == nullptr) return r;
  const bool taken = r == CUDA_SUCCESS;
  if (t.book != nullptr) {
    cut_after(*t.book, t, taken);
    release_book(*t.book);
  } else if (taken) {  // nobody will measure it: it counts as what it was charged
    t.entry->used_ns.fetch_add(t.charged_ns, kRelaxed);  // statistics
    t.entry->raw_ns.fetch_add(t.predicted_ns, kRelaxed);
    t.entry->launches.fetch_add(1, kRelaxed);
  }
  if (!taken) [[unlikely]] {
    shares::refund(t.entry->tat_ns, monotonic_ns(), t.charged_ns,
                   in_force(compute.device[t.device], *t.entry).rules);
  }
  return r;
}

void compute_unbound() noexcept {
  compute_word.store(&kNeverLimited, kRelaxed);  // no region stands behind this one
}

// Under process.binding, before mode becomes kOn, and whenever the latency gate comes or goes.
void compute_bound() noexcept {
  stream_shapes.store(settings().streams.any(), kRelaxed);  // a flag of its own
  compute_look();
}

}  // namespace bulkhead::hook
