// The real functions. next.cuMemAlloc_v2(...) calls the driver's own, nvml_next.nvmlInit_v2(...)
// NVML's own: every HOOK line of the tables and every line of internal.def.
//
// A pointer is never null. It starts at a stub that resolves all of the library's pointers at the
// first call; a function that this driver does not have ends at a stub that answers "not supported"
// (CUDA_ERROR_NOT_SUPPORTED, NVML_ERROR_FUNCTION_NOT_FOUND) and is not present(). All of it may be
// called from any thread.
//
// It also declares the hooks: for each HOOK line one function of that name in bulkhead::hook, which
// its family's file defines and export.cc calls; a line whose family is not written yet falls back
// to the weak default in forward.cc. A definition whose parameters differ from the table's is an
// overload nobody calls; -Wmissing-declarations, an error in this folder, catches it.
#pragma once
#include <atomic>

#include "hook/driver.h"
#include "hook/ticks.h"

namespace bulkhead::hook {

template <class Fn>
class Entry;
template <class R, class... A>
class Entry<R(A...)> {
 public:
  using Fn = R (*)(A...);
  constexpr explicit Entry(Fn first, Fn missing) noexcept : fn_(first), missing_(missing) {}
  R operator()(A... args) const noexcept {
    BH_TICKS_AWAY;
    // acquire pairs with set(): the code behind it was mapped before
    return fn_.load(std::memory_order_acquire)(args...);
  }
  // Whether this driver has the function. Only meaningful after mode() or any call through here.
  [[nodiscard]] bool present() const noexcept {
    return fn_.load(std::memory_order_relaxed) !=
           missing_;  // an address, nothing behind it is read
  }
  // Only resolve_*(): null means that the driver lacks it.
  void set(void* real) noexcept {
    Fn fn = missing_;
    if (real != nullptr) __builtin_memcpy(&fn, &real, sizeof fn);
    fn_.store(fn, std::memory_order_release);  // pairs with the call above
  }

 private:
  std::atomic<Fn> fn_;
  Fn missing_;
};
template <class R, class... A>
class Entry<R(A...) noexcept> : public Entry<R(A...)> {
 public:
  using Entry<R(A...)>::Entry;
};

struct CudaNext {
#define BH_HOOK(name, since, family, ...) Entry<decltype(::name)> name;
#include "abi/cuda.def"
#define BH_CUDA(name) Entry<decltype(::name)> name;
#include "hook/internal.def"
};
struct NvmlNext {
#define BH_HOOK(name, since, family, ...) Entry<decltype(::name)> name;
#include "abi/nvml.def"
#define BH_NVML(name) Entry<decltype(::name)> name;
#include "hook/internal.def"
};
[[gnu::visibility("hidden")]] extern constinit CudaNext next;
[[gnu::visibility("hidden")]] extern constinit NvmlNext nvml_next;

// The family functions, one a HOOK line.
#define BH_HOOK(name, since, family, ...) CUresult name(BH_PARAMS(__VA_ARGS__)) noexcept;
#include "abi/cuda.def"
#define BH_HOOK(name, since, family, ...) nvmlReturn_t name(BH_PARAMS(__VA_ARGS__)) noexcept;
#include "abi/nvml.def"

}  // namespace bulkhead::hook
