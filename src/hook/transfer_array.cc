// Copies of one dimension to and from arrays. The address of an array's side is its handle.
#include "hook/next.h"
#include "hook/transfer_move.h"

namespace bulkhead::hook {
namespace {

using Op = AuditOp;

[[gnu::always_inline]] inline Move array_in(Op op, CUarray dst, const Side& from, std::uint64_t n,
                                            On on) noexcept {
  return {copy_event(op, from, in_array(dst), n), on};
}
[[gnu::always_inline]] inline Move array_out(Op op, const Side& to, CUarray src, std::uint64_t n,
                                             On on) noexcept {
  return {copy_event(op, in_array(src), to, n), on};
}

}  // namespace

CUresult cuMemcpyDtoA(CUarray dstArray, unsigned int dstOffset, CUdeviceptr_v1 srcDevice,
                      unsigned int ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto, auto from, auto n) {
    return array_in(Op::k_cuMemcpyDtoA, to, on_device(from), n, at_once());
  };
  return move(next.cuMemcpyDtoA, kMake, dstArray, dstOffset, srcDevice, ByteCount);
}
CUresult cuMemcpyDtoA_v2(CUarray dstArray, size_t dstOffset, CUdeviceptr srcDevice,
                         size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto, auto from, auto n) {
    return array_in(Op::k_cuMemcpyDtoA, to, on_device(from), n, at_once());
  };
  return move(next.cuMemcpyDtoA_v2, kMake, dstArray, dstOffset, srcDevice, ByteCount);
}
CUresult cuMemcpyDtoA_v2_ptds(CUarray dstArray, size_t dstOffset, CUdeviceptr srcDevice,
                              size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto, auto from, auto n) {
    return array_in(Op::k_cuMemcpyDtoA, to, on_device(from), n, at_once_own());
  };
  return move(next.cuMemcpyDtoA_v2_ptds, kMake, dstArray, dstOffset, srcDevice, ByteCount);
}

CUresult cuMemcpyHtoA(CUarray dstArray, unsigned int dstOffset, const void* srcHost,
                      unsigned int ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto, auto from, auto n) {
    return array_in(Op::k_cuMemcpyHtoA, to, on_host(from), n, at_once());
  };
  return move(next.cuMemcpyHtoA, kMake, dstArray, dstOffset, srcHost, ByteCount);
}
CUresult cuMemcpyHtoAAsync(CUarray dstArray, unsigned int dstOffset, const void* srcHost,
                           unsigned int ByteCount, CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto, auto from, auto n, auto s) {
    return array_in(Op::k_cuMemcpyHtoAAsync, to, on_host(from), n, queued(s));
  };
  return move(next.cuMemcpyHtoAAsync, kMake, dstArray, dstOffset, srcHost, ByteCount, hStream);
}
CUresult cuMemcpyHtoAAsync_v2(CUarray dstArray, size_t dstOffset, const void* srcHost,
                              size_t ByteCount, CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto, auto from, auto n, auto s) {
    return array_in(Op::k_cuMemcpyHtoAAsync, to, on_host(from), n, queued(s));
  };
  return move(next.cuMemcpyHtoAAsync_v2, kMake, dstArray, dstOffset, srcHost, ByteCount, hStream);
}
CUresult cuMemcpyHtoAAsync_v2_ptsz(CUarray dstArray, size_t dstOffset, const void* srcHost,
                                   size_t ByteCount, CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto, auto from, auto n, auto s) {
    return array_in(Op::k_cuMemcpyHtoAAsync, to, on_host(from), n, queued_own(s));
  };
  return move(next.cuMemcpyHtoAAsync_v2_ptsz, kMake, dstArray, dstOffset, srcHost, ByteCount,
              hStream);
}
CUresult cuMemcpyHtoA_v2(CUarray dstArray, size_t dstOffset, const void* srcHost,
                         size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto, auto from, auto n) {
    return array_in(Op::k_cuMemcpyHtoA, to, on_host(from), n, at_once());
  };
  return move(next.cuMemcpyHtoA_v2, kMake, dstArray, dstOffset, srcHost, ByteCount);
}
CUresult cuMemcpyHtoA_v2_ptds(CUarray dstArray, size_t dstOffset, const void* srcHost,
                              size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto, auto from, auto n) {
    return array_in(Op::k_cuMemcpyHtoA, to, on_host(from), n, at_once_own());
  };
  return move(next.cuMemcpyHtoA_v2_ptds, kMake, dstArray, dstOffset, srcHost, ByteCount);
}

CUresult cuMemcpyAtoA(CUarray dstArray, unsigned int dstOffset, CUarray srcArray,
                      unsigned int srcOffset, unsigned int ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto, auto from, auto, auto n) {
    return array_in(Op::k_cuMemcpyAtoA, to, in_array(from), n, at_once());
  };
  return move(next.cuMemcpyAtoA, kMake, dstArray, dstOffset, srcArray, srcOffset, ByteCount);
}
CUresult cuMemcpyAtoA_v2(CUarray dstArray, size_t dstOffset, CUarray srcArray, size_t srcOffset,
                         size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto, auto from, auto, auto n) {
    return array_in(Op::k_cuMemcpyAtoA, to, in_array(from), n, at_once());
  };
  return move(next.cuMemcpyAtoA_v2, kMake, dstArray, dstOffset, srcArray, srcOffset, ByteCount);
}
CUresult cuMemcpyAtoA_v2_ptds(CUarray dstArray, size_t dstOffset, CUarray srcArray,
                              size_t srcOffset, size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto, auto from, auto, auto n) {
    return array_in(Op::k_cuMemcpyAtoA, to, in_array(from), n, at_once_own());
  };
  return move(next.cuMemcpyAtoA_v2_ptds, kMake, dstArray, dstOffset, srcArray, srcOffset,
              ByteCount);
}

CUresult cuMemcpyAtoD(CUdeviceptr_v1 dstDevice, CUarray srcArray, unsigned int srcOffset,
                      unsigned int ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto, auto n) {
    return array_out(Op::k_cuMemcpyAtoD, on_device(to), from, n, at_once());
  };
  return move(next.cuMemcpyAtoD, kMake, dstDevice, srcArray, srcOffset, ByteCount);
}
CUresult cuMemcpyAtoD_v2(CUdeviceptr dstDevice, CUarray srcArray, size_t srcOffset,
                         size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto, auto n) {
    return array_out(Op::k_cuMemcpyAtoD, on_device(to), from, n, at_once());
  };
  return move(next.cuMemcpyAtoD_v2, kMake, dstDevice, srcArray, srcOffset, ByteCount);
}
CUresult cuMemcpyAtoD_v2_ptds(CUdeviceptr dstDevice, CUarray srcArray, size_t srcOffset,
                              size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto, auto n) {
    return array_out(Op::k_cuMemcpyAtoD, on_device(to), from, n, at_once_own());
  };
  return move(next.cuMemcpyAtoD_v2_ptds, kMake, dstDevice, srcArray, srcOffset, ByteCount);
}

CUresult cuMemcpyAtoH(void* dstHost, CUarray srcArray, unsigned int srcOffset,
                      unsigned int ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto, auto n) {
    return array_out(Op::k_cuMemcpyAtoH, on_host(to), from, n, at_once());
  };
  return move(next.cuMemcpyAtoH, kMake, dstHost, srcArray, srcOffset, ByteCount);
}
CUresult cuMemcpyAtoHAsync(void* dstHost, CUarray srcArray, unsigned int srcOffset,
                           unsigned int ByteCount, CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto, auto n, auto s) {
    return array_out(Op::k_cuMemcpyAtoHAsync, on_host(to), from, n, queued(s));
  };
  return move(next.cuMemcpyAtoHAsync, kMake, dstHost, srcArray, srcOffset, ByteCount, hStream);
}
CUresult cuMemcpyAtoHAsync_v2(void* dstHost, CUarray srcArray, size_t srcOffset, size_t ByteCount,
                              CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto, auto n, auto s) {
    return array_out(Op::k_cuMemcpyAtoHAsync, on_host(to), from, n, queued(s));
  };
  return move(next.cuMemcpyAtoHAsync_v2, kMake, dstHost, srcArray, srcOffset, ByteCount, hStream);
}
CUresult cuMemcpyAtoHAsync_v2_ptsz(void* dstHost, CUarray srcArray, size_t srcOffset,
                                   size_t ByteCount, CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto, auto n, auto s) {
    return array_out(Op::k_cuMemcpyAtoHAsync, on_host(to), from, n, queued_own(s));
  };
  return move(next.cuMemcpyAtoHAsync_v2_ptsz, kMake, dstHost, srcArray, srcOffset, ByteCount,
              hStream);
}
CUresult cuMemcpyAtoH_v2(void* dstHost, CUarray srcArray, size_t srcOffset,
                         size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto, auto n) {
    return array_out(Op::k_cuMemcpyAtoH, on_host(to), from, n, at_once());
  };
  return move(next.cuMemcpyAtoH_v2, kMake, dstHost, srcArray, srcOffset, ByteCount);
}
CUresult cuMemcpyAtoH_v2_ptds(void* dstHost, CUarray srcArray, size_t srcOffset,
                              size_t ByteCount) noexcept {
  constexpr auto kMake = [](auto to, auto from, auto, auto n) {
    return array_out(Op::k_cuMemcpyAtoH, on_host(to), from, n, at_once_own());
  };
  return move(next.cuMemcpyAtoH_v2_ptds, kMake, dstHost, srcArray, srcOffset, ByteCount);
}

}  // namespace bulkhead::hook
