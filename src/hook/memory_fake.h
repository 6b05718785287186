// A small model of one device and its driver for unit tests of the memory families, and the doors' part of hook.h
// over a plain counter. It takes memory as docs/formats/charge.md says the driver does, and knows at any moment what
// it has taken, so that the books can be compared with it.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "hook/hook.h"
#include "hook/next.h"

namespace bulkhead::hook::fake {

inline constexpr std::uint64_t kMiB = 1u << 20;
inline constexpr std::uint64_t kContext = 518 * kMiB;

struct Driver {
  std::recursive_mutex lock;
  std::uint64_t capacity = 64ull << 30;
  std::uint64_t taken = 0;  // without contexts
  std::uint64_t contexts_taken = 0;
  std::uint64_t most = 0;  // highest sum of both since reset
  int fail_next = 0;       // the next allocating calls answer ERROR_UNKNOWN
  bool probes = true;      // deferred arrays are supported
  std::uint64_t extra_pitch = 0;
  int pool_queries = 0;            // attributes asked of pools
  std::function<void()> on_query;  // called by each of them
  std::function<void()> on_free;   // called once, by the next free before it frees
  std::uint64_t managed = 0;       // bytes asked as managed memory; `taken` has them in batches
  std::uint64_t batches = 0;       // bytes of those batches; the last one is kept for good
};
extern Driver driver;

struct Quota {
  std::atomic<std::uint64_t> limit{0}, held{0}, other{0};
  std::atomic<std::uint64_t> counts[5]{};
};
extern Quota quota;

// An empty device, no quota held, books as after a fork; a primary context is current.
void reset(std::uint64_t limit);
void make_current(CUcontext ctx);
// A graph of allocation nodes of these sizes; and an empty one with it as a child.
CUgraph graph_of(std::vector<std::uint64_t> sizes);
CUgraph parent_of(CUgraph child);
// What the driver's pool will report, and marks a stream as capturing.
void set_capturing(bool on);
CUmemoryPool default_pool();

}  // namespace bulkhead::hook::fake
