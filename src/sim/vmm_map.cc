// Address reservations and what is mapped into them.
#include <sys/mman.h>

#include <iterator>

#include "sim/api.h"
#include "sim/vmm.h"

namespace bulkhead::sim {
namespace {

std::map<CUdeviceptr, std::size_t>& reservations() noexcept {
  static auto* map = new std::map<CUdeviceptr, std::size_t>;
  return *map;
}

bool reserved(CUdeviceptr at, std::size_t bytes) noexcept {
  auto it = reservations().upper_bound(at);
  if (it == reservations().begin()) return false;
  --it;
  return at - it->first <= it->second && bytes <= it->second - (at - it->first);
}

bool granular(std::uint64_t n) noexcept { return n % machine.profile.granularity_bytes == 0; }

// Runs `f` on each mapping of [at, at + bytes) if mappings fill it exactly; else false and no call.
template <class F>
bool for_mappings(CUdeviceptr at, std::size_t bytes, F f) noexcept {
  auto& ranges = driver().ranges;
  for (int pass = 0; pass < 2; ++pass) {
    CUdeviceptr next = at;
    while (next < at + bytes) {
      const auto it = ranges.find(next);
      if (it == ranges.end() || it->second.kind != Kind::kMapped) return false;
      const std::size_t size = it->second.bytes;
      if (next + size > at + bytes) return false;
      if (pass == 1) f(it->second);  // may erase it
      next += size;
    }
  }
  return true;
}

}  // namespace

CUresult api::cuMemAddressReserve(CUdeviceptr* ptr, size_t size, size_t alignment, CUdeviceptr addr,
                                  unsigned long long flags) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const bool power = (alignment & (alignment - 1)) == 0;
  if (ptr == nullptr || size == 0 || !granular(size) || !power || flags != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const CUdeviceptr at = reserve_pages(size, alignment, granular(addr) ? addr : 0);
  if (at == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  reservations().emplace(at, size);
  *ptr = at;
  return CUDA_SUCCESS;
}

CUresult api::cuMemAddressFree(CUdeviceptr ptr, size_t size) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const auto it = reservations().find(ptr);
  if (it == reservations().end() || it->second != size) return CUDA_ERROR_INVALID_VALUE;
  const auto inside = driver().ranges.lower_bound(ptr);
  if (inside != driver().ranges.end() && inside->first < ptr + size)
    return CUDA_ERROR_INVALID_VALUE;
  reservations().erase(it);
  unmap_pages(ptr, size);
  return CUDA_SUCCESS;
}

CUresult api::cuMemMap(CUdeviceptr ptr, size_t size, size_t offset,
                       CUmemGenericAllocationHandle handle, unsigned long long flags) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Allocation* a = to_allocation(handle);
  if (a == nullptr || a->handles == 0 || flags != 0 || size == 0 || !granular(size) ||
      !granular(offset) || offset > a->bytes || size > a->bytes - offset || !reserved(ptr, size)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const auto after = driver().ranges.lower_bound(ptr);
  if (find_range(ptr) != nullptr || (after != driver().ranges.end() && after->first < ptr + size)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (::mmap(reinterpret_cast<void*>(ptr), size, PROT_NONE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
             a->fd, static_cast<off_t>(a->offset + offset)) == MAP_FAILED) {
    return CUDA_ERROR_MAP_FAILED;
  }
  ++a->mappings;
  Range r;
  r.kind = Kind::kMapped;
  r.base = ptr;
  r.bytes = size;
  r.ordinal = a->ordinal;
  r.vmm = a->handle;
  r.access = 0;
  add_range(r);
  return CUDA_SUCCESS;
}

CUresult api::cuMemUnmap(CUdeviceptr ptr, size_t size) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const bool done = for_mappings(ptr, size, [](Range& r) {
    Allocation* a = to_allocation(r.vmm);
    void* const hole = ::mmap(reinterpret_cast<void*>(r.base), r.bytes, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (hole == MAP_FAILED) ::mprotect(reinterpret_cast<void*>(r.base), r.bytes, PROT_NONE);
    driver().ranges.erase(r.base);
    --a->mappings;
    drop_if_unused(a);
  });
  return done && size != 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult api::cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc* desc,
                             size_t count) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (desc == nullptr || count == 0 || size == 0) return CUDA_ERROR_INVALID_VALUE;
  unsigned char access = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const CUmemLocation& l = desc[i].location;
    if (l.type == CU_MEM_LOCATION_TYPE_DEVICE && !valid_device(l.id))
      return CUDA_ERROR_INVALID_DEVICE;
    access = static_cast<unsigned char>(access | (desc[i].flags & 3u));
  }
  const bool done = for_mappings(ptr, size, [access](Range& r) {
    const int protection = access == 0   ? PROT_NONE
                           : access == 1 ? PROT_READ
                                         : PROT_READ | PROT_WRITE;
    ::mprotect(reinterpret_cast<void*>(r.base), r.bytes, protection);
    r.access = access;
  });
  return done ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult api::cuMemGetAccess(unsigned long long* flags, const CUmemLocation* location,
                             CUdeviceptr ptr) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Range* r = find_range(ptr);
  if (flags == nullptr || location == nullptr || r == nullptr || r->kind != Kind::kMapped) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *flags = r->access;
  return CUDA_SUCCESS;
}

}  // namespace bulkhead::sim
