// What spatial shares, their self-tests and slices need of several parts (docs/spatial.md).
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "base/places.h"
#include "daemon/node_whole.h"
#include "policy/partition.h"

namespace bulkhead::daemon {

namespace fs = std::filesystem;
using wire::EventKind;
using wire::Severity;

// ---- how shares are enforced: docs/spatial.md ----
std::vector<std::uint32_t> WholeNode::pids_of_tenant(const std::string& name) const {
  std::vector<std::uint32_t> out;
  for (const Regions::Member& m : regions_->members()) {
    if (m.tenant == name && m.pid != 0) out.push_back(m.pid);
  }
  return out;
}

std::map<MpsKey, bool> WholeNode::mps_in_force() const {
  std::map<MpsKey, bool> out;
  for (const auto& [name, e] : ledger_->entries()) {
    if (!held_by_mps(e.record)) continue;
    wire::TenantView view{};
    out[mps_key(e.record)] |= regions_->view(name, view) && view.processes != 0;
  }
  return out;
}

bool WholeNode::held_by_mps(const wire::TenantRecord& r) const {
  const policy::Enforcer enforcer = ledger_->mode_of(r).enforcer;
  return enforcer == policy::Enforcer::kSpatial || enforcer == policy::Enforcer::kPartition;
}

MpsKey WholeNode::mps_key(const wire::TenantRecord& r) const {
  return {r.mps_group, r.owner_uid, ledger_->mode_of(r).enforcer == policy::Enforcer::kPartition};
}

// Who of a pair is to have a partition; and who has one, is no longer to, and still has processes: it keeps what it has.
std::vector<PartitionWant> WholeNode::partition_wants(const MpsKey& key,
                                                      const PartitionBooks& books) const {
  std::vector<PartitionWant> out;
  for (const auto& [name, e] : ledger_->entries()) {
    const wire::TenantRecord& r = e.record;
    wire::TenantView view{};
    const bool busy = regions_->view(name, view) && view.processes != 0;
    if (held_by_mps(r) && mps_key(r) == key && r.device_count == 1) {
      DeviceId id{};
      std::memcpy(id.data(), r.devices[0].uuid, id.size());
      const auto seen = verdicts_.find(id);
      if (seen == verdicts_.end()) continue;
      out.push_back({name,
                     uuid_text(r.devices[0].uuid),
                     policy::chunks_of_share(r.devices[0].compute_x100, seen->second.chunks),
                     seen->second.chunk_sms,
                     busy,
                     {}});
      continue;
    }
    const shm::PartitionBook* has = busy ? books.of(name) : nullptr;
    if (has == nullptr || has->value[0] == '\0' || has->uid != key.uid ||
        key.group != static_cast<const char*>(has->group))
      continue;
    const std::string value = static_cast<const char*>(has->value);
    out.push_back(
        {name, value.substr(0, value.find('/')), has->chunks, has->sms / has->chunks, true, {}});
  }
  return out;
}

void WholeNode::note_end(const RegionNews& news) {
  if (news.kind != EventKind::kProcessReaped && news.kind != EventKind::kProcessEnded) return;
  const auto at = ledger_->entries().find(news.tenant);
  if (mps_ == nullptr || at == ledger_->entries().end()) return;
  const wire::TenantRecord& r = at->second.record;
  if (r.mps_group[0] == '\0') return;
  mps_->noted_end(mps_key(r), "process " + std::to_string(news.pid) + " of tenant " + news.tenant);
}

void WholeNode::take_verdicts(const std::vector<gpu::SelfTest>& tests) {
  verdicts_.clear();
  for (const gpu::SelfTest& t : tests) {
    const auto uuid = gpu::parse_uuid(t.uuid);
    if (!uuid || t.driver != driver_) continue;
    verdicts_[*uuid] = t.verdict();
    regions_->set_verdict(uuid->data(), t.driver, t.verdict());
  }
}

// What was measured of the devices' slices with this driver. The file is small and read where self-tests are.
void WholeNode::take_slices() {
  for (const gpu::TimeSlice& t : config_.time_slices) {
    const auto uuid = gpu::parse_uuid(t.uuid);
    if (!uuid || t.driver != driver_) continue;
    std::uint8_t key[shm::kUuidBytes];
    std::memcpy(key, uuid->data(), sizeof key);
    governor_->set_slice(key, t.slice_ns, t.loss_x1000);
  }
}

// What the configuration allows and the self-tests saw, into force.
void WholeNode::take_modes() {
  if (mps_) take_verdicts(config_.self_tests);  // then there is a page
  if (governor_) take_slices();
  ModeFacts facts;
  facts.rules = {config_.mps_enabled, config_.mps_groups, config_.mps_partition_groups};
  facts.verdict = [this](const std::uint8_t* uuid) {
    DeviceId id{};
    std::memcpy(id.data(), uuid, id.size());
    const auto at = verdicts_.find(id);
    return at == verdicts_.end() ? shm::Verdict{} : at->second;
  };
  ledger_->set_mode_facts(std::move(facts));
  if (mps_) mps_->configure(config_.mps_enabled, config_.mps_control);
}

void WholeNode::wire_mps() {
  MpsManager::Outside o;
  o.poller = &loop_.poller();
  o.directory = dir_.path;
  o.own_uid = ::geteuid();
  o.in_force = [this] { return mps_in_force(); };
  o.wants = [this](const MpsKey& key, const PartitionBooks& books) {
    return partition_wants(key, books);
  };
  o.post = [this](const MpsKey& key, EventKind kind, Severity severity, const std::string& text) {
    EventFields fields;
    fields.severity = severity;
    fields.uid = key.uid;
    std::string tenants;
    for (const auto& [name, e] : ledger_->entries()) {
      if (key.group == static_cast<const char*>(e.record.mps_group) &&
          e.record.owner_uid == key.uid)
        tenants += (tenants.empty() ? "; tenants " : ", ") + name;
    }
    journal_->post(loop_.read_clock(), kind, kind == EventKind::kMpsHit ? text + tenants : text,
                   fields);
  };
  mps_ = std::make_unique<MpsManager>(std::move(o));
  take_modes();
  mps_->find_left();
}

void WholeNode::wire_self_test() {
  SelfTester::Outside o;
  std::error_code none;
  o.program = (fs::read_symlink("/proc/self/exe", none).parent_path() / "bulkhead").string();
  o.wanted = [this] {
    if (!config_.self_test) return false;
    for (const Capacity& c : ledger_->capacities()) {
      DeviceId id{};
      std::memcpy(id.data(), c.uuid, id.size());
      if (!verdicts_.contains(id)) return true;
    }
    return false;
  };
  o.idle = [this] {
    const Round& r = watch_->round();
    return r.seen.uses_known && r.seen.uses.empty();
  };
  o.mps_control = [this] { return config_.mps_enabled ? config_.mps_control : std::string{}; };
  o.ended = [this](bool ok) {
    EventFields fields;
    fields.severity = ok ? Severity::kInfo : Severity::kWarning;
    journal_->post(loop_.read_clock(), EventKind::kSelfTested,
                   ok ? "the GPUs were tested: 'bulkhead doctor' shows what was seen"
                      : "a self-test could not be made: 'bulkhead doctor --self-test' says why",
                   fields);
    if (!config_.file.empty()) begin_reload([](const Answer&) {});
  };
  for (char** v = environ; *v != nullptr; ++v) {
    if (std::strncmp(*v, "LD_PRELOAD=", 11) != 0) o.environment.emplace_back(*v);
  }
  tester_ = std::make_unique<SelfTester>(std::move(o));
}

}  // namespace bulkhead::daemon
