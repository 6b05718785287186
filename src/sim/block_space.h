// BlockSpace: contiguous addresses backed block by block, as a memory pool of the driver is. An
// allocation may begin in the unused rest of one block and end in the next; what is reserved is the
// number of backed blocks times their size. A block that nobody uses stays backed until trim().
#pragma once
#include <map>
#include <vector>

#include "sim/backing.h"

namespace bulkhead::sim {

class BlockSpace {
 public:
  BlockSpace(unsigned unit, std::size_t block_bytes, std::size_t grain_bytes) noexcept
      : unit_(unit), block_(block_bytes), grain_(grain_bytes) {}
  ~BlockSpace() { clear(); }
  BlockSpace(const BlockSpace&) = delete;
  BlockSpace& operator=(const BlockSpace&) = delete;

  // Backs the space with `fd` (a memfd of span_bytes()) and charges the object instead of the ledger:
  // a pool that others may import. Before the first allocation.
  void share(int fd, std::uint64_t object) noexcept;

  // 0: the device is full, or more than `max_bytes` would be reserved (0: no bound).
  CUdeviceptr allocate(std::size_t bytes, std::size_t max_bytes) noexcept;
  void free(CUdeviceptr at) noexcept;          // an address that allocate() gave
  void trim(std::size_t keep_bytes) noexcept;  // gives unused blocks back, down to keep_bytes
  void clear() noexcept;

  [[nodiscard]] std::size_t span_bytes() const noexcept;
  [[nodiscard]] CUdeviceptr base() const noexcept { return base_; }
  [[nodiscard]] std::size_t reserved_bytes() const noexcept { return reserved_; }
  [[nodiscard]] std::size_t used_bytes() const noexcept { return used_; }
  [[nodiscard]] unsigned unit() const noexcept { return unit_; }
  [[nodiscard]] std::uint64_t object() const noexcept { return object_; }

 private:
  struct Block {
    unsigned users = 0;
    bool backed = false;
  };
  bool open() noexcept;
  bool back(std::size_t first, std::size_t last) noexcept;
  bool charge(std::size_t bytes) noexcept;
  void give_back(std::size_t bytes) noexcept;

  unsigned unit_;
  std::size_t block_, grain_;
  CUdeviceptr base_ = 0;
  int fd_ = -1;
  std::uint64_t object_ = 0;
  std::size_t reserved_ = 0, used_ = 0;
  std::vector<Block> blocks_;
  std::map<CUdeviceptr, std::size_t> live_, holes_;
};

}  // namespace bulkhead::sim
