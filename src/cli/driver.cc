#include "cli/driver.h"

#include <dlfcn.h>
#include <fmt/format.h>

namespace bulkhead::cli {

Outcome<Driver> open_driver(const std::string& directory) {
  const std::string path = (directory.empty() ? "" : directory + "/") + "libcuda.so.1";
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return Outcome<Driver>::because(::dlerror());
  Driver out;
#define X(name, types)                                                      \
  out.name = reinterpret_cast<decltype(out.name)>(::dlsym(library, #name)); \
  if (out.name == nullptr) return Outcome<Driver>::because(path + " has no " #name);
  BH_DRIVER_FUNCTIONS(X)
#undef X
  out.simulated = ::dlsym(library, "bulkhead_sim_version") != nullptr;
  return out;
}

std::string result_text(CUresult result) {
  switch (result) {
    case CUDA_SUCCESS:
      return "CUDA_SUCCESS";
    case CUDA_ERROR_OUT_OF_MEMORY:
      return "CUDA_ERROR_OUT_OF_MEMORY (2)";
    case CUDA_ERROR_NO_DEVICE:
      return "CUDA_ERROR_NO_DEVICE (100)";
    case CUDA_ERROR_SYSTEM_NOT_READY:
      return "CUDA_ERROR_SYSTEM_NOT_READY (802)";
    default:
      return fmt::format("CUDA error {}", static_cast<int>(result));
  }
}

}  // namespace bulkhead::cli
