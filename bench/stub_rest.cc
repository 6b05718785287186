// The driver that does nothing: every name of the table, weak. stub_driver.cc has the few that answer.
#include "abi/cuda_types.h"
#include "abi/table_macros.h"

#define BH_STUB(name, ...)                                                                    \
  extern "C" [[gnu::weak, gnu::visibility("default")]] CUresult name(BH_TYPES(__VA_ARGS__)) { \
    return CUDA_ERROR_NOT_SUPPORTED;                                                          \
  }
#define BH_HOOK(name, since, family, ...) BH_STUB(name __VA_OPT__(, ) __VA_ARGS__)
#define BH_PASS(name, since, reason, ...) BH_STUB(name __VA_OPT__(, ) __VA_ARGS__)
#include "abi/cuda.def"
