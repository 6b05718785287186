// A memory pool: addresses backed block by block, with the driver's attributes.
#pragma once
#include "sim/block_space.h"
#include "sim/model.h"

namespace bulkhead::sim {

struct Pool {
  Pool(unsigned unit, int device_ordinal) noexcept
      : space(unit, machine.profile.pool_block_bytes, machine.profile.slab_unit_bytes),
        ordinal(device_ordinal) {}
  BlockSpace space;
  int ordinal;
  std::size_t max_bytes = 0;
  std::uint64_t threshold = 0;  // CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
  std::uint64_t reserved_high = 0, used_high = 0;
  int reuse[3] = {1, 1, 1};
  bool is_default = false;
  bool destroyed = false;  // goes when its last allocation does
  int fd = -1;             // of an exportable pool's memory
  std::uint64_t import_object = 0;
  CUdeviceptr import_base = 0;
  bool imported = false;   // another process's: pointers come by cuMemPoolImportPointer only
  unsigned live = 0;
  std::uint64_t access = 0;  // bit per ordinal that may use it, beside its own device
};

Pool* to_pool(CUmemoryPool h) noexcept;
Pool* default_pool(int ordinal) noexcept;
Pool* current_pool(int ordinal) noexcept;
void forget_pool(Pool* p) noexcept;  // frees it and everything in it
void register_pool(Pool* p) noexcept;
bool make_exportable(Pool& p) noexcept;  // pool_share.cc; before its first allocation
CUresult allocate_pooled(Pool& p, std::size_t bytes, Context* context, CUdeviceptr& out) noexcept;

}  // namespace bulkhead::sim
