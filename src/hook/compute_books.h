// What this process knows of its launches: streams, contexts, segments in flight and costs. One constinit state in
// .bss, never destroyed; untouched pages of it cost nothing.
//
// Who writes: a StreamBook's `cut`, `ring[head]` and events are its holder's (take(), tried, never waited for);
// `ring[tail]` and all of ContextBook but `events` are the measuring thread's, under Compute::measuring, which is also
// held around calls that may end a context.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "abi/cuda_types.h"
#include "hook/compute.h"
#include "hook/hook.h"
#include "hook/private_lock.h"
#include "policy/compute/bucket.h"
#include "policy/compute/cost.h"
#include "policy/compute/loose.h"
#include "policy/compute/meter.h"
#include "policy/compute/segments.h"
#include "policy/compute/vclock.h"
#include "shm/compute.h"
#include "shm/region.h"

namespace bulkhead::hook {

namespace shares = policy::compute;

inline constexpr unsigned kStreamBooks = 256;  // further streams are charged by prediction alone
inline constexpr unsigned kInFlight = 32;      // segments of one stream; then they grow instead
inline constexpr unsigned kContextBooks = 16;  // the same for contexts
inline constexpr unsigned kSpareEvents = 128;  // of one context
inline constexpr unsigned kInForceRing = 128;  // rules stand this many changes of the rate

// A collective that is no sample, or is beside others: not agreed on with its ranks.
inline constexpr std::int16_t kNotAgreed = -2;

struct ContextBook;
struct Flight {
  shares::Segment segment;
  ContextBook* context;
  CUevent start, end, also;  // `also`: to be given back with it; may be null
  std::uint64_t ended_ns;    // CLOCK_MONOTONIC when its end event was recorded
  std::uint64_t began_ns;    // when it was first seen running; 0: not yet
  std::uint64_t queued_ns;   // when its first operation was launched
  std::uint64_t gap_ns;    // pauses between its operations, by the host's clock and what they cost
  std::uint64_t start_ns;  // of the pair, on its context's clock; good once
  std::uint64_t end_ns;    // this is not 0
  std::uint64_t real_start_ns, real_end_ns;  // on CLOCK_MONOTONIC, as near as is known
  std::uint64_t
      window_ns;  // what it counts for in the window; while it is open, beyond its prediction
  std::uint64_t others_ns;  // predicted, of launches of this stream that were in no segment
  std::uint8_t device;
  bool own_start;           // its start event is of its own, recorded at queued_ns
  bool fresh;               // the process had nothing queued then
  bool collective;          // one is among them
  std::int16_t comm_place;  // of its only operation, if that is one; -1: not known
  std::uint32_t comm_number;
};

struct ContextBook {
  std::atomic<CUcontext> context;  // null: free
  std::atomic<CUevent> events[kSpareEvents];
  std::atomic<std::uint32_t> hint;   // about where the last one was put or taken
  std::atomic<std::int32_t> spares;  // about how many there are
  CUevent base;                      // a completed event, and
  std::uint64_t base_ns;             // its place on the context's clock, near CLOCK_MONOTONIC
  std::uint64_t shift_ns;            // from that clock to CLOCK_MONOTONIC, modulo 2^64
  shares::Cover cover;
  std::uint64_t oldest_ns;  // began_ns of what has run longest, of the last round; it alone accrues
  std::uint64_t next_oldest_ns;
};

// Launches in no segment, which stand as predicted: docs/compute.md, 'What a launch costs'.
struct Loose {
  std::uint64_t charged_ns, predicted_ns, launches;
  std::uint64_t from_ns;  // when the first of them runs, as far as is known
  // When all are over; stays when they are told. And what was launched since a segment ended here: a measured end puts it right.
  std::uint64_t until_ns, since_end_ns;
};

// The last launch that went the short way, as long as its thread has the book (compute_quick.h).
struct QuickOp {
  shares::CostEntry* cost;  // of the part it is in; null: it is loose
  std::uint64_t predicted_ns, charged_ns;
};

struct alignas(64) StreamBook {
  std::atomic<std::uint64_t> key;            // 0: free
  std::atomic<std::uint32_t> held;           // 1: somebody launches on it
  std::atomic<std::uint32_t> tail;           // reaped so far
  std::atomic<std::uint64_t> open_until_ns;  // what is open may run until then; 0: nothing is open
  shares::StreamCut cut;
  std::atomic<std::uint32_t> head;  // ended so far
  bool pdl;                         // programmatic dependents were seen here
  bool lost;    // its context is gone, or the stream: opened anew at the next launch
  bool behind;  // a loose launch is behind last_end: nothing can begin there
  std::atomic<bool> had_loose;  // once
  std::uint64_t quick_ops;      // that went the short way and are not among the region's yet
  // What a usual launch needs ends with the second line.
  Loose loose;  // not told yet
  QuickOp quick;
  ContextBook* context;
  std::atomic<std::uint64_t> others_ns;  // predicted, of launches that found it held
  std::uint32_t ended;  // the measuring thread's: before it what has ended, not settled yet
  shares::Row row;      // the same
  CUevent last_end;     // end of the latest segment; null: none since the last idle time
  CUevent start;        // of the open segment
  CUevent also;
  bool gave_up;                // a wait for its rest was in vain
  std::uint32_t gave_up_tail;  // when so much was reaped
  std::uint32_t device;        // its number here; of a book that was launched on the long way
  Flight ring[kInFlight];
};
static_assert(offsetof(StreamBook, loose) == 64 && offsetof(StreamBook, context) == 136);

// The rules in force, published whole.
struct InForce {
  // zero, as all of Compute: it stands in .bss, and the child of a fork begins as its parent did
  shares::Rules rules{0, 0, 0, 0, 0, 0};
  shm::ComputeRules limits{0, 0, 0, 0, 0};  // of region and node page the lower
  std::uint64_t window_ns = 0;
  std::uint32_t rate_x100 = 0;       // that `rules` is made of
  std::uint32_t seen_rate_x100 = 0;  // the region's word
  std::uint32_t due_x100 = 0;        // where the rate goes
  std::uint32_t generation = 0;      // `rules` of the region
  bool quick =
      false;  // a launch may go the short way, as far as these and the process's settings say
};

struct alignas(64) DeviceShare {
  // The first line is all that a usual launch reads, and it is seldom written.
  std::atomic<const InForce*> now{nullptr};
  // When this process last said so, and that a thread of it waits. The tenant's own word is its siblings', too.
  std::atomic<std::uint64_t> launched_ns{0}, waited_ns{0};
  std::atomic<std::uint64_t> in_flight_ns{0};  // of segments that have ended, in window terms
  std::atomic<std::uint32_t> kappa{0};         // of what is launched now; 0: one
  std::atomic<bool> resting{false};
  InForce ring[kInForceRing]{};
  unsigned next = 0;
  PrivateLock changing{};
  // What the governor tells (compute_govern.cc). Of the first two, `kappa` and `resting`: set each second, and each
  // millisecond by the compute thread; the rest is that thread's own.
  std::atomic<const std::atomic<std::uint16_t>*> given_place{nullptr};
  std::atomic<std::uint32_t> given_x100{0};  // 0: nobody says
  shares::VHistory history{};
  shares::VPoint clock{};
  std::uint32_t kappa_told = 0;
  std::atomic<std::uint32_t> launched{0};  // something was, since the compute thread looked last
  bool had_work = false;
  std::uint64_t slice_ns = 0, busy_until_ns = 0, empty_ns = 0;
  std::uint64_t threads = 0;  // resident at once
  shares::LooseTime loose{};  // under `measuring`
};

struct Compute {
  std::atomic<bool> started{false};       // there are books to keep
  std::atomic<bool> account_only{false};  // a profiler or debugger is attached
  std::atomic<bool> endless{false};       // something runs for longer than anybody is held
  std::atomic<std::uint32_t> pending{0};  // segments in flight
  std::atomic<std::uint32_t> queued{0};   // of them, not seen ended; and segments still open
  std::atomic<std::uint32_t> urgent{0};   // futex: launches that wait for a segment to end
  std::atomic<std::uint32_t> asleep{0};   // futex: the compute thread has nothing to do
  PrivateLock measuring{};
  PrivateLock starting{};
  DeviceShare device[kMaxDevices]{};
  ContextBook contexts[kContextBooks]{};
  StreamBook streams[kStreamBooks]{};
  std::atomic<std::uint32_t> used_count{0};         // streams with a key, in order of their
  std::atomic<std::uint16_t> used[kStreamBooks]{};  // arrival: index + 1
  shares::CostTable costs{};
  std::atomic<std::uint64_t>
      has_loose[kStreamBooks / 64]{};  // a bit a stream; changed under its book
};
[[gnu::visibility("hidden")]] extern constinit Compute compute;

inline bool take(StreamBook& b) noexcept {
  // acquire pairs with release_book(): the last holder's writes
  return b.held.exchange(1, std::memory_order_acquire) == 0;
}
inline void release_book(StreamBook& b) noexcept {
  b.held.store(0, std::memory_order_release);  // pairs with take()
}

// compute_streams.cc. The book of the stream, taken; null: there is none, or another thread has it (its `others_ns`
// has then grown by `predicted_ns`).
[[nodiscard]] StreamBook* take_book(CUstream stream, Twin twin,
                                    std::uint64_t predicted_ns) noexcept;
// Before the launch: the events it needs. False: it is in no segment.
[[nodiscard]] bool cut_before(StreamBook& b, CUstream stream, shares::Op& op) noexcept;
// After it: `taken` by the driver or not.
void cut_after(StreamBook& b, const Ticket& t, bool taken) noexcept;
[[nodiscard]] CUevent spare_event(ContextBook& c) noexcept;  // null: none to be had
void give_event(ContextBook& c, CUevent e) noexcept;

// The open segment is over: its end event is recorded now. `tight`: the device has not come to its end.
void end_open(StreamBook& b, CUstream stream, bool tight) noexcept;

// compute_rest.cc. Streams of programmatic dependents, and what is open before a hold. A default stream by its own handle.
[[nodiscard]] inline CUstream named(CUstream stream, Twin twin) noexcept {
  return stream != nullptr ? stream
                           : reinterpret_cast<CUstream>(twin == Twin::kPerThread ? kStreamPerThread
                                                                                 : kStreamLegacy);
}
[[nodiscard]] bool at_rest(CUstream stream) noexcept;  // all that was launched there is done
// The caller will be held until `until` at least: what is open ends here, if no dependent is parted from its primary by it.
void end_before_hold(CUstream stream, Twin twin, std::uint64_t now, std::uint64_t until) noexcept;
// A dependent that may only go when its stream is at rest waits for that, 100 ms at most; after that in vain, none does until something
// of the stream has ended. Returns the time then.
[[nodiscard]] std::uint64_t wait_for_rest(DeviceShare& share, shm::ComputeEntry& e,
                                          const shares::Op& op, CUstream stream, Twin twin,
                                          std::uint64_t now) noexcept;

// The first on this stream since what was loose there was told.
inline void first_loose(StreamBook& b, std::uint64_t from) noexcept {
  b.loose.from_ns = from;
  b.had_loose.store(true, std::memory_order_relaxed);  // a hint, as below
  const auto index = static_cast<std::size_t>(&b - compute.streams);
  // relaxed: a hint for the compute thread, which takes the book
  compute.has_loose[index / 64].fetch_or(1ull << index % 64, std::memory_order_relaxed);
}
// The launch is charged and taken, and in no segment. The book is ours.
inline void add_loose(StreamBook& b, std::uint64_t now, std::uint64_t predicted_ns,
                      std::uint64_t charged_ns) noexcept {
  // relaxed, both: the holder's own, read by who tells the governor
  const std::uint64_t until = b.open_until_ns.load(std::memory_order_relaxed);
  const std::uint64_t idle = until > now ? until : now;
  b.open_until_ns.store(idle + predicted_ns, std::memory_order_relaxed);
  // the end of a segment clears the other, but what was queued before it is there still
  const std::uint64_t from = b.loose.until_ns > idle ? b.loose.until_ns : idle;
  b.loose.until_ns = from + predicted_ns;
  b.loose.since_end_ns += predicted_ns;
  if (b.loose.launches++ == 0) [[unlikely]]
    first_loose(b, from);
  b.behind = true;
  b.loose.charged_ns += charged_ns;
  b.loose.predicted_ns += predicted_ns;
}
// compute_loose.cc. The compute thread: what was loose is told, and charged no more than the time in which it ran by itself.
void tell_all_loose(std::uint64_t now) noexcept;
// A segment was seen to end: what is loose behind it begins there at the earliest, and by the predictions no later.
void place_loose(StreamBook& b, const Flight& f) noexcept;
// What is left for this stream's measured work of [from, until), `own_ns` of it the process's, beside what is loose on others.
[[nodiscard]] std::uint64_t beside_loose_ns(const StreamBook& b, std::uint32_t device,
                                            std::uint64_t cost_ns, std::uint64_t own_ns,
                                            std::uint64_t from, std::uint64_t until) noexcept;
void count_sums(shm::ComputeEntry& e, const InForce& in, std::uint64_t charged_ns,
                std::uint64_t launches) noexcept;  // compute_measure.cc

// compute_rules.cc. What the tenant may use now of the device with this entry; the step of a changed limit is made here.
[[nodiscard]] const InForce& in_force(DeviceShare& share, shm::ComputeEntry& e) noexcept;
// relaxed: two numbers, each good by itself
[[nodiscard]] inline bool stands(const InForce& in, const shm::ComputeEntry& e) noexcept {
  return in.seen_rate_x100 == e.rate_x100.load(std::memory_order_relaxed) &&
         in.generation == e.rules.load(std::memory_order_relaxed);
}
// The usual case of it: what was published last is still so. Null: ask in_force().
[[nodiscard]] inline const InForce* still_in_force(const DeviceShare& share,
                                                   const shm::ComputeEntry& e) noexcept {
  const InForce* const now = share.now.load(std::memory_order_acquire);  // pairs with publish()
  return now != nullptr && stands(*now, e) ? now : nullptr;
}
// One millisecond's step of the rate.
void step_rate(DeviceShare& share, shm::ComputeEntry& e) noexcept;
[[nodiscard]] shm::ComputeEntry* share_of(const Device& d) noexcept;  // null: no grant
// What a stream was when something was put on it; docs/compute.md, 'Streams'.
enum class StreamClass : std::uint8_t { kCompute, kCopy, kCollective, kCapturing };
inline void count_class(shm::ComputeEntry& e, StreamClass what, std::uint64_t n = 1) noexcept {
  e.stream_ops[static_cast<unsigned>(what)].fetch_add(n, std::memory_order_relaxed);  // a statistic
}
// What went the short way on this stream is told, if anything did. The book is ours.
inline void tell_quick_ops(shm::ComputeEntry& e, StreamBook& b) noexcept {
  if (b.quick_ops == 0) return;
  count_class(e, StreamClass::kCompute, b.quick_ops);
  b.quick_ops = 0;
}
// nccl_share.cc. What a segment with a collective in it is taken to have cost: the least that any rank of its communicator
// measured (its own figure where the communicator is not known), and beside others no more than is known of its keys: the rest was waiting.
void agree(const Flight& f, shares::Reading& r) noexcept;

// Whether nobody can be held for what runs here now: then most launches need no measuring. One that has all of the device while nobody
// else works; one alone in a partition, or under a profiler.
[[nodiscard]] inline bool is_sparse(const DeviceShare& share, const InForce& in) noexcept {
  // relaxed, both: flags of their own
  return compute.account_only.load(std::memory_order_relaxed) ||
         (in.rules.rate_x100 == shares::kWhole_x100 &&
          share.resting.load(std::memory_order_relaxed));
}

// Whether what is queued there by its predictions is within the window. What is loose is in no flight, so the book says it.
[[nodiscard]] inline bool within(const StreamBook& b, std::uint64_t now,
                                 std::uint64_t window_ns) noexcept {
  return b.open_until_ns.load(std::memory_order_relaxed) <= now + window_ns;  // the holder's own
}

[[nodiscard]] inline unsigned number_of(const DeviceShare& share) noexcept {
  return static_cast<unsigned>(&share - compute.device);
}

// compute.cc. The words of a process that is bound to nothing, and of one that looks at each launch.
[[gnu::visibility("hidden")]] extern constinit const std::atomic<std::uint32_t> kNeverLimited,
    kAskAlways;
void compute_unbound() noexcept;
// The device is wanted: told once in this time, by each process, so that the tenant's line is rarely written; of what waits by itself.
inline constexpr std::uint64_t kWantStep_ns = 1'000'000;
enum class Wants : std::uint8_t { kLaunches, kWaits };
void want(DeviceShare& share, shm::ComputeEntry& e, std::uint64_t now, Wants what) noexcept;
// compute_measure.cc, the compute thread: what has ended is settled, what runs accrues.
void measure() noexcept;
template <class Fn>
void for_each_book(Fn fn) noexcept {
  const std::uint32_t n = compute.used_count.load(std::memory_order_relaxed);  // a look
  for (std::uint32_t i = 0; i < n && i < kStreamBooks; ++i) {
    // relaxed: what it leads to orders itself
    const unsigned index = compute.used[i].load(std::memory_order_relaxed);
    if (index != 0) fn(compute.streams[index - 1]);
  }
}
// Out of the ring: nobody measures it (its events are kept or gone with their context).
void drop_flight(StreamBook& b) noexcept;
[[nodiscard]] inline bool has_flight(StreamBook& b) noexcept {
  // relaxed: own; acquire pairs with end_open(): the flight is written
  return b.head.load(std::memory_order_acquire) != b.tail.load(std::memory_order_relaxed);
}
// compute_govern.cc, the compute thread, each millisecond: what the governor says now; and what this process has to tell.
void hear_governor(std::uint64_t now) noexcept;
void tell_governor(std::uint64_t now) noexcept;
void find_given_places() noexcept;  // each second
// Something of this device ended at `end_ns` that was queued at `queued_ns`, with pauses of `gap_ns` in between.
void note_busy(DeviceShare& share, std::uint64_t queued_ns, std::uint64_t end_ns,
               std::uint64_t gap_ns) noexcept;
// compute_thread.cc
void start_measuring() noexcept;  // once a process; cold
void wake_measuring() noexcept;
void look_for_observers() noexcept;  // sets account_only
// compute_names.cc. Whether the function is a collective's kernel: never held.
[[nodiscard]] bool is_collective(CUfunction f) noexcept;
void forget_names() noexcept;

}  // namespace bulkhead::hook
