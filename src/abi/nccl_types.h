// NCCL's handles and codes, declared by us from the interface's facts (NCCL 2.x, stable since 2.0), as far as nccl.def's
// parameters reach.
#pragma once

extern "C" {
typedef struct ncclComm* ncclComm_t;
typedef struct {
  char internal[128];
} ncclUniqueId;
typedef struct ncclConfig ncclConfig_t;  // versioned by NCCL itself; only passed on
typedef enum {
  ncclSuccess = 0,
  ncclUnhandledCudaError = 1,
  ncclSystemError = 2,
  ncclInternalError = 3,
  ncclInvalidArgument = 4,
  ncclInvalidUsage = 5,
  ncclRemoteError = 6,
  ncclInProgress = 7
} ncclResult_t;
}
static_assert(sizeof(ncclUniqueId) == 128 && sizeof(ncclResult_t) == 4);
