// A driver of forty lines for the tests of the doors: an old one, without most functions, with as
// many devices as FAKE_DEVICES says. It counts nothing and shares nothing; memory is the
// simulator's matter.
#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "abi/cuda_types.h"

namespace {
bool initialised = false;
constexpr unsigned long long kTotal = 8ull << 30;
thread_local CUcontext current = nullptr;
struct Context {
  CUdevice device;
};
std::atomic<unsigned long long> next_address{0x7000'0000'0000};
int devices() {
  const char* n = std::getenv("FAKE_DEVICES");
  return n == nullptr ? 1 : std::atoi(n);
}
CUresult ready() { return initialised ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED; }
}  // namespace

#define API extern "C" __attribute__((visibility("default"))) CUresult

API cuInit(unsigned) {
  initialised = true;
  return CUDA_SUCCESS;
}
API cuDriverGetVersion(int* v) { return *v = 11040, CUDA_SUCCESS; }
API cuDeviceGetCount(int* n) { return *n = devices(), ready(); }
API cuDeviceGet(CUdevice* d, int i) { return *d = i, ready(); }
API cuDeviceGetUuid(CUuuid* u, CUdevice d) {
  std::memset(u->bytes, 0x20 + d, sizeof u->bytes);
  return ready();
}
API cuDeviceTotalMem_v2(size_t* bytes, CUdevice) { return *bytes = kTotal, ready(); }
API cuDeviceTotalMem(unsigned* bytes, CUdevice) { return *bytes = 0xffffffffu, ready(); }
API cuMemGetInfo_v2(size_t* free, size_t* total) {
  if (current == nullptr) return initialised ? CUDA_ERROR_INVALID_CONTEXT : ready();
  *free = *total = kTotal;
  return CUDA_SUCCESS;
}
API cuMemGetInfo(unsigned* free, unsigned* total) {
  return *free = *total = 0xffffffffu, current == nullptr ? CUDA_ERROR_INVALID_CONTEXT : ready();
}
API cuCtxCreate_v2(CUcontext* c, unsigned, CUdevice d) {
  *c = reinterpret_cast<CUcontext>(new Context{d});
  current = *c;
  return ready();
}
API cuCtxDestroy_v2(CUcontext c) {
  if (current == c) current = nullptr;
  delete reinterpret_cast<Context*>(c);
  return CUDA_SUCCESS;
}
API cuCtxSetCurrent(CUcontext c) { return current = c, CUDA_SUCCESS; }
API cuCtxGetCurrent(CUcontext* c) { return *c = current, ready(); }
API cuCtxGetDevice(CUdevice* d) {
  if (current == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  return *d = reinterpret_cast<Context*>(current)->device, CUDA_SUCCESS;
}
API cuCtxPushCurrent_v2(CUcontext c) { return current = c, CUDA_SUCCESS; }
API cuCtxPopCurrent_v2(CUcontext* c) { return *c = current, current = nullptr, CUDA_SUCCESS; }
API cuMemAlloc_v2(CUdeviceptr* p, size_t n) {
  *p = next_address.fetch_add((n + 0x1fffff) & ~0x1fffffull);
  return current == nullptr ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}
API cuMemFree_v2(CUdeviceptr) { return CUDA_SUCCESS; }
API cuStreamSynchronize(CUstream) { return CUDA_SUCCESS; }
API cuStreamSynchronize_ptsz(CUstream) { return CUDA_SUCCESS; }

// Base name to entry point, the newest the version allows; what it does not know it does not have.
API cuGetProcAddress_v2(const char* symbol, void** pfn, int version, cuuint64_t flags,
                        CUdriverProcAddressQueryResult* status) {
  char name[128];
  void* self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  *pfn = nullptr;
  if (flags == CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) {
    std::snprintf(name, sizeof name, "%s_ptsz", symbol);
    *pfn = dlsym(self, name);
  }
  if (*pfn == nullptr && version >= 3020) {
    std::snprintf(name, sizeof name, "%s_v2", symbol);
    *pfn = dlsym(self, name);
  }
  if (*pfn == nullptr) *pfn = dlsym(self, symbol);
  const bool found = *pfn != nullptr;
  if (status != nullptr) {
    *status = found ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  }
  return found ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
API cuGetProcAddress(const char* symbol, void** pfn, int version, cuuint64_t flags) {
  return cuGetProcAddress_v2(symbol, pfn, version, flags, nullptr);
}
