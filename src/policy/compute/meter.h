// What a measured segment is charged, and what its keys learn of it: docs/compute.md, 'What is charged'. Pure; one
// thread (the compute thread).
//
// A timing event is stamped when its context is resident, so what stands between two stamps is the segment's own time,
// the slices of other tenants that fell inside, and the host's pauses. Three rules take the foreign parts out:
//   clean   nobody else had work all the while, or it began with a fresh slice and ended within it.
//   gapless all of it was queued before it began: no pause can be inside. Of dependents, which are cut seldom, it is also
//           told by the host's clock: unbroken().
//   history an operation well under a slice is clean as a rule, and what was once seen clean is known, so
//           what was learned of such a key is what it costs.
#pragma once
#include <cstdint>

#include "policy/compute/segments.h"
#include "policy/compute/vclock.h"

namespace bulkhead::policy::compute {

// Under this an operation is clean now and then, whatever the others do.
[[nodiscard]] constexpr std::uint64_t short_ns(std::uint64_t slice_ns) noexcept {
  return slice_ns - slice_ns / 8;
}
inline constexpr std::uint32_t kKappaOne = 1u << 16;
// Rows of a millisecond with a switch each lose a fifth; a device that seems to lose more is not busy but held.
inline constexpr std::uint32_t kKappaMost = kKappaOne * 11 / 8;

struct Reading {
  std::uint64_t elapsed_ns = 0;  // between the stamps, what an empty pair reads deducted
  std::uint64_t span_ns = 0;     // between the stamps
  std::uint64_t fresh_ns = 0;    // the part of the span that no other stream has spoken for: Cover
  std::uint64_t virtual_ns = 0;  // by the shared clock, what its row has grown by: sums are right
  std::uint64_t paced_ns = 0;    // by the shared clock, by itself: each is about right
  bool alone = false;            // no other context had work: shared_ns did not move
  bool clean = false;            // no slice of others can be inside
  bool beside = false;           // another had, a moment before its end at the latest
};

// Who works by turns with another pays for the switching like it, also for what falls between the other's turns.
inline constexpr std::uint64_t kBeside_ns = 20'000'000;
[[nodiscard]] inline bool was_shared(const VHistory& history, const VPoint& end) noexcept {
  return end.at_ns > kBeside_ns && history.at(end.at_ns - kBeside_ns).shared_ns < end.shared_ns;
}

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

// Of `elapsed` ns in a row that began with a fresh slice, and in which V went by `v_ns`: the device went round in
// elapsed / v_ns * slice, and the first slice of each round was one's own.
[[nodiscard]] constexpr std::uint64_t sliced_ns(std::uint64_t elapsed, std::uint64_t v_ns,
                                                std::uint64_t slice_ns = kSlice_ns) noexcept {
  if (v_ns == 0 || v_ns >= elapsed) return elapsed;
  const std::uint64_t rounds = v_ns / slice_ns;
  const std::uint64_t before = static_cast<std::uint64_t>(
      static_cast<unsigned __int128>(rounds * slice_ns) * elapsed / v_ns);
  const std::uint64_t rest = elapsed - before;
  return rounds * slice_ns + (rest < slice_ns ? rest : slice_ns);
}

// A stream's segments in a row, each begun where the last one ended, since the process had nothing queued at all. A
// context that comes back from nothing is given a fresh slice, so where the slices of others fell can be told for the
// row; each segment is charged what the row has grown by, and errors do not add up. One a stream.
class Row {
 public:
  constexpr Row() noexcept = default;  // all zeros: it may stand in .bss
  explicit constexpr Row(std::uint64_t slice_ns) noexcept : slice_ns_(slice_ns) {}
  void set_slice(std::uint64_t slice_ns) noexcept { slice_ns_ = slice_ns; }  // 0: the usual one
  // The oldest segment not settled began at `start_ns`, `fresh`: with nothing queued. May be called again; it must be,
  // by the first tick after the start: the history is short.
  void begin(const VHistory& history, std::uint64_t start_ns, bool fresh) noexcept {
    if (last_.at_ns == start_ns && begun_) return;
    last_ = history.at(start_ns);
    if (fresh || !begun_ || told_ns_ > kLongestRow_ns) {
      first_ = last_;
      told_ns_ = 0;
    }
    fresh_ = fresh;
    begun_ = true;
  }
  // That segment up to `end_ns`. `pair_ns`: what an empty pair of stamps reads; 0 while it runs.
  [[nodiscard]] Reading read(const VHistory& history, std::uint64_t end_ns,
                             std::uint64_t pair_ns) const noexcept {
    const VPoint end = history.at(end_ns);
    Reading r;
    r.span_ns = r.fresh_ns = end_ns > last_.at_ns ? end_ns - last_.at_ns : 0;
    r.elapsed_ns = r.span_ns > pair_ns ? r.span_ns - pair_ns : 0;
    const std::uint64_t all = grown(end);
    r.virtual_ns = all > told_ns_ ? all - told_ns_ : 0;
    r.paced_ns = fresh_ ? r.virtual_ns : end.v_ns > last_.v_ns ? end.v_ns - last_.v_ns : 0;
    r.alone = end.shared_ns <= last_.shared_ns;
    r.beside = !r.alone || was_shared(history, end);
    r.clean = r.alone || (fresh_ && r.span_ns < short_ns(slice_ns()));
    return r;
  }
  // It is settled; the next one begins at its end, unless begin() says otherwise.
  void end(const VHistory& history, std::uint64_t end_ns) noexcept {
    last_ = history.at(end_ns);
    told_ns_ = grown(last_);
    fresh_ = false;
  }

 private:
  static constexpr std::uint64_t kLongestRow_ns = 1'000'000'000;
  [[nodiscard]] std::uint64_t grown(const VPoint& end) const noexcept {
    if (end.at_ns <= first_.at_ns || end.v_ns < first_.v_ns) return 0;
    return sliced_ns(end.at_ns - first_.at_ns, end.v_ns - first_.v_ns, slice_ns());
  }
  VPoint first_{}, last_{};
  [[nodiscard]] std::uint64_t slice_ns() const noexcept {
    return slice_ns_ != 0 ? slice_ns_ : kSlice_ns;
  }
  std::uint64_t told_ns_ = 0, slice_ns_ = 0;
  bool begun_ = false, fresh_ = false;
};

inline constexpr std::uint32_t kBoundOps = 8;  // of so many the events' own time is a small part

// A row of this length is worth telling by: the host's own delay before its first operation is a few us.
inline constexpr std::uint64_t kLeastRow_ns = 50'000;

// Whether the device ran through it without a pause of the host. All of it was queued at `last_ns`, so it idled no longer
// than from the first launch to the last, and an operation costs what is left at least; if no two launches lie further
// apart than that, it did not idle at all. Sound without knowing a cost, so what was known too low can be mended.
[[nodiscard]] inline bool unbroken(const Segment& g, const Reading& r) noexcept {
  if (g.gapless) return true;
  if (!g.tight || !g.dependents || !r.clean || g.last_ns < g.first_ns) return false;
  const std::uint64_t span = g.last_ns - g.first_ns;
  if (r.elapsed_ns < kLeastRow_ns || span >= r.elapsed_ns) return false;
  if (span <= r.elapsed_ns / 64) return true;
  const bool one_key = g.part_count == 1 && g.parts[0].count == g.ops;
  return one_key && g.pause_ns <= (r.elapsed_ns - span) / g.ops;
}

namespace detail {
[[nodiscard]] constexpr std::uint64_t scaled(std::uint64_t v, std::uint64_t by,
                                             std::uint64_t of) noexcept {
  return of == 0 ? 0 : static_cast<std::uint64_t>(static_cast<unsigned __int128>(v) * by / of);
}
[[nodiscard]] constexpr std::uint64_t least(std::uint64_t a, std::uint64_t b) noexcept {
  return a < b ? a : b;
}
// The sum of what the keys cost by now, and whether that is to be trusted: each is short or was seen clean.
struct Known {
  std::uint64_t sum_ns = 0;
  bool sure = true;
  bool all_short = true;
};
[[nodiscard]] inline Known known(const Segment& g, std::uint64_t slice_ns) noexcept {
  Known k;
  std::uint32_t counted = 0;
  for (std::uint32_t i = 0; i < g.part_count; ++i) {
    const Part& p = g.parts[i];
    counted += p.count;
    const std::uint64_t each = predict(*p.entry, 0);
    if (each == 0 || each > short_ns(slice_ns)) k.all_short = false;
    if (each == 0 || (each > short_ns(slice_ns) && !knows_clean(*p.entry))) k.sure = false;
    k.sum_ns += each == 0 ? p.predicted_ns : each * p.count;
  }
  if (counted != g.ops) k.sure = k.all_short = false;
  return k;
}
}  // namespace detail

// GPU time of a segment that ended, before kappa.
[[nodiscard]] inline std::uint64_t cost_ns(const Segment& g, const Reading& r,
                                           std::uint64_t slice_ns = kSlice_ns) noexcept {
  const detail::Known k = detail::known(g, slice_ns);
  std::uint64_t cost = r.elapsed_ns;
  if (k.sure) {
    const bool plausible = r.clean || r.elapsed_ns <= k.sum_ns + k.sum_ns / 2;
    if (!unbroken(g, r) || !plausible) cost = detail::least(r.elapsed_ns, k.sum_ns);
  } else if (!r.clean) {
    cost = detail::least(r.elapsed_ns, r.virtual_ns);
  }
  if (!g.tight)
    cost = detail::least(cost, k.sum_ns);  // a pause may be inside: no more than is known of
  return r.fresh_ns >= r.span_ns ? cost : detail::scaled(cost, r.fresh_ns, r.span_ns);
}

// Whether it is told to the shared clock as short work, when it ends; else its context counts as one with long work.
[[nodiscard]] inline bool is_short(const Segment& g, std::uint64_t slice_ns = kSlice_ns) noexcept {
  return detail::known(g, slice_ns).all_short;
}

// What a segment that runs still has cost so far, before kappa; `r` up to now. Beyond a short one's prediction a slice
// of others may be inside, so that is waited for.
[[nodiscard]] inline std::uint64_t running_ns(const Segment& g, const Reading& r,
                                              std::uint64_t slice_ns = kSlice_ns) noexcept {
  const std::uint64_t so_far = r.clean ? r.elapsed_ns : detail::least(r.elapsed_ns, r.virtual_ns);
  return so_far > g.predicted_ns + slice_ns ? so_far : 0;
}

// A segment of one key teaches what one of its launches costs. One that is not gapless has the host's pauses in it,
// and one that overlapped another stream of the tenant has run slower than by itself: no launch costs more than that.
inline void teach(const Segment& g, const Reading& r, std::uint64_t slice_ns = kSlice_ns) noexcept {
  if (g.part_count != 1 || g.parts[0].count != g.ops || r.elapsed_ns == 0) return;
  CostEntry& e = *g.parts[0].entry;
  std::uint64_t sample = r.elapsed_ns / g.ops;
  const std::uint64_t known_ns = predict(e, 0);
  const bool bounds =
      g.ops >= kBoundOps && !g.dependents && sample < known_ns && known_ns <= short_ns(slice_ns);
  if (!bounds && !unbroken(g, r)) return;
  if (!r.clean && sample > short_ns(slice_ns) && (known_ns == 0 || known_ns > short_ns(slice_ns))) {
    // Foreign slices may be inside. What was seen clean is better knowledge; else the shared clock, right on average.
    // A short key's low quantile wants the stamps as they are.
    if (knows_clean(e)) return;
    sample = detail::least(sample, r.paced_ns / g.ops);
  }
  (void)learn(e, sample, r.clean, slice_ns);
}

// What the governor saw over a period (200 ms).
struct Period {
  std::uint64_t ns = 0;
  std::uint64_t least_empty_ns =
      0;  // of the process that was least often without queued work: the device idled no more
  std::uint64_t alone_ns = 0;   // charges, of what ran alone
  std::uint64_t shared_ns = 0;  // charges before kappa, of the rest
};
// Conservation: over a time in which the device was busy the charges of all tenants are that time, switching and all. What
// ran alone is charged as measured, so kappa is the price of what ran while others had work. Only a period that was
// nearly all busy tells; one in which the device idled leads back to 1. In 1/65536; 1/2..11/8.
[[nodiscard]] constexpr std::uint32_t next_kappa(std::uint32_t kappa, const Period& p) noexcept {
  const std::uint64_t busy = p.ns > p.least_empty_ns ? p.ns - p.least_empty_ns : 0;
  if (p.shared_ns < p.ns / 4 || busy <= p.alone_ns) return kappa;
  if (p.least_empty_ns > p.ns / 10)  // it idled: what is charged beyond the raw cost keeps it idle
    return kappa > kKappaOne ? kappa - (kappa - kKappaOne + 7) / 8 : kappa;
  const std::uint64_t aim = detail::scaled(kKappaOne, busy - p.alone_ns, p.shared_ns);
  const std::uint64_t next = (kappa + detail::least(aim, kKappaMost)) / 2;
  return static_cast<std::uint32_t>(next < kKappaOne / 2 ? kKappaOne / 2 : next);
}
[[nodiscard]] constexpr std::uint64_t with_kappa(std::uint64_t cost, std::uint32_t kappa) noexcept {
  return detail::scaled(cost, kappa, kKappaOne);
}

}  // namespace bulkhead::policy::compute
