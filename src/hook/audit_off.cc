// Auditing is not there: nothing is recorded and everything is let through. Weak: for a library without hook/audit.cc, whose
// functions win over these.
#include "hook/audit.h"

namespace bulkhead::hook {

[[gnu::weak]] bool audit_on() noexcept { return false; }
[[gnu::weak]] CUresult audit_before(const AuditEvent&, AuditTicket&) noexcept {
  return CUDA_SUCCESS;
}
[[gnu::weak]] void audit_failed(const AuditTicket&, CUresult) noexcept {}

}  // namespace bulkhead::hook
