// atomics: launching threads ask what the one that measures has found, inside one process.
// When launches need no measuring though a share may hold them: docs/compute.md, 'What a launch costs'. Pure; who judges is the
// process's compute thread, who asks is any thread.
//
// Claim  A tenant whose keys cost what they are predicted to is charged the same with most of its segments left out.
// Proof  A key is steady when the last kSteadyAfter segments it had a part in came to what was charged for them at the launch, within a
//        sixteenth. One that does not makes all its keys unsteady, and from then on everything of theirs is measured.
// Price  A key that begins to cost something else is charged the old cost for kSteadyRun_ns of predicted work on each stream, and until
//        the segment behind that is settled: a few milliseconds.
#pragma once
#include <cstdint>

#include "policy/compute/segments.h"

namespace bulkhead::policy::compute {

inline constexpr std::uint64_t kLight_ns =
    10'000;  // what takes longer is measured at a hundredth of its time at most
inline constexpr std::uint64_t kSteadyRun_ns = 7 * kSegment_ns;  // between two measured segments
inline constexpr std::uint32_t kSteadyOps = 8;  // fewer are moved by the events themselves

// `cost_ns`: what the segment came to, before kappa.
inline void judge(const Segment& g, std::uint64_t cost_ns) noexcept {
  const std::uint64_t sum = g.predicted_ns;
  const std::uint64_t off = cost_ns > sum ? cost_ns - sum : sum - cost_ns;
  const bool few = g.ops < kSteadyOps;
  if (few && off <= sum) return;  // says nothing
  for (std::uint32_t i = 0; i < g.part_count; ++i) {
    std::atomic<std::uint32_t>& agreed = g.parts[i].entry->agreed;
    const std::uint32_t n = agreed.load(std::memory_order_relaxed);  // the learner's own
    const std::uint32_t next = few || off > sum / 16 ? 0 : n < kSteadyAfter ? n + 1 : n;
    if (next != n) agreed.store(next, std::memory_order_relaxed);  // one number
  }
}

// `since_ns`: predicted, of what was launched on the stream since its last segment ended.
[[nodiscard]] inline bool runs_unmeasured(const CostEntry& e, std::uint64_t predicted_ns,
                                          std::uint64_t since_ns) noexcept {
  return predicted_ns <= kLight_ns && since_ns + predicted_ns <= kSteadyRun_ns && is_steady(e);
}

}  // namespace bulkhead::policy::compute
