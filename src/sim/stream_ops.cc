// Memory operations in stream order: write a value, wait for one. Work runs when it is submitted, so a
// wait whose condition does not hold yet could never be met by later work of this process: it is refused
// with CUDA_ERROR_NOT_SUPPORTED instead of hanging.
#include "sim/api.h"
#include "sim/work.h"

namespace bulkhead::sim {
namespace {

template <class T>
bool met(T have, T want, unsigned flags) noexcept {
  switch (flags & 3u) {
    case CU_STREAM_WAIT_VALUE_EQ:
      return have == want;
    case CU_STREAM_WAIT_VALUE_AND:
      return (have & want) != 0;
    case CU_STREAM_WAIT_VALUE_NOR:
      return static_cast<T>(~(have | want)) != 0;
    default:  // GEQ, in cyclic order
      return static_cast<std::make_signed_t<T>>(have - want) >= 0;
  }
}

template <class T>
CUresult write(CUdeviceptr at, T value) noexcept {
  if (at % sizeof(T) != 0 || !device_span(at, sizeof(T))) return CUDA_ERROR_INVALID_VALUE;
  *reinterpret_cast<T*>(at) = value;
  driver().moved_bytes += sizeof(T);
  return CUDA_SUCCESS;
}

template <class T>
CUresult wait(CUdeviceptr at, T value, unsigned flags) noexcept {
  if (at % sizeof(T) != 0 || !device_span(at, sizeof(T))) return CUDA_ERROR_INVALID_VALUE;
  return met(*reinterpret_cast<T*>(at), value, flags) ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult one(const CUstreamBatchMemOpParams& p) noexcept {
  switch (p.operation) {
    case CU_STREAM_MEM_OP_WRITE_VALUE_32:
      return write<cuuint32_t>(p.writeValue.address, p.writeValue.value);
    case CU_STREAM_MEM_OP_WRITE_VALUE_64:
      return write<cuuint64_t>(p.writeValue.address, p.writeValue.value64);
    case CU_STREAM_MEM_OP_WAIT_VALUE_32:
      return wait<cuuint32_t>(p.waitValue.address, p.waitValue.value, p.waitValue.flags);
    case CU_STREAM_MEM_OP_WAIT_VALUE_64:
      return wait<cuuint64_t>(p.waitValue.address, p.waitValue.value64, p.waitValue.flags);
    case CU_STREAM_MEM_OP_BARRIER:
    case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult batch(CUstream stream, const CUstreamBatchMemOpParams* ops, unsigned count) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  Stream* s = to_stream(stream, call.context);
  if (s == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (ops == nullptr || count > 256) return CUDA_ERROR_INVALID_VALUE;
  Work w;
  w.type = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP;
  w.ops.assign(ops, ops + count);
  return enqueue(*s, w);
}

CUresult write_one(CUstream stream, CUdeviceptr addr, cuuint64_t value, unsigned flags,
                   bool wide) noexcept {
  CUstreamBatchMemOpParams p{};
  p.operation = wide ? CU_STREAM_MEM_OP_WRITE_VALUE_64 : CU_STREAM_MEM_OP_WRITE_VALUE_32;
  p.writeValue.address = addr;
  p.writeValue.value64 = value;
  p.writeValue.flags = flags;
  return batch(stream, &p, 1);
}

CUresult wait_one(CUstream stream, CUdeviceptr addr, cuuint64_t value, unsigned flags,
                  bool wide) noexcept {
  CUstreamBatchMemOpParams p{};
  p.operation = wide ? CU_STREAM_MEM_OP_WAIT_VALUE_64 : CU_STREAM_MEM_OP_WAIT_VALUE_32;
  p.waitValue.address = addr;
  p.waitValue.value64 = value;
  p.waitValue.flags = flags;
  return batch(stream, &p, 1);
}

}  // namespace

CUresult perform_ops(const std::vector<CUstreamBatchMemOpParams>& ops) noexcept {
  for (const CUstreamBatchMemOpParams& p : ops) {
    if (const CUresult r = one(p); r != CUDA_SUCCESS) return r;
  }
  return CUDA_SUCCESS;
}

// The first and second versions differ in what they need of the device, not in what they do.
#define BH_VALUE_OPS(version)                                                             \
  CUresult api::cuStreamWriteValue32##version(CUstream s, CUdeviceptr a, cuuint32_t v,    \
                                              unsigned int f) noexcept {                  \
    return write_one(s, a, v, f, false);                                                  \
  }                                                                                       \
  CUresult api::cuStreamWriteValue64##version(CUstream s, CUdeviceptr a, cuuint64_t v,    \
                                              unsigned int f) noexcept {                  \
    return write_one(s, a, v, f, true);                                                   \
  }                                                                                       \
  CUresult api::cuStreamWaitValue32##version(CUstream s, CUdeviceptr a, cuuint32_t v,     \
                                             unsigned int f) noexcept {                   \
    return wait_one(s, a, v, f, false);                                                   \
  }                                                                                       \
  CUresult api::cuStreamWaitValue64##version(CUstream s, CUdeviceptr a, cuuint64_t v,     \
                                             unsigned int f) noexcept {                   \
    return wait_one(s, a, v, f, true);                                                    \
  }                                                                                       \
  CUresult api::cuStreamBatchMemOp##version(                                              \
      CUstream s, unsigned int n, CUstreamBatchMemOpParams* p, unsigned int f) noexcept { \
    return f != 0 ? CUDA_ERROR_INVALID_VALUE : batch(s, p, n);                            \
  }
BH_VALUE_OPS()
BH_VALUE_OPS(_v2)
#undef BH_VALUE_OPS

}  // namespace bulkhead::sim
