// What has ended is learned from and settled, what runs accrues: docs/compute.md, 'What is charged'. The compute thread's.
#include "base/clock.h"
#include "hook/compute_books.h"
#include "hook/next.h"
#include "hook/process.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr std::uint64_t kRebase_ns = 1'000'000'000;  // a float of ms is exact to 0.1 us until then
constexpr std::uint64_t kDrift_ns = 50'000;          // of the device's clock in that time, at most
constexpr std::uint64_t kUncovered_ns = 20'000'000;  // the governor is late: by its last pace then

bool elapsed(CUevent from, CUevent to, std::uint64_t& ns) noexcept {
  float ms = 0;
  if (next.cuEventElapsedTime(&ms, from, to) != CUDA_SUCCESS) return false;
  ns = ms > 0 ? static_cast<std::uint64_t>(static_cast<double>(ms) * 1e6) : 0;
  return true;
}

DeviceShare& share_of(const Flight& f) noexcept { return compute.device[f.device]; }

// A sum that corrections lower. relaxed: statistics, for the governor
void add(shm::AtomicU64& sum, std::uint64_t by) noexcept { sum.fetch_add(by, kRelaxed); }

// `raw_ns` of GPU time so far, before kappa.
void tell_raw(shm::ComputeEntry& e, Flight& f, std::uint64_t raw_ns, bool alone) noexcept {
  const std::uint64_t more = raw_ns - f.segment.raw_ns;  // modulo: it may be less
  add(e.raw_ns, more);
  if (!alone) add(e.shared_raw_ns, more);
  f.segment.raw_ns = raw_ns;
}

// What is due by now of a segment whose raw cost is known, `alone` or beside others.
void settle(Flight& f, std::uint64_t raw_ns, bool alone, std::uint64_t now) noexcept {
  shm::ComputeEntry* const e = share_of(process.devices[f.device]);
  if (e == nullptr) return;
  DeviceShare& share = share_of(f);
  tell_raw(*e, f, raw_ns, alone);
  const std::uint32_t kappa = alone || share.kappa_told == 0 ? shares::kKappaOne : share.kappa_told;
  const std::uint64_t due = shares::with_kappa(raw_ns, kappa);
  const auto delta = static_cast<std::int64_t>(due - f.segment.charged_ns);
  f.segment.charged_ns = due;
  const std::uint64_t lost = shares::settle(e->tat_ns, now, delta, in_force(share, *e).rules);
  if (lost != 0) e->forgiven_ns.fetch_add(lost, kRelaxed);  // a statistic
}

void longest(shm::ComputeEntry& e, std::uint64_t ns) noexcept {
  std::uint64_t seen = e.longest_op_ns.load(kRelaxed);  // a statistic
  while (ns > seen && !e.longest_op_ns.compare_exchange_weak(seen, ns, kRelaxed, kRelaxed)) {
  }
}

void count_used(const Flight& f) noexcept {
  shm::ComputeEntry* const e = share_of(process.devices[f.device]);
  if (e == nullptr) return;
  count_sums(*e, in_force(share_of(f), *e), f.segment.charged_ns, f.segment.ops);
  if (f.segment.ops == 1) longest(*e, f.segment.charged_ns);
}

Flight* tail_of(StreamBook& b) noexcept {
  return has_flight(b) ? &b.ring[b.tail.load(kRelaxed) % kInFlight] : nullptr;  // own
}

shares::Reading reading(StreamBook& b, Flight& f) noexcept {
  const shares::VHistory& history = share_of(f).history;
  b.row.set_slice(share_of(f).slice_ns);
  b.row.begin(history, f.real_start_ns, f.fresh);
  shares::Reading r = b.row.read(history, f.real_end_ns, 0);
  r.elapsed_ns = r.elapsed_ns > f.others_ns ? r.elapsed_ns - f.others_ns : 0;
  return r;
}

// `cost`, as far as what is loose on other streams leaves room for it in the part of its time that no segment has spoken for.
std::uint64_t beside_loose(const StreamBook& b, const Flight& f, const shares::Reading& r,
                           std::uint64_t cost, std::uint64_t fresh_ns) noexcept {
  const std::uint64_t span = f.real_end_ns - f.real_start_ns;
  const std::uint64_t part = f.segment.raw_ns == 0 && fresh_ns < span ? fresh_ns : span;
  const std::uint64_t own =
      r.clean ? part
              : shares::detail::least(part, shares::detail::scaled(r.virtual_ns, part, span));
  return beside_loose_ns(b, f.device, cost, own, f.real_end_ns - part, f.real_end_ns);
}

// The segment at the tail of a stream has ended, and the governor's clock covers it.
void reap(StreamBook& b, Flight& f) noexcept {
  ContextBook& c = *f.context;
  const std::uint64_t slice = share_of(f).slice_ns;
  shares::Reading r = reading(b, f);
  if (f.collective) [[unlikely]]
    agree(f, r);
  shares::teach(f.segment, r, slice);
  // Streams that wait for each other overlap, and only the time that none has spoken for is new; what ran and was told
  // while it ran is spoken for by itself.
  const std::uint64_t fresh = c.cover.take(f.start_ns, f.end_ns);
  if (f.segment.raw_ns == 0) r.fresh_ns = fresh;
  const std::uint64_t cost = beside_loose(b, f, r, shares::cost_ns(f.segment, r, slice), fresh);
  b.row.end(share_of(f).history, f.real_end_ns);
  if (shm::ComputeEntry* const e = share_of(process.devices[f.device]);
      e != nullptr && f.segment.raw_ns == 0 && shares::is_short(f.segment, slice)) {
    add(e->short_ns, cost);
  }
  settle(f, cost, !r.beside, monotonic_ns());
  const std::uint64_t idle = r.span_ns > cost ? r.span_ns - cost : 0;
  note_busy(share_of(f), f.queued_ns, f.real_end_ns, f.gap_ns < idle ? f.gap_ns : idle);
  count_used(f);
  for (CUevent e : {f.start, f.also})
    if (e != nullptr) give_event(c, e);
  drop_flight(b);
}

// A segment that runs pays while it runs.
// Of several streams' it is the one that has run longest: together they take no more than the time that passes.
void accrue(ContextBook& c, const StreamBook& b, Flight& f, std::uint64_t now) noexcept {
  if (f.began_ns == 0) {
    if (next.cuEventQuery(f.start) != CUDA_SUCCESS) return;  // others are before it
    f.began_ns = now;
  }
  if (c.next_oldest_ns == 0 || f.began_ns < c.next_oldest_ns) c.next_oldest_ns = f.began_ns;
  if (f.began_ns != c.oldest_ns) return;
  const shares::VPoint from = share_of(f).history.at(f.began_ns);
  const shares::VPoint to = share_of(f).history.at(now);
  shares::Reading r;
  r.elapsed_ns = r.span_ns = r.fresh_ns = now - f.began_ns;
  r.virtual_ns = r.paced_ns = to.v_ns > from.v_ns ? to.v_ns - from.v_ns : 0;
  r.alone = r.clean = to.shared_ns <= from.shared_ns;
  r.beside = !r.alone || shares::was_shared(share_of(f).history, to);
  const std::uint64_t so_far = shares::running_ns(f.segment, r, share_of(f).slice_ns);
  const std::uint64_t due = beside_loose_ns(b, f.device, so_far, so_far, f.began_ns, now);
  // before kappa on both sides: what was predicted stands for as much
  if (due > f.segment.raw_ns && due > f.segment.charged_ns) settle(f, due, !r.beside, now);
}

// The stamps' place on CLOCK_MONOTONIC is not told by the driver. An end is not after the moment it was seen, a start of its own
// not before its launch: between the two the shift is kept, and near the latter, which is the tighter.
void place(ContextBook& c, Flight& f, std::uint64_t now) noexcept {
  if (f.own_start && f.start_ns + c.shift_ns < f.queued_ns) c.shift_ns = f.queued_ns - f.start_ns;
  if (f.end_ns + c.shift_ns > now) c.shift_ns = now - f.end_ns;
  f.real_end_ns = f.end_ns + c.shift_ns;
  f.real_start_ns = f.start_ns + c.shift_ns;
}

// Whether a segment has ended, and when. False: not yet. A context in error ends it without a time.
bool has_ended(ContextBook& c, const StreamBook& b, Flight& f, std::uint64_t now) noexcept {
  const CUresult state = next.cuEventQuery(f.end);
  if (state == CUDA_ERROR_NOT_READY) {
    accrue(c, b, f, now);
    return false;
  }
  if (c.base == nullptr && state == CUDA_SUCCESS) {
    c.base =
        f.start;  // an event of our own would be work of ours: the first segment's start is kept
    c.base_ns = f.queued_ns;
    c.shift_ns = 0;
  }
  std::uint64_t length = 0, end = 0;
  if (state != CUDA_SUCCESS || !elapsed(f.start, f.end, length) || !elapsed(c.base, f.end, end)) {
    f.end_ns = f.start_ns = 1;  // what was predicted stands
    return true;
  }
  f.end_ns = c.base_ns + end;
  f.start_ns = f.end_ns - length;
  place(c, f, now);
  return true;
}

// What of this context has ended since the last look is out of the window.
void see_ends(ContextBook& c, std::uint64_t now) noexcept {
  for_each_book([&](StreamBook& b) {
    if (b.context != &c || !has_flight(b)) return;
    const std::uint32_t head = b.head.load(kRelaxed);  // acquired above
    for (; b.ended != head; ++b.ended) {
      Flight& f = b.ring[b.ended % kInFlight];
      if (!has_ended(c, b, f, now)) return;
      place_loose(b, f);
      share_of(f).in_flight_ns.fetch_sub(f.window_ns, kRelaxed);  // sums
      compute.queued.fetch_sub(1, kRelaxed);
    }
  });
}

// A float of milliseconds loses what is small beside it: the clock's base follows.
void rebase(ContextBook& c, Flight& f) noexcept {
  if (f.start != c.base) {
    if (f.start_ns < c.base_ns + kRebase_ns) return;
    give_event(c, c.base);
    c.base = f.start;
    c.base_ns = f.start_ns;
    c.shift_ns -= kDrift_ns;  // place() brings it up again
  }
  f.start = nullptr;  // kept
}

bool is_covered(const Flight& f, std::uint64_t now) noexcept {
  return f.end_ns <= 1 || share_of(f).history.covers(f.real_end_ns) ||
         now >= f.real_end_ns + kUncovered_ns;
}

// What of this context has ended and is covered, the earliest first. True: look again.
bool reap_one(ContextBook& c, std::uint64_t now) noexcept {
  StreamBook* first = nullptr;
  std::uint64_t first_ns = ~std::uint64_t{0};
  for_each_book([&](StreamBook& b) {
    Flight* const f = tail_of(b);
    if (f == nullptr || b.ended == b.tail.load(kRelaxed) || f->context != &c) return;  // own
    if (f->end_ns >= first_ns || !is_covered(*f, now)) return;
    first = &b;
    first_ns = f->end_ns;
  });
  if (first == nullptr) return false;
  Flight& f = *tail_of(*first);
  if (f.end_ns <= 1) {
    count_used(f);
    drop_flight(*first);
    return true;
  }
  rebase(c, f);
  reap(*first, f);
  return true;
}

}  // namespace

void count_sums(shm::ComputeEntry& e, const InForce& in, std::uint64_t charged_ns,
                std::uint64_t launches) noexcept {
  add(e.used_ns, charged_ns);
  add(e.launches, launches);
  if (in.rate_x100 > in.limits.floor_x100) {  // the part above the floor is borrowed
    add(e.borrowed_ns,
        shares::detail::scaled(charged_ns, in.rate_x100 - in.limits.floor_x100, in.rate_x100));
  }
}

void drop_flight(StreamBook& b) noexcept {
  const std::uint32_t tail = b.tail.load(kRelaxed);  // the measuring thread's own
  if (b.ended == tail) {                             // it goes with its context, not ended
    Flight& f = b.ring[tail % kInFlight];
    share_of(f).in_flight_ns.fetch_sub(f.window_ns, kRelaxed);  // sums
    compute.queued.fetch_sub(1, kRelaxed);
    ++b.ended;
  }
  compute.pending.fetch_sub(1, kRelaxed);
  b.tail.store(tail + 1, std::memory_order_release);  // pairs with cut_before()
}

void measure() noexcept {
  const Held held{compute.measuring};
  const std::uint64_t now = monotonic_ns();
  bool endless = false;
  tell_all_loose(now);
  for (ContextBook& c : compute.contexts) {
    const CUcontext context = c.context.load(kRelaxed);  // an identity; kept by `measuring`
    if (context == nullptr || next.cuCtxPushCurrent_v2(context) != CUDA_SUCCESS) continue;
    c.next_oldest_ns = 0;
    see_ends(c, now);
    while (reap_one(c, now)) {
    }
    c.oldest_ns = c.next_oldest_ns;
    endless = endless || (c.oldest_ns != 0 && now - c.oldest_ns >= shares::kMaxDebt_ns);
    CUcontext popped = nullptr;
    static_cast<void>(next.cuCtxPopCurrent_v2(&popped));
  }
  compute.endless.store(endless, kRelaxed);  // a flag of its own
}

}  // namespace bulkhead::hook
