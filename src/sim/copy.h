// Copies: every form becomes one three-dimensional record.
#pragma once
#include "sim/work.h"

namespace bulkhead::sim {

CUDA_MEMCPY3D linear_copy(CUmemorytype to, CUdeviceptr dst, CUmemorytype from, CUdeviceptr src,
                          std::size_t bytes) noexcept;
// Synchronous forms wait for the copy; `sync` forms on the default stream.
CUresult submit_copy(const CUDA_MEMCPY3D& c, CUstream stream, bool sync) noexcept;
CUresult submit_memset(const CUDA_MEMSET_NODE_PARAMS_v2& m, CUstream stream, bool sync) noexcept;

}  // namespace bulkhead::sim
