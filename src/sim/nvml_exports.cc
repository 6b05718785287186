// The exported face of libnvidia-ml.so.1: one function per line of the table, through its gate.
#include "sim/gate.h"
#include "sim/nvml_api.h"

namespace bulkhead::sim {
namespace {

enum Id : unsigned {
#define BH_HOOK(name, since, family, ...) id_##name,
#define BH_PASS BH_HOOK
#define BH_PASS_TEXT BH_HOOK
#include "abi/nvml.def"
  kFunctions
};

constinit Gate gates[kFunctions] = {
#define BH_HOOK(name, since, family, ...) {#name, {}, {}, 0, 0, 0, 0, 0, 0, false},
#define BH_PASS BH_HOOK
#define BH_PASS_TEXT BH_HOOK
#include "abi/nvml.def"
};

[[gnu::constructor]] void arm() noexcept { arm_gates(gates, kFunctions); }

}  // namespace
}  // namespace bulkhead::sim

#define BH_HOOK(name, since, family, ...)                                                        \
  extern "C" [[gnu::visibility("default")]] nvmlReturn_t name(BH_PARAMS(__VA_ARGS__)) noexcept { \
    std::uint32_t bh_code = 0;                                                                   \
    if (bulkhead::sim::stopped(bulkhead::sim::gates[bulkhead::sim::id_##name], bh_code))         \
        [[unlikely]]                                                                             \
      return static_cast<nvmlReturn_t>(bh_code);                                                 \
    return bulkhead::sim::nvml::name(BH_ARGS(__VA_ARGS__));                                      \
  }
#define BH_PASS BH_HOOK
#define BH_PASS_TEXT(name, since, reason, ...)                                                  \
  extern "C" [[gnu::visibility("default")]] const char* name(BH_PARAMS(__VA_ARGS__)) noexcept { \
    return bulkhead::sim::nvml::name(BH_ARGS(__VA_ARGS__));                                     \
  }
#include "abi/nvml.def"

extern "C" [[gnu::visibility("default")]] const char* bulkhead_sim_version() noexcept {
  return "0.1.0";
}
// Null, or why nothing here will work: for programs that say it in their own words.
extern "C" [[gnu::visibility("default")]] const char* bulkhead_sim_problem() noexcept {
  return bulkhead::sim::open_machine();
}
