#include "policy/bypass.h"

#include <algorithm>
#include <initializer_list>
#include <set>
#include <string_view>

namespace bulkhead::policy {
namespace {

const BookedProcess* slot_of(const SeenProcess& p, const std::vector<BookedProcess>& books) {
  for (const BookedProcess& b : books) {
    if (b.start_ticks != p.start_ticks) continue;
    if (b.pid == p.pid || (b.pid == 0 && p.nested)) return &b;
  }
  return nullptr;
}

bool contains(const std::vector<std::string>& list, const std::string& path) {
  return !path.empty() && std::find(list.begin(), list.end(), path) != list.end();
}

std::uint64_t shown_on(const BookedProcess& b, const DeviceUuid& device) {
  for (const auto& [uuid, bytes] : b.shown_bytes) {
    if (uuid == device) return bytes;
  }
  return 0;
}

}  // namespace

namespace {

// What only root can have put there.
bool is_system_program(const std::string& exe, std::initializer_list<std::string_view> names) {
  for (const std::string_view directory : {"/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/"}) {
    if (!std::string_view{exe}.starts_with(directory)) continue;
    const std::string_view name = std::string_view{exe}.substr(directory.size());
    return std::find(names.begin(), names.end(), name) != names.end();
  }
  return false;
}

}  // namespace

bool is_vendor_service(const SeenProcess& p) {
  return p.uid == 0 && is_system_program(p.exe, {"nvidia-persistenced", "nvidia-cuda-mps-server",
                                                 "nvidia-cuda-mps-control"});
}

bool is_allowed(const SeenProcess& p, const BypassRules& rules) {
  const bool server = std::find(rules.mps_servers.begin(), rules.mps_servers.end(), p.pid) !=
                      rules.mps_servers.end();
  if (server && is_system_program(p.exe, {"nvidia-cuda-mps-server"})) return true;
  return p.pid == rules.own_pid || is_vendor_service(p) || contains(rules.allow_paths, p.exe) ||
         std::find(rules.allow_uids.begin(), rules.allow_uids.end(), p.uid) !=
             rules.allow_uids.end();
}

bool may_kill(const SeenProcess& p, const BypassRules& rules) {
  // 0xffffffff: the uid could not be read. pid 1 and 0 are nobody's to kill.
  return rules.kill && rules.root_daemon && p.pid > 1 && p.uid != 0 && p.uid != 0xffff'ffff &&
         p.start_ticks != 0 && !is_allowed(p, rules);
}

void Bypass::sight(StrayKind kind, const SeenProcess& p, const DeviceUuid& device,
                   std::uint64_t bytes, const std::string& tenant) {
  Known& k = known_[{kind, p.pid, p.start_ticks, device}];
  const std::uint32_t sightings = k.stray.sightings + (k.seen ? 0 : 1);
  k.stray = {kind, p, device, bytes, sightings, tenant};
  k.seen = true;
}

// Who is passed over in this round, at its price.
void Bypass::list_probes(const SeenRound& round) {
  probes_.clear();
  for (auto it = rations_.begin(); it != rations_.end();) {
    Ration& r = it->second;
    if (++r.since >= kProbeRefill && r.used > 0) r.since = 0, --r.used;
    it = r.used == 0 ? rations_.erase(it) : std::next(it);
  }
  if (rules_.probe == FileId{}) return;
  for (const SeenProcess& p : round.processes) {
    if (p.exe_id != rules_.probe || p.uid == 0xffff'ffff) continue;
    std::uint64_t most = 0;
    bool used = false;
    for (const SeenUse& use : round.uses) {
      if (use.pid != p.pid) continue;
      used = true;
      most = std::max(most, use.bytes);
    }
    if (!used || most > kProbeBytes) continue;
    Ration& r = rations_[p.uid];
    if (r.used >= rules_.probe_rounds) continue;
    ++r.used;
    probes_.insert(p.pid);
  }
}

BypassResult Bypass::look(const SeenRound& round, const std::vector<BookedProcess>& books) {
  BypassResult out;
  if (!round.uses_known) {
    // Nothing is known of this second: strays stay, but sightings are no longer in a row.
    for (auto& [key, k] : known_) {
      k.stray.sightings = 0;
      if (k.reported) out.strays.push_back(k.stray);
    }
    return out;
  }
  list_probes(round);
  std::map<std::uint32_t, const SeenProcess*> by_pid;
  for (const SeenProcess& p : round.processes) by_pid[p.pid] = &p;
  std::set<std::uint32_t> on_device;
  for (const SeenUse& use : round.uses) {
    on_device.insert(use.pid);
    const auto at = by_pid.find(use.pid);
    if (at == by_pid.end()) continue;  // gone while we looked
    const SeenProcess& p = *at->second;
    if (const BookedProcess* slot = slot_of(p, books)) {
      const std::uint64_t booked = shown_on(*slot, use.device);
      if (use.bytes > booked && use.bytes - booked > kDriftBytes) {
        sight(StrayKind::kDrift, p, use.device, use.bytes - booked, slot->tenant);
      }
    } else if (!is_allowed(p, rules_) && !probes_.contains(p.pid)) {
      sight(StrayKind::kUnregistered, p, use.device, use.bytes, {});
    }
  }
  for (const SeenProcess& p : round.processes) {
    if (!p.holds_node || on_device.contains(p.pid) || is_allowed(p, rules_)) continue;
    if (contains(rules_.own_programs, p.exe) || slot_of(p, books) != nullptr) continue;
    // A fork of a tenant's process has its descriptors and no slot until it uses the driver.
    const bool child = std::any_of(books.begin(), books.end(), [&](const BookedProcess& b) {
      return b.pid != 0 && b.pid == p.parent_pid;
    });
    if (!child) sight(StrayKind::kHoldsNode, p, {}, 0, {});
  }
  settle(out);
  return out;
}

void Bypass::settle(BypassResult& out) {
  std::set<std::uint32_t> to_kill;
  for (auto it = known_.begin(); it != known_.end();) {
    Known& k = it->second;
    if (!k.seen) {
      if (k.reported) out.changes.emplace_back(StrayChange::kGone, k.stray);
      it = known_.erase(it);
      continue;
    }
    k.seen = false;
    const bool drift = k.stray.kind == StrayKind::kDrift;
    if (!k.reported && k.stray.sightings >= (drift ? kDriftRounds : kGraceRounds)) {
      k.reported = true;
      out.changes.emplace_back(StrayChange::kFound, k.stray);
    }
    if (k.reported) out.strays.push_back(k.stray);
    // Only who is on a device: to hold one open is what monitors do.
    if (k.stray.kind == StrayKind::kUnregistered && k.stray.sightings >= kKillRounds &&
        may_kill(k.stray.process, rules_) && to_kill.insert(k.stray.process.pid).second) {
      out.kill.push_back(k.stray.process);
    }
    ++it;
  }
}

}  // namespace bulkhead::policy
