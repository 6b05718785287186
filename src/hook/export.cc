// What the library exports: each HOOK line of the tables under the driver's name.
//
// The driver calls itself through its own exports; such a call passes through. What a family does
// for all its functions stands here too: a denied process takes no memory, and a context call
// forgets which context was whose.
#include "hook/next.h"
#include "hook/process.h"

namespace bulkhead::hook {
namespace {

enum class Family : std::uint8_t {  // the tables' words
  alloc,
  free,
  query,
  context,
  device,
  launch,
  map,
  transfer,
  share,
  module,
  stream,
  graph,
  resolver
};

class Inside {
 public:
  Inside() noexcept { inside = true; }
  ~Inside() { inside = false; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
};

bool denied() noexcept {
  return process.mode.load(std::memory_order_relaxed) == Mode::kDenied;  // the word alone
}

}  // namespace
}  // namespace bulkhead::hook

#define BH_HOOK(name, since, family, ...)                                                    \
  extern "C" [[gnu::visibility("default")]] CUresult name(BH_PARAMS(__VA_ARGS__)) noexcept { \
    using namespace bulkhead;                                                                \
    if (hook::inside) [[unlikely]]                                                           \
      return hook::next.name(BH_ARGS(__VA_ARGS__));                                          \
    const hook::Inside guard;                                                                \
    BH_TICKS_IN;                                                                             \
    if constexpr (hook::Family::family == hook::Family::alloc) {                             \
      if (hook::denied()) [[unlikely]]                                                       \
        return CUDA_ERROR_OUT_OF_MEMORY;                                                     \
    }                                                                                        \
    const CUresult result = hook::name(BH_ARGS(__VA_ARGS__));                                \
    if constexpr (hook::Family::family == hook::Family::context) hook::forget_contexts();    \
    return result;                                                                           \
  }
#include "abi/cuda.def"
#define BH_HOOK(name, since, family, ...)                                                        \
  extern "C" [[gnu::visibility("default")]] nvmlReturn_t name(BH_PARAMS(__VA_ARGS__)) noexcept { \
    using namespace bulkhead;                                                                    \
    if (hook::inside) [[unlikely]]                                                               \
      return hook::nvml_next.name(BH_ARGS(__VA_ARGS__));                                         \
    const hook::Inside guard;                                                                    \
    BH_TICKS_IN;                                                                                 \
    return hook::name(BH_ARGS(__VA_ARGS__));                                                     \
  }
#include "abi/nvml.def"
