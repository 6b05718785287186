// Copies of two and three dimensions: a transfer and its geometry.
#include "hook/transfer_wide.h"

#include "hook/next.h"
#include "hook/transfer_move.h"

namespace bulkhead::hook {
namespace {

using Op = AuditOp;

// What reads past a null record is the driver, which refuses it.
template <class Real, class Record, class... A>
CUresult shaped(const Real& real, Op op, const Record* c, On on, A... rest) noexcept {
  if (c == nullptr) return real(c, rest...);
  return move(
      real,
      [op, on](const Record* record, auto...) {
        return Move{wide_event(op, *record), on};
      },
      c, rest...);
}

}  // namespace

CUresult cuMemcpy2D(const CUDA_MEMCPY2D_v1* pCopy) noexcept {
  return shaped(next.cuMemcpy2D, Op::k_cuMemcpy2D, pCopy, at_once());
}
CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D_v1* pCopy, CUstream hStream) noexcept {
  return shaped(next.cuMemcpy2DAsync, Op::k_cuMemcpy2DAsync, pCopy, queued(hStream), hStream);
}
CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* pCopy, CUstream hStream) noexcept {
  return shaped(next.cuMemcpy2DAsync_v2, Op::k_cuMemcpy2DAsync, pCopy, queued(hStream), hStream);
}
CUresult cuMemcpy2DAsync_v2_ptsz(const CUDA_MEMCPY2D* pCopy, CUstream hStream) noexcept {
  return shaped(next.cuMemcpy2DAsync_v2_ptsz, Op::k_cuMemcpy2DAsync, pCopy, queued_own(hStream),
                hStream);
}
CUresult cuMemcpy2DUnaligned(const CUDA_MEMCPY2D_v1* pCopy) noexcept {
  return shaped(next.cuMemcpy2DUnaligned, Op::k_cuMemcpy2DUnaligned, pCopy, at_once());
}
CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D* pCopy) noexcept {
  return shaped(next.cuMemcpy2DUnaligned_v2, Op::k_cuMemcpy2DUnaligned, pCopy, at_once());
}
CUresult cuMemcpy2DUnaligned_v2_ptds(const CUDA_MEMCPY2D* pCopy) noexcept {
  return shaped(next.cuMemcpy2DUnaligned_v2_ptds, Op::k_cuMemcpy2DUnaligned, pCopy, at_once_own());
}
CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D* pCopy) noexcept {
  return shaped(next.cuMemcpy2D_v2, Op::k_cuMemcpy2D, pCopy, at_once());
}
CUresult cuMemcpy2D_v2_ptds(const CUDA_MEMCPY2D* pCopy) noexcept {
  return shaped(next.cuMemcpy2D_v2_ptds, Op::k_cuMemcpy2D, pCopy, at_once_own());
}

CUresult cuMemcpy3D(const CUDA_MEMCPY3D_v1* pCopy) noexcept {
  return shaped(next.cuMemcpy3D, Op::k_cuMemcpy3D, pCopy, at_once());
}
CUresult cuMemcpy3DAsync(const CUDA_MEMCPY3D_v1* pCopy, CUstream hStream) noexcept {
  return shaped(next.cuMemcpy3DAsync, Op::k_cuMemcpy3DAsync, pCopy, queued(hStream), hStream);
}
CUresult cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D* pCopy, CUstream hStream) noexcept {
  return shaped(next.cuMemcpy3DAsync_v2, Op::k_cuMemcpy3DAsync, pCopy, queued(hStream), hStream);
}
CUresult cuMemcpy3DAsync_v2_ptsz(const CUDA_MEMCPY3D* pCopy, CUstream hStream) noexcept {
  return shaped(next.cuMemcpy3DAsync_v2_ptsz, Op::k_cuMemcpy3DAsync, pCopy, queued_own(hStream),
                hStream);
}
CUresult cuMemcpy3D_v2(const CUDA_MEMCPY3D* pCopy) noexcept {
  return shaped(next.cuMemcpy3D_v2, Op::k_cuMemcpy3D, pCopy, at_once());
}
CUresult cuMemcpy3D_v2_ptds(const CUDA_MEMCPY3D* pCopy) noexcept {
  return shaped(next.cuMemcpy3D_v2_ptds, Op::k_cuMemcpy3D, pCopy, at_once_own());
}

CUresult cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER* pCopy) noexcept {
  return shaped(next.cuMemcpy3DPeer, Op::k_cuMemcpy3DPeer, pCopy, at_once());
}
CUresult cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER* pCopy, CUstream hStream) noexcept {
  return shaped(next.cuMemcpy3DPeerAsync, Op::k_cuMemcpy3DPeerAsync, pCopy, queued(hStream),
                hStream);
}
CUresult cuMemcpy3DPeerAsync_ptsz(const CUDA_MEMCPY3D_PEER* pCopy, CUstream hStream) noexcept {
  return shaped(next.cuMemcpy3DPeerAsync_ptsz, Op::k_cuMemcpy3DPeerAsync, pCopy,
                queued_own(hStream), hStream);
}
CUresult cuMemcpy3DPeer_ptds(const CUDA_MEMCPY3D_PEER* pCopy) noexcept {
  return shaped(next.cuMemcpy3DPeer_ptds, Op::k_cuMemcpy3DPeer, pCopy, at_once_own());
}

}  // namespace bulkhead::hook
