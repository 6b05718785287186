// The ledger's later words: update, unregister.
#include <algorithm>

#include "daemon/ledger_internal.h"
#include "policy/limit.h"

namespace bulkhead::daemon {
namespace {

std::string exact(std::uint64_t bytes) {
  char text[policy::kSizeText];
  return policy::format_exact(bytes, text);
}

policy::ComputeLimit compute_of(const wire::TenantRecord& r, const wire::DeviceGrant& g) {
  return {g.compute_x100, g.ceiling_x100, (r.flags & wire::kRecordBorrow) != 0};
}

bool names(const wire::TenantRecord& r, const char* other) {
  return std::any_of(std::begin(r.share_with), std::end(r.share_with),
                     [other](const auto& name) { return std::strcmp(name, other) == 0; });
}

// ": share of the GPU's time 25% -> 10%, burst 5 ms -> 2 ms".
std::string change_text(const shm::ComputeRules& is, const shm::ComputeRules& want) {
  std::string out = ": share of the GPU's time " + rules_text(is) + " -> " + rules_text(want);
  if (!want.limited()) return out;
  const auto pace = [&out](const char* what, std::uint32_t from_us, std::uint32_t to_us) {
    if (from_us == to_us) return;
    out += std::string{", "} + what + " " + std::to_string(from_us) + " us -> ";
    out += std::to_string(to_us) + " us";
  };
  if (is.limited()) {
    pace("burst", is.burst_us, want.burst_us);
    pace("window", is.window_us, want.window_us);
  }
  return out;
}

// `before` with the fields that `mask` names taken from `wanted`. False: a device it has no grant on.
bool merge(wire::TenantRecord& to, const wire::TenantRecord& wanted, std::uint32_t mask) {
  for (unsigned i = 0; i < wanted.device_count; ++i) {
    wire::DeviceGrant* g = grant_of(to, wanted.devices[i].uuid);
    if (g == nullptr) return false;
    if ((mask & wire::kSetMemory) != 0) g->memory_bytes = wanted.devices[i].memory_bytes;
    if ((mask & wire::kSetCompute) != 0) {
      g->compute_x100 = wanted.devices[i].compute_x100;
      g->ceiling_x100 = wanted.devices[i].ceiling_x100;
    }
  }
  if ((mask & wire::kSetCompute) != 0) {
    to.flags =
        (to.flags & ~std::uint32_t{wire::kRecordBorrow}) | (wanted.flags & wire::kRecordBorrow);
  }
  if ((mask & wire::kSetPace) != 0) {
    if (wanted.burst_us != 0) to.burst_us = wanted.burst_us;
    if (wanted.window_us != 0) to.window_us = wanted.window_us;
    if (wanted.dampening_x1000 != 0) to.dampening_x1000 = wanted.dampening_x1000;
  }
  if ((mask & wire::kSetPriority) != 0) to.priority = wanted.priority;
  if ((mask & wire::kSetMode) != 0) to.compute_mode = wanted.compute_mode;
  if ((mask & wire::kSetAudit) != 0) to.audit_mode = wanted.audit_mode;
  if ((mask & wire::kSetOnFault) != 0) to.on_fault = wanted.on_fault;
  if ((mask & wire::kSetShareWith) != 0)
    std::memcpy(to.share_with, wanted.share_with, sizeof to.share_with);
  return true;
}

}  // namespace

Answer Ledger::check_changes(const Peer& peer, const Entry& entry, const wire::TenantRecord& after,
                             std::uint32_t) const {
  const wire::TenantRecord& before = entry.record;
  std::vector<policy::DeviceChange> devices;
  for (unsigned i = 0; i < before.device_count; ++i) {
    devices.push_back({before.devices[i].memory_bytes, after.devices[i].memory_bytes,
                       compute_of(before, before.devices[i]), compute_of(after, after.devices[i])});
  }
  policy::Changes c;
  c.devices = devices;
  c.changes_priority = before.priority != after.priority;
  c.changes_mode = before.compute_mode != after.compute_mode;
  c.changes_audit = before.audit_mode != after.audit_mode;
  c.opens_on_fault =
      before.on_fault != wire::OnFault::kOpen && after.on_fault == wire::OnFault::kOpen;
  const auto pace = [](const wire::TenantRecord& r) {
    return rules_of(r, {.uuid = {}, .memory_bytes = 0, .compute_x100 = 1, .ceiling_x100 = 0});
  };
  c.widens_pace = pace(after).burst_us > pace(before).burst_us ||
                  pace(after).window_us > pace(before).window_us ||
                  pace(after).dampening_x1000 != pace(before).dampening_x1000;
  for (const auto& name : after.share_with)
    c.widens_share_with |= name[0] != '\0' && !names(before, name);
  policy::NodeRules rules;
  rules.daemon_uid = options_.daemon_uid;
  const policy::Ruling r = policy::may_update(asker_of(peer), rules, before.owner_uid, c);
  return r.ok() ? Answer{}
                : refuse(Errc::kUntrusted, before.name, policy::ruling_text(r, before.name));
}

// Only what rises is summed: lowering is never refused.
Answer Ledger::check_raised(const wire::TenantRecord& before,
                            const wire::TenantRecord& after) const {
  // Also if only the share changed: one that became too small for its mode.
  if (const policy::ModeRuling mode = mode_of(after);
      !mode.problem.empty() && mode_of(before).problem.empty()) {
    return refuse(Errc::kInvalid, after.name, mode.problem);
  }
  wire::TenantRecord memory = after, time = after;
  memory.device_count = time.device_count = 0;
  for (unsigned i = 0; i < after.device_count; ++i) {
    const wire::DeviceGrant &was = before.devices[i], &is = after.devices[i];
    if (is.memory_bytes > was.memory_bytes || is.memory_bytes < policy::kLeastLimit)
      memory.devices[memory.device_count++] = is;
    if (is.compute_x100 > was.compute_x100) time.devices[time.device_count++] = is;
  }
  Answer a = check_memory(memory, after.name, false);
  return a.ok() ? check_time(time, after.name, false) : a;
}

Answer Ledger::update(const Peer& peer, const wire::TenantRecord& wanted, std::uint32_t mask,
                      const Now& now) {
  const std::string name = wanted.name;
  const auto at = entries_.find(name);
  // To others a tenant that is not theirs and one that is not there look the same.
  if (at == entries_.end() || !may_see(peer, name)) {
    return refuse(Errc::kNotFound, name,
                  "there is no tenant " + name + " of yours: see 'bulkhead status'");
  }
  wire::TenantRecord after = at->second.record;
  if (!merge(after, wanted, mask)) {
    return refuse(Errc::kNotFound, name,
                  "tenant " + name +
                      " is granted no such GPU, and a grant is for its life: 'bulkhead rm " + name +
                      "' and make it anew");
  }
  if (Answer a = check_changes(peer, at->second, after, mask); !a.ok()) {
    post(wire::EventKind::kPeerRefused, a.text,
         {wire::Severity::kWarning, name, peer.pid, peer.uid});
    return a;
  }
  if (Answer a = check_raised(at->second.record, after); !a.ok()) return a;
  if (after.audit_mode != wire::AuditMode::kOff && !options_.no_audit.empty())
    return refuse(Errc::kInvalid, name, options_.no_audit);
  Answer done;
  done.tenant = name;
  bool lower = false;
  for (unsigned i = 0; i < after.device_count; ++i) {
    const wire::DeviceGrant& g = after.devices[i];
    const std::uint64_t before = at->second.record.devices[i].memory_bytes;
    if (g.memory_bytes == before) continue;
    if (const Status s = regions_.set_limit(name, g.uuid, g.memory_bytes); !s.ok()) {
      return refuse(s.code(), name, "cannot set the limit of " + name + ": " + s.text());
    }
    at->second.record.devices[i].memory_bytes = g.memory_bytes;
    lower |= g.memory_bytes < before;
    const std::uint64_t held = regions_.held(name, g.uuid);
    if (held <= g.memory_bytes) continue;
    const std::string note = "tenant " + name + " holds " + exact(held) + " on " +
                             uuid_text(g.uuid) + ", more than its limit of " +
                             exact(g.memory_bytes) + ": it cannot grow until it has given back";
    if (done.text.empty()) done.text = note;
    post(wire::EventKind::kLimitBelowUse, note,
         {wire::Severity::kNotice, name, 0, wire::kNoId, held, g.uuid});
  }
  std::string times;
  for (unsigned i = 0; i < after.device_count; ++i) {
    const wire::DeviceGrant& g = after.devices[i];
    const shm::ComputeRules is = rules_of(at->second.record, at->second.record.devices[i]);
    const shm::ComputeRules want = rules_of(after, g);
    if (is == want) continue;
    if (const Status s = regions_.set_compute(name, g.uuid, want); !s.ok())
      return refuse(s.code(), name, "cannot set the share of " + name + ": " + s.text());
    lower |= want.floor_x100 < is.floor_x100;
    if (times.empty()) times = change_text(is, want);
  }
  if ((mask & wire::kSetPriority) != 0) (void)regions_.set_priority(name, after.priority);
  if ((mask & wire::kSetOnFault) != 0) (void)regions_.set_on_fault(name, after.on_fault);
  if ((mask & wire::kSetAudit) != 0) {
    if (options_.before_audit) options_.before_audit(name, after.audit_mode, &peer);
    (void)regions_.set_audit(name, after.audit_mode);
  }
  apply_mode(name, after);
  if (done.text.empty() && mode_of(after).enforcer == policy::Enforcer::kPartition &&
      (mask & (wire::kSetCompute | wire::kSetMode)) != 0) {
    done.text = "tenant " + name +
                " has a partition: it is changed when no process of it runs; until then they keep "
                "the multiprocessors they " +
                (lower ? "have, and are held in time to the lower share" : "have");
  }
  if (done.text.empty() && mode_of(after).enforcer == policy::Enforcer::kSpatial &&
      (mask & (wire::kSetCompute | wire::kSetMode)) != 0) {
    done.text = "tenant " + name +
                " is spatial: processes that run keep the multiprocessors they " +
                (lower ? "have, and are held in time to the lower share"
                       : "have, new ones get what is set");
  }
  at->second.record = after;
  if ((mask & wire::kSetShareWith) != 0) apply(name, after, now);
  changed(lower);
  post(wire::EventKind::kTenantUpdated, "tenant " + name + " updated" + times,
       {wire::Severity::kInfo, name, peer.pid, peer.uid, after.devices[0].memory_bytes,
        after.devices[0].uuid});
  return done;
}

Answer Ledger::unregister(const Peer& peer, const std::string& name, bool force, const Now& now) {
  const auto at = entries_.find(name);
  const bool stray = at == entries_.end() && is_operator(peer);  // maybe a region nobody took over
  if (!stray && (at == entries_.end() || !may_see(peer, name))) {
    return refuse(Errc::kNotFound, name,
                  "there is no tenant " + name + " of yours: see 'bulkhead status'");
  }
  if (!stray && at->second.source == Source::kConfigured) {
    wire::TenantView view{};
    const bool left_alone = is_operator(peer) && !regions_.view(name, view);
    if (left_alone && regions_.remove(name, force).ok()) {
      unsettled_ = true;  // the next turn makes it anew
      Answer a;
      a.tenant = name;
      return a;
    }
    return refuse(
        Errc::kInvalid, name,
        "tenant " + name + " is declared in the configuration: remove it there and reload");
  }
  if (force && !stray && options_.before_force) options_.before_force(at->second.record);
  const Status s = regions_.remove(name, force);
  if (s.code() == Errc::kNotReady) {
    return refuse(Errc::kNotReady, name,
                  "tenant " + name + " has running processes: end them, or use --force");
  }
  if (stray && s.code() == Errc::kNotFound) {
    return refuse(s.code(), name, "there is no tenant " + name + ": see 'bulkhead status'");
  }
  if (!s.ok() && s.code() != Errc::kNotFound) return refuse(s.code(), name, s.text());
  if (stray) {
    post(wire::EventKind::kTenantRemoved, "tenant " + name + ": its left over region is removed",
         {wire::Severity::kInfo, name, peer.pid, peer.uid});
  }
  drop(name, now, "removed");
  Answer a;
  a.tenant = name;
  return a;
}

}  // namespace bulkhead::daemon
