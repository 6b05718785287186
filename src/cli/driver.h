// The driver's functions the probe and the demo's workers call, loaded at run time. The command
// line itself never initialises the driver: only child processes do.
#pragma once
#include <string>

#include "abi/cuda_types.h"
#include "cli/say.h"

namespace bulkhead::cli {

#define BH_DRIVER_FUNCTIONS(X)                                         \
  X(cuInit, (unsigned))                                                \
  X(cuDriverGetVersion, (int*))                                        \
  X(cuDeviceGetCount, (int*))                                          \
  X(cuDeviceGet, (CUdevice*, int))                                     \
  X(cuDeviceGetName, (char*, int, CUdevice))                           \
  X(cuDeviceGetUuid_v2, (CUuuid*, CUdevice))                           \
  X(cuDeviceTotalMem_v2, (std::size_t*, CUdevice))                     \
  X(cuDevicePrimaryCtxRetain, (CUcontext*, CUdevice))                  \
  X(cuDevicePrimaryCtxRelease_v2, (CUdevice))                          \
  X(cuCtxSetCurrent, (CUcontext))                                      \
  X(cuCtxCreate_v2, (CUcontext*, unsigned, CUdevice))                  \
  X(cuCtxDestroy_v2, (CUcontext))                                      \
  X(cuCtxSynchronize, ())                                              \
  X(cuMemGetInfo_v2, (std::size_t*, std::size_t*))                     \
  X(cuMemAlloc_v2, (CUdeviceptr*, std::size_t))                        \
  X(cuMemFree_v2, (CUdeviceptr))                                       \
  X(cuMemAllocAsync, (CUdeviceptr*, std::size_t, CUstream))            \
  X(cuMemFreeAsync, (CUdeviceptr, CUstream))                           \
  X(cuDeviceGetDefaultMemPool, (CUmemoryPool*, CUdevice))              \
  X(cuMemPoolGetAttribute, (CUmemoryPool, CUmemPool_attribute, void*)) \
  X(cuArrayCreate_v2, (CUarray*, const CUDA_ARRAY_DESCRIPTOR*))        \
  X(cuArrayDestroy, (CUarray))                                         \
  X(cuMemGetAllocationGranularity,                                     \
    (std::size_t*, const CUmemAllocationProp*, CUmemAllocationGranularity_flags))

struct Driver {
#define X(name, types) CUresult(*name) types = nullptr;
  BH_DRIVER_FUNCTIONS(X)
#undef X
  bool simulated = false;
};

// libcuda.so.1 from `directory`, or as the dynamic linker finds it if that is empty.
[[nodiscard]] Outcome<Driver> open_driver(const std::string& directory);
// "CUDA_ERROR_OUT_OF_MEMORY (2)" for the few a reader meets, else the number.
[[nodiscard]] std::string result_text(CUresult result);

}  // namespace bulkhead::cli
