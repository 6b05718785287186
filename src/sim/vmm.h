// Virtual memory management: physical allocations by handle, address reservations, mappings.
#pragma once
#include "sim/model.h"

namespace bulkhead::sim {

// Lives until every handle is released and every mapping is gone.
struct Allocation {
  std::uint64_t handle = 0;
  unsigned unit = 0;
  int ordinal = 0;  // -1: host memory, charged to no device
  std::size_t bytes = 0;
  int fd = -1;               // its own memfd, or the process's common one
  std::uint64_t offset = 0;  // in fd
  std::uint64_t object = 0;  // shareable: charged to this object
  unsigned handles = 1, mappings = 0;
  CUmemAllocationProp prop{};
};

Allocation* to_allocation(CUmemGenericAllocationHandle h) noexcept;
void adopt(Allocation* a) noexcept;               // gives it a handle
void drop_if_unused(Allocation* a) noexcept;
int make_memfd(std::size_t bytes) noexcept;       // -1: none to be had
bool fabricate(Allocation& a) noexcept;           // charges and backs; false: the device is full

}  // namespace bulkhead::sim
