#include "hook/transfer_move.h"

namespace bulkhead::hook {

bool captured_now(CUstream stream, Twin twin) noexcept { return is_capturing(stream, twin); }

void move_failed(const AuditTicket& ticket, CUresult result) noexcept {
  if (ticket.lane != nullptr) audit_failed(ticket, result);
}

}  // namespace bulkhead::hook
