// CUDA arrays. Bytes lie row after row in the backing; what is charged is the size of the driver's
// blocked layout.
#pragma once
#include "sim/model.h"

namespace bulkhead::sim {

struct Mipmap;

struct Array {
  CUDA_ARRAY3D_DESCRIPTOR desc{};
  std::size_t element_bytes = 0;
  Context* context = nullptr;
  CUdeviceptr at = 0;          // 0: no memory (deferred mapping, sparse)
  Segment* segment = nullptr;  // its own; else in the context's array slabs
  Mipmap* parent = nullptr;    // a level of one
};

struct Mipmap {
  CUDA_ARRAY3D_DESCRIPTOR desc{};
  std::size_t element_bytes = 0;
  Context* context = nullptr;
  CUdeviceptr at = 0;
  Segment* segment = nullptr;
  std::size_t bytes = 0;
  std::vector<Array*> levels;
};

Array* to_array(CUarray h) noexcept;
std::size_t row_bytes(const Array& a) noexcept;   // of its linear backing
std::size_t rows_of(const Array& a) noexcept;     // a slice's
std::size_t slices_of(const Array& a) noexcept;
// What the driver takes for one level, before rounding to its granules. Fits the shapes measured on an
// H200 (tests/sim/array_test.cc lists them): rows are multiples of 64 bytes; 2D levels of up to 128
// rows' blocks; 3D levels of 8 rows and up to 16 slices.
std::size_t layout_bytes(const CUDA_ARRAY3D_DESCRIPTOR& d, std::size_t element_bytes) noexcept;

}  // namespace bulkhead::sim
