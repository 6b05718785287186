// Weak definitions of every function of the table; a family's file overrides them. A stub named
// X_ptsz or X_ptds runs X with the thread's own default stream meant by stream 0; any other answers
// CUDA_ERROR_NOT_SUPPORTED.
#include <string_view>

#include "sim/api.h"
#include "sim/model.h"

namespace bulkhead::sim {
namespace {

using Any = void (*)();

consteval std::string_view base_name(std::string_view name) {
  return name.ends_with("_ptsz") || name.ends_with("_ptds") ? name.substr(0, name.size() - 5)
                                                            : std::string_view{};
}

struct Named {
  std::string_view name;
  Any at;
};

Any find(std::string_view name) noexcept;

class PerThread {
 public:
  PerThread() noexcept : before_(thread_state().per_thread_default) {
    thread_state().per_thread_default = true;
  }
  ~PerThread() { thread_state().per_thread_default = before_; }
  PerThread(const PerThread&) = delete;
  PerThread& operator=(const PerThread&) = delete;

 private:
  bool before_;
};

template <class... A>
CUresult run(Any at, A... args) noexcept {
  if (at == nullptr) return CUDA_ERROR_NOT_SUPPORTED;
  const PerThread scope;
  return reinterpret_cast<CUresult (*)(A...) noexcept>(at)(args...);
}

}  // namespace

namespace api {
#pragma GCC diagnostic ignored "-Wunused-parameter"
#define BH_HOOK(name, since, family, ...)                                        \
  [[gnu::weak]] CUresult name(BH_PARAMS(__VA_ARGS__)) noexcept {                 \
    constexpr std::string_view base = base_name(#name);                          \
    if constexpr (base.empty()) {                                                \
      return CUDA_ERROR_NOT_SUPPORTED;                                           \
    } else {                                                                     \
      static const Any at = find(base);                                          \
      return run<BH_TYPES(__VA_ARGS__)>(at __VA_OPT__(, ) BH_ARGS(__VA_ARGS__)); \
    }                                                                            \
  }
#define BH_PASS BH_HOOK
#include "abi/cuda.def"
}  // namespace api

namespace {
const Named kAll[] = {
#define BH_HOOK(name, since, family, ...) {#name, reinterpret_cast<Any>(&api::name)},
#define BH_PASS BH_HOOK
#include "abi/cuda.def"
};

Any find(std::string_view name) noexcept {
  for (const Named& n : kAll) {
    if (n.name == name) return n.at;
  }
  return nullptr;
}
}  // namespace
}  // namespace bulkhead::sim
