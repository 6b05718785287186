// Arena: sub-allocates first-fit from segments of one size; an empty segment goes back to the device at
// once. The slabs that small plain requests share, and those of small arrays.
#pragma once
#include <map>

#include "sim/backing.h"

namespace bulkhead::sim {

class Arena {
 public:
  Arena(unsigned unit, std::size_t grain_bytes, std::size_t slab_bytes) noexcept
      : unit_(unit), grain_(grain_bytes), slab_(slab_bytes) {}
  ~Arena() { clear(); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  CUdeviceptr allocate(std::size_t bytes) noexcept;  // at most a slab; 0: the device is full
  void free(CUdeviceptr at) noexcept;                // an address that allocate() gave
  void clear() noexcept;                             // gives everything back, in use or not
  [[nodiscard]] Segment* segment_of(CUdeviceptr at) const noexcept;

 private:
  struct Block {
    std::size_t bytes;
    Segment* segment;
  };
  using Blocks = std::map<CUdeviceptr, Block>;
  void join(Blocks::iterator it, Blocks::iterator next) noexcept;

  unsigned unit_;
  std::size_t grain_, slab_;
  Blocks used_, free_;
};

}  // namespace bulkhead::sim
