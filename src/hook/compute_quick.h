// The usual launch, without what few launches need: docs/compute.md, 'What a launch costs'. In front of compute_begin(), which does
// the same and everything else.
//
// Claim  A launch that goes this way is charged, counted and put into its stream's open segment exactly as compute_begin() and
//        compute_end() would have done; whoever is not sure goes there.
// Proof  A line of a thread's cache is made only by a launch that went the long way into a segment. It names what was launched, the
//        cost entry and the book of its stream, which are never given to another key while the process lives (cost.h,
//        compute_streams.cc), and the epoch of then: `quick_epoch` moves when handles may come to mean something else. Whatever may hold a launch, end a segment, begin one or have it
//        measured by itself is asked here, and answered there.
// Price  ThreadPlaces' 512 KiB of .bss, of which each launching thread touches 2 KiB; of more than 256 threads that launch at once the
//        others go the long way.
#pragma once
#include <atomic>

#include "hook/compute.h"
#include "policy/compute/cost.h"

namespace bulkhead::hook {

// What of a launch decides its cost, packed without loss of what the driver accepts. All of it is compared.
struct QuickKey {
  std::uint64_t what;   // function or executable graph
  std::uint64_t shape;  // grid x, dynamic shared bytes; of a graph its generation
  std::uint64_t grid;   // y, z
  std::uint64_t block;  // of a graph all ones
  std::uint64_t
      cluster;  // and, in the upper half, the epoch: what was known before it does not hold any longer
  CUstream stream;  // never null: quick_stream()
};
#if defined(BH_HOOK_FAKE)

inline QuickKey quick_graph(CUgraphExec, CUstream, Twin) noexcept { return {}; }
inline StreamBook* quick_begin(const QuickKey&) noexcept { return nullptr; }
inline CUresult quick_end(StreamBook&, CUresult r) noexcept { return r; }
inline void quick_learn(const QuickKey&, const Ticket&) noexcept {}

#else

[[nodiscard]] inline CUstream quick_stream(CUstream stream, Twin twin) noexcept {
  constexpr std::uintptr_t kLegacy = 1,
                           kPerThread = 2;  // the driver's names of its default streams
  return stream != nullptr
             ? stream
             : reinterpret_cast<CUstream>(twin == Twin::kPerThread ? kPerThread : kLegacy);
}
// Odd. relaxed, where it is read: who unloads a module or forks orders its own launches.
[[gnu::visibility("hidden")]] extern constinit std::atomic<std::uint32_t> quick_epoch;
inline constexpr std::uint64_t kNoQuick = std::uint64_t{0xffff'fffe} << 32;  // of no epoch
[[nodiscard]] inline std::uint64_t quick_cluster(const policy::compute::Shape& s) noexcept {
  constexpr std::uint32_t kMost = 1u << 10;
  const std::uint32_t x = s.cluster[0], y = s.cluster[1], z = s.cluster[2];
  if ((x | y | z) >= kMost) [[unlikely]]
    return kNoQuick;
  const std::uint32_t cluster = (x | y | z) > 1 ? (x << 20) | (y << 10) | z : 0;
  return (std::uint64_t{quick_epoch.load(std::memory_order_relaxed)} << 32) | cluster;
}
[[nodiscard]] inline QuickKey quick_kernel(CUfunction f, const policy::compute::Shape& s,
                                           CUstream stream, Twin twin) noexcept {
  const auto pair = [](std::uint32_t high, std::uint32_t low) {
    return (std::uint64_t{high} << 32) | low;
  };
  return {reinterpret_cast<std::uintptr_t>(f),
          pair(s.grid[0], s.shared_bytes),
          pair(s.grid[1], s.grid[2]),
          pair(s.block[0], (s.block[1] << 16) | (s.block[2] & 0xffff)),
          quick_cluster(s),
          quick_stream(stream, twin)};
}
// Executable -> its generation, hashed: two that share a place learn anew a little more often.
inline constexpr unsigned kGraphGenerations = 4096;
[[gnu::visibility("hidden")]] extern constinit std::atomic<std::uint32_t>
    graph_generations[kGraphGenerations];
[[nodiscard]] inline std::atomic<std::uint32_t>& generation_of(CUgraphExec exec) noexcept {
  const auto bits = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(exec));
  return graph_generations[bits * 0x9E37'79B9'7F4A'7C15ull >> 52];
}
static_assert(kGraphGenerations == 1u << (64 - 52));
[[nodiscard]] inline QuickKey quick_graph(CUgraphExec exec, CUstream stream, Twin twin) noexcept {
  // relaxed, both: who launches an executable knows of its updates; as above
  return {reinterpret_cast<std::uintptr_t>(exec),
          generation_of(exec).load(std::memory_order_relaxed),
          0,
          ~std::uint64_t{0},
          std::uint64_t{quick_epoch.load(std::memory_order_relaxed)} << 32,
          quick_stream(stream, twin)};
}

// compute_quick_way.h has quick_begin() and quick_end().
// After compute_begin(): if it put this launch into a segment, the next of its kind may go quickly.
void quick_learn(const QuickKey& key, const Ticket& t) noexcept;
// What was known of handles does not hold any longer (modules, a fork).
void quick_forget() noexcept;
// In the child of a fork: the other threads' caches are free.
void quick_forked_child() noexcept;

#endif

}  // namespace bulkhead::hook
