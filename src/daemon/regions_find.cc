// TenantRegions: regions on disk that nobody here made, and those that vanished.
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "base/kill_point.h"
#include "daemon/compute.h"
#include "daemon/regions_inside.h"
#include "shm/beacon.h"
#include "shm/files.h"
#include "shm/quota.h"

namespace bulkhead::daemon {
namespace {

constexpr unsigned kSoonLooks = 100;  // at a directory whose region is being made; then each second
constexpr std::uint64_t kSoon_ns = 2'000'000;
constexpr std::uint64_t kLook_ns = 1'000'000'000;

std::vector<std::string> on_disk(const shm::Dir& dir) {
  std::vector<std::string> out;
  const auto add = [](void* to, const char* name) {
    static_cast<std::vector<std::string>*>(to)->emplace_back(name);
    return true;
  };
  (void)shm::list_tenants(dir, add, &out);  // what cannot be listed has none
  return out;
}

uid_t region_owner(const shm::Dir& dir, const std::string& name) {
  struct stat st {};
  const std::string path = "tenants/" + name + "/region";
  const bool there = ::fstatat(dir.fd.get(), path.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0;
  return there ? st.st_uid : static_cast<uid_t>(-1);
}

}  // namespace

ino_t region_inode(const shm::Dir& dir, const std::string& name) {
  struct stat st {};
  const std::string path = "tenants/" + name + "/region";
  return ::fstatat(dir.fd.get(), path.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 ? st.st_ino : 0;
}

Status TenantRegions::start(std::uint32_t page_flags) {
  const shm::Dir& dir = *outside_.dir;
  if (::mkdirat(dir.fd.get(), "tenants", dir.euid == 0 ? 0755 : 0700) != 0 && errno != EEXIST) {
    return Status{Errc::kIo, errno, "cannot make the directory of tenants"};
  }
  const auto exists = [&](const char* name) { return region_inode(dir, name) != 0; };
  if (const Status bad = page_.open(dir, page_flags, exists); !bad.ok()) return bad;
  inotify_.reset(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  const std::string path = std::string{dir.path} + "/tenants";
  if (inotify_.ok() && ::inotify_add_watch(inotify_.get(), path.c_str(),
                                           IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_ONLYDIR) >= 0) {
    // without it names are looked at each second all the same
    (void)outside_.poller->add(inotify_.get(), EPOLLIN, [this](std::uint32_t) {
      char events[4096];
      while (::read(inotify_.get(), events, sizeof events) > 0) {
      }
      names_changed_ = true;
    });
  }
  look_at_names();
  return Status{};
}

void TenantRegions::discover() {
  look_at_names();
  bool soon = false;
  for (const auto& [name, looks] : awaited_) soon |= looks < kSoonLooks;
  next_look_ns_ = outside_.clock().mono_ns + (soon ? kSoon_ns : kLook_ns);
}

void TenantRegions::look_at_names() {
  names_changed_ = false;
  std::vector<std::string> gone;
  for (const auto& [name, tenant] : tenants_) {
    if (!still_there(*tenant)) gone.push_back(name);
  }
  for (const std::string& name : gone) {
    forget(name);
    if (on_gone) on_gone(name);
  }
  std::map<std::string, unsigned> awaited;
  for (const std::string& name : on_disk(*outside_.dir)) {
    if (find(name) != nullptr || consider(name)) continue;
    awaited[name] = awaited_.contains(name) ? awaited_[name] + 1 : 0;
  }
  awaited_ = std::move(awaited);
}

bool TenantRegions::still_there(const Tenant& tenant) const {
  return region_inode(*outside_.dir, tenant.name) == tenant.region.inode();
}

bool TenantRegions::consider(const std::string& name) {
  const ino_t inode = region_inode(*outside_.dir, name);
  if (inode == 0) return false;
  if (const auto it = ignored_.find(name); it != ignored_.end() && it->second == inode) return true;
  Result<HeldRegion> held = HeldRegion::open(*outside_.dir, name, scratch_);
  const bool readable = held.ok();
  if (readable && take_over(name, std::move(*held))) {
    ignored_.erase(name);
    unreadable_.erase(name);
    return true;
  }
  if (!held.ok() &&
      (held.status().code() == Errc::kNotFound || held.status().code() == Errc::kNotReady)) {
    return false;
  }
  ignored_[name] = inode;
  if (!readable) unreadable_[name] = region_owner(*outside_.dir, name);
  if (!readable && on_news) {
    on_news({wire::EventKind::kTenantFaulty, name, 0, wire::kNoId, 0,
             "its region is left alone: " + std::string{held.status().text()}});
  }
  return true;
}

// Its limits are what the page granted it, else what stands in it; the ledger may set others while it is asked.
bool TenantRegions::take_over(const std::string& name, HeldRegion held) {
  auto made = std::make_unique<Tenant>(std::move(held));
  Tenant& tenant = *made;
  if (!tenant.region.look(scratch_).ok()) return false;
  const shm::RegionHeader& h = scratch_.get().header;
  // In a user's own directory an older page may speak of another tenant of this name.
  const bool page_counts = outside_.dir->authoritative || h.adopted.load(kRelaxed) != 0;
  tenant.name = name;
  tenant.ephemeral = (h.flags & shm::kEphemeral) != 0;
  tenant.creator.pid = h.creator_pid;
  tenant.creator.start_ticks = h.creator_start_ticks;
  tenant.creator.pid_namespace = h.creator_pid_namespace;
  wire::TenantRecord found{};
  std::memcpy(found.name, name.c_str(), name.size() + 1);
  found.owner_uid = tenant.region.uid();  // the file's, not what it says
  found.flags = (tenant.ephemeral ? wire::kRecordEphemeral : 0u) |
                ((h.flags & shm::kOvercommitted) != 0 ? wire::kRecordOvercommit : 0u);
  found.on_fault =
      h.on_fault.load(kRelaxed) == shm::kOnFaultOpen ? wire::OnFault::kOpen : wire::OnFault::kDeny;
  found.match_uid = found.match_gid = wire::kNoId;
  found.device_count = static_cast<std::uint32_t>(tenant.region.devices().size());
  for (unsigned d = 0; d < found.device_count; ++d) {
    const auto& device = tenant.region.devices()[d];
    std::memcpy(found.devices[d].uuid, device.uuid, sizeof device.uuid);
    const auto granted = page_.limit(name, device.uuid);
    found.devices[d].memory_bytes =
        granted.ok() && page_counts ? *granted : shm::limit_bytes(scratch_.get(), d);
    tenant.limits.push_back(found.devices[d].memory_bytes);
    const auto promised = page_.compute(name, device.uuid);
    tenant.times.push_back(
        {promised.ok() && page_counts ? *promised : shm::region_compute(scratch_.get(), d), {}});
    put_rules(found, found.devices[d], tenant.times.back().rules);
  }
  tenant.view.since_unix_s = outside_.clock().unix_ns / 1'000'000'000;
  tenant.view.flags = wire::kViewAdopted;
  if (page_counts && page_.latency(name)) found.priority = wire::Priority::kLatency;
  tenants_[name] = std::move(made);
  bool ours = !on_found || on_found(found);
  for (unsigned d = 0; ours && d < found.device_count; ++d) {
    ours = page_.set(name, found.devices[d].uuid, tenant.limits[d]).ok() &&
           page_.set_compute(name, found.devices[d].uuid, tenant.times[d].rules).ok();
  }
  if (!ours) {
    forget(name);
    return false;
  }
  BH_KILL_POINT("adopt.granted");
  if (auto beacon = make_sealed(("bulkhead-beacon-" + name).c_str(), sizeof(shm::Beacon));
      beacon.ok()) {
    tenant.beacon = std::move(*beacon);
    shm::format_beacon(*tenant.beacon.map.as<shm::Beacon>(), name.c_str());
  }
  (void)set_priority(name, found.priority);
  if (!tenant.region.adopt()) broken(tenant, "its file was cut short");
  BH_KILL_POINT("adopt.raised");
  name_partners();
  tell(wire::EventKind::kTenantAdopted, tenant, "taken over from disk");
  scan(tenant, outside_.clock());
  if (on_shares) on_shares();
  return true;
}

// A younger process was started when nobody could join that tenant any more.
std::string TenantRegions::may_be_of_faulty(std::uint32_t uid, std::uint64_t start_ticks) const {
  if (start_ticks == 0 || start_ticks >= self_.start_ticks) return {};
  for (const auto& [name, owner] : unreadable_) {
    if (owner == uid && region_inode(*outside_.dir, name) != 0) return name;
  }
  return {};
}

void TenantRegions::forget(const std::string& name) {
  page_.drop(name);
  ignored_.erase(name);
  unreadable_.erase(name);
  const auto it = tenants_.find(name);
  if (it == tenants_.end()) return;
  for (Slot& slot : it->second->slots) drop_watch(slot);
  tenants_.erase(it);
}

}  // namespace bulkhead::daemon
