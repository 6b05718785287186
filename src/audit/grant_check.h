// Was a transfer allowed by the grant it names? One function, for the verifier and whoever else reads the log
// (docs/formats/log.md, grant rule). Pure.
#pragma once
#include "abi/audit_entry.h"
#include "audit/records.h"

namespace bulkhead::audit {

inline constexpr std::uint64_t kGrantSkewNs = 1'000'000'000;

struct KnownGrant {
  GrantRecord record;
  std::uint64_t bytes_used = 0;
  std::uint64_t revoked_ns = 0;   // 0: not revoked
  std::uint32_t devices_of = 0;   // the session that `devices` was made for
  std::uint32_t device_mask = 0;  // bit i: index i of that session's devices
};

// Null: allowed. Otherwise why not. `grant` null: no record of that serial. Counts the bytes. The caller has seen that
// the entry is a transfer or a map and says it was allowed.
[[nodiscard]] const char* check_entry_against_grant(const abi::AuditEntry& entry,
                                                    const SessionRecord& session,
                                                    KnownGrant* grant) noexcept;

}  // namespace bulkhead::audit
