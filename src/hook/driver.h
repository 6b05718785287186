// The driver's and NVML's functions by their own names, as the tables declare them: what
// decltype(::name) and the exports are made from. Nothing in the library calls these symbols (they
// would come back to us); calls go through next.h.
#pragma once

#include "abi/cuda_types.h"
#include "abi/nvml_types.h"
#include "abi/table_macros.h"

extern "C" {
#define BH_HOOK(name, since, family, ...) CUresult name(BH_PARAMS(__VA_ARGS__)) noexcept;
#define BH_PASS(name, since, reason, ...) CUresult name(BH_PARAMS(__VA_ARGS__)) noexcept;
#include "abi/cuda.def"
#define BH_HOOK(name, since, family, ...) nvmlReturn_t name(BH_PARAMS(__VA_ARGS__)) noexcept;
#define BH_PASS(name, since, reason, ...) nvmlReturn_t name(BH_PARAMS(__VA_ARGS__)) noexcept;
#include "abi/nvml.def"
}
