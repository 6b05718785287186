// What libcuda.so.1 exports, for the resolver.
#pragma once
#include <span>

#include "abi/cuda_types.h"

namespace bulkhead::sim {

using Function = void (*)();
struct Export {
  const char* name;
  int since;  // the cuGetProcAddress version from which this entry point is the answer
  Function at;
};
std::span<const Export> exports() noexcept;

}  // namespace bulkhead::sim
