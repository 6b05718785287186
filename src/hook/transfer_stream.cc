// What a stream writes by itself: values, batches of memory operations, decompression.
#include "hook/next.h"
#include "hook/transfer_batch.h"
#include "hook/transfer_move.h"
#include "hook/transfer_ops.h"

namespace bulkhead::hook {
namespace {

using Op = AuditOp;

[[gnu::always_inline]] inline Move written(Op op, CUdeviceptr at, std::uint64_t bytes,
                                           On on) noexcept {
  return {set_event(op, anywhere(at), bytes), on};
}

template <class Call>
CUresult operations(CUstreamBatchMemOpParams* ops, unsigned count, On on, Call call) noexcept {
  if (ops == nullptr) return call();
  return batch(
      count, on, nullptr, [=](std::size_t i) { return write_event(ops[i]); }, call);
}

template <class Call>
CUresult decompress(CUmemDecompressParams* p, size_t count, size_t* failed, On on,
                    Call call) noexcept {
  if (p == nullptr) return call();
  const auto event = [=](std::size_t i) {
    return copy_event(Op::k_cuMemBatchDecompressAsync,
                      anywhere(reinterpret_cast<std::uintptr_t>(p[i].src)),
                      anywhere(reinterpret_cast<std::uintptr_t>(p[i].dst)), p[i].dstNumBytes);
  };
  return batch(count, on, failed, event, call);
}

}  // namespace

CUresult cuStreamWriteValue32(CUstream stream, CUdeviceptr addr, cuuint32_t value,
                              unsigned int flags) noexcept {
  constexpr auto kMake = [](auto s, auto at, auto, auto) {
    return written(Op::k_cuStreamWriteValue32, at, 4, queued(s));
  };
  return move(next.cuStreamWriteValue32, kMake, stream, addr, value, flags);
}
CUresult cuStreamWriteValue32_ptsz(CUstream stream, CUdeviceptr addr, cuuint32_t value,
                                   unsigned int flags) noexcept {
  constexpr auto kMake = [](auto s, auto at, auto, auto) {
    return written(Op::k_cuStreamWriteValue32, at, 4, queued_own(s));
  };
  return move(next.cuStreamWriteValue32_ptsz, kMake, stream, addr, value, flags);
}
CUresult cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr addr, cuuint32_t value,
                                 unsigned int flags) noexcept {
  constexpr auto kMake = [](auto s, auto at, auto, auto) {
    return written(Op::k_cuStreamWriteValue32, at, 4, queued(s));
  };
  return move(next.cuStreamWriteValue32_v2, kMake, stream, addr, value, flags);
}
CUresult cuStreamWriteValue32_v2_ptsz(CUstream stream, CUdeviceptr addr, cuuint32_t value,
                                      unsigned int flags) noexcept {
  constexpr auto kMake = [](auto s, auto at, auto, auto) {
    return written(Op::k_cuStreamWriteValue32, at, 4, queued_own(s));
  };
  return move(next.cuStreamWriteValue32_v2_ptsz, kMake, stream, addr, value, flags);
}
CUresult cuStreamWriteValue64(CUstream stream, CUdeviceptr addr, cuuint64_t value,
                              unsigned int flags) noexcept {
  constexpr auto kMake = [](auto s, auto at, auto, auto) {
    return written(Op::k_cuStreamWriteValue64, at, 8, queued(s));
  };
  return move(next.cuStreamWriteValue64, kMake, stream, addr, value, flags);
}
CUresult cuStreamWriteValue64_ptsz(CUstream stream, CUdeviceptr addr, cuuint64_t value,
                                   unsigned int flags) noexcept {
  constexpr auto kMake = [](auto s, auto at, auto, auto) {
    return written(Op::k_cuStreamWriteValue64, at, 8, queued_own(s));
  };
  return move(next.cuStreamWriteValue64_ptsz, kMake, stream, addr, value, flags);
}
CUresult cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr addr, cuuint64_t value,
                                 unsigned int flags) noexcept {
  constexpr auto kMake = [](auto s, auto at, auto, auto) {
    return written(Op::k_cuStreamWriteValue64, at, 8, queued(s));
  };
  return move(next.cuStreamWriteValue64_v2, kMake, stream, addr, value, flags);
}
CUresult cuStreamWriteValue64_v2_ptsz(CUstream stream, CUdeviceptr addr, cuuint64_t value,
                                      unsigned int flags) noexcept {
  constexpr auto kMake = [](auto s, auto at, auto, auto) {
    return written(Op::k_cuStreamWriteValue64, at, 8, queued_own(s));
  };
  return move(next.cuStreamWriteValue64_v2_ptsz, kMake, stream, addr, value, flags);
}
CUresult cuStreamBatchMemOp(CUstream stream, unsigned int count,
                            CUstreamBatchMemOpParams* paramArray, unsigned int flags) noexcept {
  return operations(paramArray, count, queued(stream),
                    [=] { return next.cuStreamBatchMemOp(stream, count, paramArray, flags); });
}
CUresult cuStreamBatchMemOp_ptsz(CUstream stream, unsigned int count,
                                 CUstreamBatchMemOpParams* paramArray,
                                 unsigned int flags) noexcept {
  return operations(paramArray, count, queued_own(stream),
                    [=] { return next.cuStreamBatchMemOp_ptsz(stream, count, paramArray, flags); });
}
CUresult cuStreamBatchMemOp_v2(CUstream stream, unsigned int count,
                               CUstreamBatchMemOpParams* paramArray, unsigned int flags) noexcept {
  return operations(paramArray, count, queued(stream),
                    [=] { return next.cuStreamBatchMemOp_v2(stream, count, paramArray, flags); });
}
CUresult cuStreamBatchMemOp_v2_ptsz(CUstream stream, unsigned int count,
                                    CUstreamBatchMemOpParams* paramArray,
                                    unsigned int flags) noexcept {
  return operations(paramArray, count, queued_own(stream), [=] {
    return next.cuStreamBatchMemOp_v2_ptsz(stream, count, paramArray, flags);
  });
}
CUresult cuMemBatchDecompressAsync(CUmemDecompressParams* paramsArray, size_t count,
                                   unsigned int flags, size_t* errorIndex,
                                   CUstream stream) noexcept {
  return decompress(paramsArray, count, errorIndex, queued(stream), [=] {
    return next.cuMemBatchDecompressAsync(paramsArray, count, flags, errorIndex, stream);
  });
}
CUresult cuMemBatchDecompressAsync_ptsz(CUmemDecompressParams* paramsArray, size_t count,
                                        unsigned int flags, size_t* errorIndex,
                                        CUstream stream) noexcept {
  return decompress(paramsArray, count, errorIndex, queued_own(stream), [=] {
    return next.cuMemBatchDecompressAsync_ptsz(paramsArray, count, flags, errorIndex, stream);
  });
}

}  // namespace bulkhead::hook
