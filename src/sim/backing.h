// What stands behind simulated device memory: host pages, mapped without reservation and touched
// only when bytes really move, so that a 141 GB device fits in a small machine. A device address is
// the host address of its backing. Functions here are called with the driver's lock held.
#pragma once
#include <cstddef>
#include <cstdint>

#include "abi/cuda_types.h"
#include "sim/state.h"

namespace bulkhead::sim {

// One piece of device memory as the driver takes it: charged to the process's ledger, or, once other
// processes may see it, to a shared object.
struct Segment {
  CUdeviceptr base = 0;
  std::size_t bytes = 0;
  unsigned unit = 0;
  std::uint64_t object = 0;  // 0: in the ledger
  Part part = Part::kShown;  // of the ledger
};

// Host pages, 2 MiB aligned. fd < 0: private zero pages. 0: the host has no address space left.
CUdeviceptr map_pages(std::size_t bytes, int fd) noexcept;
CUdeviceptr reserve_pages(std::size_t bytes, std::size_t align, CUdeviceptr hint) noexcept;
void unmap_pages(CUdeviceptr base, std::size_t bytes) noexcept;

// Charges and maps. nullptr: the device is full, even after this process's pools gave back what they
// do not use.
Segment* take_segment(unsigned unit, std::size_t bytes, Part part = Part::kShown) noexcept;
void drop_segment(Segment* s) noexcept;
// Moves the bytes into a file other processes can map, at the same address. False: no room for it.
bool share_segment(Segment& s) noexcept;
// A charge without pages (contexts, modules): same refusal rule.
bool take_bytes(unsigned unit, std::uint64_t bytes, Part part = Part::kShown) noexcept;

inline constexpr std::uint64_t round_up(std::uint64_t n, std::uint64_t unit) noexcept {
  return (n + unit - 1) / unit * unit;
}

}  // namespace bulkhead::sim
