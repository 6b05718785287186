// Shares of time as the governor needs them.
#include "daemon/regions_inside.h"

namespace bulkhead::daemon {

void TenantRegions::each_timed(const std::function<void(const Timed&)>& fn) {
  for (auto& [name, tenant] : tenants_) {
    if (tenant->told_broken) continue;
    for (unsigned d = 0; d < tenant->times.size(); ++d) {
      Tenant::Time& time = tenant->times[d];
      const shm::Region* const words = time.rules.limited() ? tenant->region.words() : nullptr;
      if (words == nullptr) continue;
      const std::uint8_t* const uuid = tenant->region.devices()[d].uuid;
      if (time.given == nullptr) time.given = page_.given_place(name, uuid);
      fn({name, uuid, d, time.rules, *words, time.governed, time.processes, time.given,
          tenant->region.descriptor()});
      if (!tenant->region.whole()) break;  // zeros were read from there on; the next scan tells
    }
  }
}

}  // namespace bulkhead::daemon
