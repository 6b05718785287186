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
  constexpr auto kMake = [](auto to, auto from, auto n) {
    return to_device(Op::k_cuMemcpyHtoD, to, from, n, at_once());
  };
  return move(next.cuMemcpyHtoD, kMake, dstDevice, srcHost, ByteCount);
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr_v1 dstDevice, const void* srcHost, unsigned int ByteCount,
                           CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n, auto s) {
    return to_device(Op::k_cuMemcpyHtoDAsync, to, from, n, queued(s));
  };
  return move(next.cuMemcpyHtoDAsync, kMake, dstDevice, srcHost, ByteCount, hStream);
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void* srcHost, size_t ByteCount,
                              CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n, auto s) {
    return to_device(Op::k_cuMemcpyHtoDAsync, to, from, n, queued(s));
  };
  return move(next.cuMemcpyHtoDAsync_v2, kMake, dstDevice, srcHost, ByteCount, hStream);
}
CUresult cuMemcpyHtoDAsync_v2_ptsz(CUdeviceptr dstDevice, const void* srcHost, size_t ByteCount,
                                   CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n, auto s) {
    return to_device(Op::k_cuMemcpyHtoDAsync, to, from, n, queued_own(s));
  };
  return move(next.cuMemcpyHtoDAsync_v2_ptsz, kMake, dstDevice, srcHost, ByteCount, hStream);
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr dstDevice, const void* srcHost, size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n) {
    return to_device(Op::k_cuMemcpyHtoD, to, from, n, at_once());
  };
  return move(next.cuMemcpyHtoD_v2, kMake, dstDevice, srcHost, ByteCount);
}
CUresult cuMemcpyHtoD_v2_ptds(CUdeviceptr dstDevice, const void* srcHost,
                              size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n) {
    return to_device(Op::k_cuMemcpyHtoD, to, from, n, at_once_own());
  };
  return move(next.cuMemcpyHtoD_v2_ptds, kMake, dstDevice, srcHost, ByteCount);
}

CUresult cuMemcpyDtoH(void* dstHost, CUdeviceptr_v1 srcDevice, unsigned int ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n) {
    return to_host(Op::k_cuMemcpyDtoH, to, from, n, at_once());
  };
  return move(next.cuMemcpyDtoH, kMake, dstHost, srcDevice, ByteCount);
}
CUresult cuMemcpyDtoHAsync(void* dstHost, CUdeviceptr_v1 srcDevice, unsigned int ByteCount,
                           CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n, auto s) {
    return to_host(Op::k_cuMemcpyDtoHAsync, to, from, n, queued(s));
  };
  return move(next.cuMemcpyDtoHAsync, kMake, dstHost, srcDevice, ByteCount, hStream);
}
CUresult cuMemcpyDtoHAsync_v2(void* dstHost, CUdeviceptr srcDevice, size_t ByteCount,
                              CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n, auto s) {
    return to_host(Op::k_cuMemcpyDtoHAsync, to, from, n, queued(s));
  };
  return move(next.cuMemcpyDtoHAsync_v2, kMake, dstHost, srcDevice, ByteCount, hStream);
}
CUresult cuMemcpyDtoHAsync_v2_ptsz(void* dstHost, CUdeviceptr srcDevice, size_t ByteCount,
                                   CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n, auto s) {
    return to_host(Op::k_cuMemcpyDtoHAsync, to, from, n, queued_own(s));
  };
  return move(next.cuMemcpyDtoHAsync_v2_ptsz, kMake, dstHost, srcDevice, ByteCount, hStream);
}
CUresult cuMemcpyDtoH_v2(void* dstHost, CUdeviceptr srcDevice, size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n) {
    return to_host(Op::k_cuMemcpyDtoH, to, from, n, at_once());
  };
  return move(next.cuMemcpyDtoH_v2, kMake, dstHost, srcDevice, ByteCount);
}
CUresult cuMemcpyDtoH_v2_ptds(void* dstHost, CUdeviceptr srcDevice, size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n) {
    return to_host(Op::k_cuMemcpyDtoH, to, from, n, at_once_own());
  };
  return move(next.cuMemcpyDtoH_v2_ptds, kMake, dstHost, srcDevice, ByteCount);
}

CUresult cuMemcpyDtoD(CUdeviceptr_v1 dstDevice, CUdeviceptr_v1 srcDevice,
                      unsigned int ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n) {
    return between(Op::k_cuMemcpyDtoD, to, from, n, at_once());
  };
  return move(next.cuMemcpyDtoD, kMake, dstDevice, srcDevice, ByteCount);
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr_v1 dstDevice, CUdeviceptr_v1 srcDevice,
                           unsigned int ByteCount, CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n, auto s) {
    return between(Op::k_cuMemcpyDtoDAsync, to, from, n, queued(s));
  };
  return move(next.cuMemcpyDtoDAsync, kMake, dstDevice, srcDevice, ByteCount, hStream);
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount,
                              CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n, auto s) {
    return between(Op::k_cuMemcpyDtoDAsync, to, from, n, queued(s));
  };
  return move(next.cuMemcpyDtoDAsync_v2, kMake, dstDevice, srcDevice, ByteCount, hStream);
}
CUresult cuMemcpyDtoDAsync_v2_ptsz(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount,
                                   CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n, auto s) {
    return between(Op::k_cuMemcpyDtoDAsync, to, from, n, queued_own(s));
  };
  return move(next.cuMemcpyDtoDAsync_v2_ptsz, kMake, dstDevice, srcDevice, ByteCount, hStream);
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n) {
    return between(Op::k_cuMemcpyDtoD, to, from, n, at_once());
  };
  return move(next.cuMemcpyDtoD_v2, kMake, dstDevice, srcDevice, ByteCount);
}
CUresult cuMemcpyDtoD_v2_ptds(CUdeviceptr dstDevice, CUdeviceptr srcDevice,
                              size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n) {
    return between(Op::k_cuMemcpyDtoD, to, from, n, at_once_own());
  };
  return move(next.cuMemcpyDtoD_v2_ptds, kMake, dstDevice, srcDevice, ByteCount);
}

CUresult cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n) {
    return unified(Op::k_cuMemcpy, to, from, n, at_once());
  };
  return move(next.cuMemcpy, kMake, dst, src, ByteCount);
}
CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount,
                       CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n, auto s) {
    return unified(Op::k_cuMemcpyAsync, to, from, n, queued(s));
  };
  return move(next.cuMemcpyAsync, kMake, dst, src, ByteCount, hStream);
}
CUresult cuMemcpyAsync_ptsz(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount,
                            CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n, auto s) {
    return unified(Op::k_cuMemcpyAsync, to, from, n, queued_own(s));
  };
  return move(next.cuMemcpyAsync_ptsz, kMake, dst, src, ByteCount, hStream);
}
CUresult cuMemcpy_ptds(CUdeviceptr dst, CUdeviceptr src, size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto n) {
    return unified(Op::k_cuMemcpy, to, from, n, at_once_own());
  };
  return move(next.cuMemcpy_ptds, kMake, dst, src, ByteCount);
}

CUresult cuMemcpyPeer(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
                      CUcontext srcContext, size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto to_context, auto from, auto from_context, auto n) {
    return peer(Op::k_cuMemcpyPeer, to, to_context, from, from_context, n, at_once());
  };
  return move(next.cuMemcpyPeer, kMake, dstDevice, dstContext, srcDevice, srcContext, ByteCount);
}
CUresult cuMemcpyPeerAsync(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
                           CUcontext srcContext, size_t ByteCount, CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto to_context, auto from, auto from_context, auto n,
                            auto s) {
    return peer(Op::k_cuMemcpyPeerAsync, to, to_context, from, from_context, n, queued(s));
  };
  return move(next.cuMemcpyPeerAsync, kMake, dstDevice, dstContext, srcDevice, srcContext,
              ByteCount, hStream);
}
CUresult cuMemcpyPeerAsync_ptsz(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
                                CUcontext srcContext, size_t ByteCount, CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto to_context, auto from, auto from_context, auto n,
                            auto s) {
    return peer(Op::k_cuMemcpyPeerAsync, to, to_context, from, from_context, n, queued_own(s));
  };
  return move(next.cuMemcpyPeerAsync_ptsz, kMake, dstDevice, dstContext, srcDevice, srcContext,
              ByteCount, hStream);
}
CUresult cuMemcpyPeer_ptds(CUdeviceptr dstDevice, CUcontext dstContext, CUdeviceptr srcDevice,
                           CUcontext srcContext, size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto to_context, auto from, auto from_context, auto n) {
    return peer(Op::k_cuMemcpyPeer, to, to_context, from, from_context, n, at_once_own());
  };
  return move(next.cuMemcpyPeer_ptds, kMake, dstDevice, dstContext, srcDevice, srcContext,
              ByteCount);
}

}  // namespace bulkhead::hook
