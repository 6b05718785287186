#include "bench/api.h"

#include <dlfcn.h>

namespace bulkhead::bench {
namespace {

void* library = nullptr;

// Any architecture from sm_50 up: the driver compiles it.
constexpr char kNopPtx[] =
    ".version 6.0\n.target sm_50\n.address_size 64\n.visible .entry bulkhead_nop() { ret; }\n";

}  // namespace

bool Api::open() noexcept {
  library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    missing = "libcuda.so.1";
    return false;
  }
#define BH_RESOLVE(name)                                              \
  name = reinterpret_cast<signature::name*>(::dlsym(library, #name)); \
  if (name == nullptr && missing == nullptr) missing = #name;
  BH_BENCH_CALLS(BH_RESOLVE)
#undef BH_RESOLVE
  return missing == nullptr;
}

CUresult Api::start(const char** step) noexcept {
  CUcontext context{};
  *step = "cuInit";
  CUresult r = cuInit(0);
  if (r != CUDA_SUCCESS) return r;
  *step = "cuDevicePrimaryCtxRetain";
  r = cuDevicePrimaryCtxRetain(&context, 0);
  if (r != CUDA_SUCCESS) return r;
  *step = "cuCtxSetCurrent";
  return cuCtxSetCurrent(context);
}

CUresult Api::first_kernel(bool* kernel, CUfunction* function) noexcept {
  *kernel = false;
  CUmodule module{};
  CUfunction nop{};
  CUresult r = cuModuleLoadData(&module, kNopPtx);
  if (r == CUDA_SUCCESS) r = cuModuleGetFunction(&nop, module, "bulkhead_nop");
  if (r == CUDA_SUCCESS) {
    *kernel = true;
    if (function != nullptr) *function = nop;
    r = cuLaunchKernel(nop, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr);
    return r == CUDA_SUCCESS ? cuCtxSynchronize() : r;
  }
  CUdeviceptr p = 0;
  r = cuMemAlloc_v2(&p, 512);
  if (r == CUDA_SUCCESS) r = cuMemsetD8_v2(p, 0, 512);
  if (r == CUDA_SUCCESS) r = cuCtxSynchronize();
  if (p != 0) cuMemFree_v2(p);
  // A simulator that has no such calls yet: *kernel says that none ran.
  return r == CUDA_ERROR_NOT_SUPPORTED && simulated() ? CUDA_SUCCESS : r;
}

bool simulated() noexcept {
  return library != nullptr && ::dlsym(library, "bulkhead_sim_version") != nullptr;
}

}  // namespace bulkhead::bench
