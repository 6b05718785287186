// The ledger's part in how shares are enforced: policy/mode.h asked with what this node knows. docs/spatial.md.
#include "daemon/ledger_internal.h"

namespace bulkhead::daemon {
namespace {

policy::Known known(shm::Seen seen) {
  return seen == shm::Seen::kWorks ? policy::Known::kWorks
         : seen == shm::Seen::kNo  ? policy::Known::kNo
                                   : policy::Known::kUnknown;
}

std::uint32_t flags_of(policy::Enforcer enforcer) {
  return enforcer == policy::Enforcer::kSpatial     ? std::uint32_t{shm::kTenantSpatial}
         : enforcer == policy::Enforcer::kSlice     ? std::uint32_t{shm::kTenantSlice}
         : enforcer == policy::Enforcer::kPartition ? std::uint32_t{shm::kTenantPartition}
                                                    : 0u;
}

}  // namespace

policy::ModeRuling Ledger::mode_of(const wire::TenantRecord& r) const {
  static_assert(
      static_cast<int>(policy::ModeAsked::kAuto) == static_cast<int>(wire::ComputeMode::kAuto) &&
      static_cast<int>(policy::ModeAsked::kSpatial) ==
          static_cast<int>(wire::ComputeMode::kSpatial) &&
      static_cast<int>(policy::ModeAsked::kSlice) == static_cast<int>(wire::ComputeMode::kSlice) &&
      static_cast<int>(policy::ModeAsked::kTemporal) ==
          static_cast<int>(wire::ComputeMode::kTemporal) &&
      static_cast<int>(policy::ModeAsked::kPartition) ==
          static_cast<int>(wire::ComputeMode::kPartition));
  policy::ModeWish wish;
  wish.asked = static_cast<policy::ModeAsked>(r.compute_mode);
  wish.borrows = (r.flags & wire::kRecordBorrow) != 0;
  wish.batch = r.priority == wire::Priority::kBatch;
  wish.group = r.mps_group;
  std::vector<policy::ModeDevice> devices;
  for (unsigned i = 0; i < r.device_count; ++i) {
    const wire::DeviceGrant& g = r.devices[i];
    const shm::Verdict v = mode_facts_.verdict ? mode_facts_.verdict(g.uuid) : shm::Verdict{};
    const Capacity* c = device(g.uuid);
    devices.push_back({c != nullptr ? gpu_text(*c) : uuid_text(g.uuid), g.compute_x100,
                       known(v.spatial), known(v.slice), v.sms, v.sm_unit, v.sm_least,
                       known(v.partitions), v.chunks, v.chunk_sms});
  }
  return policy::rule_mode(wish, mode_facts_.rules, devices);
}

// The page says what is in force, so that no process finds more than the ledger promised.
void Ledger::apply_mode(const std::string& name, const wire::TenantRecord& record) {
  const policy::Enforcer enforcer = mode_of(record).enforcer;
  const bool by_mps =
      enforcer == policy::Enforcer::kSpatial || enforcer == policy::Enforcer::kPartition;
  (void)regions_.set_enforcer(name, flags_of(enforcer),
                              by_mps ? std::string{record.mps_group} : std::string{});
}

std::vector<std::string> Ledger::other_modes() const {
  std::vector<std::string> out;
  for (const auto& [name, e] : entries_) {
    const policy::ModeRuling ruling = mode_of(e.record);
    if (!ruling.problem.empty()) out.push_back("tenant " + name + ": " + ruling.problem);
  }
  return out;
}

}  // namespace bulkhead::daemon
