// What the tests use of NCCL beyond nccl.def, as NCCL declares it.
#pragma once
#include <cstddef>

#include "abi/cuda_types.h"
#include "abi/nccl_types.h"
#include "abi/table_macros.h"

extern "C" {
#define BH_HOOK(name, since, family, ...) ncclResult_t name(BH_PARAMS(__VA_ARGS__));
#include "abi/nccl.def"
ncclResult_t ncclGetUniqueId(ncclUniqueId* id);
ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, int type, int op,
                           ncclComm_t comm, CUstream stream);
// Of the copy that was called: how often its ncclCommInitRank was.
int fake_nccl_inits();
}
