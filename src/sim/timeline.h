// The device's time as plain data: what waits in each stream, who is on the device, what ran how long.
// advance() moves it forward event by event; the clock is passed in, so the same model serves processes in
// real time (timed.h) and tests that own the clock. Nothing here locks, allocates or asks the system.
//
// The model. A *group* is what time-slices: one context, or all clients of one MPS server. One group is on a
// unit at a time, for slice_ns, round robin over the groups that have work; one that has none leaves at once;
// every change costs switch_ns, in which nothing runs. The streams of the group run side by side: a kernel
// asks for the SMs that its blocks fill, begun ones are served first, then by priority and by the order in
// which they came to their stream's head, and each takes what is left; with fewer than it asked for it is
// slower in proportion. Copies run on three engines of the unit, one at a time each, whoever is on the SMs.
// An event behind a kernel (or at a stream's start) is stamped when its group is on the device.
#pragma once
#include <cstdint>

#include "sim/profile.h"

namespace bulkhead::sim {

inline constexpr unsigned kMaxTimedContexts = 256;
inline constexpr unsigned kMaxTimedQueues = 2048;
inline constexpr unsigned kRing = 1024;  // entries of a stream; a power of two
inline constexpr std::uint64_t kForever = 1ull << 62;

enum class EntryKind : std::uint8_t { kKernel, kFromHost, kToHost, kWithin, kStamp, kWait };
inline constexpr unsigned kEngines = 3;  // kFromHost .. kWithin

// One entry of a stream.
struct Entry {
  std::uint64_t a;    // kernel, copy: ns it takes alone; stamp: version; wait: sequence number
  std::uint64_t b;    // wait: the queue's generation
  std::uint32_t c;    // stamp: slot; wait: queue
  std::uint16_t sms;  // kernel: SMs it fills, at least 1
  EntryKind kind;
  std::uint8_t on_device;  // stamp: only while its group is on the device
};
static_assert(sizeof(Entry) == 24);

// An event's time. at_ns 0: not reached; stored only for the version that is current.
struct Stamp {
  std::uint64_t at_ns, version;
  std::uint32_t owner, owner_generation;  // context + 1; 0: free
};

struct TimedQueue {
  std::uint32_t context;     // index + 1; 0: free
  std::uint32_t generation;  // one more each time it is freed
  std::int32_t priority;     // lower first
  std::uint16_t sm_limit;    // a green context's; 0: none
  std::uint16_t granted;     // SMs, for the step that is running
  std::uint64_t head, tail;  // sequence numbers: [head, tail) is not done
  std::uint64_t left_ns;     // of a begun head
  std::uint64_t order;       // when the head came to be ready; 0: not yet
  std::uint32_t begun, closing;
};
static_assert(sizeof(TimedQueue) == 56);

struct TimedContext {
  std::uint32_t pid;  // 0: free
  std::uint32_t generation;
  std::uint64_t start_ticks;
  std::uint32_t unit;
  std::uint32_t group;     // index of the group's first context
  std::uint64_t mps;       // server; 0: none
  std::uint32_t sm_limit;  // of the percentage
  std::uint32_t faulted;   // by another client of the server
  std::uint64_t busy_ns;   // at least one kernel of it ran
  std::uint64_t work_ns;   // sum over its kernels, each by its own cost
  std::uint64_t sm_ns;     // SMs held, times ns
  std::uint64_t copy_ns;
  std::uint64_t kernels;  // ended
};

struct TimedUnit {
  std::uint32_t resident;                     // group on the device + 1; 0: none
  std::uint32_t next;                         // group + 1 that a switch brings
  std::uint32_t switching;                    // until switch_end_ns
  std::uint32_t from;                         // where the round robin goes on
  std::uint64_t switch_end_ns, slice_end_ns;  // slice_end_ns 0: begins with the next work
  std::uint64_t busy_ns;                      // at least one kernel ran
  std::uint64_t switch_ns, switches;
  std::uint64_t copy_ns[kEngines];
  std::uint64_t gone_busy_ns;      // of contexts that are no more
  std::uint32_t engine[kEngines];  // queue + 1; 0: idle
  std::uint32_t waiting;           // another group has work (derived in each step)
};

struct Timeline {
  std::uint64_t clock_ns;
  std::uint64_t next_order;
  std::uint32_t contexts_high, queues_high;  // ever used: bounds the scans
  TimedUnit units[kMaxUnits];
  TimedContext contexts[kMaxTimedContexts];
  TimedQueue queues[kMaxTimedQueues];
};

struct TimeRules {
  std::uint64_t slice_ns = 2'000'000, switch_ns = 180'000;
  unsigned sms = 132;
  unsigned units = 1;
};

// What a timeline refers to. stamps null: none are stored (looking ahead).
struct TimeWorld {
  TimeRules rules;
  const Entry (*rings)[kRing] = nullptr;
  Stamp* stamps = nullptr;
};

// Entry `sequence` - 1 of that queue and all before it are done, or the queue is no more.
inline bool passed(const Timeline& t, std::uint32_t queue, std::uint32_t generation,
                   std::uint64_t sequence) noexcept {
  const TimedQueue& q = t.queues[queue];
  return q.generation != generation || q.context == 0 || q.head >= sequence;
}

// Copies what is in use.
void copy_timeline(Timeline& to, const Timeline& from) noexcept;
// Brings the clock to `to_ns` (no effect if it is there already, but what is ready at this time is done).
void advance(Timeline& t, const TimeWorld& w, std::uint64_t to_ns) noexcept;
// Runs `t` (a copy) forward until the entry is done, `to_ns` or `steps` events. True: done, at t.clock_ns.
bool look_ahead(Timeline& t, const TimeWorld& w, std::uint32_t queue, std::uint32_t generation,
                std::uint64_t sequence, std::uint64_t to_ns, unsigned steps) noexcept;

// Membership; each is followed by advance(t, w, t.clock_ns) so that it takes effect. -1: the table is full.
int add_context(Timeline& t, const TimedContext& as) noexcept;
void end_context(Timeline& t, unsigned index) noexcept;   // with its queues
void abort_work(Timeline& t, unsigned context) noexcept;  // its queues are emptied
int add_queue(Timeline& t, unsigned context, int priority, unsigned sm_limit) noexcept;
void free_queue(Timeline& t, unsigned queue) noexcept;
// A kernel of this context is begun and not done.
bool in_kernel(const Timeline& t, const TimeWorld& w, unsigned context) noexcept;
bool has_work(const Timeline& t, unsigned context) noexcept;
// Faults every other client of the context's MPS server on its unit and drops their work.
void fault_others(Timeline& t, unsigned context) noexcept;

}  // namespace bulkhead::sim
