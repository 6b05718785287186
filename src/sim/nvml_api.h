// The simulator's NVML functions, declared from the table; weak stubs answer NVML_ERROR_NOT_SUPPORTED.
#pragma once
#include "abi/nvml_types.h"
#include "abi/table_macros.h"
#include "sim/state.h"

namespace bulkhead::sim::nvml {

#define BH_HOOK(name, since, family, ...) nvmlReturn_t name(BH_PARAMS(__VA_ARGS__)) noexcept;
#define BH_PASS(name, since, reason, ...) nvmlReturn_t name(BH_PARAMS(__VA_ARGS__)) noexcept;
#define BH_PASS_TEXT(name, since, reason, ...) const char* name(BH_PARAMS(__VA_ARGS__)) noexcept;
#include "abi/nvml.def"

// What a handle stands for: a GPU, or a MIG instance of one.
struct Target {
  unsigned gpu = 0;
  int instance = -1;  // -1: the GPU itself
};

// Finds what `h` stands for, after the checks every question begins with: initialised, a good handle,
// a place to write the answer.
nvmlReturn_t ask(nvmlDevice_t h, const void* out, Target& t) noexcept;
bool initialised() noexcept;
nvmlDevice_t handle_of(Target t) noexcept;

// The units behind a target: [first, first + count).
struct Units {
  unsigned first, count;
};
Units units_of(Target t) noexcept;
nvmlReturn_t copy_text(const char* from, char* to, unsigned length) noexcept;

}  // namespace bulkhead::sim::nvml
