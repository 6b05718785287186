// What a measured segment is charged, and what its keys learn of it: docs/compute.md, 'What is charged'. Pure; one
// thread (the compute thread).
//
// A timing event is stamped when its context is resident, so what stands between two stamps is the segment's own time,
// the slices of other tenants that fell inside, and the host's pauses. Three rules take the foreign parts out:
//   alone   nobody else had work all the while: no slice can be inside.
//   gapless all of it was queued before it began: no pause can be inside.
//   history an operation well under a slice is clean as a rule, and one that ran while nobody else had work is clean, so
//           what was learned of such a key is what it costs.
#pragma once
#include <cstdint>

#include "policy/compute/segments.h"
#include "policy/compute/vclock.h"

namespace bulkhead::policy::compute {

inline constexpr std::uint64_t kSlice_ns = 2'000'000;
inline constexpr std::uint64_t kShort_ns = kSlice_ns * 3 / 4;
inline constexpr std::uint32_t kKappaOne = 1u << 16;

struct Reading {
  std::uint64_t elapsed_ns = 0;  // between the stamps, what an empty pair reads deducted
  std::uint64_t span_ns = 0;     // between the stamps
  std::uint64_t fresh_ns = 0;    // the part of the span that no other stream has spoken for: Cover
  std::uint64_t virtual_ns = 0;  // V(end) - V(start); Place says from where
  bool alone = false;            // no other context had work: shared_ns did not move
};

// The time one process's streams were busy, taken together. Segments come in the order in which they ended, and running
// ones are told every millisecond, so the time before `until` is spoken for.
struct Cover {
  std::uint64_t until_ns = 0;
  [[nodiscard]] std::uint64_t take(std::uint64_t start, std::uint64_t end) noexcept {
    const std::uint64_t from = start > until_ns ? start : until_ns;
    if (end <= from) return 0;
    until_ns = end;
    return end - from;
  }
};

// Where a segment stands on the shared clock. The history is short, so a segment that runs is placed by the first tick
// that can; a later call changes nothing. One that began on a drained stream was given a new slice: what ends within
// it is all its own. What goes on for longer ends on average in the middle of a slice of its own, so half a slice is
// counted in full and the rest by V: right on average over lengths, at most half a slice's foreign part off for one.
struct Place {
  VPoint start{}, from{};
  std::uint64_t own_ns = 0;
  bool placed = false;
  void set(const VHistory& history, std::uint64_t start_ns, std::uint64_t now,
           bool drained) noexcept {
    if (placed) return;
    const std::uint64_t elapsed = now - start_ns;
    own_ns = !drained ? 0 : elapsed < kSlice_ns ? elapsed : kSlice_ns / 2;
    start = history.at(start_ns);
    from = history.at(start_ns + own_ns);
    placed = elapsed >= kSlice_ns;
  }
  // `pair_ns`: what an empty pair of stamps reads; 0 while it runs.
  [[nodiscard]] Reading read(const VHistory& history, std::uint64_t start_ns, std::uint64_t end_ns,
                             std::uint64_t pair_ns) const noexcept {
    const VPoint end = history.at(end_ns);
    Reading r;
    r.span_ns = r.fresh_ns = end_ns - start_ns;
    r.elapsed_ns = r.span_ns > pair_ns ? r.span_ns - pair_ns : 0;
    r.virtual_ns = own_ns + (end.v_ns > from.v_ns ? end.v_ns - from.v_ns : 0);
    r.alone = end.shared_ns <= start.shared_ns;
    return r;
  }
};

namespace detail {
[[nodiscard]] constexpr std::uint64_t scaled(std::uint64_t v, std::uint64_t by,
                                             std::uint64_t of) noexcept {
  return of == 0 ? 0 : static_cast<std::uint64_t>(static_cast<unsigned __int128>(v) * by / of);
}
[[nodiscard]] constexpr std::uint64_t least(std::uint64_t a, std::uint64_t b) noexcept {
  return a < b ? a : b;
}
// The sum of what the keys cost by now, and whether that is to be trusted: each is short or was seen alone.
struct Known {
  std::uint64_t sum_ns = 0;
  bool sure = true;
  bool all_short = true;
};
[[nodiscard]] inline Known known(const Segment& g) noexcept {
  Known k;
  std::uint32_t counted = 0;
  for (std::uint32_t i = 0; i < g.part_count; ++i) {
    const Part& p = g.parts[i];
    counted += p.count;
    const std::uint64_t each = predict(*p.entry, 0);
    if (each == 0 || each > kShort_ns) k.all_short = false;
    if (each == 0 || (each > kShort_ns && !knows_alone(*p.entry))) k.sure = false;
    k.sum_ns += each == 0 ? p.predicted_ns : each * p.count;
  }
  if (counted != g.ops) k.sure = k.all_short = false;
  return k;
}
}  // namespace detail

// GPU time of a segment that ended, before kappa.
[[nodiscard]] inline std::uint64_t cost_ns(const Segment& g, const Reading& r) noexcept {
  const detail::Known k = detail::known(g);
  std::uint64_t cost = r.elapsed_ns;
  if (k.sure) {
    const bool plausible = r.alone || r.elapsed_ns <= k.sum_ns + k.sum_ns / 2;
    if (!g.gapless || !plausible) cost = detail::least(r.elapsed_ns, k.sum_ns);
  } else if (!r.alone) {
    cost = detail::least(r.elapsed_ns, r.virtual_ns);
  }
  if (!g.tight)
    cost = detail::least(cost, k.sum_ns);  // a pause may be inside: no more than is known of
  return r.fresh_ns >= r.span_ns ? cost : detail::scaled(cost, r.fresh_ns, r.span_ns);
}

// Whether it is told to the shared clock as short work, when it ends; else its context counts as one with long work.
[[nodiscard]] inline bool is_short(const Segment& g) noexcept { return detail::known(g).all_short; }

// What a segment that runs still has cost so far, before kappa; `r` up to now. Beyond a short one's prediction a slice
// of others may be inside, so that is waited for.
[[nodiscard]] inline std::uint64_t running_ns(const Segment& g, const Reading& r) noexcept {
  const std::uint64_t so_far = r.alone ? r.elapsed_ns : detail::least(r.elapsed_ns, r.virtual_ns);
  return so_far > g.predicted_ns + kSlice_ns ? so_far : 0;
}

// A segment of one key teaches what one of its launches costs. One that is not gapless has the host's pauses in it,
// and one that overlapped another stream of the tenant has run slower than by itself.
inline void teach(const Segment& g, const Reading& r) noexcept {
  if (g.part_count != 1 || g.parts[0].count != g.ops || !g.gapless || r.elapsed_ns == 0) return;
  CostEntry& e = *g.parts[0].entry;
  std::uint64_t sample = r.elapsed_ns / g.ops;
  if (!r.alone && sample > kSlice_ns) {
    // Foreign slices are inside. What was seen alone is better knowledge; else the shared clock, right on average.
    if (knows_alone(e)) return;
    sample = detail::least(sample, r.virtual_ns / g.ops);
  }
  (void)learn(e, sample, r.alone);
}

// What the governor saw over a period (200 ms).
struct Period {
  std::uint64_t ns = 0;
  std::uint64_t least_empty_ns =
      0;  // of the process that was least often without queued work: the device idled no more
  std::uint64_t raw_ns = 0;     // what all charges sum to before kappa
  std::uint64_t shared_ns = 0;  // more than one context had work
};
// Conservation: while the device is always busy, the charges of all tenants are that time, switching and all. Only a
// period that was nearly all busy and mostly shared tells; one that was hardly shared leads back to 1. In 1/65536;
// 1/2..2.
[[nodiscard]] constexpr std::uint32_t next_kappa(std::uint32_t kappa, const Period& p) noexcept {
  if (p.shared_ns < p.ns / 20) return (kappa + kKappaOne) / 2;
  if (p.raw_ns == 0 || p.shared_ns < p.ns / 2 || p.least_empty_ns > p.ns / 10) return kappa;
  const std::uint64_t aim = detail::scaled(kKappaOne, p.ns - p.least_empty_ns, p.raw_ns);
  const std::uint64_t next = (kappa + detail::least(aim, 2 * kKappaOne)) / 2;
  return static_cast<std::uint32_t>(next < kKappaOne / 2 ? kKappaOne / 2 : next);
}
[[nodiscard]] constexpr std::uint64_t with_kappa(std::uint64_t cost, std::uint32_t kappa) noexcept {
  return detail::scaled(cost, kappa, kKappaOne);
}

}  // namespace bulkhead::policy::compute
