// Advice about managed memory, prefetches and profiler marks: checked, and otherwise nothing happens. Managed memory
// does not migrate here.
#include "sim/api.h"
#include "sim/work.h"

namespace bulkhead::sim {
namespace {

CUresult managed(CUdeviceptr at, std::size_t count) noexcept {
  const Range* r = find_range(at);
  const bool good = r != nullptr && r->kind == Kind::kManaged && count <= r->bytes - (at - r->base);
  return good ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult prefetch(CUdeviceptr at, std::size_t count, CUstream stream) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  Stream* s = to_stream(stream, call.context);
  if (s == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (const CUresult r = managed(at, count); r != CUDA_SUCCESS) return r;
  submit(*s, 1000 + count * 1000 / machine.profile.host_bytes_per_us, EntryKind::kFromHost);
  return CUDA_SUCCESS;
}

CUresult advise(CUdeviceptr at, std::size_t count) noexcept {
  const Call call{Need::kContext};
  return call.result != CUDA_SUCCESS ? call.result : managed(at, count);
}

CUresult need_context() noexcept {
  const Call call{Need::kContext};
  return call.result;
}

}  // namespace

namespace api {

CUresult cuMemAdvise(CUdeviceptr devPtr, size_t count, CUmem_advise, CUdevice) noexcept {
  return advise(devPtr, count);
}
CUresult cuMemAdvise_v2(CUdeviceptr devPtr, size_t count, CUmem_advise, CUmemLocation) noexcept {
  return advise(devPtr, count);
}
CUresult cuMemPrefetchAsync(CUdeviceptr devPtr, size_t count, CUdevice, CUstream hStream) noexcept {
  return prefetch(devPtr, count, hStream);
}
CUresult cuMemPrefetchAsync_v2(CUdeviceptr devPtr, size_t count, CUmemLocation, unsigned int,
                               CUstream hStream) noexcept {
  return prefetch(devPtr, count, hStream);
}

CUresult cuPointerSetAttribute(const void* value, CUpointer_attribute attribute,
                               CUdeviceptr ptr) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const bool settable =
      attribute == CU_POINTER_ATTRIBUTE_SYNC_MEMOPS;  // copies are in order anyway
  return value != nullptr && settable && find_range(ptr) != nullptr ? CUDA_SUCCESS
                                                                    : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuProfilerStart() noexcept { return need_context(); }
CUresult cuProfilerStop() noexcept { return need_context(); }
CUresult cuFlushGPUDirectRDMAWrites(CUflushGPUDirectRDMAWritesTarget,
                                    CUflushGPUDirectRDMAWritesScope) noexcept {
  return need_context();
}

}  // namespace api
}  // namespace bulkhead::sim
