// For HOOK lines whose family has no function: forward. Weak, so that a family's own definition
// replaces it at link time; in a file of its own, so that no caller has it inlined.
#include "hook/next.h"

namespace bulkhead::hook {

#define BH_HOOK(name, since, family, ...)                        \
  [[gnu::weak]] CUresult name(BH_PARAMS(__VA_ARGS__)) noexcept { \
    return next.name(BH_ARGS(__VA_ARGS__));                      \
  }
#include "abi/cuda.def"
#define BH_HOOK(name, since, family, ...)                            \
  [[gnu::weak]] nvmlReturn_t name(BH_PARAMS(__VA_ARGS__)) noexcept { \
    return nvml_next.name(BH_ARGS(__VA_ARGS__));                     \
  }
#include "abi/nvml.def"

}  // namespace bulkhead::hook
