// Shares of single streams: docs/compute.md, 'Streams'. A bucket a stream in this process's memory, one 64-bit word. Any thread;
// no heap, no lock; only a hold sleeps.
#pragma once
#include <atomic>
#include <cstdint>

#include "abi/cuda_types.h"
#include "hook/settings.h"
#include "shm/region.h"

namespace bulkhead::hook {

// Whether BULKHEAD_STREAM_COMPUTE asks for anything; set when the process is bound.
[[gnu::visibility("hidden")]] extern constinit std::atomic<bool> stream_shapes;
[[nodiscard]] inline bool streams_shaped() noexcept {
  return stream_shapes.load(std::memory_order_relaxed);  // a flag of its own
}
// Waits while the stream is over its share, then charges what is predicted. Returns the time then. Default streams are free, and so
// is what finds no place (kShapedStreams at once).
[[nodiscard]] std::uint64_t stream_hold(shm::ComputeEntry& e, CUstream stream,
                                        std::uint64_t predicted_ns, std::uint64_t now) noexcept;
// It is about to be destroyed: another of the same handle begins anew.
void stream_forget(CUstream stream) noexcept;

inline constexpr unsigned kShapedStreams = 256;

}  // namespace bulkhead::hook
