// The many names of a copy.
#include <cstring>

#include "sim/api.h"
#include "sim/array.h"
#include "sim/copy.h"

namespace bulkhead::sim {
namespace {

constexpr auto kHost = CU_MEMORYTYPE_HOST;
constexpr auto kDevice = CU_MEMORYTYPE_DEVICE;
constexpr auto kUnified = CU_MEMORYTYPE_UNIFIED;

CUdeviceptr number(const void* p) noexcept { return reinterpret_cast<CUdeviceptr>(p); }

CUresult linear(CUmemorytype to, CUdeviceptr dst, CUmemorytype from, CUdeviceptr src, std::size_t n,
                CUstream s, bool sync) noexcept {
  return submit_copy(linear_copy(to, dst, from, src, n), s, sync);
}

// Between linear memory and a one-dimensional array at a byte offset.
CUresult with_array(CUarray to, std::size_t to_at, CUarray from, std::size_t from_at, CUmemorytype type,
                    CUdeviceptr linear_at, std::size_t n, CUstream s, bool sync) noexcept {
  CUDA_MEMCPY3D c = linear_copy(type, linear_at, type, linear_at, n);
  if (to != nullptr) {
    c.dstMemoryType = CU_MEMORYTYPE_ARRAY;
    c.dstArray = to;
    c.dstXInBytes = to_at;
  }
  if (from != nullptr) {
    c.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    c.srcArray = from;
    c.srcXInBytes = from_at;
  }
  return submit_copy(c, s, sync);
}

CUDA_MEMCPY3D widen(const CUDA_MEMCPY2D& f) noexcept {
  CUDA_MEMCPY3D c{};
  c.srcXInBytes = f.srcXInBytes;
  c.srcY = f.srcY;
  c.srcMemoryType = f.srcMemoryType;
  c.srcHost = f.srcHost;
  c.srcDevice = f.srcDevice;
  c.srcArray = f.srcArray;
  c.srcPitch = f.srcPitch;
  c.dstXInBytes = f.dstXInBytes;
  c.dstY = f.dstY;
  c.dstMemoryType = f.dstMemoryType;
  c.dstHost = f.dstHost;
  c.dstDevice = f.dstDevice;
  c.dstArray = f.dstArray;
  c.dstPitch = f.dstPitch;
  c.WidthInBytes = f.WidthInBytes;
  c.Height = f.Height;
  c.Depth = 1;
  return c;
}

CUDA_MEMCPY3D widen(const CUDA_MEMCPY3D_PEER& f) noexcept {
  static_assert(sizeof(CUDA_MEMCPY3D_PEER) == sizeof(CUDA_MEMCPY3D));  // contexts in the reserved places
  CUDA_MEMCPY3D c;
  std::memcpy(&c, &f, sizeof c);
  return c;
}

template <class T>
CUresult shaped(const T* f, CUstream s, bool sync) noexcept {
  return f == nullptr ? CUDA_ERROR_INVALID_VALUE : submit_copy(widen(*f), s, sync);
}

CUresult batch(CUdeviceptr* dsts, CUdeviceptr* srcs, std::size_t* sizes, std::size_t count,
               std::size_t* failed, CUstream s) noexcept {
  if (dsts == nullptr || srcs == nullptr || sizes == nullptr || count == 0) return CUDA_ERROR_INVALID_VALUE;
  for (std::size_t i = 0; i < count; ++i) {
    const CUresult r = linear(kUnified, dsts[i], kUnified, srcs[i], sizes[i], s, false);
    if (r == CUDA_SUCCESS) continue;
    if (failed != nullptr) *failed = i;
    return r;
  }
  return CUDA_SUCCESS;
}

void side(const CUmemcpy3DOperand& o, bool to, std::size_t element, CUDA_MEMCPY3D& c) noexcept {
  const bool array = o.type == CU_MEMCPY_OPERAND_TYPE_ARRAY;
  const std::size_t x = array ? o.op.array.offset.x * element : 0;
  const std::size_t pitch = array ? 0 : o.op.ptr.rowLength * element;
  if (to) {
    c.dstMemoryType = array ? CU_MEMORYTYPE_ARRAY : kUnified;
    c.dstArray = array ? o.op.array.array : nullptr;
    c.dstDevice = array ? 0 : o.op.ptr.ptr;
    c.dstXInBytes = x;
    c.dstY = array ? o.op.array.offset.y : 0;
    c.dstZ = array ? o.op.array.offset.z : 0;
    c.dstPitch = pitch;
    c.dstHeight = array ? 0 : o.op.ptr.layerHeight;
  } else {
    c.srcMemoryType = array ? CU_MEMORYTYPE_ARRAY : kUnified;
    c.srcArray = array ? o.op.array.array : nullptr;
    c.srcDevice = array ? 0 : o.op.ptr.ptr;
    c.srcXInBytes = x;
    c.srcY = array ? o.op.array.offset.y : 0;
    c.srcZ = array ? o.op.array.offset.z : 0;
    c.srcPitch = pitch;
    c.srcHeight = array ? 0 : o.op.ptr.layerHeight;
  }
}

CUresult batch_3d(const CUDA_MEMCPY3D_BATCH_OP* ops, std::size_t n, std::size_t* failed, CUstream s) noexcept {
  if (ops == nullptr || n == 0) return CUDA_ERROR_INVALID_VALUE;
  for (std::size_t i = 0; i < n; ++i) {
    std::size_t element = 1;  // extents count elements of the array, bytes without one
    for (const CUmemcpy3DOperand* o : {&ops[i].src, &ops[i].dst}) {
      const Array* a = o->type == CU_MEMCPY_OPERAND_TYPE_ARRAY ? to_array(o->op.array.array) : nullptr;
      if (a != nullptr) element = a->element_bytes;
    }
    CUDA_MEMCPY3D c{};
    side(ops[i].src, false, element, c);
    side(ops[i].dst, true, element, c);
    c.WidthInBytes = ops[i].extent.width * element;
    c.Height = ops[i].extent.height;
    c.Depth = ops[i].extent.depth;
    const CUresult r = submit_copy(c, s, false);
    if (r == CUDA_SUCCESS) continue;
    if (failed != nullptr) *failed = i;
    return r;
  }
  return CUDA_SUCCESS;
}

}  // namespace

namespace api {

CUresult cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t n) noexcept {
  return linear(kUnified, dst, kUnified, src, n, nullptr, true);
}
CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream s) noexcept {
  return linear(kUnified, dst, kUnified, src, n, s, false);
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr dst, const void* src, size_t n) noexcept {
  return linear(kDevice, dst, kHost, number(src), n, nullptr, true);
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr dst, const void* src, size_t n, CUstream s) noexcept {
  return linear(kDevice, dst, kHost, number(src), n, s, false);
}
CUresult cuMemcpyDtoH_v2(void* dst, CUdeviceptr src, size_t n) noexcept {
  return linear(kHost, number(dst), kDevice, src, n, nullptr, true);
}
CUresult cuMemcpyDtoHAsync_v2(void* dst, CUdeviceptr src, size_t n, CUstream s) noexcept {
  return linear(kHost, number(dst), kDevice, src, n, s, false);
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr dst, CUdeviceptr src, size_t n) noexcept {
  return linear(kDevice, dst, kDevice, src, n, nullptr, true);
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream s) noexcept {
  return linear(kDevice, dst, kDevice, src, n, s, false);
}
CUresult cuMemcpyPeer(CUdeviceptr dst, CUcontext, CUdeviceptr src, CUcontext, size_t n) noexcept {
  return linear(kDevice, dst, kDevice, src, n, nullptr, true);
}
CUresult cuMemcpyPeerAsync(CUdeviceptr dst, CUcontext, CUdeviceptr src, CUcontext, size_t n,
                           CUstream s) noexcept {
  return linear(kDevice, dst, kDevice, src, n, s, false);
}

CUresult cuMemcpyAtoA_v2(CUarray to, size_t to_at, CUarray from, size_t from_at, size_t n) noexcept {
  if (to == nullptr || from == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return with_array(to, to_at, from, from_at, kDevice, 0, n, nullptr, true);
}
CUresult cuMemcpyAtoD_v2(CUdeviceptr dst, CUarray from, size_t at, size_t n) noexcept {
  if (from == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return with_array(nullptr, 0, from, at, kDevice, dst, n, nullptr, true);
}
CUresult cuMemcpyDtoA_v2(CUarray to, size_t at, CUdeviceptr src, size_t n) noexcept {
  if (to == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return with_array(to, at, nullptr, 0, kDevice, src, n, nullptr, true);
}
CUresult cuMemcpyAtoH_v2(void* dst, CUarray from, size_t at, size_t n) noexcept {
  if (from == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return with_array(nullptr, 0, from, at, kHost, number(dst), n, nullptr, true);
}
CUresult cuMemcpyAtoHAsync_v2(void* dst, CUarray from, size_t at, size_t n, CUstream s) noexcept {
  if (from == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return with_array(nullptr, 0, from, at, kHost, number(dst), n, s, false);
}
CUresult cuMemcpyHtoA_v2(CUarray to, size_t at, const void* src, size_t n) noexcept {
  if (to == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return with_array(to, at, nullptr, 0, kHost, number(src), n, nullptr, true);
}
CUresult cuMemcpyHtoAAsync_v2(CUarray to, size_t at, const void* src, size_t n, CUstream s) noexcept {
  if (to == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return with_array(to, at, nullptr, 0, kHost, number(src), n, s, false);
}

CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D* c) noexcept { return shaped(c, nullptr, true); }
CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D* c) noexcept { return shaped(c, nullptr, true); }
CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* c, CUstream s) noexcept { return shaped(c, s, false); }
CUresult cuMemcpy3D_v2(const CUDA_MEMCPY3D* c) noexcept {
  return c == nullptr ? CUDA_ERROR_INVALID_VALUE : submit_copy(*c, nullptr, true);
}
CUresult cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D* c, CUstream s) noexcept {
  return c == nullptr ? CUDA_ERROR_INVALID_VALUE : submit_copy(*c, s, false);
}
CUresult cuMemcpy3DPeer(const CUDA_MEMCPY3D_PEER* c) noexcept { return shaped(c, nullptr, true); }
CUresult cuMemcpy3DPeerAsync(const CUDA_MEMCPY3D_PEER* c, CUstream s) noexcept {
  return shaped(c, s, false);
}

CUresult cuMemcpyBatchAsync(CUdeviceptr* dsts, CUdeviceptr* srcs, size_t* sizes, size_t count,
                            CUmemcpyAttributes*, size_t*, size_t, size_t* failIdx, CUstream s) noexcept {
  return batch(dsts, srcs, sizes, count, failIdx, s);
}
CUresult cuMemcpyBatchAsync_v2(CUdeviceptr* dsts, CUdeviceptr* srcs, size_t* sizes, size_t count,
                               CUmemcpyAttributes*, size_t*, size_t, CUstream s) noexcept {
  return batch(dsts, srcs, sizes, count, nullptr, s);
}
CUresult cuMemcpy3DBatchAsync(size_t n, CUDA_MEMCPY3D_BATCH_OP* ops, size_t* failIdx,
                              unsigned long long, CUstream s) noexcept {
  return batch_3d(ops, n, failIdx, s);
}
CUresult cuMemcpy3DBatchAsync_v2(size_t n, CUDA_MEMCPY3D_BATCH_OP* ops, unsigned long long,
                                 CUstream s) noexcept {
  return batch_3d(ops, n, nullptr, s);
}

#define BH_MEMSET(bits, type)                                                                        \
  CUresult cuMemsetD##bits##_v2(CUdeviceptr d, type v, size_t n) noexcept {                          \
    return submit_memset({d, 0, v, bits / 8, n, 1, nullptr}, nullptr, true);                         \
  }                                                                                                  \
  CUresult cuMemsetD##bits##Async(CUdeviceptr d, type v, size_t n, CUstream s) noexcept {            \
    return submit_memset({d, 0, v, bits / 8, n, 1, nullptr}, s, false);                              \
  }                                                                                                  \
  CUresult cuMemsetD2D##bits##_v2(CUdeviceptr d, size_t pitch, type v, size_t w, size_t h) noexcept { \
    return submit_memset({d, pitch, v, bits / 8, w, h, nullptr}, nullptr, true);                     \
  }                                                                                                  \
  CUresult cuMemsetD2D##bits##Async(CUdeviceptr d, size_t pitch, type v, size_t w, size_t h,         \
                                    CUstream s) noexcept {                                           \
    return submit_memset({d, pitch, v, bits / 8, w, h, nullptr}, s, false);                          \
  }
BH_MEMSET(8, unsigned char)
BH_MEMSET(16, unsigned short)
BH_MEMSET(32, unsigned int)
#undef BH_MEMSET

}  // namespace api
}  // namespace bulkhead::sim
