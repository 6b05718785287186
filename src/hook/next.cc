#include "hook/next.h"

#include <dlfcn.h>

#include "hook/loader.h"
#include "hook/resolve.h"

namespace bulkhead::hook {
namespace {

constexpr CUresult missing_code(CUresult*) { return CUDA_ERROR_NOT_SUPPORTED; }
constexpr nvmlReturn_t missing_code(nvmlReturn_t*) { return NVML_ERROR_FUNCTION_NOT_FOUND; }
void resolve_for(CudaNext*) noexcept { resolve_cuda(Load::kYes); }
void resolve_for(NvmlNext*) noexcept { resolve_nvml(Load::kYes); }
constexpr CudaNext& table_of(CudaNext*) { return next; }
constexpr NvmlNext& table_of(NvmlNext*) { return nvml_next; }

// What stands in a pointer before it is resolved, and where the driver has nothing.
template <auto member>
struct Stub;
template <class T, class R, class... A, Entry<R(A...) noexcept> T::*member>
struct Stub<member> {
  [[gnu::cold]] static R first(A... args) noexcept {
    BH_TICKS_IN;
    resolve_for(static_cast<T*>(nullptr));
    return (table_of(static_cast<T*>(nullptr)).*member)(args...);
  }
  [[gnu::cold]] static R missing(A...) noexcept { return missing_code(static_cast<R*>(nullptr)); }
  [[gnu::cold]] static void set(void* real) noexcept {
    (table_of(static_cast<T*>(nullptr)).*member).set(real);
  }
};

}  // namespace

#define BH_START(table, name) \
  decltype(table::name) { Stub<&table::name>::first, Stub<&table::name>::missing }
constinit CudaNext next{
#define BH_HOOK(name, since, family, ...) BH_START(CudaNext, name),
#include "abi/cuda.def"
#define BH_CUDA(name) BH_START(CudaNext, name),
#include "hook/internal.def"
};
constinit NvmlNext nvml_next{
#define BH_HOOK(name, since, family, ...) BH_START(NvmlNext, name),
#include "abi/nvml.def"
#define BH_NVML(name) BH_START(NvmlNext, name),
#include "hook/internal.def"
};
#undef BH_START

namespace {

// One function of either library: its name, its pointer's setter, and our export if it is hooked.
struct Line {
  const char* name;
  void (*set)(void* real) noexcept;
  void* ours;
};
const Line kCudaLines[] = {
#define BH_HOOK(name, since, family, ...) \
  {#name, Stub<&CudaNext::name>::set, reinterpret_cast<void*>(&::name)},
#include "abi/cuda.def"
#define BH_CUDA(name) {#name, Stub<&CudaNext::name>::set, nullptr},
#include "hook/internal.def"
};
const Line kNvmlLines[] = {
#define BH_HOOK(name, since, family, ...) \
  {#name, Stub<&NvmlNext::name>::set, reinterpret_cast<void*>(&::name)},
#include "abi/nvml.def"
#define BH_NVML(name) {#name, Stub<&NvmlNext::name>::set, nullptr},
#include "hook/internal.def"
};

enum State : int { kUnresolved, kResolved, kAbsent };
constinit std::atomic<int> cuda_state{kUnresolved};
constinit std::atomic<int> nvml_state{kUnresolved};
constinit std::atomic<bool> simulator{false};  // published by the states

// No lock: a thread in a library's constructor holds the loader's lock while it comes here, and one
// that waited for it here could hold ours. Two threads at once do the same work twice.
template <unsigned count>
bool resolve(std::atomic<int>& state, const char* soname, Load load,
             const Line (&lines)[count]) noexcept {
  // acquire pairs with the release below: who sees resolved sees the substitution table filled
  const int was = state.load(std::memory_order_acquire);
  if (was == kResolved) return true;
  void* library = ::dlopen(soname, RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr && load == Load::kYes && was == kUnresolved) {
    BH_TICKS_AWAY;  // the program would load it a moment later
    library = ::dlopen(soname, RTLD_LAZY);
  }
  if (library == nullptr) {
    if (load == Load::kNo) return false;
    for (const Line& line : lines) line.set(nullptr);
    state.store(kAbsent, std::memory_order_release);  // as above
    return false;
  }
  for (const Line& line : lines) {
    void* real = real_dlsym(library, line.name);
    if (real == line.ours) real = nullptr;  // our own library under the driver's name
    line.set(real);
    if (line.ours != nullptr && real != nullptr) add_substitute(real, line.ours);
  }
  if (real_dlsym(library, "bulkhead_sim_version") != nullptr) {
    simulator.store(true, std::memory_order_relaxed);  // published by the store below
  }
  state.store(kResolved, std::memory_order_release);  // pairs with the acquire above
  return true;
}

}  // namespace

bool on_simulator() noexcept {
  return simulator.load(std::memory_order_relaxed);  // after a resolve_*(), which acquired it
}

bool resolve_cuda(Load load) noexcept {
  return resolve(cuda_state, "libcuda.so.1", load, kCudaLines);
}
bool resolve_nvml(Load load) noexcept {
  return resolve(nvml_state, "libnvidia-ml.so.1", load, kNvmlLines);
}

}  // namespace bulkhead::hook
