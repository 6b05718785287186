// What a tenant's library counted, read from its region (shm/audit_count.h). A tenant's word.
#pragma once
#include <cstdint>

#include "shm/audit_totals.h"
#include "shm/region.h"

namespace bulkhead::daemon {

struct AuditCounts {
  shm::AuditTotals totals;
  std::uint64_t moved_bytes[shm::kCopyDirections] = {};  // of all devices, by the books of copies
  std::uint64_t region = 0;  // which region file: its inode. Another one: the counts began anew
};

}  // namespace bulkhead::daemon
