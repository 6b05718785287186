// Memory: VMM, pools, arrays, IPC, external memory, and what a context is made with.
// Laid out as the driver lays them out. A name ending in _vN is that version's record; the bare
// name is the one that the entry points of CUDA 13.0 take under their newest names, which need not
// be the highest N.
#pragma once

#include "abi/cuda_enums.h"
#include "abi/cuda_handles.h"

struct CUuuid {
  char bytes[16];
};

// An opaque token another process opens.
struct CUipcMemHandle_v1 {
  char reserved[64];
};
using CUipcMemHandle = CUipcMemHandle_v1;

struct CUipcEventHandle_v1 {
  char reserved[64];
};
using CUipcEventHandle = CUipcEventHandle_v1;

// An opaque token another node opens.
struct CUmemFabricHandle_v1 {
  unsigned char data[64];
};
using CUmemFabricHandle = CUmemFabricHandle_v1;

// Where memory lies; id is a device ordinal for DEVICE and a NUMA node for HOST_NUMA.
struct CUmemLocation_v1 {
  CUmemLocationType type;
  int id;
};
using CUmemLocation = CUmemLocation_v1;

// What cuMemCreate makes: location.id is the device that is charged, whatever context is current.
struct CUmemAllocationProp_v1 {
  CUmemAllocationType type;
  CUmemAllocationHandleType requestedHandleTypes;
  CUmemLocation location;
  void* win32HandleMetaData;
  struct {
    unsigned char compressionType;
    unsigned char gpuDirectRDMACapable;
    unsigned short usage;
    unsigned char reserved[4];
  } allocFlags;
};
using CUmemAllocationProp = CUmemAllocationProp_v1;

struct CUmemAccessDesc_v1 {
  CUmemLocation location;
  CUmemAccess_flags flags;
};
using CUmemAccessDesc = CUmemAccessDesc_v1;

// A multicast team; size in bytes a device.
struct CUmulticastObjectProp_v1 {
  unsigned int numDevices;
  std::size_t size;
  unsigned long long handleTypes;
  unsigned long long flags;
};
using CUmulticastObjectProp = CUmulticastObjectProp_v1;

// A pool to create; maxSize 0 leaves the limit to the driver.
struct CUmemPoolProps_v1 {
  CUmemAllocationType allocType;
  CUmemAllocationHandleType handleTypes;
  CUmemLocation location;
  void* win32SecurityAttributes;
  std::size_t maxSize;
  unsigned short usage;
  unsigned char reserved[54];
};
using CUmemPoolProps = CUmemPoolProps_v1;

struct CUmemPoolPtrExportData_v1 {
  unsigned char reserved[64];
};
using CUmemPoolPtrExportData = CUmemPoolPtrExportData_v1;

// A 1D or 2D array, counted in elements; Height 0 means 1D.
struct CUDA_ARRAY_DESCRIPTOR_v2 {
  std::size_t Width;
  std::size_t Height;
  CUarray_format Format;
  unsigned int NumChannels;
};
using CUDA_ARRAY_DESCRIPTOR = CUDA_ARRAY_DESCRIPTOR_v2;

// An array with depth, layers or cube faces, as Flags say.
struct CUDA_ARRAY3D_DESCRIPTOR_v2 {
  std::size_t Width;
  std::size_t Height;
  std::size_t Depth;
  CUarray_format Format;
  unsigned int NumChannels;
  unsigned int Flags;
};
using CUDA_ARRAY3D_DESCRIPTOR = CUDA_ARRAY3D_DESCRIPTOR_v2;

struct CUDA_ARRAY_DESCRIPTOR_v1 {
  unsigned int Width;
  unsigned int Height;
  CUarray_format Format;
  unsigned int NumChannels;
};

struct CUDA_ARRAY3D_DESCRIPTOR_v1 {
  unsigned int Width;
  unsigned int Height;
  unsigned int Depth;
  CUarray_format Format;
  unsigned int NumChannels;
  unsigned int Flags;
};

struct CUDA_ARRAY_SPARSE_PROPERTIES_v1 {
  struct {
    unsigned int width;
    unsigned int height;
    unsigned int depth;
  } tileExtent;
  unsigned int miptailFirstLevel;
  unsigned long long miptailSize;
  unsigned int flags;
  unsigned int reserved[4];
};
using CUDA_ARRAY_SPARSE_PROPERTIES = CUDA_ARRAY_SPARSE_PROPERTIES_v1;

// What a deferred-mapping array will need, in bytes.
struct CUDA_ARRAY_MEMORY_REQUIREMENTS_v1 {
  std::size_t size;
  std::size_t alignment;
  unsigned int reserved[4];
};
using CUDA_ARRAY_MEMORY_REQUIREMENTS = CUDA_ARRAY_MEMORY_REQUIREMENTS_v1;

struct CUarrayMapInfo_v1 {
  CUresourcetype resourceType;
  union {
    CUmipmappedArray mipmap;
    CUarray array;
  } resource;
  CUarraySparseSubresourceType subresourceType;
  union {
    struct {
      unsigned int level;
      unsigned int layer;
      unsigned int offsetX;
      unsigned int offsetY;
      unsigned int offsetZ;
      unsigned int extentWidth;
      unsigned int extentHeight;
      unsigned int extentDepth;
    } sparseLevel;
    struct {
      unsigned int layer;
      unsigned long long offset;
      unsigned long long size;
    } miptail;
  } subresource;
  CUmemOperationType memOperationType;
  CUmemHandleType memHandleType;
  union {
    CUmemGenericAllocationHandle memHandle;
  } memHandle;
  unsigned long long offset;
  unsigned int deviceBitMask;
  unsigned int flags;
  unsigned int reserved[2];
};
using CUarrayMapInfo = CUarrayMapInfo_v1;

// Memory made by another interface; size in bytes.
struct CUDA_EXTERNAL_MEMORY_HANDLE_DESC_v1 {
  CUexternalMemoryHandleType type;
  union {
    int fd;
    struct {
      void* handle;
      const void* name;
    } win32;
    const void* nvSciBufObject;
  } handle;
  unsigned long long size;
  unsigned int flags;
  unsigned int reserved[16];
};
using CUDA_EXTERNAL_MEMORY_HANDLE_DESC = CUDA_EXTERNAL_MEMORY_HANDLE_DESC_v1;

struct CUDA_EXTERNAL_MEMORY_BUFFER_DESC_v1 {
  unsigned long long offset;
  unsigned long long size;
  unsigned int flags;
  unsigned int reserved[16];
};
using CUDA_EXTERNAL_MEMORY_BUFFER_DESC = CUDA_EXTERNAL_MEMORY_BUFFER_DESC_v1;

struct CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC_v1 {
  unsigned long long offset;
  CUDA_ARRAY3D_DESCRIPTOR arrayDesc;
  unsigned int numLevels;
  unsigned int reserved[16];
};
using CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC = CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC_v1;

struct CUDA_POINTER_ATTRIBUTE_P2P_TOKENS_v1 {
  unsigned long long p2pToken;
  unsigned int vaSpaceToken;
};
using CUDA_POINTER_ATTRIBUTE_P2P_TOKENS = CUDA_POINTER_ATTRIBUTE_P2P_TOKENS_v1;

struct CUexecAffinitySmCount_v1 {
  unsigned int val;
};
using CUexecAffinitySmCount = CUexecAffinitySmCount_v1;

struct CUexecAffinityParam_v1 {
  CUexecAffinityType type;
  union {
    CUexecAffinitySmCount smCount;
  } param;
};
using CUexecAffinityParam = CUexecAffinityParam_v1;

struct CUctxCigParam {
  CUcigDataType sharedDataType;
  void* sharedData;
};

// Optional wishes of cuCtxCreate_v4; null pointers mean none.
struct CUctxCreateParams {
  CUexecAffinityParam* execAffinityParams;
  int numExecAffinityParams;
  CUctxCigParam* cigParams;
};

struct CUdevSmResource {
  unsigned int smCount;
  unsigned int minSmPartitionSize;
  unsigned int smCoscheduledAlignment;
};

struct CUdevResource_v1 {
  CUdevResourceType type;
  unsigned char _internal_padding[92];
  union {
    CUdevSmResource sm;
    unsigned char _oversize[48];
  };
};
using CUdevResource = CUdevResource_v1;
