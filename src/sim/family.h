// What the families of functions need from each other, beyond the model.
#pragma once
#include "sim/model.h"

namespace bulkhead::sim {

void release_arrays(Context& c) noexcept;  // array.cc
// Frees stream-ordered or graph memory now; its range is forgotten. The pool keeps what it reserved.
void free_pooled(Range& r) noexcept;        // pool.cc
void release_modules(Context& c) noexcept;  // module.cc

}  // namespace bulkhead::sim
