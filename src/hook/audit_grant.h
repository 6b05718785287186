// What the audit asks of the grants: whether one covers this transfer now. The only thing it knows of them.
#pragma once
#include <cstdint>

#include "hook/audit.h"

namespace bulkhead::hook {

struct GrantAnswer {
  abi::DenyReason reason = abi::DenyReason::kNone;  // kNone: covered
  std::uint32_t serial = 0;                         // of the grant in the log; 0 = none
};
// Hot path: no system call, no lock.
[[nodiscard]] GrantAnswer grant_check(const AuditEvent& event) noexcept;

}  // namespace bulkhead::hook
