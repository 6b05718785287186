// The face of TenantRegions: what the ledger asks for. Finding, scanning and reaping are in the files beside.
#include "daemon/regions_impl.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/kill_point.h"
#include "daemon/compute.h"
#include "daemon/regions_inside.h"
#include "shm/beacon.h"
#include "shm/quota.h"
#include "shm/words.h"

namespace bulkhead::daemon {

std::uint64_t in_units(std::uint64_t bytes, std::uint32_t unit_shift) {
  const std::uint64_t unit = 1ull << (unit_shift & 31);
  return std::min(bytes & ~(unit - 1), (shm::kUsedMask >> 1) * unit);
}

bool creator_of_name(const std::string& name, shm::Identity& out) {
  unsigned long pid = 0;
  unsigned long long start = 0;
  char rest = 0;
  if (std::sscanf(name.c_str(), "run-%lu-%llu%c", &pid, &start, &rest) != 2 || pid == 0)
    return false;
  out.pid = static_cast<std::uint32_t>(pid);
  out.start_ticks = start;
  return true;
}

TenantRegions::TenantRegions(Outside outside) : outside_(std::move(outside)) {
  if (!outside_.turn_began) outside_.turn_began = outside_.clock;
  self_ = shm::read_identity();
  pid_namespace_ = self_.pid_namespace;
}

TenantRegions::~TenantRegions() {
  for (auto& [name, tenant] : tenants_) {
    for (Slot& slot : tenant->slots) drop_watch(slot);
  }
  if (inotify_.ok()) outside_.poller->remove(inotify_.get());
}

TenantRegions::Tenant* TenantRegions::find(const std::string& name) const {
  const auto it = tenants_.find(name);
  return it == tenants_.end() ? nullptr : it->second.get();
}

// What was just made and cannot be kept. By path, below directories that are ours alone: it needs no descriptor, for it
// may be descriptors that are out.
void TenantRegions::unmake(const std::string& name) {
  const std::string home = "tenants/" + name;
  ::unlinkat(outside_.dir->fd.get(), (home + "/region").c_str(), 0);
  ::unlinkat(outside_.dir->fd.get(), home.c_str(), AT_REMOVEDIR);
  page_.drop(name);
}

// The page first, so that no process finds a region that the page does not grant yet.
Status TenantRegions::make(const wire::TenantRecord& record) {
  const std::string name{record.name, ::strnlen(record.name, sizeof record.name)};
  if (!shm::valid_name(name.c_str())) return Status{Errc::kInvalid, 0, "not a tenant's name"};
  if (find(name) != nullptr) return Status{Errc::kExists, 0, "the tenant exists already"};
  if (record.device_count == 0 || record.device_count > shm::kMaxDevices) {
    return Status{Errc::kInvalid, 0, "a tenant has 1 to 16 devices"};
  }
  if (tenants_.size() >= shm::kMaxTenants) return Status{Errc::kFull, 0, "1,024 tenants exist"};
  if (region_inode(*outside_.dir, name) != 0) {  // left alone: the page must not grant it ours
    return Status{Errc::kExists, 0,
                  "a region that was not taken over lies there: 'bulkhead rm' it"};
  }
  shm::TenantSpec spec;
  shm::Identity creator = shm::read_identity();
  spec.name = name.c_str();
  spec.owner_uid = record.owner_uid;
  spec.ephemeral = (record.flags & wire::kRecordEphemeral) != 0;
  spec.overcommit = (record.flags & wire::kRecordOvercommit) != 0;
  spec.on_fault = static_cast<shm::OnFault>(record.on_fault);
  spec.admitted = true;
  if (spec.ephemeral) static_cast<void>(creator_of_name(name, creator));
  spec.creator = &creator;
  spec.device_count = record.device_count;
  Status done{};
  for (unsigned d = 0; d < record.device_count && done.ok(); ++d) {
    const wire::DeviceGrant& grant = record.devices[d];
    shm::DeviceSpec& to = spec.devices[d];
    std::memcpy(to.uuid, grant.uuid, sizeof to.uuid);
    to.limit_bytes = grant.memory_bytes;
    to.total_bytes = outside_.total_bytes_of ? outside_.total_bytes_of(grant.uuid) : 0;
    if (to.total_bytes == 0) to.total_bytes = grant.memory_bytes;
    to.compute = rules_of(record, grant);
    done = page_.set(name, grant.uuid, grant.memory_bytes);
    if (done.ok()) done = page_.set_compute(name, grant.uuid, to.compute);
  }
  if (done.ok()) done = page_.set_audit(name, static_cast<std::uint32_t>(record.audit_mode));
  BH_KILL_POINT("make.granted");
  shm::Arithmetic unused;
  if (done.ok()) done = shm::create_tenant(*outside_.dir, spec, unused);
  if (!done.ok()) {
    page_.drop(name);
    return done;
  }
  BH_KILL_POINT("make.created");
  Result<HeldRegion> held = HeldRegion::open(*outside_.dir, name, scratch_);
  if (!held.ok()) {
    unmake(name);
    return held.status();
  }
  auto made = std::make_unique<Tenant>(std::move(*held));
  Tenant& tenant = *made;
  tenant.name = name;
  tenant.ephemeral = spec.ephemeral;
  tenant.creator = creator;
  for (unsigned d = 0; d < record.device_count; ++d) {
    tenant.limits.push_back(record.devices[d].memory_bytes);
    tenant.times.push_back({rules_of(record, record.devices[d]), {}});
  }
  tenant.view.since_unix_s = outside_.clock().unix_ns / 1'000'000'000;
  if (auto beacon = make_sealed(("bulkhead-beacon-" + name).c_str(), sizeof(shm::Beacon));
      beacon.ok()) {
    tenant.beacon = std::move(*beacon);
    shm::format_beacon(*tenant.beacon.map.as<shm::Beacon>(), name.c_str());
  }
  ignored_.erase(name);
  tenants_[name] = std::move(made);
  (void)set_priority(name, record.priority);
  (void)set_copy_rate(name, record.copy_rate_mb_s);
  if (!tenant.region.adopt()) broken(tenant, "its file was cut short");
  BH_KILL_POINT("make.adopted");
  name_partners();
  scan(tenant, outside_.clock());
  if (on_shares) on_shares();
  return Status{};
}

// The page first either way: it lowers at once, and a process that applies it never meets an older, lower figure
// after the region was raised.
Status TenantRegions::set_limit(const std::string& name, const std::uint8_t* uuid,
                                std::uint64_t bytes) {
  Tenant* tenant = find(name);
  const int d = tenant != nullptr ? tenant->region.find(uuid) : -1;
  if (d < 0) return Status{Errc::kNotFound, 0, "no such tenant, or it has no such device"};
  const auto at = static_cast<std::size_t>(d);
  if (const Status bad = page_.set(name, uuid, bytes); !bad.ok()) return bad;
  BH_KILL_POINT("limit.page_set");
  tenant->limits[at] = bytes;
  tenant->view.devices[at].limit_bytes = in_units(bytes, tenant->region.devices()[at].unit_shift);
  if (!tenant->region.set_limit(static_cast<unsigned>(d), bytes))
    broken(*tenant, "its file was cut short");
  BH_KILL_POINT("limit.region_set");
  dirty_.insert(name);
  return Status{};
}

// The page first either way, as for limits.
Status TenantRegions::set_compute(const std::string& name, const std::uint8_t* uuid,
                                  const shm::ComputeRules& rules) {
  Tenant* tenant = find(name);
  const int d = tenant != nullptr ? tenant->region.find(uuid) : -1;
  if (d < 0) return Status{Errc::kNotFound, 0, "no such tenant, or it has no such device"};
  shm::ComputeRules& has = tenant->times[static_cast<std::size_t>(d)].rules;
  const shm::ComputeRules wanted = shm::in_range(rules);
  if (has == wanted) return Status{};
  if (const Status bad = page_.set_compute(name, uuid, wanted); !bad.ok()) return bad;
  BH_KILL_POINT("share.page_set");
  has = wanted;
  if (!tenant->region.set_compute(static_cast<unsigned>(d), wanted))
    broken(*tenant, "its file was cut short");
  BH_KILL_POINT("share.region_set");
  dirty_.insert(name);
  if (on_shares) on_shares();
  return Status{};
}

Status TenantRegions::set_enforcer(const std::string& name, std::uint32_t flags,
                                   const std::string& group) {
  return page_.set_mode(name, flags, group);
}

Status TenantRegions::set_on_fault(const std::string& name, wire::OnFault value) {
  Tenant* tenant = find(name);
  if (tenant == nullptr) return Status{Errc::kNotFound, 0, "no such tenant"};
  if (!tenant->region.set_on_fault(value)) broken(*tenant, "its file was cut short");
  dirty_.insert(name);
  return Status{};
}

Status TenantRegions::set_share_with(const std::string& name,
                                     const std::vector<std::string>& others) {
  Tenant* tenant = find(name);
  if (tenant == nullptr) return Status{Errc::kNotFound, 0, "no such tenant"};
  tenant->share_with = others;
  page_.set_partners(name, others);
  return Status{};
}

Status TenantRegions::set_audit(const std::string& name, wire::AuditMode mode) {
  return page_.set_audit(name, static_cast<std::uint32_t>(mode));
}

// Who was named before there was such a tenant.
void TenantRegions::name_partners() {
  for (const auto& [name, tenant] : tenants_) {
    if (!tenant->share_with.empty()) page_.set_partners(name, tenant->share_with);
  }
}

Status TenantRegions::remove(const std::string& name, bool force) {
  const bool known = find(name) != nullptr;  // else it may lie there all the same, left alone
  const Status done = shm::remove_tenant(*outside_.dir, name.c_str(), force, shm::Patience::kBrief);
  BH_KILL_POINT("remove.done");
  if (!done.ok() && (done.code() != Errc::kNotFound || !known)) return done;
  forget(name);
  return Status{};
}

std::uint64_t TenantRegions::held(const std::string& name, const std::uint8_t* uuid) const {
  Tenant* tenant = find(name);
  const int d = tenant != nullptr ? tenant->region.find(uuid) : -1;
  if (d < 0 || !tenant->region.look(scratch_).ok()) return 0;  // the next scan says that it broke
  return shm::held_bytes(scratch_.get(), static_cast<unsigned>(d));
}

bool TenantRegions::view(const std::string& name, wire::TenantView& out) const {
  const Tenant* tenant = find(name);
  if (tenant == nullptr) return false;
  out = tenant->view;
  return true;
}

std::vector<std::string> TenantRegions::names() const {
  std::vector<std::string> out;
  out.reserve(tenants_.size());
  for (const auto& [name, tenant] : tenants_) out.push_back(name);
  return out;
}

std::vector<Regions::Member> TenantRegions::members() const {
  std::vector<Member> out;
  for (const auto& [name, tenant] : tenants_) {
    std::vector<std::vector<std::uint8_t>> uuids;
    for (const auto& d : tenant->region.devices())
      uuids.emplace_back(d.uuid, d.uuid + sizeof d.uuid);
    for (std::size_t j = 0; j < tenant->slots.size(); ++j) {
      const Slot& slot = tenant->slots[j];
      if (!slot.live) continue;
      out.push_back({slot.pid, slot.start_ticks, name, static_cast<std::uint32_t>(j), slot.booked,
                     slot.unseen, uuids});
    }
    for (const Lost& lost : tenant->lost)
      out.push_back({lost.pid, lost.start_ticks, name, lost.slot, lost.booked, lost.unseen, uuids});
  }
  return out;
}

int TenantRegions::beacon(const std::string& name) const {
  const Tenant* tenant = find(name);
  return tenant != nullptr ? tenant->beacon.fd.get() : -1;
}

void TenantRegions::tell(wire::EventKind kind, const Tenant& tenant, std::string text,
                         std::uint32_t pid, std::uint64_t bytes) {
  if (on_news) on_news({kind, tenant.name, pid, tenant.region.uid(), bytes, std::move(text)});
}

int TenantRegions::tick(const Now& now) {
  if (names_changed_ || now.mono_ns >= next_look_ns_) discover();
  if (now.mono_ns >= next_round_ns_) {
    next_round_ns_ = now.mono_ns + 1'000'000'000;
    ++rounds_;
    round_.clear();
    for (const auto& [name, tenant] : tenants_) round_.push_back(name);
    reading_ = true;
  }
  for (unsigned i = 0; i < kWatchesPerTurn && !unwatched_.empty(); ++i) {
    const Unwatched wanted = unwatched_.front();
    unwatched_.pop_front();
    open_watch(wanted);
  }
  const std::set<std::string> dirty = std::exchange(dirty_, {});
  for (const std::string& name : dirty) {
    if (Tenant* tenant = find(name)) scan(*tenant, now);
  }
  for (unsigned i = 0; i < kScansPerTurn && !round_.empty(); ++i) {
    Tenant* tenant = find(round_.front());
    round_.pop_front();
    if (tenant != nullptr) scan(*tenant, now);
  }
  if (round_.empty() && std::exchange(reading_, false) && on_read) on_read();
  if (!unwatched_.empty() || !round_.empty() || names_changed_) return 0;
  std::uint64_t due_ns = std::min(next_round_ns_, next_look_ns_);
  if (!dirty_.empty())
    due_ns = std::min(due_ns, now.mono_ns + 2'000'000);  // a reaper is at work there
  return due_ns > now.mono_ns ? static_cast<int>((due_ns - now.mono_ns + 999'999) / 1'000'000) : 0;
}

}  // namespace bulkhead::daemon
