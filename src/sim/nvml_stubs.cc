// Weak definitions of every NVML function of the table; a family's file overrides them.
#include "sim/nvml_api.h"

namespace bulkhead::sim::nvml {

#define BH_HOOK(name, since, family, ...)                            \
  [[gnu::weak]] nvmlReturn_t name(BH_PARAMS(__VA_ARGS__)) noexcept { \
    return NVML_ERROR_NOT_SUPPORTED;                                 \
  }
#define BH_PASS BH_HOOK
#define BH_PASS_TEXT(name, since, reason, ...)
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include "abi/nvml.def"

}  // namespace bulkhead::sim::nvml
