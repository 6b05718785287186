// The exported face of libcuda.so.1: one function per line of the table, through its gate to api::.
#include "sim/exports.h"

#include "sim/api.h"
#include "sim/gate.h"
#include "sim/model.h"
#include "sim/state.h"

namespace bulkhead::sim {
namespace {

enum Id : unsigned {
#define BH_HOOK(name, since, family, ...) id_##name,
#define BH_PASS(name, since, reason, ...) id_##name,
#include "abi/cuda.def"
  kFunctions
};

constinit Gate gates[kFunctions] = {
#define BH_HOOK(name, since, family, ...) {#name, {}, {}, 0, 0, 0, 0, 0, 0, false},
#define BH_PASS(name, since, reason, ...) {#name, {}, {}, 0, 0, 0, 0, 0, 0, false},
#include "abi/cuda.def"
};

[[gnu::constructor]] void arm() noexcept { arm_gates(gates, kFunctions); }

}  // namespace
}  // namespace bulkhead::sim

#define BH_HOOK(name, since, family, ...)                                                    \
  extern "C" [[gnu::visibility("default")]] CUresult name(BH_PARAMS(__VA_ARGS__)) noexcept { \
    std::uint32_t bh_code = 0;                                                               \
    if (bulkhead::sim::stopped(bulkhead::sim::gates[bulkhead::sim::id_##name], bh_code))     \
        [[unlikely]]                                                                         \
      return static_cast<CUresult>(bh_code);                                                 \
    return bulkhead::sim::api::name(BH_ARGS(__VA_ARGS__));                                   \
  }
#define BH_PASS BH_HOOK
#include "abi/cuda.def"

namespace bulkhead::sim {

const Export kTable[] = {
#define BH_HOOK(name, since, family, ...) {#name, since, reinterpret_cast<Function>(&::name)},
#define BH_PASS BH_HOOK
#include "abi/cuda.def"
};

std::span<const Export> exports() noexcept { return kTable; }

}  // namespace bulkhead::sim

extern "C" [[gnu::visibility("default")]] const char* bulkhead_sim_version() noexcept {
  return "0.1.0";
}
// Bytes that copies, sets and stream writes have moved in this process: what a test holds against what was counted.
extern "C" [[gnu::visibility("default")]] std::uint64_t bulkhead_sim_moved() noexcept {
  return bulkhead::sim::driver().moved_bytes;
}
// Null, or why nothing here will work: for programs that say it in their own words.
extern "C" [[gnu::visibility("default")]] const char* bulkhead_sim_problem() noexcept {
  return bulkhead::sim::open_machine();
}
