// A write in a batch of stream memory operations, in a call and in a graph node alike.
#pragma once
#include "hook/transfer_where.h"

namespace bulkhead::hook {

// Op kNone: it moves nothing (a wait, a barrier, a flush).
inline AuditEvent write_event(const CUstreamBatchMemOpParams& p) noexcept {
  const bool small = p.operation == CU_STREAM_MEM_OP_WRITE_VALUE_32;
  if (!small && p.operation != CU_STREAM_MEM_OP_WRITE_VALUE_64) return {};
  return set_event(AuditOp::k_cuStreamBatchMemOp, anywhere(p.writeValue.address), small ? 4 : 8);
}

}  // namespace bulkhead::hook
