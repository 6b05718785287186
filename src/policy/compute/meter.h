// What a measured segment is charged, and what its keys learn of it: docs/compute.md, 'What is charged'. Pure; one
// thread (the compute thread).
//
// A timing event is stamped when its context is resident, so what stands between two stamps is the segment's own time,
// the slices of other tenants that fell inside, and the host's pauses. Three rules take the foreign parts out:
//   alone   nobody else had work all the while: no slice can be inside.
//   gapless all of it was queued before it began: no pause can be inside.
//   short   an operation well under a slice is clean as a rule, so its history knows what it costs.
#pragma once
#include <cstdint>

#include "policy/compute/segments.h"

namespace bulkhead::policy::compute {

inline constexpr std::uint64_t kSlice_ns = 2'000'000;
inline constexpr std::uint64_t kShort_ns = kSlice_ns / 2;
inline constexpr std::uint32_t kKappaOne = 1u << 16;

struct Reading {
  std::uint64_t elapsed_ns = 0;  // between the stamps, what an empty pair reads deducted
  std::uint64_t fresh_ns = 0;  // the part that no other stream of the tenant was charged for: Cover
  std::uint64_t virtual_ns = 0;  // V(end) - V(start)
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

namespace detail {
[[nodiscard]] constexpr std::uint64_t scaled(std::uint64_t v, std::uint64_t by,
                                             std::uint64_t of) noexcept {
  return of == 0 ? 0 : static_cast<std::uint64_t>(static_cast<unsigned __int128>(v) * by / of);
}
[[nodiscard]] constexpr std::uint64_t least(std::uint64_t a, std::uint64_t b) noexcept {
  return a < b ? a : b;
}
// The sum of what the keys cost by now, and whether each of them is known and short.
struct Known {
  std::uint64_t sum_ns = 0;
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
    k.sum_ns += each == 0 ? p.predicted_ns : each * p.count;
  }
  if (counted != g.ops) k.all_short = false;
  return k;
}
}  // namespace detail

// GPU time of a segment that ended, before kappa.
[[nodiscard]] inline std::uint64_t cost_ns(const Segment& g, const Reading& r) noexcept {
  const detail::Known k = detail::known(g);
  std::uint64_t cost = r.elapsed_ns;
  if (k.all_short) {
    const bool plausible = r.alone || r.elapsed_ns <= k.sum_ns + k.sum_ns / 2;
    if (!g.gapless || !plausible) cost = detail::least(r.elapsed_ns, k.sum_ns);
  } else if (!r.alone) {
    cost = detail::least(r.elapsed_ns, r.virtual_ns);
  }
  return detail::least(r.fresh_ns, detail::scaled(cost, r.fresh_ns, r.elapsed_ns));
}

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
  // A long one with foreign slices inside: by the shared clock, which is right on average.
  if (!r.alone && sample > kSlice_ns) sample = detail::least(sample, r.virtual_ns / g.ops);
  (void)learn(e, sample);
}

// Conservation: over a period in which the device was always busy, the charges of all tenants are that period.
// `raw_ns`: what they sum to before kappa. In 1/65536; 1/2..2.
[[nodiscard]] constexpr std::uint32_t next_kappa(std::uint32_t kappa, std::uint64_t busy_ns,
                                                 std::uint64_t raw_ns) noexcept {
  if (raw_ns == 0) return kappa;
  const std::uint64_t aim = detail::scaled(kKappaOne, busy_ns, raw_ns);
  const std::uint64_t bounded = detail::least(aim, 2 * kKappaOne);
  const std::uint64_t next = (kappa + bounded) / 2;
  return static_cast<std::uint32_t>(next < kKappaOne / 2 ? kKappaOne / 2 : next);
}
[[nodiscard]] constexpr std::uint64_t with_kappa(std::uint64_t cost, std::uint32_t kappa) noexcept {
  return detail::scaled(cost, kappa, kKappaOne);
}

}  // namespace bulkhead::policy::compute
