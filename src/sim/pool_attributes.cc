// A pool's attributes, and which pool a device uses.
#include <cstring>

#include "sim/api.h"
#include "sim/family.h"
#include "sim/pool.h"

namespace bulkhead::sim {
namespace {

CUresult device_of(const CUmemLocation* location, CUmemAllocationType type, int& ordinal) noexcept {
  if (location == nullptr || type != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
  if (location->type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
  ordinal = location->id;
  return valid_device(ordinal) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

std::uint64_t read(const Pool& p, CUmemPool_attribute attr) noexcept {
  switch (attr) {
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
      return p.threshold;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
      return p.space.reserved_bytes();
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
      return p.reserved_high;
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
      return p.space.used_bytes();
    default:
      return p.used_high;
  }
}

bool is_reuse(CUmemPool_attribute a) noexcept {
  return a >= CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES &&
         a <= CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES;
}

}  // namespace

CUresult api::cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr,
                                    void* value) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Pool* p = to_pool(pool);
  if (p == nullptr || value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (is_reuse(attr)) {
    *static_cast<int*>(value) = p->reuse[attr - 1];
  } else if (attr <= CU_MEMPOOL_ATTR_USED_MEM_HIGH && attr != 0) {
    *static_cast<cuuint64_t*>(value) = read(*p, attr);
  } else {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult api::cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr,
                                    void* value) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Pool* p = to_pool(pool);
  if (p == nullptr || value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (is_reuse(attr)) {
    p->reuse[attr - 1] = *static_cast<int*>(value);
    return CUDA_SUCCESS;
  }
  const cuuint64_t n = *static_cast<cuuint64_t*>(value);
  const bool high =
      attr == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH || attr == CU_MEMPOOL_ATTR_USED_MEM_HIGH;
  if (attr == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) {
    p->threshold = n;
  } else if (high && n == 0) {  // a high mark can be reset only
    if (attr == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH) {
      p->reserved_high = p->space.reserved_bytes();
    } else {
      p->used_high = p->space.used_bytes();
    }
  } else {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult api::cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc* map,
                                 size_t count) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Pool* p = to_pool(pool);
  if (p == nullptr || (map == nullptr && count != 0)) return CUDA_ERROR_INVALID_VALUE;
  for (std::size_t i = 0; i < count; ++i) {
    if (map[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE || !valid_device(map[i].location.id)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    const std::uint64_t bit = 1ull << map[i].location.id;
    const bool on = map[i].flags != CU_MEM_ACCESS_FLAGS_PROT_NONE;
    if (!on && map[i].location.id == p->ordinal) return CUDA_ERROR_INVALID_VALUE;
    p->access = on ? p->access | bit : p->access & ~bit;
  }
  return CUDA_SUCCESS;
}

CUresult api::cuMemPoolGetAccess(CUmemAccess_flags* flags, CUmemoryPool memPool,
                                 CUmemLocation* location) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Pool* p = to_pool(memPool);
  if (p == nullptr || flags == nullptr || location == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const bool own = location->type == CU_MEM_LOCATION_TYPE_DEVICE && location->id == p->ordinal;
  const bool granted = location->type == CU_MEM_LOCATION_TYPE_DEVICE &&
                       valid_device(location->id) && ((p->access >> location->id) & 1) != 0;
  *flags = own || granted ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_NONE;
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceGetDefaultMemPool(CUmemoryPool* pool_out, CUdevice dev) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (pool_out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!valid_device(dev)) return CUDA_ERROR_INVALID_DEVICE;
  *pool_out = reinterpret_cast<CUmemoryPool>(default_pool(dev));
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice dev) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (pool == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!valid_device(dev)) return CUDA_ERROR_INVALID_DEVICE;
  *pool = reinterpret_cast<CUmemoryPool>(current_pool(dev));
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (!valid_device(dev)) return CUDA_ERROR_INVALID_DEVICE;
  Pool* p = to_pool(pool);
  if (p == nullptr || p->ordinal != dev) return CUDA_ERROR_INVALID_VALUE;
  driver().devices[static_cast<unsigned>(dev)].current_pool = p;
  return CUDA_SUCCESS;
}

CUresult api::cuMemGetDefaultMemPool(CUmemoryPool* pool_out, CUmemLocation* location,
                                     CUmemAllocationType type) noexcept {
  int ordinal = 0;
  {
    const Call call{Need::kInit};
    if (call.result != CUDA_SUCCESS) return call.result;
    if (const CUresult r = device_of(location, type, ordinal); r != CUDA_SUCCESS) return r;
  }
  return cuDeviceGetDefaultMemPool(pool_out, ordinal);
}

CUresult api::cuMemGetMemPool(CUmemoryPool* pool, CUmemLocation* location,
                              CUmemAllocationType type) noexcept {
  int ordinal = 0;
  {
    const Call call{Need::kInit};
    if (call.result != CUDA_SUCCESS) return call.result;
    if (const CUresult r = device_of(location, type, ordinal); r != CUDA_SUCCESS) return r;
  }
  return cuDeviceGetMemPool(pool, ordinal);
}

CUresult api::cuMemSetMemPool(CUmemLocation* location, CUmemAllocationType type,
                              CUmemoryPool pool) noexcept {
  int ordinal = 0;
  {
    const Call call{Need::kInit};
    if (call.result != CUDA_SUCCESS) return call.result;
    if (const CUresult r = device_of(location, type, ordinal); r != CUDA_SUCCESS) return r;
  }
  return cuDeviceSetMemPool(ordinal, pool);
}

}  // namespace bulkhead::sim
