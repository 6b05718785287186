// Cutting a stream's operations into segments, each between two timing events: docs/compute.md, 'What is charged'. Pure:
// says which events to record, records none. One StreamCut a stream, under whatever keeps that stream's launches in
// order (the caller's own rule: one thread at a time).
//
// A segment begins where the last one ended (they share the event) unless the stream has drained since; so in a busy
// stream segments tile the time, and a pause of the host is in none of them. Nothing is recorded on a stream that
// captures, nor between a launch and its programmatic dependent.
#pragma once
#include <cstdint>

#include "policy/compute/cost.h"

namespace bulkhead::policy::compute {

inline constexpr std::uint32_t kSegmentOps = 64;
inline constexpr std::uint64_t kSegment_ns = 200'000;  // predicted GPU time
inline constexpr std::uint32_t kSegmentParts = 8;      // different keys
inline constexpr std::uint64_t kQuiet_ns =
    1'000'000;  // then the compute thread ends an open segment
inline constexpr std::uint64_t kDrainSlack_ns = 20'000;  // a hold must outlast what is queued by it
inline constexpr std::uint64_t kLongestOpen_ns =
    2'000'000;  // predicted, of dependents: then the stream comes to rest
inline constexpr std::uint32_t kLearnFirst = 2;  // samples without which nothing is known

struct Op {
  CostEntry* entry = nullptr;
  std::uint64_t predicted_ns = 0;
  bool alone = false;      // count_launch() asked for a segment of its own
  bool dependent = false;  // launched with programmatic serialisation: no event before it
  bool capturing = false;  // the stream is: not ours to touch
};

struct Part {
  CostEntry* entry;
  std::uint32_t count;
  std::uint64_t predicted_ns;  // of all of them
};

// What one segment holds. The library keeps these in a fixed ring; the events are its own business.
struct Segment {
  Part parts[kSegmentParts];
  std::uint32_t part_count;
  std::uint32_t ops;           // with those that found no part
  std::uint64_t predicted_ns;  // of all ops
  std::uint64_t charged_ns;    // so far, in the bucket's terms (with kappa)
  std::uint64_t raw_ns;        // so far told to conservation (without kappa)
  bool gapless;                // its start was not reached when its last operation was launched
  bool tight;                  // its end event was recorded right behind its last operation
  bool dependents;             // there are programmatic dependents in it
  std::uint64_t first_ns, last_ns;  // when its first and its last operation were launched
  std::uint64_t pause_ns;           // the longest time between two launches
};

struct StreamCut {
  Segment* open = nullptr;  // the caller's memory
  bool last_alone = false;
  bool dependents = false;       // some were launched on this stream
  bool guarded = false;          // its last work is an end event that a dependent must not overtake
  std::uint64_t last_op_ns = 0;  // when the last operation was launched
};

// In this order: the end event of the open segment, the start event of a new one, the operation, its end event.
struct Cut {
  bool end = false;    // record the end of the open segment first, and take it away
  bool begin = false;  // a new segment is to be opened for this operation
  bool start = false;  // ... with a start event of its own; else it starts at the last end event
  bool end_after = false;  // the segment is over with this operation
};

namespace detail {
// Full with this operation. Where dependents come it is left open for the next one, but for a dependent that is
// measured by itself: the next one will wait (guarded).
[[nodiscard]] inline bool ends_with(const StreamCut& s, const Op& op, std::uint32_t ops,
                                    std::uint64_t sum) noexcept {
  if (op.dependent) return op.alone;
  if (!op.alone && ops < kSegmentOps && sum < kSegment_ns) return false;
  return !s.dependents;
}
}  // namespace detail

// Whether this launch is held until its stream has come to rest, 100 ms at most: a dependent of which nothing is known could
// be measured in no other way; one behind an end event would be kept from its primary by it; and a segment that never
// ends tells the shared clock of nothing. `whole`: all of the device is its own, so it never rests otherwise.
[[nodiscard]] inline bool waits_for_rest(const StreamCut& s, const Op& op, bool whole) noexcept {
  if (!op.dependent || op.capturing) return false;
  return s.guarded || (!whole && s.open != nullptr && s.open->predicted_ns >= kLongestOpen_ns) ||
         op.entry->samples.load(std::memory_order_relaxed) < kLearnFirst;  // one number
}

// Whether what is open is ended before a hold that lasts until `hold_end` at least: what is queued will have run by
// `queued_until`, as far as is known, so no dependent is kept from its primary.
[[nodiscard]] inline bool ends_before_hold(const StreamCut& s, std::uint64_t queued_until,
                                           std::uint64_t hold_end) noexcept {
  if (s.open == nullptr || s.open->ops == 0) return false;
  return !s.dependents || queued_until + kDrainSlack_ns <= hold_end;
}

// `drained`: the last end event on this stream has completed, or there was none; for a dependent: the stream is at rest.
[[nodiscard]] inline Cut cut(const StreamCut& s, const Op& op, bool drained) noexcept {
  Cut c;
  if (op.capturing) return c;
  if (s.open == nullptr) {
    c.begin = true;
    // A dependent has its primary right before it, in a segment that is over: it is measured from that one's end, and
    // if that has passed, the two did not overlap and an event does no harm.
    c.start = drained;
    c.end_after = detail::ends_with(s, op, 1, op.predicted_ns);
    return c;
  }
  const Segment& g = *s.open;
  if (op.dependent) {
    // At rest, so there is nothing to keep it from: what is open has ended some time ago.
    c.end = c.begin = drained && g.ops != 0;
    c.end_after = c.begin && op.alone;
    return c;
  }
  const bool part_free =
      g.part_count < kSegmentParts || g.parts[g.part_count - 1].entry == op.entry;
  if (op.alone || s.last_alone || g.ops >= kSegmentOps ||
      g.predicted_ns + op.predicted_ns > kSegment_ns || !part_free) {
    c.end = c.begin = true;
    c.end_after = detail::ends_with(s, op, 1, op.predicted_ns);
  } else {
    c.end_after = detail::ends_with(s, op, g.ops + 1, g.predicted_ns + op.predicted_ns);
  }
  return c;
}

inline void begin_segment(StreamCut& s, Segment* fresh) noexcept {
  *fresh = Segment{};
  s.open = fresh;
}

// The operation was taken by the driver (never call it for one that was refused).
inline void add_op(StreamCut& s, const Op& op, std::uint64_t now,
                   std::uint64_t charged_ns) noexcept {
  Segment& g = *s.open;
  if (g.ops == 0)
    g.first_ns = now;
  else if (now > g.last_ns && now - g.last_ns > g.pause_ns)
    g.pause_ns = now - g.last_ns;
  g.last_ns = now;
  g.dependents = g.dependents || op.dependent;
  s.guarded = false;
  ++g.ops;
  g.predicted_ns += op.predicted_ns;
  g.charged_ns += charged_ns;
  s.last_alone = op.alone;
  s.last_op_ns = now;
  for (std::uint32_t i = 0; i < g.part_count; ++i) {
    if (g.parts[i].entry != op.entry) continue;
    ++g.parts[i].count;
    g.parts[i].predicted_ns += op.predicted_ns;
    return;
  }
  if (g.part_count == kSegmentParts)
    return;  // a chain of dependents: charged, but nobody learns of it
  g.parts[g.part_count++] = {op.entry, 1, op.predicted_ns};
}

// `start_reached`: its start event has completed; `tight`: the end event is recorded now, before the device has come to
// the segment's end. A segment whose start was not reached is tight by itself. Before a hold and before a wait segments are
// ended, so that the pause is in none. Returns the segment.
inline Segment* end_segment(StreamCut& s, bool start_reached, bool tight) noexcept {
  Segment* const g = s.open;
  g->tight = tight || !start_reached;
  g->gapless = g->tight && (!start_reached || g->ops == 1);
  s.guarded = s.dependents;
  s.open = nullptr;
  s.last_alone = false;
  return g;
}

// The compute thread ends what nobody goes on with.
[[nodiscard]] inline bool is_quiet(const StreamCut& s, std::uint64_t now) noexcept {
  return s.open != nullptr && s.open->ops != 0 && now > s.last_op_ns &&
         now - s.last_op_ns >= kQuiet_ns;
}

}  // namespace bulkhead::policy::compute
