// Green contexts: memory, handles and how many multiprocessors their streams have; which ones is not
// modelled.
#include <new>

#include "sim/api.h"
#include "sim/model.h"

namespace bulkhead::sim {
namespace {

struct Description {
  unsigned sms = 0;
};
std::unordered_set<Description*>& descriptions() noexcept {
  static auto* set = new std::unordered_set<Description*>;
  return *set;
}

Context* to_green(CUgreenCtx h) noexcept {
  Context* c = to_context(reinterpret_cast<CUcontext>(h));
  return c != nullptr && c->alive && c->green_of != nullptr ? c : nullptr;
}

CUdevResource all_sms(unsigned sms) noexcept {
  CUdevResource r{};
  r.type = CU_DEV_RESOURCE_TYPE_SM;
  r.sm.smCount = sms;
  r.sm.minSmPartitionSize = 8;
  r.sm.smCoscheduledAlignment = 8;
  return r;
}

CUresult tell(CUdevResource* out, CUdevResourceType type, unsigned sms) noexcept {
  if (out == nullptr || type != CU_DEV_RESOURCE_TYPE_SM) return CUDA_ERROR_INVALID_RESOURCE_TYPE;
  *out = all_sms(sms);
  return CUDA_SUCCESS;
}

}  // namespace

namespace api {

CUresult cuDeviceGetDevResource(CUdevice device, CUdevResource* resource,
                                CUdevResourceType type) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (!valid_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  return tell(resource, type, driver().mps.sms);
}

CUresult cuCtxGetDevResource(CUcontext hCtx, CUdevResource* resource,
                             CUdevResourceType type) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Context* c = to_context(hCtx);
  if (c == nullptr || !c->alive) return CUDA_ERROR_INVALID_CONTEXT;
  const unsigned all = driver().mps.sms;
  return tell(resource, type, c->green_of != nullptr ? c->green_sms : all);
}

// Groups of at least minCount multiprocessors, in steps of eight. result null: only how many there would be.
CUresult cuDevSmResourceSplitByCount(CUdevResource* result, unsigned int* nbGroups,
                                     const CUdevResource* input, CUdevResource* remaining,
                                     unsigned int, unsigned int minCount) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (nbGroups == nullptr || input == nullptr || input->type != CU_DEV_RESOURCE_TYPE_SM) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  // A client of MPS with a percentage was refused (24 of 32 SMs).
  if (driver().mps.limited) return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
  const unsigned size = static_cast<unsigned>(round_up(minCount == 0 ? 1 : minCount, 8));
  const unsigned most = input->sm.smCount / size;
  if (most == 0) return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
  if (result == nullptr) {
    *nbGroups = most;
    return CUDA_SUCCESS;
  }
  if (*nbGroups > most) *nbGroups = most;
  for (unsigned i = 0; i < *nbGroups; ++i) result[i] = all_sms(size);
  if (remaining != nullptr) *remaining = all_sms(input->sm.smCount - size * *nbGroups);
  return CUDA_SUCCESS;
}

CUresult cuDevResourceGenerateDesc(CUdevResourceDesc* phDesc, CUdevResource* resources,
                                   unsigned int nbResources) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (phDesc == nullptr || resources == nullptr || nbResources == 0)
    return CUDA_ERROR_INVALID_VALUE;
  auto* d = new (std::nothrow) Description;
  if (d == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  for (unsigned i = 0; i < nbResources; ++i) d->sms += resources[i].sm.smCount;
  descriptions().insert(d);
  *phDesc = reinterpret_cast<CUdevResourceDesc>(d);
  return CUDA_SUCCESS;
}

// Its bytes stay with the primary context after it is destroyed, as measured.
CUresult cuGreenCtxCreate(CUgreenCtx* phCtx, CUdevResourceDesc desc, CUdevice dev,
                          unsigned int flags) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const auto* d = reinterpret_cast<Description*>(desc);
  if (phCtx == nullptr || flags != 1 || !descriptions().contains(const_cast<Description*>(d))) {
    return CUDA_ERROR_INVALID_VALUE;  // 1: CU_GREEN_CTX_DEFAULT_STREAM, the only flag, and a must
  }
  if (!valid_device(dev)) return CUDA_ERROR_INVALID_DEVICE;
  Context* primary = driver().devices[static_cast<unsigned>(dev)].primary;
  if (primary == nullptr || !primary->alive) return CUDA_ERROR_INVALID_CONTEXT;
  const std::uint64_t bytes = machine.profile.green_context_bytes;
  if (!take_bytes(primary->unit, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  primary->charged_bytes += bytes;
  auto* c = new (std::nothrow) Context;
  if (c == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  c->ordinal = dev;
  c->unit = primary->unit;
  c->alive = true;
  c->green_of = primary;
  c->green_sms = d->sms;
  c->id = driver().next_id++;
  c->slabs = new (std::nothrow)
      Arena(c->unit, machine.profile.slab_unit_bytes, machine.profile.granularity_bytes);
  c->legacy.context = c;
  driver().contexts.insert(c);
  *phCtx = reinterpret_cast<CUgreenCtx>(c);
  return CUDA_SUCCESS;
}

CUresult cuGreenCtxDestroy(CUgreenCtx hCtx) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Context* c = to_green(hCtx);
  if (c == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  destroy_context(*c);
  return CUDA_SUCCESS;
}

CUresult cuCtxFromGreenCtx(CUcontext* pContext, CUgreenCtx hCtx) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Context* c = to_green(hCtx);
  if (c == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (pContext == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *pContext = handle_of(c);
  return CUDA_SUCCESS;
}

CUresult cuGreenCtxGetDevResource(CUgreenCtx hCtx, CUdevResource* resource,
                                  CUdevResourceType type) noexcept {
  return cuCtxGetDevResource(reinterpret_cast<CUcontext>(hCtx), resource, type);
}
CUresult cuGreenCtxGetId(CUgreenCtx greenCtx, unsigned long long* id) noexcept {
  return cuCtxGetId(reinterpret_cast<CUcontext>(greenCtx), id);
}
CUresult cuGreenCtxRecordEvent(CUgreenCtx hCtx, CUevent hEvent) noexcept {
  return cuCtxRecordEvent(reinterpret_cast<CUcontext>(hCtx), hEvent);
}
CUresult cuGreenCtxWaitEvent(CUgreenCtx hCtx, CUevent hEvent) noexcept {
  return cuCtxWaitEvent(reinterpret_cast<CUcontext>(hCtx), hEvent);
}

CUresult cuGreenCtxStreamCreate(CUstream* phStream, CUgreenCtx greenCtx, unsigned int flags,
                                int priority) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Context* c = to_green(greenCtx);
  if (c == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (phStream == nullptr || flags != CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
  auto* s = new (std::nothrow) Stream;
  if (s == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  s->context = c;
  s->flags = flags;
  s->priority = priority;
  s->id = driver().next_id++;
  driver().streams.insert(s);
  ++c->streams;
  *phStream = reinterpret_cast<CUstream>(s);
  return CUDA_SUCCESS;
}

}  // namespace api
}  // namespace bulkhead::sim
