// Copies of one dimension between linear memory. docs/compliance/transfers.md.
#include "hook/next.h"
#include "hook/transfer_move.h"

namespace bulkhead::hook {
namespace {

using Op = AuditOp;

[[gnu::always_inline]] inline Move to_device(Op op, CUdeviceptr dst, const void* src,
                                             std::uint64_t n, On on) noexcept {
  return {copy_event(op, on_host(src), on_device(dst), n), on};
}
[[gnu::always_inline]] inline Move to_host(Op op, void* dst, CUdeviceptr src, std::uint64_t n,
                                           On on) noexcept {
  return {copy_event(op, on_device(src), on_host(dst), n), on};
}
[[gnu::always_inline]] inline Move between(Op op, CUdeviceptr dst, CUdeviceptr src, std::uint64_t n,
                                           On on) noexcept {
  return {copy_event(op, on_device(src), on_device(dst), n), on};
}
[[gnu::always_inline]] inline Move unified(Op op, CUdeviceptr dst, CUdeviceptr src, std::uint64_t n,
                                           On on) noexcept {
  return {copy_event(op, anywhere(src), anywhere(dst), n), on};
}
[[gnu::always_inline]] inline Move peer(Op op, CUdeviceptr dst, CUcontext to, CUdeviceptr src,
                                        CUcontext from, std::uint64_t n, On on) noexcept {
  return {copy_event(op, in_context(src, from), in_context(dst, to), n), on};
}

}  // namespace

CUresult cuMemcpyHtoD(CUdeviceptr_v1 dstDevice, const void* srcHost,
                      unsigned int ByteCount) noexcept {
  const auto make = [&] {
    return to_device(Op::k_cuMemcpyHtoD, dstDevice, srcHost, ByteCount, at_once());
  };
  return move(next.cuMemcpyHtoD, make, dstDevice, srcHost, ByteCount);
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr_v1 dstDevice, const void* srcHost, unsigned int ByteCount,
                           CUstream hStream) noexcept {
  const auto make = [&] {
    return to_device(Op::k_cuMemcpyHtoDAsync, dstDevice, srcHost, ByteCount, queued(hStream));
  };
  return move(next.cuMemcpyHtoDAsync, make, dstDevice, srcHost, ByteCount, hStream);
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void* srcHost, size_t ByteCount,
                              CUstream hStream) noexcept {
  const auto make = [&] {
    return to_device(Op::k_cuMemcpyHtoDAsync, dstDevice, srcHost, ByteCount, queued(hStream));
  };
  return move(next.cuMemcpyHtoDAsync_v2, make, dstDevice, srcHost, ByteCount, hStream);
}
CUresult cuMemcpyHtoDAsync_v2_ptsz(CUdeviceptr dstDevice, const void* srcHost, size_t ByteCount,
                                   CUstream hStream) noexcept {
  const auto make = [&] {
    return to_device(Op::k_cuMemcpyHtoDAsync, dstDevice, srcHost, ByteCount, queued_own(hStream));
  };
  return move(next.cuMemcpyHtoDAsync_v2_ptsz, make, dstDevice, srcHost, ByteCount, hStream);
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr dstDevice, const void* srcHost, size_t ByteCount) noexcept {
  const auto make = [&] {
    return to_device(Op::k_cuMemcpyHtoD, dstDevice, srcHost, ByteCount, at_once());
  };
  return move(next.cuMemcpyHtoD_v2, make, dstDevice, srcHost, ByteCount);
}
CUresult cuMemcpyHtoD_v2_ptds(CUdeviceptr dstDevice, const void* srcHost,
                              size_t ByteCount) noexcept {
  const auto make = [&] {
    return to_device(Op::k_cuMemcpyHtoD, dstDevice, srcHost, ByteCount, at_once_own());
  };
  return move(next.cuMemcpyHtoD_v2_ptds, make, dstDevice, srcHost, ByteCount);
}

CUresult cuMemcpyDtoH(void* dstHost, CUdeviceptr_v1 srcDevice, unsigned int ByteCount) noexcept {
  const auto make = [&] {
    return to_host(Op::k_cuMemcpyDtoH, dstHost, srcDevice, ByteCount, at_once());
  };
  return move(next.cuMemcpyDtoH, make, dstHost, srcDevice, ByteCount);
}
CUresult cuMemcpyDtoHAsync(void* dstHost, CUdeviceptr_v1 srcDevice, unsigned int ByteCount,
                           CUstream hStream) noexcept {
  const auto make = [&] {
    return to_host(Op::k_cuMemcpyDtoHAsync, dstHost, srcDevice, ByteCount, queued(hStream));
  };
  return move(next.cuMemcpyDtoHAsync, make, dstHost, srcDevice, ByteCount, hStream);
}
CUresult cuMemcpyDtoHAsync_v2(void* dstHost, CUdeviceptr srcDevice, size_t ByteCount,
                              CUstream hStream) noexcept {
  const auto make = [&] {
    return to_host(Op::k_cuMemcpyDtoHAsync, dstHost, srcDevice, ByteCount, queued(hStream));
  };
  return move(next.cuMemcpyDtoHAsync_v2, make, dstHost, srcDevice, ByteCount, hStream);
}
CUresult cuMemcpyDtoHAsync_v2_ptsz(void* dstHost, CUdeviceptr srcDevice, size_t ByteCount,
                                   CUstream hStream) noexcept {
  const auto make = [&] {
    return to_host(Op::k_cuMemcpyDtoHAsync, dstHost, srcDevice, ByteCount, queued_own(hStream));
  };
  return move(next.cuMemcpyDtoHAsync_v2_ptsz, make, dstHost, srcDevice, ByteCount, hStream);
}
CUresult cuMemcpyDtoH_v2(void* dstHost, CUdeviceptr srcDevice, size_t ByteCount) noexcept {
  const auto make = [&] {
    return to_host(Op::k_cuMemcpyDtoH, dstHost, srcDevice, ByteCount, at_once());
  };
  return move(next.cuMemcpyDtoH_v2, make, dstHost, srcDevice, ByteCount);
}
CUresult cuMemcpyDtoH_v2_ptds(void* dstHost, CUdeviceptr srcDevice, size_t ByteCount) noexcept {
  const auto make = [&] {
    return to_host(Op::k_cuMemcpyDtoH, dstHost, srcDevice, ByteCount, at_once_own());
  };
  return move(next.cuMemcpyDtoH_v2_ptds, make, dstHost, srcDevice, ByteCount);
}

CUresult cuMemcpyDtoD(CUdeviceptr_v1 dstDevice, CUdeviceptr_v1 srcDevice,
                      unsigned int ByteCount) noexcept {
  const auto make = [&] {
    return between(Op::k_cuMemcpyDtoD, dstDevice, srcDevice, ByteCount, at_once());
  };
  return move(next.cuMemcpyDtoD, make, dstDevice, srcDevice, ByteCount);
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr_v1 dstDevice, CUdeviceptr_v1 srcDevice,
                           unsigned int ByteCount, CUstream hStream) noexcept {
  const auto make = [&] {
    return between(Op::k_cuMemcpyDtoDAsync, dstDevice, srcDevice, ByteCount, queued(hStream));
  };
  return move(next.cuMemcpyDtoDAsync, make, dstDevice, srcDevice, ByteCount, hStream);
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount,
                              CUstream hStream) noexcept {
  const auto make = [&] {
    return between(Op::k_cuMemcpyDtoDAsync, dstDevice, srcDevice, ByteCount, queued(hStream));
  };
  return move(next.cuMemcpyDtoDAsync_v2, make, dstDevice, srcDevice, ByteCount, hStream);
}
CUresult cuMemcpyDtoDAsync_v2_ptsz(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount,
                                   CUstream hStream) noexcept {
  const auto make = [&] {
    return between(Op::k_cuMemcpyDtoDAsync, dstDevice, srcDevice, ByteCount, queued_own(hStream));
  };
  return move(next.cuMemcpyDtoDAsync_v2_ptsz, make, dstDevice, srcDevice, ByteCount, hStream);
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount) noexcept {
  const auto make = [&] {
    return between(Op::k_cuMemcpyDtoD, dstDevice, srcDevice, ByteCount, at_once());
  };
  return move(next.cuMemcpyDtoD_v2, make, dstDevice, srcDevice, ByteCount);
}
CUresult cuMemcpyDtoD_v2_ptds(CUdeviceptr dstDevice, CUdeviceptr srcDevice,
                              size_t ByteCount) noexcept {
  const auto make = [&] {
    return between(Op::k_cuMemcpyDtoD, dstDevice, srcDevice, ByteCount, at_once_own());
  };
  return move(next.cuMemcpyDtoD_v2_ptds, make, dstDevice, srcDevice, ByteCount);
}

CUresult cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount) noexcept {
  const auto make = [&] { return unified(Op::k_cuMemcpy, dst, src, ByteCount, at_once()); };
  return move(next.cuMemcpy, make, dst, src, ByteCount);
}
CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount,
                       CUstream hStream) noexcept {
  const auto make = [&] {
    return unified(Op::k_cuMemcpyAsync, dst, src, ByteCount, queued(hStream));
  };
  return move(next.cuMemcpyAsync, make, dst, src, ByteCount, hStream);
}
CUresult cuMemcpyAsync_ptsz(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount,
                            CUstream hStream) noexcept {
  const auto make = [&] {
    return unified(Op::k_cuMemcpyAsync, dst, src, ByteCount, queued_own(hStream));
  };
  return move(next.cuMemcpyAsync_ptsz, make, dst, src, ByteCount, hStream);
}
CUresult cuMemcpy_ptds(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount) noexcept {
  const auto make = [&] { return unified(Op::k_cuMemcpy, dst, src, ByteCount, at_once_own()); };
  return move(next.cuMemcpy_ptds, make, dst, src, ByteCount);
}

CUresult cuMemcpyPeer(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
                      CUcontext srcContext, size_t ByteCount) noexcept {
  const auto make = [&] {
    return peer(Op::k_cuMemcpyPeer, dstDevice, dstContext, srcDevice, srcContext, ByteCount,
                at_once());
  };
  return move(next.cuMemcpyPeer, make, dstDevice, dstContext, srcDevice, srcContext, ByteCount);
}
CUresult cuMemcpyPeerAsync(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
                           CUcontext srcContext, size_t ByteCount, CUstream hStream) noexcept {
  const auto make = [&] {
    return peer(Op::k_cuMemcpyPeerAsync, dstDevice, dstContext, srcDevice, srcContext, ByteCount,
                queued(hStream));
  };
  return move(next.cuMemcpyPeerAsync, make, dstDevice, dstContext, srcDevice, srcContext, ByteCount,
              hStream);
}
CUresult cuMemcpyPeerAsync_ptsz(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
                                CUcontext srcContext, size_t ByteCount, CUstream hStream) noexcept {
  const auto make = [&] {
    return peer(Op::k_cuMemcpyPeerAsync, dstDevice, dstContext, srcDevice, srcContext, ByteCount,
                queued_own(hStream));
  };
  return move(next.cuMemcpyPeerAsync_ptsz, make, dstDevice, dstContext, srcDevice, srcContext,
              ByteCount, hStream);
}
CUresult cuMemcpyPeer_ptds(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
                           CUcontext srcContext, size_t ByteCount) noexcept {
  const auto make = [&] {
    return peer(Op::k_cuMemcpyPeer, dstDevice, dstContext, srcDevice, srcContext, ByteCount,
                at_once_own());
  };
  return move(next.cuMemcpyPeer_ptds, make, dstDevice, dstContext, srcDevice, srcContext,
              ByteCount);
}

}  // namespace bulkhead::hook
