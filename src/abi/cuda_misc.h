// Textures, checkpoints, notifications and other records that no hook reads.
// Laid out as the driver lays them out. A name ending in _vN is that version's record; the bare
// name is the one that the entry points of CUDA 13.0 take under their newest names, which need not
// be the highest N.
#pragma once

#include "abi/cuda_enums.h"
#include "abi/cuda_handles.h"
#include "abi/cuda_memory.h"
#include "abi/cuda_result.h"

struct CUasyncNotificationInfo {
  CUasyncNotificationType type;
  union {
    struct {
      unsigned long long bytesOverBudget;
    } overBudget;
  } info;
};

struct CUdevprop_v1 {
  int maxThreadsPerBlock;
  int maxThreadsDim[3];
  int maxGridSize[3];
  int sharedMemPerBlock;
  int totalConstantMemory;
  int SIMDWidth;
  int memPitch;
  int regsPerBlock;
  int clockRate;
  int textureAlign;
};
using CUdevprop = CUdevprop_v1;

struct CUlibraryHostUniversalFunctionAndDataTable {
  void* functionTable;
  std::size_t functionWindowSize;
  void* dataTable;
  std::size_t dataWindowSize;
};

struct CUDA_RESOURCE_DESC_v1 {
  CUresourcetype resType;
  union {
    struct {
      CUarray hArray;
    } array;
    struct {
      CUmipmappedArray hMipmappedArray;
    } mipmap;
    struct {
      CUdeviceptr devPtr;
      CUarray_format format;
      unsigned int numChannels;
      std::size_t sizeInBytes;
    } linear;
    struct {
      CUdeviceptr devPtr;
      CUarray_format format;
      unsigned int numChannels;
      std::size_t width;
      std::size_t height;
      std::size_t pitchInBytes;
    } pitch2D;
    struct {
      int reserved[32];
    } reserved;
  } res;
  unsigned int flags;
};
using CUDA_RESOURCE_DESC = CUDA_RESOURCE_DESC_v1;

struct CUDA_TEXTURE_DESC_v1 {
  CUaddress_mode addressMode[3];
  CUfilter_mode filterMode;
  unsigned int flags;
  unsigned int maxAnisotropy;
  CUfilter_mode mipmapFilterMode;
  float mipmapLevelBias;
  float minMipmapLevelClamp;
  float maxMipmapLevelClamp;
  float borderColor[4];
  int reserved[12];
};
using CUDA_TEXTURE_DESC = CUDA_TEXTURE_DESC_v1;

struct CUDA_RESOURCE_VIEW_DESC_v1 {
  CUresourceViewFormat format;
  std::size_t width;
  std::size_t height;
  std::size_t depth;
  unsigned int firstMipmapLevel;
  unsigned int lastMipmapLevel;
  unsigned int firstLayer;
  unsigned int lastLayer;
  unsigned int reserved[16];
};
using CUDA_RESOURCE_VIEW_DESC = CUDA_RESOURCE_VIEW_DESC_v1;

struct alignas(128) CUtensorMap {
  cuuint64_t opaque[16];
};

struct CUcheckpointLockArgs {
  unsigned int timeoutMs;
  unsigned int reserved0;
  cuuint64_t reserved1[7];
};

struct CUcheckpointCheckpointArgs {
  cuuint64_t reserved[8];
};

struct CUcheckpointGpuPair {
  CUuuid oldUuid;
  CUuuid newUuid;
};

struct CUcheckpointRestoreArgs {
  CUcheckpointGpuPair* gpuPairs;
  unsigned int gpuPairsCount;
  char reserved[52 - sizeof(CUcheckpointGpuPair*)];
  cuuint64_t reserved1;
};

struct CUcheckpointUnlockArgs {
  cuuint64_t reserved[8];
};

using CUasyncCallback = void (*)(CUasyncNotificationInfo* info, void* userData,
                                 CUasyncCallbackHandle callback);

using CUlogsCallback = void (*)(void* data, CUlogLevel logLevel, char* message, std::size_t length);

using CUstreamCallback = void (*)(CUstream hStream, CUresult status, void* userData);

using CUoccupancyB2DSize = std::size_t (*)(int blockSize);
