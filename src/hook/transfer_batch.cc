// Batches of copies: one entry a member.
#include "hook/transfer_batch.h"

#include "hook/array_size.h"
#include "hook/next.h"
#include "hook/transfer_wide.h"

namespace bulkhead::hook {
namespace {

using Op = AuditOp;

// What is missing is the driver's to refuse.
template <class Call>
CUresult copies(CUdeviceptr* dsts, CUdeviceptr* srcs, size_t* sizes, size_t count, size_t* failed,
                On on, Call call) noexcept {
  if (dsts == nullptr || srcs == nullptr || sizes == nullptr) return call();
  const auto event = [=](std::size_t i) {
    return copy_event(Op::k_cuMemcpyBatchAsync, anywhere(srcs[i]), anywhere(dsts[i]), sizes[i]);
  };
  return batch(count, on, failed, event, call);
}

// Bytes of an element: extents count elements where an array takes part, else bytes.
std::uint64_t element_of(const CUmemcpy3DOperand& o) noexcept {
  if (o.type != CU_MEMCPY_OPERAND_TYPE_ARRAY) return 0;
  CUDA_ARRAY3D_DESCRIPTOR d{};
  if (next.cuArray3DGetDescriptor_v2(&d, o.op.array.array) != CUDA_SUCCESS) return 0;
  return channel_bytes(d.Format) * d.NumChannels;
}

Side operand(const CUmemcpy3DOperand& o) noexcept {
  return o.type == CU_MEMCPY_OPERAND_TYPE_ARRAY ? in_array(o.op.array.array)
                                                : anywhere(o.op.ptr.ptr);
}

AuditEvent member(const CUDA_MEMCPY3D_BATCH_OP& m) noexcept {
  const std::uint64_t from = element_of(m.src), to = element_of(m.dst);
  const std::uint64_t element = from != 0 ? from : to != 0 ? to : 1;
  const std::uint64_t width = move_product(m.extent.width, element);
  AuditEvent e = copy_event(Op::k_cuMemcpy3DBatchAsync, operand(m.src), operand(m.dst),
                            move_product(width, m.extent.height, m.extent.depth));
  const bool array = m.src.type == CU_MEMCPY_OPERAND_TYPE_ARRAY;
  const std::uint64_t row =
      array || m.src.op.ptr.rowLength == 0 ? m.extent.width : m.src.op.ptr.rowLength;
  add_shape(e, width, m.extent.height, m.extent.depth, move_product(row, element));
  return e;
}

template <class Call>
CUresult shapes(CUDA_MEMCPY3D_BATCH_OP* ops, size_t count, size_t* failed, On on,
                Call call) noexcept {
  if (ops == nullptr) return call();
  return batch(
      count, on, failed, [=](std::size_t i) { return member(ops[i]); }, call);
}

}  // namespace

CUresult cuMemcpyBatchAsync(CUdeviceptr* dsts, CUdeviceptr* srcs, size_t* sizes, size_t count,
                            CUmemcpyAttributes* attrs, size_t* attrsIdxs, size_t numAttrs,
                            size_t* failIdx, CUstream hStream) noexcept {
  return copies(dsts, srcs, sizes, count, failIdx, queued(hStream), [=] {
    return next.cuMemcpyBatchAsync(dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs, failIdx,
                                   hStream);
  });
}
CUresult cuMemcpyBatchAsync_ptsz(CUdeviceptr* dsts, CUdeviceptr* srcs, size_t* sizes, size_t count,
                                 CUmemcpyAttributes* attrs, size_t* attrsIdxs, size_t numAttrs,
                                 size_t* failIdx, CUstream hStream) noexcept {
  return copies(dsts, srcs, sizes, count, failIdx, queued_own(hStream), [=] {
    return next.cuMemcpyBatchAsync_ptsz(dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs,
                                        failIdx, hStream);
  });
}
CUresult cuMemcpyBatchAsync_v2(CUdeviceptr* dsts, CUdeviceptr* srcs, size_t* sizes, size_t count,
                               CUmemcpyAttributes* attrs, size_t* attrsIdxs, size_t numAttrs,
                               CUstream hStream) noexcept {
  return copies(dsts, srcs, sizes, count, nullptr, queued(hStream), [=] {
    return next.cuMemcpyBatchAsync_v2(dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs,
                                      hStream);
  });
}
CUresult cuMemcpyBatchAsync_v2_ptsz(CUdeviceptr* dsts, CUdeviceptr* srcs, size_t* sizes,
                                    size_t count, CUmemcpyAttributes* attrs, size_t* attrsIdxs,
                                    size_t numAttrs, CUstream hStream) noexcept {
  return copies(dsts, srcs, sizes, count, nullptr, queued_own(hStream), [=] {
    return next.cuMemcpyBatchAsync_v2_ptsz(dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs,
                                           hStream);
  });
}
CUresult cuMemcpy3DBatchAsync(size_t numOps, CUDA_MEMCPY3D_BATCH_OP* opList, size_t* failIdx,
                              unsigned long long flags, CUstream hStream) noexcept {
  return shapes(opList, numOps, failIdx, queued(hStream),
                [=] { return next.cuMemcpy3DBatchAsync(numOps, opList, failIdx, flags, hStream); });
}
CUresult cuMemcpy3DBatchAsync_ptsz(size_t numOps, CUDA_MEMCPY3D_BATCH_OP* opList, size_t* failIdx,
                                   unsigned long long flags, CUstream hStream) noexcept {
  return shapes(opList, numOps, failIdx, queued_own(hStream), [=] {
    return next.cuMemcpy3DBatchAsync_ptsz(numOps, opList, failIdx, flags, hStream);
  });
}
CUresult cuMemcpy3DBatchAsync_v2(size_t numOps, CUDA_MEMCPY3D_BATCH_OP* opList,
                                 unsigned long long flags, CUstream hStream) noexcept {
  return shapes(opList, numOps, nullptr, queued(hStream),
                [=] { return next.cuMemcpy3DBatchAsync_v2(numOps, opList, flags, hStream); });
}
CUresult cuMemcpy3DBatchAsync_v2_ptsz(size_t numOps, CUDA_MEMCPY3D_BATCH_OP* opList,
                                      unsigned long long flags, CUstream hStream) noexcept {
  return shapes(opList, numOps, nullptr, queued_own(hStream),
                [=] { return next.cuMemcpy3DBatchAsync_v2_ptsz(numOps, opList, flags, hStream); });
}

}  // namespace bulkhead::hook
