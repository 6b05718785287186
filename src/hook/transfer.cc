#include "hook/transfer_move.h"

namespace bulkhead::hook {

bool captured_now(const On& on) noexcept { return is_capturing(on.stream, on.twin); }

CUresult move_record(const Move& move, AuditTicket& ticket) noexcept {
  if (!move.on.async) return audit_before(move.event, ticket);
  AuditEvent e = move.event;
  e.flags |= abi::kAsynchronous;
  e.stream = stream_ordinal(move.on.stream);
  return audit_before(e, ticket);
}

void move_failed(const AuditTicket& ticket, CUresult result) noexcept {
  if (ticket.lane != nullptr) audit_failed(ticket, result);
}

}  // namespace bulkhead::hook
