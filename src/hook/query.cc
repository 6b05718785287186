// What the tenant is told of its memory: its quota and what is left of it, never the device's.
#include "hook/hot.h"
#include "hook/next.h"
#include "hook/process.h"

namespace bulkhead::hook {
namespace {

// The 32-bit entry points of CUDA 2 cannot say more.
unsigned int clamp32(std::uint64_t bytes) noexcept {
  return bytes > 0xffff'ffffu ? 0xffff'ffffu : static_cast<unsigned int>(bytes);
}

// The device a memory query is for, or null: then the driver answers, its own error if need be.
[[gnu::always_inline]] inline const Device* granted() noexcept {
  const Here at = hot_here();
  return at.device != nullptr && at.device->index >= 0 ? at.device : nullptr;
}

const Device* granted(CUdevice ordinal) noexcept {
  const Device* d = device(ordinal);
  return d != nullptr && d->index >= 0 ? d : nullptr;
}

}  // namespace

CUresult cuMemGetInfo_v2(size_t* free, size_t* total) noexcept {
  const Device* d = free != nullptr && total != nullptr ? granted() : nullptr;
  if (d == nullptr) return next.cuMemGetInfo_v2(free, total);
  const View v = view(*d);
  *free = v.free;
  *total = v.limit;
  return CUDA_SUCCESS;
}

CUresult cuMemGetInfo(unsigned int* free, unsigned int* total) noexcept {
  const Device* d = free != nullptr && total != nullptr ? granted() : nullptr;
  if (d == nullptr) return next.cuMemGetInfo(free, total);
  const View v = view(*d);
  *free = clamp32(v.free);
  *total = clamp32(v.limit);
  return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice dev) noexcept {
  const Device* d = bytes != nullptr ? granted(dev) : nullptr;
  if (d == nullptr) return next.cuDeviceTotalMem_v2(bytes, dev);
  *bytes = view(*d).limit;
  return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(unsigned int* bytes, CUdevice dev) noexcept {
  const Device* d = bytes != nullptr ? granted(dev) : nullptr;
  if (d == nullptr) return next.cuDeviceTotalMem(bytes, dev);
  *bytes = clamp32(view(*d).limit);
  return CUDA_SUCCESS;
}

}  // namespace bulkhead::hook
