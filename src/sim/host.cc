// Pinned host memory: nothing of it is charged to a device.
#include <algorithm>

#include "sim/api.h"
#include "sim/model.h"

namespace bulkhead::sim {
namespace {

CUresult allocate(void** pp, std::size_t bytes, unsigned flags) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (pp == nullptr || bytes == 0 || flags > 7 || bytes > (1ull << 46)) return CUDA_ERROR_INVALID_VALUE;
  Range r;
  r.kind = Kind::kHost;
  r.base = map_pages(round_up(bytes, 4096), -1);
  if (r.base == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  r.bytes = bytes;
  r.context = call.context;
  r.ordinal = call.context->ordinal;
  r.flags = flags;
  add_range(r);
  *pp = reinterpret_cast<void*>(r.base);
  return CUDA_SUCCESS;
}

CUresult forget(void* p, Kind kind, CUresult unknown) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const auto at = reinterpret_cast<CUdeviceptr>(p);
  const auto it = driver().ranges.find(at);
  if (it == driver().ranges.end() || it->second.kind != kind) return unknown;
  wait_for_all(call.context);
  release_range(at);
  return CUDA_SUCCESS;
}

const Range* host_range(const void* p) noexcept {
  const Range* r = find_range(reinterpret_cast<CUdeviceptr>(p));
  return r != nullptr && (r->kind == Kind::kHost || r->kind == Kind::kRegistered) ? r : nullptr;
}

}  // namespace

CUresult api::cuMemHostAlloc(void** pp, size_t bytesize, unsigned int Flags) noexcept {
  return allocate(pp, bytesize, Flags);
}
CUresult api::cuMemAllocHost_v2(void** pp, size_t bytesize) noexcept {
  return allocate(pp, bytesize, 0);
}
CUresult api::cuMemAllocHost(void** pp, unsigned int bytesize) noexcept {
  return allocate(pp, bytesize, 0);
}
CUresult api::cuMemFreeHost(void* p) noexcept {
  return forget(p, Kind::kHost, CUDA_ERROR_INVALID_VALUE);
}

CUresult api::cuMemHostRegister_v2(void* p, size_t bytesize, unsigned int Flags) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (p == nullptr || bytesize == 0 || Flags > 15) return CUDA_ERROR_INVALID_VALUE;
  const auto at = reinterpret_cast<CUdeviceptr>(p);
  const auto after = driver().ranges.lower_bound(at);
  if (find_range(at) != nullptr || (after != driver().ranges.end() && after->first < at + bytesize)) {
    return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  }
  Range r;
  r.kind = Kind::kRegistered;
  r.base = at;
  r.bytes = bytesize;
  r.context = call.context;
  r.ordinal = call.context->ordinal;
  r.flags = Flags;
  add_range(r);
  return CUDA_SUCCESS;
}
CUresult api::cuMemHostRegister(void* p, size_t bytesize, unsigned int Flags) noexcept {
  return cuMemHostRegister_v2(p, bytesize, Flags);
}
CUresult api::cuMemHostUnregister(void* p) noexcept {
  return forget(p, Kind::kRegistered, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}

CUresult api::cuMemHostGetDevicePointer_v2(CUdeviceptr* pdptr, void* p, unsigned int Flags) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (pdptr == nullptr || Flags != 0 || host_range(p) == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *pdptr = reinterpret_cast<CUdeviceptr>(p);
  return CUDA_SUCCESS;
}

CUresult api::cuMemHostGetFlags(unsigned int* pFlags, void* p) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Range* r = host_range(p);
  if (pFlags == nullptr || r == nullptr || r->kind != Kind::kHost) return CUDA_ERROR_INVALID_VALUE;
  *pFlags = r->flags;
  return CUDA_SUCCESS;
}

}  // namespace bulkhead::sim
