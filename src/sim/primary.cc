// The primary context of each device.
#include <algorithm>

#include "sim/api.h"
#include "sim/model.h"

namespace bulkhead::sim {
namespace {

Device& device(CUdevice d) noexcept { return driver().devices[static_cast<unsigned>(d)]; }

CUresult begin(const Call& call, CUdevice dev) noexcept {
  if (call.result != CUDA_SUCCESS) return call.result;
  return valid_device(dev) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

bool active(const Device& d) noexcept { return d.primary != nullptr && d.primary->alive; }

void end(Device& d) noexcept {
  destroy_context(*d.primary);
  d.primary->retained = 0;
  d.primary = nullptr;
}

}  // namespace

CUresult api::cuDevicePrimaryCtxRetain(CUcontext* pctx, CUdevice dev) noexcept {
  const Call call{Need::kInit};
  if (const CUresult r = begin(call, dev); r != CUDA_SUCCESS) return r;
  if (pctx == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Device& d = device(dev);
  if (!active(d)) {
    Context* c = nullptr;
    const CUresult r = make_context(dev, d.primary_flags, true, 3020, c);
    if (r != CUDA_SUCCESS) return r;
    d.primary = c;
  }
  ++d.primary->retained;
  *pctx = handle_of(d.primary);
  return CUDA_SUCCESS;
}

CUresult api::cuDevicePrimaryCtxRelease_v2(CUdevice dev) noexcept {
  const Call call{Need::kInit};
  if (const CUresult r = begin(call, dev); r != CUDA_SUCCESS) return r;
  Device& d = device(dev);
  if (!active(d)) return CUDA_ERROR_INVALID_CONTEXT;
  if (d.primary->retained > 1) {
    --d.primary->retained;
  } else {
    end(d);
  }
  return CUDA_SUCCESS;
}
CUresult api::cuDevicePrimaryCtxRelease(CUdevice dev) noexcept {
  return cuDevicePrimaryCtxRelease_v2(dev);
}

CUresult api::cuDevicePrimaryCtxReset_v2(CUdevice dev) noexcept {
  const Call call{Need::kInit};
  if (const CUresult r = begin(call, dev); r != CUDA_SUCCESS) return r;
  Device& d = device(dev);
  if (active(d)) end(d);
  return CUDA_SUCCESS;
}
CUresult api::cuDevicePrimaryCtxReset(CUdevice dev) noexcept {
  return cuDevicePrimaryCtxReset_v2(dev);
}

CUresult api::cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags) noexcept {
  const Call call{Need::kInit};
  if (const CUresult r = begin(call, dev); r != CUDA_SUCCESS) return r;
  if ((flags & ~static_cast<unsigned>(CU_CTX_FLAGS_MASK)) != 0) return CUDA_ERROR_INVALID_VALUE;
  Device& d = device(dev);
  d.primary_flags = flags;
  if (active(d)) d.primary->flags = flags;
  return CUDA_SUCCESS;
}
CUresult api::cuDevicePrimaryCtxSetFlags(CUdevice dev, unsigned int flags) noexcept {
  return cuDevicePrimaryCtxSetFlags_v2(dev, flags);
}

CUresult api::cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int* flags,
                                         int* is_active) noexcept {
  const Call call{Need::kInit};
  if (const CUresult r = begin(call, dev); r != CUDA_SUCCESS) return r;
  if (flags == nullptr || is_active == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *flags = device(dev).primary_flags;
  *is_active = active(device(dev)) ? 1 : 0;
  return CUDA_SUCCESS;
}

}  // namespace bulkhead::sim
