// A tenant's share of a device's time, between the record in which it is promised and the words that bind it.
#pragma once
#include <string>

#include "shm/compute.h"
#include "wire/record.h"

namespace bulkhead::daemon {

// What the record promises on a device, in range.
[[nodiscard]] shm::ComputeRules rules_of(const wire::TenantRecord& record,
                                         const wire::DeviceGrant& grant);
// The way back, for a region that somebody else made: the grant, and what a record keeps once for all its devices.
void put_rules(wire::TenantRecord& record, wire::DeviceGrant& grant,
               const shm::ComputeRules& rules);
// "25%", "25%+", "25%+ up to 80%", "no limit".
[[nodiscard]] std::string rules_text(const shm::ComputeRules& rules);

}  // namespace bulkhead::daemon
