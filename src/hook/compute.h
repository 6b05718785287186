// Compute shares, the launch's side: the gate before the driver, in the caller's thread. docs/compute.md.
//
// A family of launches does
//     if (!compute_limited()) [[likely]] return next.cuLaunch...;
//     Ticket t;
//     compute_begin(t, what, stream);
//     return compute_end(t, next.cuLaunch...);
// and pays one load of an own word, one of the region and a branch where there is no limit. What a limit costs is out
// of line. Any thread; nothing here allocates, and only a hold sleeps. A Ticket lies on the caller's stack between the
// two calls and is ended exactly once.
#pragma once
#include <atomic>
#include <cstdint>

#include "abi/cuda_types.h"

namespace bulkhead::shm {
struct ComputeEntry;
}
namespace bulkhead::policy::compute {
struct CostEntry;
}

namespace bulkhead::hook {

struct StreamBook;

// Which default stream a null handle is: the context's, or (the functions that end in _ptsz) the thread's.
enum class Twin : std::uint8_t { kPlain, kPerThread };

struct What {
  std::uint64_t key = 0;       // never 0: policy/compute/cost.h
  std::uint64_t prior_ns = 0;  // what it may cost if nothing is known of the key
  CUfunction function{};       // null: a graph
  bool dependent = false;      // programmatic serialisation: no event before it
};

struct Ticket {
  shm::ComputeEntry* entry = nullptr;  // null: nothing was charged
  policy::compute::CostEntry* cost = nullptr;
  StreamBook* book = nullptr;  // ours until the end; null: nobody measures this launch
  CUstream stream = nullptr;
  std::uint64_t predicted_ns = 0;
  std::uint64_t charged_ns = 0;  // with kappa
  std::uint64_t window_ns = 0;   // what it counts for among the work in flight
  std::uint64_t now_ns = 0;
  std::uint8_t device = 0;
  bool alone = false;
  bool dependent = false;
  bool collective = false;
  bool loose = false;            // in no segment, though its book is ours: Loose
  std::int16_t comm_place = -1;  // of its communicator in the region; < 0: not known
  std::uint32_t comm_number = 0;
};

#if defined(BH_HOOK_FAKE)

// A unit test of the memory families: no shares.
constexpr bool compute_limited() noexcept { return false; }
inline void compute_begin(Ticket&, const What&, CUstream, Twin) noexcept {}
inline CUresult compute_end(Ticket&, CUresult r) noexcept { return r; }
inline What graph_what(CUgraphExec) noexcept { return {}; }
inline void graph_changed(CUgraphExec) noexcept {}
inline void compute_context_gone(CUcontext) noexcept {}
inline void compute_look() noexcept {}
struct ComputePause {
  ComputePause() noexcept {}
  ~ComputePause() {}
};

#else

// The word that says whether any launch of this process may have to wait: the region's limit of its one device, a word that is
// never 0 if there are several or the node page limits the tenant's time, a word that is always 0 while the process is bound to nothing.
[[gnu::visibility("hidden")]] extern constinit std::atomic<const std::atomic<std::uint32_t>*>
    compute_word;

[[gnu::always_inline]] inline bool compute_limited() noexcept {
  // acquire pairs with compute_bound(): the region behind it is mapped. relaxed: the limit is one number, read anew
  // at each launch
  return compute_word.load(std::memory_order_acquire)->load(std::memory_order_relaxed) != 0;
}

// Waits if the tenant is over its share, charges, and puts the events around the launch that it needs.
void compute_begin(Ticket& t, const What& what, CUstream stream, Twin twin) noexcept;
// After the driver answered: what it refused is given back. Returns its answer.
CUresult compute_end(Ticket& t, CUresult r) noexcept;

// What launching this executable graph is, by its present generation; and that the graph was changed in place.
[[nodiscard]] What graph_what(CUgraphExec exec) noexcept;
void graph_changed(CUgraphExec exec) noexcept;

// This process is bound to its tenant's region, or is the child of a fork.
void compute_bound() noexcept;
// Once a second: what binds, by the region and the node page as they are now.
void compute_look() noexcept;
void compute_forked_child() noexcept;
// A module was unloaded: functions of the same addresses may be others.
void compute_forget_names() noexcept;
// A context was destroyed or reset, and its events with it; and around the call into the driver that may do so: the
// process's compute thread asks for no event meanwhile.
void compute_context_gone(CUcontext context) noexcept;
class ComputePause {
 public:
  ComputePause() noexcept;
  ~ComputePause();
  ComputePause(const ComputePause&) = delete;
  ComputePause& operator=(const ComputePause&) = delete;

 private:
  bool held_;
};
// A stream is about to be destroyed.
void compute_stream_gone(CUstream stream) noexcept;

// Captures under way in this process, at least; while there are any, each launch asks whether its stream is in one.
[[gnu::visibility("hidden")]] extern constinit std::atomic<std::uint32_t> captures;
[[nodiscard]] bool is_capturing(CUstream stream, Twin twin) noexcept;

#endif

}  // namespace bulkhead::hook
