#include "hook/transfer_where.h"

namespace bulkhead::hook {

bool move_captured(const On& on) noexcept {
  // acquire pairs with a capture's beginning in this thread or one that told it
  return on.async && captures.load(std::memory_order_acquire) != 0 &&
         is_capturing(on.stream, on.twin);
}

Counted counted_as(const AuditEvent& e) noexcept {
  switch (e.direction) {
    case Direction::kHostToDevice:
      return {e.destination_device, CopyDirection::kToDevice};
    case Direction::kDeviceToHost:
      return {e.source_device, CopyDirection::kToHost};
    case Direction::kWithinDevice:
      return {e.destination_device, CopyDirection::kWithin};
    case Direction::kBetweenDevices:
      return {e.source_device, CopyDirection::kPeer};
    case Direction::kSet:
      return {e.destination_device, CopyDirection::kSet};
    case Direction::kUnknown:  // by the side that is known
      if (e.destination_device < kMaxDevices)
        return {e.destination_device, CopyDirection::kToDevice};
      if (e.source_device < kMaxDevices) return {e.source_device, CopyDirection::kToHost};
      return {current_device(), CopyDirection::kWithin};
    case Direction::kNone:
    case Direction::kHostToHost:
      break;
  }
  return {abi::kHostDevice, CopyDirection::kWithin};
}

CUresult move_begin(Move& move, AuditTicket& ticket) noexcept {
  if (audit_on()) {
    if (move.on.async) {
      move.event.flags |= abi::kAsynchronous;
      move.event.stream = stream_ordinal(move.on.stream);
    }
    if (const CUresult refused = audit_before(move.event, ticket); refused != CUDA_SUCCESS)
      return refused;
  }
  move_admit(move.event);
  return CUDA_SUCCESS;
}

CUresult move_end(const Move& move, const AuditTicket& ticket, CUresult result) noexcept {
  if (result == CUDA_SUCCESS) [[likely]] {
    move_counted(move.event);
  } else {
    move_failed(ticket, result);
  }
  return result;
}

void move_failed(const AuditTicket& ticket, CUresult result) noexcept {
  if (ticket.lane != nullptr) audit_failed(ticket, result);
}

}  // namespace bulkhead::hook
