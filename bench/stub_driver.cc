// A libcuda whose calls cost nothing, so that what a preloaded library adds to a call is nearly all that is left to
// measure. One device, one context, one thread; an allocation is an address, freed last in, first out; the pool takes
// 32 MiB at its first request and keeps them.
#include <cstring>

#include "abi/cuda_types.h"

#define BH_ANSWER extern "C" [[gnu::visibility("default")]] CUresult

namespace {

constexpr std::uint64_t kTotal = 256ull << 30, kPoolBytes = 32u << 20;
constexpr CUdeviceptr kPlain = 0x7000'0000'0000, kPool = 0x7100'0000'0000;
struct alignas(64) Object {
  char byte;
} context_object, pool_object, module_object;
std::uint64_t plain_live = 0, pool_live = 0, reserved = 0;
CUcontext current = nullptr;

template <class T>
T handle(Object& object) {
  return reinterpret_cast<T>(&object);
}

}  // namespace

extern "C" {
[[gnu::visibility("default")]] int bulkhead_sim_version = 1;
}

BH_ANSWER cuInit(unsigned int) { return CUDA_SUCCESS; }
BH_ANSWER cuDriverGetVersion(int* v) { return *v = 13000, CUDA_SUCCESS; }
BH_ANSWER cuDeviceGetCount(int* n) { return *n = 1, CUDA_SUCCESS; }
BH_ANSWER cuDeviceGet(CUdevice* d, int) { return *d = 0, CUDA_SUCCESS; }
BH_ANSWER cuDeviceGetName(char* name, int n, CUdevice) {
  return std::strncpy(name, "driver that does nothing", static_cast<std::size_t>(n)), CUDA_SUCCESS;
}
BH_ANSWER cuDeviceGetUuid_v2(CUuuid* u, CUdevice) {
  return std::memset(u, 0x5a, sizeof *u), CUDA_SUCCESS;
}
BH_ANSWER cuDeviceTotalMem_v2(std::size_t* n, CUdevice) { return *n = kTotal, CUDA_SUCCESS; }
BH_ANSWER cuDevicePrimaryCtxRetain(CUcontext* c, CUdevice) {
  return *c = handle<CUcontext>(context_object), CUDA_SUCCESS;
}
BH_ANSWER cuDevicePrimaryCtxGetState(CUdevice, unsigned int* flags, int* active) {
  return *flags = 0, *active = current != nullptr ? 1 : 0, CUDA_SUCCESS;
}
BH_ANSWER cuCtxSetCurrent(CUcontext c) { return current = c, CUDA_SUCCESS; }
BH_ANSWER cuCtxGetCurrent(CUcontext* c) { return *c = current, CUDA_SUCCESS; }
BH_ANSWER cuCtxGetDevice(CUdevice* d) { return *d = 0, CUDA_SUCCESS; }
BH_ANSWER cuCtxSynchronize() { return CUDA_SUCCESS; }
BH_ANSWER cuStreamSynchronize(CUstream) { return CUDA_SUCCESS; }
BH_ANSWER cuMemAlloc_v2(CUdeviceptr* p, std::size_t bytes) {
  if (bytes > kTotal) return CUDA_ERROR_OUT_OF_MEMORY;
  return *p = kPlain + (plain_live++ << 21), CUDA_SUCCESS;
}
BH_ANSWER cuMemFree_v2(CUdeviceptr) { return --plain_live, CUDA_SUCCESS; }
BH_ANSWER cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  return *free = *total = kTotal, CUDA_SUCCESS;
}
BH_ANSWER cuDeviceGetDefaultMemPool(CUmemoryPool* p, CUdevice) {
  return *p = handle<CUmemoryPool>(pool_object), CUDA_SUCCESS;
}
BH_ANSWER cuDeviceGetMemPool(CUmemoryPool* p, CUdevice) {
  return *p = handle<CUmemoryPool>(pool_object), CUDA_SUCCESS;
}
BH_ANSWER cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute, void*) { return CUDA_SUCCESS; }
BH_ANSWER cuMemPoolGetAttribute(CUmemoryPool, CUmemPool_attribute a, void* value) {
  *static_cast<cuuint64_t*>(value) =
      a == CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT ? reserved : pool_live << 20;
  return CUDA_SUCCESS;
}
BH_ANSWER cuMemPoolTrimTo(CUmemoryPool, std::size_t) { return CUDA_SUCCESS; }
BH_ANSWER cuMemAllocAsync(CUdeviceptr* p, std::size_t bytes, CUstream) {
  if (bytes > 1u << 20 || pool_live == kPoolBytes >> 20) return CUDA_ERROR_OUT_OF_MEMORY;
  reserved = kPoolBytes;
  return *p = kPool + (pool_live++ << 20), CUDA_SUCCESS;
}
BH_ANSWER cuMemFreeAsync(CUdeviceptr, CUstream) { return --pool_live, CUDA_SUCCESS; }
BH_ANSWER cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* s) {
  return *s = CU_STREAM_CAPTURE_STATUS_NONE, CUDA_SUCCESS;
}
BH_ANSWER cuModuleLoadData(CUmodule* m, const void*) {
  return *m = handle<CUmodule>(module_object), CUDA_SUCCESS;
}
BH_ANSWER cuModuleGetFunction(CUfunction* f, CUmodule, const char*) {
  return *f = handle<CUfunction>(module_object), CUDA_SUCCESS;
}
BH_ANSWER cuLaunchKernel(CUfunction, unsigned int, unsigned int, unsigned int, unsigned int,
                         unsigned int, unsigned int, unsigned int, CUstream, void**, void**) {
  return CUDA_SUCCESS;
}
