// Stream-ordered allocation. Pools are the device's and outlive its contexts. Work runs when it is submitted, so memory freed on one stream may be had
// again on any other at once; what a pool gives back to the device, and when, is as measured.
#include "sim/pool.h"

#include <unistd.h>

#include <algorithm>
#include <new>

#include "sim/api.h"
#include "sim/family.h"
#include "sim/graph.h"

namespace bulkhead::sim {
namespace {

std::unordered_set<Pool*>& pools() noexcept {
  static auto* set = new std::unordered_set<Pool*>;
  return *set;
}

Device& device(int ordinal) noexcept { return driver().devices[static_cast<unsigned>(ordinal)]; }

void note_highs(Pool& p) noexcept {
  p.reserved_high = std::max<std::uint64_t>(p.reserved_high, p.space.reserved_bytes());
  p.used_high = std::max<std::uint64_t>(p.used_high, p.space.used_bytes());
}

}  // namespace

Pool* to_pool(CUmemoryPool h) noexcept {
  auto* p = reinterpret_cast<Pool*>(h);
  return pools().contains(p) && !p->destroyed ? p : nullptr;
}

void register_pool(Pool* p) noexcept { pools().insert(p); }

Pool* default_pool(int ordinal) noexcept {
  Device& d = device(ordinal);
  if (d.default_pool == nullptr) {
    d.default_pool = new (std::nothrow) Pool(d.unit, ordinal);
    d.default_pool->is_default = true;
    register_pool(d.default_pool);
  }
  return d.default_pool;
}

Pool* current_pool(int ordinal) noexcept {
  Device& d = device(ordinal);
  return d.current_pool != nullptr ? d.current_pool : default_pool(ordinal);
}

void forget_pool(Pool* p) noexcept {
  auto& ranges = driver().ranges;
  std::erase_if(ranges, [p](const auto& r) { return r.second.pool == p; });
  for (Device& d : driver().devices) {
    if (d.default_pool == p) d.default_pool = nullptr;
    if (d.current_pool == p) d.current_pool = nullptr;
  }
  p->space.clear();
  if (p->space.object() != 0) drop_object(p->space.object());
  if (p->imported) {
    unmap_pages(p->import_base, p->space.span_bytes());
    drop_object(p->import_object);
  }
  if (p->fd >= 0) ::close(p->fd);
  pools().erase(p);
  delete p;
}

CUresult allocate_pooled(Pool& p, std::size_t bytes, Context* context, CUdeviceptr& out) noexcept {
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (p.imported) return CUDA_ERROR_INVALID_VALUE;
  if (bytes > p.space.span_bytes() / 2) return CUDA_ERROR_OUT_OF_MEMORY;
  CUdeviceptr at = p.space.allocate(bytes, p.max_bytes);
  if (at == 0) {
    trim_pools(p.space.unit());
    at = p.space.allocate(bytes, p.max_bytes);
  }
  if (at == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  ++p.live;
  note_highs(p);
  Range r;
  r.kind = Kind::kPool;
  r.base = at;
  r.bytes = bytes;
  r.context = context;
  r.ordinal = p.ordinal;
  r.pool = &p;
  add_range(r);
  out = at;
  return CUDA_SUCCESS;
}

void free_pooled(Range& r) noexcept {
  Pool* p = r.pool;
  const CUdeviceptr base = r.base;
  if (r.kind == Kind::kGraph) {
    free_graph_memory(base);
    return;
  }
  driver().ranges.erase(base);
  p->space.free(base);
  if (--p->live == 0 && p->destroyed) forget_pool(p);
}

// Pools fall to what is used, or to their threshold if that is more.
void at_synchronisation() noexcept {
  for (Pool* p : pools()) {
    if (p->space.reserved_bytes() > p->threshold) p->space.trim(p->threshold);
  }
}

void trim_pools(unsigned unit) noexcept {
  for (Pool* p : pools()) {
    if (p->space.unit() == unit) p->space.trim(0);
  }
  trim_graph_memory(unit);
}

namespace {

CUresult allocate(CUdeviceptr* dptr, std::size_t bytes, CUmemoryPool pool, bool named,
                  CUstream stream) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (dptr == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Stream* s = to_stream(stream, call.context);
  if (s == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  Pool* p = named ? to_pool(pool) : current_pool(s->context->ordinal);
  if (p == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (s->capture.status != CU_STREAM_CAPTURE_STATUS_NONE) {
    return capture_allocation(*s, p->ordinal, bytes, *dptr);
  }
  return allocate_pooled(*p, bytes, s->context, *dptr);
}

}  // namespace

CUresult api::cuMemAllocAsync(CUdeviceptr* dptr, size_t bytesize, CUstream hStream) noexcept {
  return allocate(dptr, bytesize, nullptr, false, hStream);
}

CUresult api::cuMemAllocFromPoolAsync(CUdeviceptr* dptr, size_t bytesize, CUmemoryPool pool,
                                      CUstream hStream) noexcept {
  return allocate(dptr, bytesize, pool, true, hStream);
}

CUresult api::cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  Stream* s = to_stream(hStream, call.context);
  if (s == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (dptr == 0) return CUDA_SUCCESS;
  if (s->capture.status != CU_STREAM_CAPTURE_STATUS_NONE) return capture_free(*s, dptr);
  const auto it = driver().ranges.find(dptr);
  if (it == driver().ranges.end()) return CUDA_ERROR_INVALID_VALUE;
  Range& r = it->second;
  if (r.kind == Kind::kPool || r.kind == Kind::kGraph) {
    free_pooled(r);
  } else if (r.kind == Kind::kPlain || r.kind == Kind::kSlab || r.kind == Kind::kManaged) {
    release_range(dptr);
  } else {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult api::cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps* poolProps) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (pool == nullptr || poolProps == nullptr ||
      poolProps->allocType != CU_MEM_ALLOCATION_TYPE_PINNED) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (poolProps->location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
  const int ordinal = poolProps->location.id;
  if (!valid_device(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
  const auto types = static_cast<unsigned>(poolProps->handleTypes);
  if ((types & ~static_cast<unsigned>(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)) != 0) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  auto* p = new (std::nothrow) Pool(device(ordinal).unit, ordinal);
  if (p == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  p->max_bytes = poolProps->maxSize;
  if (types != 0 && !make_exportable(*p)) {
    delete p;
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  register_pool(p);
  *pool = reinterpret_cast<CUmemoryPool>(p);
  return CUDA_SUCCESS;
}

// What is still allocated from it stays good; the pool goes with the last of them.
CUresult api::cuMemPoolDestroy(CUmemoryPool pool) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Pool* p = to_pool(pool);
  if (p == nullptr || p->is_default) return CUDA_ERROR_INVALID_VALUE;
  for (Device& d : driver().devices) {
    if (d.current_pool == p) d.current_pool = nullptr;
  }
  p->destroyed = true;
  p->threshold = 0;
  if (p->live == 0) {
    forget_pool(p);
  } else {
    p->space.trim(0);
  }
  return CUDA_SUCCESS;
}

CUresult api::cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Pool* p = to_pool(pool);
  if (p == nullptr) return CUDA_ERROR_INVALID_VALUE;
  p->space.trim(minBytesToKeep);
  return CUDA_SUCCESS;
}

}  // namespace bulkhead::sim
