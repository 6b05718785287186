// Setting memory, of one and two dimensions. A shape's pitch is that of the destination.
#include "hook/next.h"
#include "hook/transfer_move.h"

namespace bulkhead::hook {
namespace {

using Op = AuditOp;

[[gnu::always_inline]] inline Move set(Op op, CUdeviceptr dst, std::uint64_t count,
                                       std::uint64_t element, On on) noexcept {
  return {set_event(op, on_device(dst), move_product(count, element)), on};
}
[[gnu::always_inline]] inline Move set_rows(Op op, CUdeviceptr dst, std::uint64_t pitch,
                                            std::uint64_t width, std::uint64_t height,
                                            std::uint64_t element, On on) noexcept {
  const std::uint64_t row = move_product(width, element);
  Move m{set_event(op, on_device(dst), move_product(row, height)), on};
  add_shape(m.event, row, height, 1, pitch);
  return m;
}

}  // namespace

CUresult cuMemsetD16(CUdeviceptr_v1 dstDevice, unsigned short us, unsigned int N) noexcept {
  constexpr auto kMake = [](auto to, auto, auto n) {
    return set(Op::k_cuMemsetD16, to, n, 2, at_once());
  };
  return move(next.cuMemsetD16, kMake, dstDevice, us, N);
}
CUresult cuMemsetD16Async(CUdeviceptr dstDevice, unsigned short us, size_t N,
                          CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto, auto n, auto s) {
    return set(Op::k_cuMemsetD16Async, to, n, 2, queued(s));
  };
  return move(next.cuMemsetD16Async, kMake, dstDevice, us, N, hStream);
}
CUresult cuMemsetD16Async_ptsz(CUdeviceptr dstDevice, unsigned short us, size_t N,
                               CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto, auto n, auto s) {
    return set(Op::k_cuMemsetD16Async, to, n, 2, queued_own(s));
  };
  return move(next.cuMemsetD16Async_ptsz, kMake, dstDevice, us, N, hStream);
}
CUresult cuMemsetD16_v2(CUdeviceptr dstDevice, unsigned short us, size_t N) noexcept {
  constexpr auto kMake = [](auto to, auto, auto n) {
    return set(Op::k_cuMemsetD16, to, n, 2, at_once());
  };
  return move(next.cuMemsetD16_v2, kMake, dstDevice, us, N);
}
CUresult cuMemsetD16_v2_ptds(CUdeviceptr dstDevice, unsigned short us, size_t N) noexcept {
  constexpr auto kMake = [](auto to, auto, auto n) {
    return set(Op::k_cuMemsetD16, to, n, 2, at_once_own());
  };
  return move(next.cuMemsetD16_v2_ptds, kMake, dstDevice, us, N);
}
CUresult cuMemsetD32(CUdeviceptr_v1 dstDevice, unsigned int ui, unsigned int N) noexcept {
  constexpr auto kMake = [](auto to, auto, auto n) {
    return set(Op::k_cuMemsetD32, to, n, 4, at_once());
  };
  return move(next.cuMemsetD32, kMake, dstDevice, ui, N);
}
CUresult cuMemsetD32Async(CUdeviceptr dstDevice, unsigned int ui, size_t N,
                          CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto, auto n, auto s) {
    return set(Op::k_cuMemsetD32Async, to, n, 4, queued(s));
  };
  return move(next.cuMemsetD32Async, kMake, dstDevice, ui, N, hStream);
}
CUresult cuMemsetD32Async_ptsz(CUdeviceptr dstDevice, unsigned int ui, size_t N,
                               CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto, auto n, auto s) {
    return set(Op::k_cuMemsetD32Async, to, n, 4, queued_own(s));
  };
  return move(next.cuMemsetD32Async_ptsz, kMake, dstDevice, ui, N, hStream);
}
CUresult cuMemsetD32_v2(CUdeviceptr dstDevice, unsigned int ui, size_t N) noexcept {
  constexpr auto kMake = [](auto to, auto, auto n) {
    return set(Op::k_cuMemsetD32, to, n, 4, at_once());
  };
  return move(next.cuMemsetD32_v2, kMake, dstDevice, ui, N);
}
CUresult cuMemsetD32_v2_ptds(CUdeviceptr dstDevice, unsigned int ui, size_t N) noexcept {
  constexpr auto kMake = [](auto to, auto, auto n) {
    return set(Op::k_cuMemsetD32, to, n, 4, at_once_own());
  };
  return move(next.cuMemsetD32_v2_ptds, kMake, dstDevice, ui, N);
}
CUresult cuMemsetD8(CUdeviceptr_v1 dstDevice, unsigned char uc, unsigned int N) noexcept {
  constexpr auto kMake = [](auto to, auto, auto n) {
    return set(Op::k_cuMemsetD8, to, n, 1, at_once());
  };
  return move(next.cuMemsetD8, kMake, dstDevice, uc, N);
}
CUresult cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N,
                         CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto, auto n, auto s) {
    return set(Op::k_cuMemsetD8Async, to, n, 1, queued(s));
  };
  return move(next.cuMemsetD8Async, kMake, dstDevice, uc, N, hStream);
}
CUresult cuMemsetD8Async_ptsz(CUdeviceptr dstDevice, unsigned char uc, size_t N,
                              CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto, auto n, auto s) {
    return set(Op::k_cuMemsetD8Async, to, n, 1, queued_own(s));
  };
  return move(next.cuMemsetD8Async_ptsz, kMake, dstDevice, uc, N, hStream);
}
CUresult cuMemsetD8_v2(CUdeviceptr dstDevice, unsigned char uc, size_t N) noexcept {
  constexpr auto kMake = [](auto to, auto, auto n) {
    return set(Op::k_cuMemsetD8, to, n, 1, at_once());
  };
  return move(next.cuMemsetD8_v2, kMake, dstDevice, uc, N);
}
CUresult cuMemsetD8_v2_ptds(CUdeviceptr dstDevice, unsigned char uc, size_t N) noexcept {
  constexpr auto kMake = [](auto to, auto, auto n) {
    return set(Op::k_cuMemsetD8, to, n, 1, at_once_own());
  };
  return move(next.cuMemsetD8_v2_ptds, kMake, dstDevice, uc, N);
}

CUresult cuMemsetD2D16(CUdeviceptr_v1 dstDevice, unsigned int dstPitch, unsigned short us,
                       unsigned int Width, unsigned int Height) noexcept {
  constexpr auto kMake = [](auto to, auto pitch, auto, auto w, auto h) {
    return set_rows(Op::k_cuMemsetD2D16, to, pitch, w, h, 2, at_once());
  };
  return move(next.cuMemsetD2D16, kMake, dstDevice, dstPitch, us, Width, Height);
}
CUresult cuMemsetD2D16Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width,
                            size_t Height, CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto pitch, auto, auto w, auto h, auto s) {
    return set_rows(Op::k_cuMemsetD2D16Async, to, pitch, w, h, 2, queued(s));
  };
  return move(next.cuMemsetD2D16Async, kMake, dstDevice, dstPitch, us, Width, Height, hStream);
}
CUresult cuMemsetD2D16Async_ptsz(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us,
                                 size_t Width, size_t Height, CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto pitch, auto, auto w, auto h, auto s) {
    return set_rows(Op::k_cuMemsetD2D16Async, to, pitch, w, h, 2, queued_own(s));
  };
  return move(next.cuMemsetD2D16Async_ptsz, kMake, dstDevice, dstPitch, us, Width, Height, hStream);
}
CUresult cuMemsetD2D16_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width,
                          size_t Height) noexcept {
  constexpr auto kMake = [](auto to, auto pitch, auto, auto w, auto h) {
    return set_rows(Op::k_cuMemsetD2D16, to, pitch, w, h, 2, at_once());
  };
  return move(next.cuMemsetD2D16_v2, kMake, dstDevice, dstPitch, us, Width, Height);
}
CUresult cuMemsetD2D16_v2_ptds(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us,
                               size_t Width, size_t Height) noexcept {
  constexpr auto kMake = [](auto to, auto pitch, auto, auto w, auto h) {
    return set_rows(Op::k_cuMemsetD2D16, to, pitch, w, h, 2, at_once_own());
  };
  return move(next.cuMemsetD2D16_v2_ptds, kMake, dstDevice, dstPitch, us, Width, Height);
}
CUresult cuMemsetD2D32(CUdeviceptr_v1 dstDevice, unsigned int dstPitch, unsigned int ui,
                       unsigned int Width, unsigned int Height) noexcept {
  constexpr auto kMake = [](auto to, auto pitch, auto, auto w, auto h) {
    return set_rows(Op::k_cuMemsetD2D32, to, pitch, w, h, 4, at_once());
  };
  return move(next.cuMemsetD2D32, kMake, dstDevice, dstPitch, ui, Width, Height);
}
CUresult cuMemsetD2D32Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width,
                            size_t Height, CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto pitch, auto, auto w, auto h, auto s) {
    return set_rows(Op::k_cuMemsetD2D32Async, to, pitch, w, h, 4, queued(s));
  };
  return move(next.cuMemsetD2D32Async, kMake, dstDevice, dstPitch, ui, Width, Height, hStream);
}
CUresult cuMemsetD2D32Async_ptsz(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui,
                                 size_t Width, size_t Height, CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto pitch, auto, auto w, auto h, auto s) {
    return set_rows(Op::k_cuMemsetD2D32Async, to, pitch, w, h, 4, queued_own(s));
  };
  return move(next.cuMemsetD2D32Async_ptsz, kMake, dstDevice, dstPitch, ui, Width, Height, hStream);
}
CUresult cuMemsetD2D32_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width,
                          size_t Height) noexcept {
  constexpr auto kMake = [](auto to, auto pitch, auto, auto w, auto h) {
    return set_rows(Op::k_cuMemsetD2D32, to, pitch, w, h, 4, at_once());
  };
  return move(next.cuMemsetD2D32_v2, kMake, dstDevice, dstPitch, ui, Width, Height);
}
CUresult cuMemsetD2D32_v2_ptds(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui,
                               size_t Width, size_t Height) noexcept {
  constexpr auto kMake = [](auto to, auto pitch, auto, auto w, auto h) {
    return set_rows(Op::k_cuMemsetD2D32, to, pitch, w, h, 4, at_once_own());
  };
  return move(next.cuMemsetD2D32_v2_ptds, kMake, dstDevice, dstPitch, ui, Width, Height);
}
CUresult cuMemsetD2D8(CUdeviceptr_v1 dstDevice, unsigned int dstPitch, unsigned char uc,
                      unsigned int Width, unsigned int Height) noexcept {
  constexpr auto kMake = [](auto to, auto pitch, auto, auto w, auto h) {
    return set_rows(Op::k_cuMemsetD2D8, to, pitch, w, h, 1, at_once());
  };
  return move(next.cuMemsetD2D8, kMake, dstDevice, dstPitch, uc, Width, Height);
}
CUresult cuMemsetD2D8Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width,
                           size_t Height, CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto pitch, auto, auto w, auto h, auto s) {
    return set_rows(Op::k_cuMemsetD2D8Async, to, pitch, w, h, 1, queued(s));
  };
  return move(next.cuMemsetD2D8Async, kMake, dstDevice, dstPitch, uc, Width, Height, hStream);
}
CUresult cuMemsetD2D8Async_ptsz(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc,
                                size_t Width, size_t Height, CUstream hStream) noexcept {
  constexpr auto kMake = [](auto to, auto pitch, auto, auto w, auto h, auto s) {
    return set_rows(Op::k_cuMemsetD2D8Async, to, pitch, w, h, 1, queued_own(s));
  };
  return move(next.cuMemsetD2D8Async_ptsz, kMake, dstDevice, dstPitch, uc, Width, Height, hStream);
}
CUresult cuMemsetD2D8_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width,
                         size_t Height) noexcept {
  constexpr auto kMake = [](auto to, auto pitch, auto, auto w, auto h) {
    return set_rows(Op::k_cuMemsetD2D8, to, pitch, w, h, 1, at_once());
  };
  return move(next.cuMemsetD2D8_v2, kMake, dstDevice, dstPitch, uc, Width, Height);
}
CUresult cuMemsetD2D8_v2_ptds(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc,
                              size_t Width, size_t Height) noexcept {
  constexpr auto kMake = [](auto to, auto pitch, auto, auto w, auto h) {
    return set_rows(Op::k_cuMemsetD2D8, to, pitch, w, h, 1, at_once_own());
  };
  return move(next.cuMemsetD2D8_v2_ptds, kMake, dstDevice, dstPitch, uc, Width, Height);
}

}  // namespace bulkhead::hook
