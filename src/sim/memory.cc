// Plain, pitched and managed memory, and what is asked about it.
#include "sim/api.h"
#include "sim/family.h"
#include "sim/work.h"

namespace bulkhead::sim {
namespace {

// Requests under the granularity share slabs of the context; larger ones take whole granules.
CUresult allocate(Context& c, std::size_t bytes, Kind kind, CUdeviceptr& out) noexcept {
  const std::size_t grain = machine.profile.granularity_bytes;
  if (const CUresult r = refused_by_capture(); r != CUDA_SUCCESS) return r;
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (bytes > machine.profile.unit_bytes() * 4) return CUDA_ERROR_OUT_OF_MEMORY;
  Range r;
  r.bytes = bytes;
  r.context = &c;
  r.ordinal = c.ordinal;
  const bool small = round_up(bytes, machine.profile.slab_unit_bytes) < grain;
  if (small && kind == Kind::kPlain) {
    r.kind = Kind::kSlab;
    r.base = c.slabs->allocate(bytes);
  } else {
    r.kind = kind;
    // Managed memory is the driver's own in NVML's eyes: no process is shown with it.
    const Part part = kind == Kind::kManaged ? Part::kManaged : Part::kShown;
    r.segment = take_segment(c.unit, round_up(bytes, grain), part);
    if (r.segment != nullptr) r.base = r.segment->base;
  }
  if (r.base == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  add_range(r);
  out = r.base;
  return CUDA_SUCCESS;
}

CUdeviceptr_v1 narrow(CUdeviceptr p) noexcept { return static_cast<CUdeviceptr_v1>(p); }

}  // namespace

CUresult api::cuMemAlloc_v2(CUdeviceptr* dptr, size_t bytesize) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (dptr == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return allocate(*call.context, bytesize, Kind::kPlain, *dptr);
}

CUresult api::cuMemAllocPitch_v2(CUdeviceptr* dptr, size_t* pPitch, size_t WidthInBytes,
                                 size_t Height, unsigned int ElementSizeBytes) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const bool element = ElementSizeBytes == 4 || ElementSizeBytes == 8 || ElementSizeBytes == 16;
  if (dptr == nullptr || pPitch == nullptr || !element || WidthInBytes == 0 || Height == 0 ||
      WidthInBytes > (1ull << 40) || Height > (1ull << 40)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const std::size_t pitch = round_up(WidthInBytes, machine.profile.pitch_bytes);
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(pitch, Height, &bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult r = allocate(*call.context, bytes, Kind::kPlain, *dptr);
  if (r == CUDA_SUCCESS) *pPitch = pitch;
  return r;
}

CUresult api::cuMemAllocManaged(CUdeviceptr* dptr, size_t bytesize, unsigned int flags) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (dptr == nullptr || (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return allocate(*call.context, bytesize, Kind::kManaged, *dptr);
}

// Waits for the device first, as the real one does: the memory may still be in use by submitted work.
CUresult api::cuMemFree_v2(CUdeviceptr dptr) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (dptr == 0) return CUDA_SUCCESS;
  if (const CUresult r = refused_by_capture(); r != CUDA_SUCCESS) return r;
  auto& ranges = driver().ranges;
  const auto it = ranges.find(dptr);
  if (it == ranges.end()) return CUDA_ERROR_INVALID_VALUE;
  switch (it->second.kind) {
    case Kind::kPool:
    case Kind::kGraph:
      wait_for_all(call.context);
      free_pooled(it->second);
      at_synchronisation();
      return CUDA_SUCCESS;
    case Kind::kPlain:
    case Kind::kSlab:
    case Kind::kManaged:
    case Kind::kExternal:
      wait_for_all(call.context);
      release_range(dptr);
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult api::cuMemGetInfo_v2(size_t* free, size_t* total) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (free == nullptr || total == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const std::uint64_t all = machine.profile.unit_bytes(), used = used_on(call.context->unit);
  *total = all;
  *free = used < all ? all - used : 0;
  return CUDA_SUCCESS;
}

CUresult api::cuMemGetAddressRange_v2(CUdeviceptr* pbase, size_t* psize,
                                      CUdeviceptr dptr) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Range* r = find_range(dptr);
  if (r == nullptr || r->kind == Kind::kHost || r->kind == Kind::kRegistered) {
    return CUDA_ERROR_NOT_FOUND;
  }
  if (pbase != nullptr) *pbase = r->base;
  if (psize != nullptr) *psize = r->bytes;
  return CUDA_SUCCESS;
}

// The forms of CUDA 3.1 hand out 32 bits, which no address here fits: they refuse.
CUresult api::cuMemAlloc(CUdeviceptr_v1* dptr, unsigned int /*bytesize*/) noexcept {
  return dptr == nullptr ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_NOT_SUPPORTED;
}
CUresult api::cuMemFree(CUdeviceptr_v1 dptr) noexcept { return cuMemFree_v2(dptr); }
CUresult api::cuMemGetInfo(unsigned int* free, unsigned int* total) noexcept {
  std::size_t f = 0, t = 0;
  const CUresult r = cuMemGetInfo_v2(&f, &t);
  if (r != CUDA_SUCCESS) return r;
  if (free == nullptr || total == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *free = narrow(f > UINT32_MAX ? UINT32_MAX : f);
  *total = narrow(t > UINT32_MAX ? UINT32_MAX : t);
  return CUDA_SUCCESS;
}

}  // namespace bulkhead::sim
