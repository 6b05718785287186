// The simulator's implementation of each driver function, under the vendor's name in namespace api.
// All are declared from the table, so a definition with a wrong signature does not compile; those
// nobody defines are weak stubs (stubs.cc) that answer CUDA_ERROR_NOT_SUPPORTED.
#pragma once
#include "abi/cuda_types.h"
#include "abi/table_macros.h"

namespace bulkhead::sim::api {

#define BH_HOOK(name, since, family, ...) CUresult name(BH_PARAMS(__VA_ARGS__)) noexcept;
#define BH_PASS(name, since, reason, ...) CUresult name(BH_PARAMS(__VA_ARGS__)) noexcept;
#include "abi/cuda.def"

}  // namespace bulkhead::sim::api
