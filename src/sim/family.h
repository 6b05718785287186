// What the families of functions need from each other, beyond the model.
#pragma once
#include "sim/model.h"

namespace bulkhead::sim {

void release_arrays(Context& c) noexcept;   // array.cc
void release_modules(Context& c) noexcept;  // module.cc

}  // namespace bulkhead::sim
