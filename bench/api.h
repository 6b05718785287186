// The driver as a program meets it: libcuda.so.1 by dlopen, every entry point by dlsym, so that whatever is
// preloaded answers. Signatures come from the table of entry points; no CUDA header is needed.
#pragma once
#include <cstdint>

#include "abi/cuda_types.h"
#include "abi/table_macros.h"

namespace bulkhead::bench {

namespace signature {
#define BH_HOOK(name, since, family, ...) using name = CUresult(BH_TYPES(__VA_ARGS__));
#define BH_PASS(name, since, reason, ...) using name = CUresult(BH_TYPES(__VA_ARGS__));
#include "abi/cuda.def"
#undef BH_HOOK
#undef BH_PASS
}  // namespace signature

// Only what the cases call: resolving all 637 names would be part of the start-up that is measured.
// clang-format off
#define BH_BENCH_CALLS(X) \
  X(cuInit) X(cuDriverGetVersion) X(cuDeviceGet) X(cuDeviceGetName) X(cuDeviceTotalMem_v2) \
  X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuCtxGetCurrent) X(cuCtxCreate_v2) \
  X(cuCtxDestroy_v2) X(cuCtxSynchronize) X(cuMemAlloc_v2) X(cuMemFree_v2) X(cuMemGetInfo_v2) \
  X(cuMemAllocPitch_v2) X(cuMemAllocManaged) X(cuMemAllocAsync) X(cuMemFreeAsync) \
  X(cuMemAllocFromPoolAsync) X(cuMemPoolCreate) X(cuDeviceGetDefaultMemPool) \
  X(cuMemPoolSetAttribute) X(cuMemCreate) X(cuMemRelease) X(cuArrayCreate_v2) \
  X(cuArray3DCreate_v2) X(cuMipmappedArrayCreate) X(cuGraphCreate) X(cuGraphAddMemAllocNode) \
  X(cuGraphInstantiateWithFlags) X(cuGraphLaunch) X(cuGraphUpload) X(cuStreamCreate) \
  X(cuStreamSynchronize) X(cuIpcGetMemHandle) X(cuIpcOpenMemHandle_v2) X(cuModuleLoadData) \
  X(cuModuleGetFunction) X(cuLaunchKernel) X(cuLaunchCooperativeKernel) X(cuMemsetD8_v2) X(cuMemcpyHtoDAsync_v2) X(cuEventCreate) \
  X(cuEventRecord) X(cuEventSynchronize) X(cuStreamBeginCapture_v2) X(cuStreamEndCapture) \
  X(cuMemAllocHost_v2) X(cuMemcpyDtoHAsync_v2)
// clang-format on

struct Api {
#define BH_MEMBER(name) signature::name* name = nullptr;
  BH_BENCH_CALLS(BH_MEMBER)
#undef BH_MEMBER
  const char* missing = nullptr;  // the first name that could not be resolved; null if all were

  // Opens libcuda.so.1. False: there is none, or it lacks a name (missing).
  bool open() noexcept;
  // cuInit, device 0's primary context made current. The driver's code; `step` names the call that failed.
  CUresult start(const char** step) noexcept;
  // A kernel that does nothing, launched once and waited for: from then on a context has all that it takes for
  // itself. Programs whose module the simulator does not know fall back to a memset; *kernel says which ran.
  // `function`: may be null; else the kernel, if it ran.
  CUresult first_kernel(bool* kernel, CUfunction* function = nullptr) noexcept;
};

// Whether the libcuda in use is the simulated one. Only after a successful open().
bool simulated() noexcept;

}  // namespace bulkhead::bench
