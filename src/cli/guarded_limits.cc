#include "cli/guarded_limits.h"

#include "base/bus_guard.h"

namespace bulkhead::cli {

Status write_limits_guarded(shm::Tenant& tenant, const shm::LimitChange& change) noexcept {
  Result<GuardedRange> guarded = guard(&tenant.region(), sizeof(shm::Region));
  if (!guarded.ok()) return guarded.status();
  if (const Status bad = shm::write_limits(tenant, change); !bad.ok()) return bad;
  if (guarded->faulted()) return Status{Errc::kCorrupt, 0, "the region was cut short"};
  return {};
}

}  // namespace bulkhead::cli
