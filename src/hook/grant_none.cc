// A library without grants: nothing is covered by one.
#include "hook/audit_grant.h"

namespace bulkhead::hook {

[[gnu::weak]] GrantAnswer grant_check(const AuditEvent&) noexcept {
  return {abi::DenyReason::kNoGrant, 0};
}

}  // namespace bulkhead::hook
