#include "daemon/compute.h"

#include "policy/compute_spec.h"
#include "policy/node_admission.h"

namespace bulkhead::daemon {

shm::ComputeRules rules_of(const wire::TenantRecord& r, const wire::DeviceGrant& g) {
  shm::ComputeRules out;
  const bool borrow = (r.flags & wire::kRecordBorrow) != 0;
  out.floor_x100 = g.compute_x100;
  out.ceiling_x100 = !borrow               ? g.compute_x100
                     : g.ceiling_x100 == 0 ? shm::kWholeDevice_x100
                                           : g.ceiling_x100;
  if (r.burst_us != 0) out.burst_us = r.burst_us;
  if (r.window_us != 0) out.window_us = r.window_us;
  if (r.dampening_x1000 != 0) out.dampening_x1000 = r.dampening_x1000;
  return shm::in_range(out);
}

void put_rules(wire::TenantRecord& r, wire::DeviceGrant& g, const shm::ComputeRules& rules) {
  if (!rules.limited()) return;
  g.compute_x100 = rules.floor_x100;
  g.ceiling_x100 = rules.ceiling_x100;
  if (rules.borrows()) r.flags |= wire::kRecordBorrow;
  const auto other = [](std::uint32_t has, std::uint32_t usual) { return has == usual ? 0 : has; };
  r.burst_us = other(rules.burst_us, shm::kBurst_us);
  r.window_us = other(rules.window_us, shm::kWindow_us);
  r.dampening_x1000 = other(rules.dampening_x1000, shm::kDampening_x1000);
}

std::string rules_text(const shm::ComputeRules& rules) {
  if (!rules.limited()) return "no limit";
  std::string out = policy::share_text(rules.floor_x100, rules.borrows());
  if (rules.borrows() && rules.ceiling_x100 < shm::kWholeDevice_x100)
    out += " up to " + policy::share_text(rules.ceiling_x100, false);
  return out;
}

}  // namespace bulkhead::daemon
