// What the audit asks of a region.
#include "daemon/audit_counts.h"
#include "daemon/regions_inside.h"

namespace bulkhead::daemon {

bool TenantRegions::audit_counts(const std::string& name, AuditCounts& out) {
  Tenant* const tenant = find(name);
  if (tenant == nullptr || tenant->told_broken) return false;
  const shm::Region* const words = tenant->region.words();
  if (words == nullptr) return false;
  out = AuditCounts{};
  shm::read_audit_counts(*words, out.totals);
  shm::moved_bytes(*words, out.moved_bytes);
  out.region = tenant->region.inode();
  return tenant->region.whole();
}

}  // namespace bulkhead::daemon
