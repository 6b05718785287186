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
  const auto make = [&] { return set(Op::k_cuMemsetD16, dstDevice, N, 2, at_once()); };
  return move(next.cuMemsetD16, make, dstDevice, us, N);
}
CUresult cuMemsetD16Async(CUdeviceptr dstDevice, unsigned short us, size_t N,
                          CUstream hStream) noexcept {
  const auto make = [&] { return set(Op::k_cuMemsetD16Async, dstDevice, N, 2, queued(hStream)); };
  return move(next.cuMemsetD16Async, make, dstDevice, us, N, hStream);
}
CUresult cuMemsetD16Async_ptsz(CUdeviceptr dstDevice, unsigned short us, size_t N,
                               CUstream hStream) noexcept {
  const auto make = [&] {
    return set(Op::k_cuMemsetD16Async, dstDevice, N, 2, queued_own(hStream));
  };
  return move(next.cuMemsetD16Async_ptsz, make, dstDevice, us, N, hStream);
}
CUresult cuMemsetD16_v2(CUdeviceptr dstDevice, unsigned short us, size_t N) noexcept {
  const auto make = [&] { return set(Op::k_cuMemsetD16, dstDevice, N, 2, at_once()); };
  return move(next.cuMemsetD16_v2, make, dstDevice, us, N);
}
CUresult cuMemsetD16_v2_ptds(CUdeviceptr dstDevice, unsigned short us, size_t N) noexcept {
  const auto make = [&] { return set(Op::k_cuMemsetD16, dstDevice, N, 2, at_once_own()); };
  return move(next.cuMemsetD16_v2_ptds, make, dstDevice, us, N);
}
CUresult cuMemsetD32(CUdeviceptr_v1 dstDevice, unsigned int ui, unsigned int N) noexcept {
  const auto make = [&] { return set(Op::k_cuMemsetD32, dstDevice, N, 4, at_once()); };
  return move(next.cuMemsetD32, make, dstDevice, ui, N);
}
CUresult cuMemsetD32Async(CUdeviceptr dstDevice, unsigned int ui, size_t N,
                          CUstream hStream) noexcept {
  const auto make = [&] { return set(Op::k_cuMemsetD32Async, dstDevice, N, 4, queued(hStream)); };
  return move(next.cuMemsetD32Async, make, dstDevice, ui, N, hStream);
}
CUresult cuMemsetD32Async_ptsz(CUdeviceptr dstDevice, unsigned int ui, size_t N,
                               CUstream hStream) noexcept {
  const auto make = [&] {
    return set(Op::k_cuMemsetD32Async, dstDevice, N, 4, queued_own(hStream));
  };
  return move(next.cuMemsetD32Async_ptsz, make, dstDevice, ui, N, hStream);
}
CUresult cuMemsetD32_v2(CUdeviceptr dstDevice, unsigned int ui, size_t N) noexcept {
  const auto make = [&] { return set(Op::k_cuMemsetD32, dstDevice, N, 4, at_once()); };
  return move(next.cuMemsetD32_v2, make, dstDevice, ui, N);
}
CUresult cuMemsetD32_v2_ptds(CUdeviceptr dstDevice, unsigned int ui, size_t N) noexcept {
  const auto make = [&] { return set(Op::k_cuMemsetD32, dstDevice, N, 4, at_once_own()); };
  return move(next.cuMemsetD32_v2_ptds, make, dstDevice, ui, N);
}
CUresult cuMemsetD8(CUdeviceptr_v1 dstDevice, unsigned char uc, unsigned int N) noexcept {
  const auto make = [&] { return set(Op::k_cuMemsetD8, dstDevice, N, 1, at_once()); };
  return move(next.cuMemsetD8, make, dstDevice, uc, N);
}
CUresult cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N,
                         CUstream hStream) noexcept {
  const auto make = [&] { return set(Op::k_cuMemsetD8Async, dstDevice, N, 1, queued(hStream)); };
  return move(next.cuMemsetD8Async, make, dstDevice, uc, N, hStream);
}
CUresult cuMemsetD8Async_ptsz(CUdeviceptr dstDevice, unsigned char uc, size_t N,
                              CUstream hStream) noexcept {
  const auto make = [&] {
    return set(Op::k_cuMemsetD8Async, dstDevice, N, 1, queued_own(hStream));
  };
  return move(next.cuMemsetD8Async_ptsz, make, dstDevice, uc, N, hStream);
}
CUresult cuMemsetD8_v2(CUdeviceptr dstDevice, unsigned char uc, size_t N) noexcept {
  const auto make = [&] { return set(Op::k_cuMemsetD8, dstDevice, N, 1, at_once()); };
  return move(next.cuMemsetD8_v2, make, dstDevice, uc, N);
}
CUresult cuMemsetD8_v2_ptds(CUdeviceptr dstDevice, unsigned char uc, size_t N) noexcept {
  const auto make = [&] { return set(Op::k_cuMemsetD8, dstDevice, N, 1, at_once_own()); };
  return move(next.cuMemsetD8_v2_ptds, make, dstDevice, uc, N);
}

CUresult cuMemsetD2D16(CUdeviceptr_v1 dstDevice, unsigned int dstPitch, unsigned short us,
                       unsigned int Width, unsigned int Height) noexcept {
  const auto make = [&] {
    return set_rows(Op::k_cuMemsetD2D16, dstDevice, dstPitch, Width, Height, 2, at_once());
  };
  return move(next.cuMemsetD2D16, make, dstDevice, dstPitch, us, Width, Height);
}
CUresult cuMemsetD2D16Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width,
                            size_t Height, CUstream hStream) noexcept {
  const auto make = [&] {
    return set_rows(Op::k_cuMemsetD2D16Async, dstDevice, dstPitch, Width, Height, 2,
                    queued(hStream));
  };
  return move(next.cuMemsetD2D16Async, make, dstDevice, dstPitch, us, Width, Height, hStream);
}
CUresult cuMemsetD2D16Async_ptsz(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us,
                                 size_t Width, size_t Height, CUstream hStream) noexcept {
  const auto make = [&] {
    return set_rows(Op::k_cuMemsetD2D16Async, dstDevice, dstPitch, Width, Height, 2,
                    queued_own(hStream));
  };
  return move(next.cuMemsetD2D16Async_ptsz, make, dstDevice, dstPitch, us, Width, Height, hStream);
}
CUresult cuMemsetD2D16_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us, size_t Width,
                          size_t Height) noexcept {
  const auto make = [&] {
    return set_rows(Op::k_cuMemsetD2D16, dstDevice, dstPitch, Width, Height, 2, at_once());
  };
  return move(next.cuMemsetD2D16_v2, make, dstDevice, dstPitch, us, Width, Height);
}
CUresult cuMemsetD2D16_v2_ptds(CUdeviceptr dstDevice, size_t dstPitch, unsigned short us,
                               size_t Width, size_t Height) noexcept {
  const auto make = [&] {
    return set_rows(Op::k_cuMemsetD2D16, dstDevice, dstPitch, Width, Height, 2, at_once_own());
  };
  return move(next.cuMemsetD2D16_v2_ptds, make, dstDevice, dstPitch, us, Width, Height);
}
CUresult cuMemsetD2D32(CUdeviceptr_v1 dstDevice, unsigned int dstPitch, unsigned int ui,
                       unsigned int Width, unsigned int Height) noexcept {
  const auto make = [&] {
    return set_rows(Op::k_cuMemsetD2D32, dstDevice, dstPitch, Width, Height, 4, at_once());
  };
  return move(next.cuMemsetD2D32, make, dstDevice, dstPitch, ui, Width, Height);
}
CUresult cuMemsetD2D32Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width,
                            size_t Height, CUstream hStream) noexcept {
  const auto make = [&] {
    return set_rows(Op::k_cuMemsetD2D32Async, dstDevice, dstPitch, Width, Height, 4,
                    queued(hStream));
  };
  return move(next.cuMemsetD2D32Async, make, dstDevice, dstPitch, ui, Width, Height, hStream);
}
CUresult cuMemsetD2D32Async_ptsz(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui,
                                 size_t Width, size_t Height, CUstream hStream) noexcept {
  const auto make = [&] {
    return set_rows(Op::k_cuMemsetD2D32Async, dstDevice, dstPitch, Width, Height, 4,
                    queued_own(hStream));
  };
  return move(next.cuMemsetD2D32Async_ptsz, make, dstDevice, dstPitch, ui, Width, Height, hStream);
}
CUresult cuMemsetD2D32_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui, size_t Width,
                          size_t Height) noexcept {
  const auto make = [&] {
    return set_rows(Op::k_cuMemsetD2D32, dstDevice, dstPitch, Width, Height, 4, at_once());
  };
  return move(next.cuMemsetD2D32_v2, make, dstDevice, dstPitch, ui, Width, Height);
}
CUresult cuMemsetD2D32_v2_ptds(CUdeviceptr dstDevice, size_t dstPitch, unsigned int ui,
                               size_t Width, size_t Height) noexcept {
  const auto make = [&] {
    return set_rows(Op::k_cuMemsetD2D32, dstDevice, dstPitch, Width, Height, 4, at_once_own());
  };
  return move(next.cuMemsetD2D32_v2_ptds, make, dstDevice, dstPitch, ui, Width, Height);
}
CUresult cuMemsetD2D8(CUdeviceptr_v1 dstDevice, unsigned int dstPitch, unsigned char uc,
                      unsigned int Width, unsigned int Height) noexcept {
  const auto make = [&] {
    return set_rows(Op::k_cuMemsetD2D8, dstDevice, dstPitch, Width, Height, 1, at_once());
  };
  return move(next.cuMemsetD2D8, make, dstDevice, dstPitch, uc, Width, Height);
}
CUresult cuMemsetD2D8Async(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width,
                           size_t Height, CUstream hStream) noexcept {
  const auto make = [&] {
    return set_rows(Op::k_cuMemsetD2D8Async, dstDevice, dstPitch, Width, Height, 1,
                    queued(hStream));
  };
  return move(next.cuMemsetD2D8Async, make, dstDevice, dstPitch, uc, Width, Height, hStream);
}
CUresult cuMemsetD2D8Async_ptsz(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc,
                                size_t Width, size_t Height, CUstream hStream) noexcept {
  const auto make = [&] {
    return set_rows(Op::k_cuMemsetD2D8Async, dstDevice, dstPitch, Width, Height, 1,
                    queued_own(hStream));
  };
  return move(next.cuMemsetD2D8Async_ptsz, make, dstDevice, dstPitch, uc, Width, Height, hStream);
}
CUresult cuMemsetD2D8_v2(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc, size_t Width,
                         size_t Height) noexcept {
  const auto make = [&] {
    return set_rows(Op::k_cuMemsetD2D8, dstDevice, dstPitch, Width, Height, 1, at_once());
  };
  return move(next.cuMemsetD2D8_v2, make, dstDevice, dstPitch, uc, Width, Height);
}
CUresult cuMemsetD2D8_v2_ptds(CUdeviceptr dstDevice, size_t dstPitch, unsigned char uc,
                              size_t Width, size_t Height) noexcept {
  const auto make = [&] {
    return set_rows(Op::k_cuMemsetD2D8, dstDevice, dstPitch, Width, Height, 1, at_once_own());
  };
  return move(next.cuMemsetD2D8_v2_ptds, make, dstDevice, dstPitch, uc, Width, Height);
}

}  // namespace bulkhead::hook
