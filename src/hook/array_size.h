// An upper bound of an array's memory from its descriptor alone, for drivers that do not say.
//
// Block-linear layout: a row is padded to 64 B, rows to 128, slices to 32 (the largest block the hardware
// uses: 64 B x 8 rows x 16 stacked, 32 deep); each level of a mipmap is padded like an array of its size.
// Never below the truth on the shapes measured (array_size_test.cc); up to 3 times above it for thin 3D arrays.
#pragma once
#include <cstdint>

#include "abi/cuda_types.h"

namespace bulkhead::hook {

// Bytes a channel at most; 16 for formats not named here (the widest texel block).
constexpr std::uint64_t channel_bytes(CUarray_format f) noexcept {
  switch (f) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
      return 1;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
      return 2;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
      return 4;
    default:
      return 16;
  }
}

constexpr std::uint64_t array_bound(const CUDA_ARRAY3D_DESCRIPTOR& d, unsigned levels) noexcept {
  const auto pad = [](std::uint64_t n, std::uint64_t to) { return (n + to - 1) / to * to; };
  const std::uint64_t texel = channel_bytes(d.Format) * (d.NumChannels == 0 ? 1 : d.NumChannels);
  const bool layered = (d.Flags & (0x01u | 0x04u)) != 0;  // layers and cube faces do not shrink
  std::uint64_t sum = 0;
  for (unsigned l = 0; l < (levels == 0 ? 1 : levels) && l < 32; ++l) {
    const auto shrunk = [l](std::uint64_t n) { return n == 0 ? 1 : (n >> l == 0 ? 1 : n >> l); };
    const std::uint64_t depth = layered ? (d.Depth == 0 ? 1 : d.Depth) : shrunk(d.Depth);
    std::uint64_t bytes = 0;
    const std::uint64_t slices = depth <= 1 || layered ? depth : pad(depth, 32);
    if (__builtin_mul_overflow(pad(shrunk(d.Width) * texel, 64), pad(shrunk(d.Height), 128),
                               &bytes) ||
        __builtin_mul_overflow(bytes, slices, &bytes) || __builtin_add_overflow(sum, bytes, &sum)) {
      return ~std::uint64_t{0};
    }
  }
  return sum;
}

}  // namespace bulkhead::hook
