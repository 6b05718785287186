// What the parts know, for the socket and the picture; what of the configuration is not in force.

#include <algorithm>
#include <cstring>

#include "daemon/node_whole.h"
#include "policy/compute/gate.h"

namespace bulkhead::daemon {

// What NVML sees and what was measured, as the sums need it.
void WholeNode::note_devices(const std::vector<wire::NodeDevice>& seen) {
  std::vector<Capacity> out;
  for (const wire::NodeDevice& from : seen) {
    Capacity c{};
    std::memcpy(c.uuid, from.uuid, sizeof c.uuid);
    c.name = from.name;
    c.index = from.index;
    DeviceId id{};
    std::memcpy(id.data(), from.uuid, id.size());
    const auto known = measured_.find(id);
    // until it is measured: NVML's total less what the driver keeps of it, the same figure on an H200
    const std::uint64_t told = from.usable_bytes != 0 ? from.usable_bytes : from.total_bytes;
    c.total_bytes = known != measured_.end() ? known->second : told;
    c.overhead_bytes = watch_ ? watch_->overhead_bytes(from.uuid) : 0;
    out.push_back(std::move(c));
  }
  if (!out.empty())
    ledger_->set_capacities(std::move(out));  // a round without NVML changes nothing
}

// TenantView::mps_state of a tenant that MPS holds.
std::uint32_t WholeNode::mps_state(const std::string& name, const wire::TenantRecord& r) const {
  const MpsKey key = mps_key(r);
  if (!mps_->serving(key)) return mps_->silent(key) ? 3 : 2;
  if (!key.partitions) return 1;
  const Partitions::State has = mps_->partition(key, name);
  return has == Partitions::State::kReady ? 1 : has == Partitions::State::kRefused ? 4 : 2;
}

std::vector<wire::TenantView> WholeNode::tenant_views() {
  std::vector<wire::TenantView> out;
  for (const std::string& name : regions_->names()) {
    wire::TenantView view{};
    if (!regions_->view(name, view)) continue;
    watch_->fill(view);
    if (const auto it = ledger_->entries().find(name); it != ledger_->entries().end()) {
      view.flags |= it->second.source == Source::kConfigured ? wire::kViewConfigured : 0u;
      view.priority = static_cast<std::uint32_t>(it->second.record.priority);
      view.compute_mode = static_cast<std::uint32_t>(it->second.record.compute_mode);
      view.since_unix_s = it->second.since_unix_s;
      const wire::TenantRecord& r = it->second.record;
      view.enforcer = static_cast<std::uint32_t>(ledger_->mode_of(r).enforcer);
      std::memcpy(view.mps_group, r.mps_group, sizeof view.mps_group);
      if (held_by_mps(r)) view.mps_state = mps_state(name, r);
    }
    out.push_back(view);
  }
  return out;
}

namespace {

// What the kept verdict says, as NodeDevice::flags has it.
std::uint32_t seen_bits(const shm::Verdict& v) {
  const shm::Seen seen[wire::kSelfTests] = {v.spatial, v.partitions, v.green, v.slice};
  std::uint32_t bits = 0;
  for (unsigned i = 0; i < wire::kSelfTests; ++i)
    bits |= static_cast<std::uint32_t>(seen[i]) << (wire::kSeenShift + 2 * i);
  return bits;
}

}  // namespace

std::vector<wire::NodeDevice> WholeNode::device_views() {
  std::vector<wire::NodeDevice> out = watch_->devices();
  for (wire::NodeDevice& device : out) {
    device.promised_bytes = ledger_->promised(device.uuid);
    const std::uint64_t bound_ns =
        policy::compute::gate_bound_ns(regions_->longest_batch_op_ns(device.uuid));
    device.gate_bound_us =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(bound_ns / 1000, ~std::uint32_t{0}));
    DeviceId id{};
    std::memcpy(id.data(), device.uuid, id.size());
    if (const auto tested = verdicts_.find(id); tested != verdicts_.end())
      device.flags |= seen_bits(tested->second);
    for (const Capacity& c : ledger_->capacities()) {
      if (std::memcmp(c.uuid, device.uuid, sizeof c.uuid) != 0) continue;
      device.usable_bytes = c.total_bytes;
      device.reserve_bytes = c.reserve_bytes;
    }
  }
  return out;
}

void WholeNode::fill_daemon(wire::DaemonView& d) const {
  const ReapFigures& r = regions_->reaped();
  const ServerCounts& s = server_->counts();
  const WatchCounters w = watch_->counters();
  d.started_unix_s = started_.unix_ns / 1'000'000'000;
  d.reaped_processes = r.processes;
  d.reaped_bytes = r.bytes;
  d.reap_delay_sum_ns = r.delay_sum_ns;
  std::copy(std::begin(r.delays), std::end(r.delays), std::begin(d.reap_delays));
  d.events_total = journal_->next_id() - 1;
  d.events_lost = w.events_lost;
  d.requests_total = s.requests;
  d.requests_refused = s.refused;
  d.requests_malformed = s.malformed;
  d.sentinel_rounds = w.rounds;
  d.sentinel_failures = w.failures;
  d.waiting = server_->waiting();
  d.bypasses_found = w.found;
  d.bypasses_killed = w.killed;
  audit_.fill(d);
  grants_->fill(d.audit);
  siem_.fill(d);
  std::strncpy(d.version, kVersion, sizeof d.version - 1);
}

std::string WholeNode::condition() const {
  std::vector<std::string> restart;
  if (!serves_sight_) {  // started with --no-sight
    if (config_.console_port != 0) restart.emplace_back("[daemon] console (without --no-sight)");
    if (config_.metrics_port != 0) restart.emplace_back("[daemon] metrics (without --no-sight)");
  }
  if (const char* what = audit_.not_in_force(config_)) restart.emplace_back(what);
  std::string out = condition_text(restart, ledger_->waiting_for_their_end(), config_.idle);
  for (const std::string& other : ledger_->other_modes()) out += (out.empty() ? "" : "; ") + other;
  return out;
}

}  // namespace bulkhead::daemon
