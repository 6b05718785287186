// From the record of a shaped copy to its event: one function for all five layouts of the record.
#pragma once
#include "hook/transfer_where.h"

namespace bulkhead::hook {

// A side by its memory type: `first` bytes past the base lies what is copied.
inline Side typed_side(CUmemorytype type, CUdeviceptr device, const void* host, CUarray array,
                       std::uint64_t first) noexcept {
  Side s;
  switch (type) {
    case CU_MEMORYTYPE_HOST:
      s = on_host(host);
      break;
    case CU_MEMORYTYPE_DEVICE:
      s = on_device(device);
      break;
    case CU_MEMORYTYPE_ARRAY:
      return in_array(array);
    default:
      s = anywhere(device);
      break;
  }
  s.at += first;
  return s;
}

// CUDA_MEMCPY2D_*, CUDA_MEMCPY3D_* and CUDA_MEMCPY3D_PEER.
template <class Record>
AuditEvent wide_event(AuditOp op, const Record& c) noexcept {
  std::uint64_t depth = 1, from = c.srcXInBytes, to = c.dstXInBytes;
  std::uint64_t from_rows = c.srcY, to_rows = c.dstY;
  if constexpr (requires { c.Depth; }) {
    depth = c.Depth;
    from_rows += std::uint64_t{c.srcZ} * c.srcHeight;
    to_rows += std::uint64_t{c.dstZ} * c.dstHeight;
  }
  from += from_rows * c.srcPitch;
  to += to_rows * c.dstPitch;
  Side source = typed_side(c.srcMemoryType, c.srcDevice, c.srcHost, c.srcArray, from);
  Side destination = typed_side(c.dstMemoryType, c.dstDevice, c.dstHost, c.dstArray, to);
  if constexpr (requires { c.srcContext; }) {
    if (source.kind == Side::Kind::kDevice) source.device = in_context(0, c.srcContext).device;
    if (destination.kind == Side::Kind::kDevice)
      destination.device = in_context(0, c.dstContext).device;
  }
  AuditEvent e = copy_event(op, source, destination, move_product(c.WidthInBytes, c.Height, depth));
  add_shape(e, c.WidthInBytes, c.Height, depth, c.srcPitch);
  return e;
}

}  // namespace bulkhead::hook
