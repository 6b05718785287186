// Somebody else's interposer, preloaded behind ours: it looks for the next of what it defines.
#include <dlfcn.h>

#include <cstddef>

#include "abi/cuda_types.h"

#define API extern "C" __attribute__((visibility("default")))

API CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  using Fn = CUresult (*)(size_t*, size_t*);
  static const auto next = reinterpret_cast<Fn>(dlsym(RTLD_NEXT, "cuMemGetInfo_v2"));
  return next == nullptr ? CUDA_ERROR_UNKNOWN : next(free, total);
}
// Its own malloc_trim, and what RTLD_NEXT says of it: libc's, if the caller was kept.
API int malloc_trim(size_t) { return 42; }
API bool interposer_next_is_not_itself() {
  void* next = dlsym(RTLD_NEXT, "malloc_trim");
  return next != nullptr && next != reinterpret_cast<void*>(&malloc_trim);
}
