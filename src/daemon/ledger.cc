// The ledger's own life: capacities, configuration, adoption, what a turn does.
#include "daemon/ledger.h"

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "daemon/ledger_internal.h"
#include "policy/limit.h"
#include "policy/node_admission.h"
#include "shm/world.h"

namespace bulkhead::daemon {
namespace {

constexpr std::uint64_t kCheckEvery_ns = 1'000'000'000;

bool same(const wire::TenantRecord& a, const wire::TenantRecord& b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

std::string status_text(const Status& s) {
  if (s.error_number() == 0) return s.text();
  return std::string{s.text()} + ": " + std::strerror(s.error_number());
}

}  // namespace

Ledger::Ledger(Regions& regions, LedgerOptions options)
    : regions_(regions), options_(std::move(options)) {
  rules_.users_may_create = options_.daemon_uid != 0;
}

void Ledger::post(wire::EventKind kind, const std::string& text, const EventFields& fields) const {
  if (options_.post) options_.post(kind, text, fields);
}

void Ledger::changed(bool room) {
  unstored_ = true;
  if (room) ++freed_;
}

const Capacity* Ledger::device(const std::uint8_t* uuid) const {
  for (const Capacity& c : devices_) {
    if (std::memcmp(c.uuid, uuid, sizeof c.uuid) == 0) return &c;
  }
  return nullptr;
}

void Ledger::compute_reserves() {
  for (Capacity& c : devices_) {
    const policy::Size share{0, rules_.reserve_x100, true};
    c.reserve_bytes = rules_.reserve_x100 == 0 ? 0 : policy::limit_of(share, c.total_bytes);
  }
}

void Ledger::set_capacities(std::vector<Capacity> devices) {
  devices_ = std::move(devices);
  compute_reserves();
  ++freed_;  // it may have grown; whoever waits is asked again
}

std::uint64_t Ledger::promised(const std::uint8_t* uuid) const {
  std::uint64_t sum = 0;
  for (const auto& [name, e] : entries_) {
    if (const wire::DeviceGrant* g = grant_of(e.record, uuid); g != nullptr) sum += g->memory_bytes;
  }
  return sum;
}

std::uint32_t Ledger::promised_x100(const std::uint8_t* uuid) const {
  std::uint32_t sum = 0;
  for (const auto& [name, e] : entries_) {
    if (const wire::DeviceGrant* g = grant_of(e.record, uuid); g != nullptr) sum += g->compute_x100;
  }
  return sum;
}

bool Ledger::is_operator(const Peer& peer) const {
  policy::NodeRules rules;
  rules.daemon_uid = options_.daemon_uid;
  return policy::is_operator(asker_of(peer), rules);
}

bool Ledger::may_see(const Peer& peer, const std::string& tenant) const {
  if (is_operator(peer)) return true;
  const auto at = entries_.find(tenant);
  return at != entries_.end() && peer.uid != wire::kNoId && at->second.record.owner_uid == peer.uid;
}

std::string Ledger::configure(const Config& config, const Now& now) {
  auto resolved = resolve_tenants(config, devices_, options_.daemon_uid);
  if (!resolved.ok()) return resolved.problem;
  for (const wire::TenantRecord& r : *resolved) {
    if (r.audit_mode != wire::AuditMode::kOff && !options_.no_audit.empty())
      return config.file + ": [[tenant]] " + r.name + " audit: " + options_.no_audit;
  }
  rules_.users_may_create =
      config.has_users_may_create ? config.users_may_create : options_.daemon_uid != 0;
  rules_.max_memory_bytes = config.max_memory.bytes;
  rules_.max_memory_x100 = config.max_memory.is_percent ? config.max_memory.percent_x100 : 0;
  rules_.max_compute_x100 = config.max_compute_x100;
  rules_.default_tenant = config.default_tenant;
  rules_.reserve_class = config.reserve_class;
  rules_.reserve_x100 = config.reserve_x100;
  compute_reserves();
  const std::vector<std::string> old_order = std::move(file_order_);
  file_order_.clear();
  for (const wire::TenantRecord& r : *resolved) {
    file_order_.emplace_back(r.name);
    Entry& e = entries_[r.name];
    if (e.since_unix_s == 0) e.since_unix_s = now.unix_ns / 1'000'000'000;
    const bool unchanged = e.source == Source::kConfigured && same(e.declared, r);
    e.source = Source::kConfigured;
    e.declared = r;
    if (!unchanged) e.record = r;
  }
  for (auto& [name, e] : entries_) {
    if (e.source != Source::kConfigured ||
        std::find(file_order_.begin(), file_order_.end(), name) != file_order_.end()) {
      continue;
    }
    // No longer in the file: settle() removes it unless processes run in it; then it stays until `rm`.
    e.source = Source::kFrontEnd;
    e.by_root = false;
    e.declared = {};
    e.record.match_cgroup[0] = '\0';
    std::memset(e.record.match_cgroup, 0, sizeof e.record.match_cgroup);
    e.record.match_uid = e.record.match_gid = wire::kNoId;
  }
  for (const std::string& name : old_order) {
    const auto at = entries_.find(name);
    if (at == entries_.end() || at->second.source == Source::kConfigured) continue;
    const Status s = regions_.remove(name, false);
    if (s.code() != Errc::kNotReady) drop(name, now, "no longer in the configuration");
  }
  unsettled_ = true;
  changed(true);
  return {};
}

bool Ledger::adopt(const wire::TenantRecord& found, const Now& now) {
  const std::string name = found.name;
  const EventFields who{wire::Severity::kWarning, name, 0, found.owner_uid};
  if (const auto at = entries_.find(name); at != entries_.end()) {
    unsettled_ = true;
    if (at->second.record.owner_uid == found.owner_uid) return true;
    post(wire::EventKind::kPeerRefused,
         "the region of tenant " + name + " belongs to uid " + std::to_string(found.owner_uid) +
             ", not to its owner: 'bulkhead rm " + name + "' removes it",
         who);
    return false;
  }
  const bool own = found.owner_uid == options_.daemon_uid || found.owner_uid == 0;
  if (!own && !(options_.daemon_uid == 0 && rules_.users_may_create)) {
    post(wire::EventKind::kPeerRefused,
         "the region of tenant " + name + " was made by uid " + std::to_string(found.owner_uid) +
             ", whom the policy does not let make tenants",
         who);
    return false;
  }
  Entry e;
  e.record = found;
  e.source = Source::kAdopted;
  e.since_unix_s = now.unix_ns / 1'000'000'000;
  if (!own) {  // within the maxima of its owner, whatever its header says
    for (unsigned i = 0; i < e.record.device_count; ++i) {
      wire::DeviceGrant& g = e.record.devices[i];
      const Capacity* c = device(g.uuid);
      const policy::Size size{rules_.max_memory_bytes, rules_.max_memory_x100,
                              rules_.max_memory_x100 != 0};
      const std::uint64_t most = policy::limit_of(size, c == nullptr ? 0 : c->total_bytes);
      std::uint64_t has = 0;
      for (const auto& [other, o] : entries_) {
        const wire::DeviceGrant* og = grant_of(o.record, g.uuid);
        if (og != nullptr && o.record.owner_uid == found.owner_uid) has += og->memory_bytes;
      }
      if (most != 0) g.memory_bytes = std::min(g.memory_bytes, most > has ? most - has : 0);
      if (rules_.max_compute_x100 != 0) bound_time(e.record, g);
    }
  }
  entries_[name] = e;
  unsettled_ = true;
  changed(false);
  post(wire::EventKind::kTenantAdopted,
       "tenant " + name + " was made without the daemon and is taken over",
       {wire::Severity::kInfo, name, 0, found.owner_uid, e.record.devices[0].memory_bytes,
        e.record.devices[0].uuid});
  for (const Capacity& c : devices_) {
    const wire::DeviceGrant* g = grant_of(e.record, c.uuid);
    if (g != nullptr && g->compute_x100 != 0 && promised_x100(c.uuid) > 10'000) {
      post(wire::EventKind::kAdmissionRefused,
           "with tenant " + name + " " + policy::share_text(promised_x100(c.uuid), false) +
               " of the time of " + gpu_text(c) + " is promised: nobody else gets a share there",
           {wire::Severity::kWarning, name, 0, wire::kNoId, 0, c.uuid});
    }
    if (promised(c.uuid) <= c.total_bytes || g == nullptr) continue;
    post(wire::EventKind::kAdmissionRefused,
         "with tenant " + name + " more is promised on " + gpu_text(c) +
             " than it has: nobody else is admitted there",
         {wire::Severity::kWarning, name, 0, wire::kNoId, promised(c.uuid), c.uuid});
  }
  return true;
}

// A user's region that was made without us has no more time than its owner may be promised; without a limit it has all.
void Ledger::bound_time(wire::TenantRecord& record, wire::DeviceGrant& grant) const {
  std::uint64_t has = 0;
  for (const auto& [other, o] : entries_) {
    const wire::DeviceGrant* og = grant_of(o.record, grant.uuid);
    if (og == nullptr || o.record.owner_uid != record.owner_uid) continue;
    has += og->compute_x100 == 0 ? 10'000 : og->compute_x100;
  }
  const std::uint64_t room = rules_.max_compute_x100 > has ? rules_.max_compute_x100 - has : 1;
  const std::uint32_t asked = grant.compute_x100 == 0 ? 10'000 : grant.compute_x100;
  if (asked <= room) return;
  if (grant.compute_x100 == 0) grant.ceiling_x100 = 0;
  grant.compute_x100 = static_cast<std::uint32_t>(room);
  if (grant.ceiling_x100 == 0 && (record.flags & wire::kRecordBorrow) == 0)
    grant.ceiling_x100 = grant.compute_x100;
}

// The region as the record says: what falls first, so that the page is never wider than the ledger.
void Ledger::apply(const std::string& name, const wire::TenantRecord& record, const Now&) {
  wire::TenantView view{};
  if (!regions_.view(name, view)) return;
  for (const bool falls : {true, false}) {
    for (unsigned i = 0; i < record.device_count; ++i) {
      const wire::DeviceGrant& g = record.devices[i];
      for (unsigned d = 0; d < std::min(view.device_count, wire::kMaxDevices); ++d) {
        const wire::DeviceView& has = view.devices[d];
        if (std::memcmp(has.uuid, g.uuid, sizeof g.uuid) != 0 ||
            (g.memory_bytes < has.limit_bytes) != falls || g.memory_bytes == has.limit_bytes) {
          continue;
        }
        (void)regions_.set_limit(name, g.uuid, g.memory_bytes);
      }
    }
  }
  for (unsigned i = 0; i < record.device_count; ++i) {
    (void)regions_.set_compute(name, record.devices[i].uuid, rules_of(record, record.devices[i]));
  }
  (void)regions_.set_priority(name, record.priority);
  apply_mode(name, record);
  (void)regions_.set_copy_rate(name, record.copy_rate_mb_s);
  (void)regions_.set_on_fault(name, record.on_fault);
  std::vector<std::string> shares;
  for (const auto& other : record.share_with) {
    if (other[0] != '\0') shares.emplace_back(other);
  }
  (void)regions_.set_share_with(name, shares);
  if (options_.before_audit) options_.before_audit(name, record.audit_mode, nullptr);
  (void)regions_.set_audit(name, record.audit_mode);
}

// Whether its region is of other GPUs or of another owner than the record: both are for a region's life.
bool Ledger::outgrown(const std::string& name, const wire::TenantRecord& record) const {
  wire::TenantView view{};
  if (!regions_.view(name, view) || view.device_count == 0) return false;  // not looked at yet
  if (view.owner_uid != wire::kNoId && view.owner_uid != record.owner_uid) return true;
  const unsigned count = std::min(view.device_count, wire::kMaxDevices);
  for (unsigned d = 0; d < count; ++d) {
    if (grant_of(record, view.devices[d].uuid) == nullptr) return true;
  }
  return count != record.device_count;
}

// What the record no longer grants is promised to others from now on (invariant D6).
void Ledger::withdraw(const std::string& name, const wire::TenantRecord& record) {
  wire::TenantView view{};
  if (!regions_.view(name, view)) return;
  for (unsigned d = 0; d < std::min(view.device_count, wire::kMaxDevices); ++d) {
    if (grant_of(record, view.devices[d].uuid) != nullptr) continue;
    (void)regions_.set_limit(name, view.devices[d].uuid, 0);
  }
  post(wire::EventKind::kTenantUpdated,
       "tenant " + name +
           " has other GPUs or another owner in the configuration, and processes run in it: it is "
           "made anew at the first reload after their end",
       {wire::Severity::kWarning, name});
}

std::vector<std::string> Ledger::waiting_for_their_end() const {
  std::vector<std::string> out;
  for (const auto& [name, e] : entries_) {
    if (outgrown(name, e.record)) out.push_back(name);
  }
  return out;
}

void Ledger::settle(const Now& now) {
  unsettled_ = false;
  const std::vector<std::string> all = regions_.names();
  const std::set<std::string> there{all.begin(), all.end()};
  std::vector<std::string> lost;
  for (auto& [name, e] : entries_) {
    bool stays = there.contains(name);
    if (stays && outgrown(name, e.record)) {
      stays = !regions_.remove(name, false).ok();
      if (stays) withdraw(name, e.record);
    }
    if (stays) {
      apply(name, e.record, now);
    } else if ((e.record.flags & wire::kRecordEphemeral) != 0) {
      lost.push_back(name);
    } else if (const Status s = regions_.make(e.record); !s.ok()) {
      post(wire::EventKind::kTenantFaulty, "cannot make tenant " + name + ": " + status_text(s),
           {wire::Severity::kWarning, name});
    } else {
      apply(name, e.record, now);
    }
  }
  for (const std::string& name : lost) drop(name, now, "its region is gone");
}

void Ledger::drop(const std::string& name, const Now&, const std::string& why) {
  const auto at = entries_.find(name);
  if (at == entries_.end()) return;
  const std::uint32_t owner = at->second.record.owner_uid;  // whose limit of events it is
  entries_.erase(at);
  changed(true);
  post(wire::EventKind::kTenantRemoved, "tenant " + name + ": " + why,
       {wire::Severity::kInfo, name, 0, owner});
}

void Ledger::gone(const std::string& name, const Now& now) {
  const auto at = entries_.find(name);
  if (at == entries_.end() || (at->second.record.flags & wire::kRecordEphemeral) == 0) return;
  drop(name, now, "its last process ended");
}

void Ledger::tick(const Now& now) {
  if (unsettled_) settle(now);
  if (now.mono_ns - checked_ns_ >= kCheckEvery_ns) {
    checked_ns_ = now.mono_ns;
    std::vector<std::string> orphans;
    // One look into /proc a turn, in rotation, finds a creator whose number another process has got; the others only
    // need their number to be free.
    const auto full = entries_.lower_bound(next_checked_);
    for (auto at = entries_.begin(); at != entries_.end(); ++at) {
      const Entry& e = at->second;
      if ((e.record.flags & wire::kRecordEphemeral) == 0 || e.creator_pid == 0) continue;
      bool lives;
      if (options_.alive) {
        lives = options_.alive(e.creator_pid, e.creator_start_ticks);
      } else if (at == full) {
        lives = shm::presence_in_proc(e.creator_pid, e.creator_start_ticks) != shm::Presence::kGone;
      } else {
        lives = ::kill(static_cast<pid_t>(e.creator_pid), 0) == 0 || errno != ESRCH;
      }
      if (!lives) orphans.push_back(at->first);
    }
    next_checked_ = full == entries_.end() ? "" : full->first + '\1';
    for (const std::string& name : orphans) {
      if (regions_.remove(name, false).code() != Errc::kNotReady)
        drop(name, now, "its `run` ended");
    }
  }
  keep();
}

void Ledger::keep() {
  if (unstored_ && options_.store) options_.store(to_json());
  unstored_ = false;
}

}  // namespace bulkhead::daemon
