// Arena: sub-allocates from segments, best fit, neighbours joined. Slabs of small plain requests and
// memory pools are arenas; they differ in the size of what they take from the device.
#pragma once
#include <map>
#include <set>
#include <utility>

#include "sim/backing.h"

namespace bulkhead::sim {

class Arena {
 public:
  Arena(unsigned unit, std::size_t grain_bytes, std::size_t chunk_bytes) noexcept
      : unit_(unit), grain_(grain_bytes), chunk_(chunk_bytes) {}
  ~Arena() { clear(); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // 0: the device is full (or `max_bytes` of segments would be passed; 0 = no bound).
  CUdeviceptr allocate(std::size_t bytes, std::size_t max_bytes) noexcept;
  void free(CUdeviceptr at) noexcept;  // an address that allocate() gave
  // Gives wholly unused segments back until at most `keep_bytes` are held.
  void trim(std::size_t keep_bytes) noexcept;
  void clear() noexcept;  // gives everything back, in use or not
  [[nodiscard]] Segment* segment_of(CUdeviceptr at) const noexcept;

  [[nodiscard]] std::size_t reserved_bytes() const noexcept { return reserved_; }
  [[nodiscard]] std::size_t used_bytes() const noexcept { return used_; }
  [[nodiscard]] bool empty() const noexcept { return used_ == 0; }

 private:
  struct Block {
    std::size_t bytes;
    Segment* segment;
    bool free;
  };
  using Blocks = std::map<CUdeviceptr, Block>;
  void set_free(Blocks::iterator it) noexcept;

  unsigned unit_;
  std::size_t grain_, chunk_;
  std::size_t reserved_ = 0, used_ = 0;
  Blocks blocks_;
  std::set<std::pair<std::size_t, CUdeviceptr>> free_;  // best fit by size, then address
};

}  // namespace bulkhead::sim
