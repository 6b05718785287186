// Scalars and handles of the driver interface. A handle points to a type that only the driver
// completes.
#pragma once

#include <cstddef>
#include <cstdint>

using cuuint32_t = std::uint32_t;
using cuuint64_t = std::uint64_t;
using CUdeviceptr_v2 = unsigned long long;
using CUdeviceptr = CUdeviceptr_v2;
using CUdevice_v1 = int;
using CUdevice = CUdevice_v1;
using CUcontext = struct CUctx_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;
using CUlibrary = struct CUlib_st*;
using CUkernel = struct CUkern_st*;
using CUarray = struct CUarray_st*;
using CUmipmappedArray = struct CUmipmappedArray_st*;
using CUtexref = struct CUtexref_st*;
using CUsurfref = struct CUsurfref_st*;
using CUevent = struct CUevent_st*;
using CUstream = struct CUstream_st*;
using CUgraphicsResource = struct CUgraphicsResource_st*;
using CUtexObject_v1 = unsigned long long;
using CUtexObject = CUtexObject_v1;
using CUsurfObject_v1 = unsigned long long;
using CUsurfObject = CUsurfObject_v1;
using CUexternalMemory = struct CUextMemory_st*;
using CUexternalSemaphore = struct CUextSemaphore_st*;
using CUgraph = struct CUgraph_st*;
using CUgraphNode = struct CUgraphNode_st*;
using CUgraphExec = struct CUgraphExec_st*;
using CUmemoryPool = struct CUmemPoolHandle_st*;
using CUuserObject = struct CUuserObject_st*;
using CUgraphConditionalHandle = cuuint64_t;
using CUgraphDeviceNode = struct CUgraphDeviceUpdatableNode_st*;
using CUasyncCallbackHandle = struct CUasyncCallbackEntry_st*;
using CUgreenCtx = struct CUgreenCtx_st*;
using CUlinkState = struct CUlinkState_st*;
using CUmemGenericAllocationHandle_v1 = unsigned long long;
using CUmemGenericAllocationHandle = CUmemGenericAllocationHandle_v1;
using CUdevResourceDesc = struct CUdevResourceDesc_st*;
using CUlogsCallbackHandle = struct CUlogsCallbackEntry_st*;
using CUlogIterator = unsigned int;
using CUdeviceptr_v1 = unsigned int;

// Two stream handles are numbers, not objects: the process-wide default stream and the thread's
// own.
inline constexpr std::uintptr_t kStreamLegacy = 1;
inline constexpr std::uintptr_t kStreamPerThread = 2;
// Devices that are not GPUs, where an interface takes a CUdevice.
inline constexpr CUdevice kDeviceCpu = -1;
inline constexpr CUdevice kDeviceInvalid = -2;
