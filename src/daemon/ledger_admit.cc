// The ledger's front door: who may have a tenant, and whether it fits.
#include <algorithm>

#include "daemon/ledger_internal.h"
#include "policy/limit.h"
#include "policy/node_admission.h"

namespace bulkhead::daemon {
namespace {

// But operators'. The node has room for 1,024: one user must not take them all.
constexpr std::ptrdiff_t kMostTenantsOfOneUid = 128;

std::string exact(std::uint64_t bytes) {
  char text[policy::kSizeText];
  return policy::format_exact(bytes, text);
}

std::uint32_t all_if_none(std::uint32_t x100) { return x100 == 0 ? 10000 : x100; }

std::vector<policy::Claim> claims_of(const std::map<std::string, Entry>& entries,
                                     const std::vector<std::string>& file_order) {
  std::vector<policy::Claim> out;
  const auto add = [&out](const Entry& e) {
    out.push_back({e.record.name, e.record.owner_uid, e.source == Source::kFrontEnd && e.by_root,
                   e.record.match_cgroup, e.record.match_uid, e.record.match_gid});
  };
  for (const std::string& name : file_order) {
    if (const auto at = entries.find(name); at != entries.end()) add(at->second);
  }
  for (const auto& [name, e] : entries) {
    if (e.source != Source::kConfigured) add(e);
  }
  return out;
}

policy::Wishes wishes_of(const wire::TenantRecord& r) {
  policy::Wishes w;
  w.owner_uid = r.owner_uid;
  w.overcommit = (r.flags & wire::kRecordOvercommit) != 0;
  w.open_on_fault = r.on_fault == wire::OnFault::kOpen;
  w.latency_priority = r.priority != wire::Priority::kBatch;
  w.audit = r.audit_mode != wire::AuditMode::kOff;
  w.reserve_class = r.reserve_class[0] != '\0';
  w.grant_subject = r.grant_subject[0] != '\0';
  w.mps_group = r.mps_group[0] != '\0';
  w.match = r.match_cgroup[0] != '\0' || r.match_uid != wire::kNoId || r.match_gid != wire::kNoId;
  return w;
}

// "" if the tenant has that share.
std::string other_share(const std::string& name, const wire::TenantRecord& has,
                        const wire::DeviceGrant* grant, const wire::TenantRecord& wanted,
                        const wire::DeviceGrant& asked) {
  const shm::ComputeRules is = grant == nullptr ? shm::ComputeRules{} : rules_of(has, *grant);
  const shm::ComputeRules want = rules_of(wanted, asked);
  const bool same_pace = (wanted.burst_us == 0 || want.burst_us == is.burst_us) &&
                         (wanted.window_us == 0 || want.window_us == is.window_us);
  if (is.floor_x100 == want.floor_x100 && is.ceiling_x100 == want.ceiling_x100 && same_pace)
    return {};
  std::string text = "tenant " + name;
  text += " has a share of " + rules_text(is);
  text += " on " + uuid_text(asked.uuid);
  text += is.floor_x100 == want.floor_x100 && is.ceiling_x100 == want.ceiling_x100
              ? " with another burst or window"
              : ", not the " + rules_text(want) + " asked for";
  text += ": leave that out to join it, or 'bulkhead set " + name;
  text += " --compute' to change it";
  return text;
}

std::string outranked(const policy::Belonging& b, const std::string& asked, const char* claim) {
  return std::string{"this process belongs to tenant "} + claim +
         (b.outranked_by_match ? " by its match in the configuration"
                               : " by the cgroup it was started in") +
         ", not to " + asked + ": leave the name out";
}

}  // namespace

Answer Ledger::check_rights(const Peer& peer, const wire::TenantRecord& record) const {
  policy::NodeRules rules;
  rules.daemon_uid = options_.daemon_uid;
  rules.users_may_create = rules_.users_may_create;
  rules.max_compute_x100 = rules_.max_compute_x100;
  const policy::Wishes wishes = wishes_of(record);
  policy::Ruling ruling = policy::may_create(asker_of(peer), rules, wishes, {});
  for (unsigned i = 0; ruling.ok() && i < record.device_count; ++i) {
    const wire::DeviceGrant& g = record.devices[i];
    const Capacity* c = device(g.uuid);
    policy::Size most{rules_.max_memory_bytes, rules_.max_memory_x100, rules_.max_memory_x100 != 0};
    rules.max_memory_bytes = policy::limit_of(most, c == nullptr ? 0 : c->total_bytes);
    policy::DeviceWish wish{g.memory_bytes, g.compute_x100, 0, 0};
    for (const auto& [name, e] : entries_) {
      const wire::DeviceGrant* has = grant_of(e.record, g.uuid);
      if (has == nullptr || e.record.owner_uid != record.owner_uid) continue;
      wish.others_memory_bytes += has->memory_bytes;
      wish.others_compute_x100 += all_if_none(has->compute_x100);
    }
    ruling = policy::may_create(asker_of(peer), rules, wishes, {&wish, 1});
  }
  if (ruling.ok()) return {};
  return refuse(Errc::kUntrusted, record.name, policy::ruling_text(ruling, record.name));
}

Answer Ledger::check_room(const wire::TenantRecord& record, const std::string& name,
                          bool waiting_helps) const {
  if (const policy::ModeRuling mode = mode_of(record); !mode.problem.empty())
    return refuse(Errc::kInvalid, name, mode.problem);
  Answer a = check_memory(record, name, waiting_helps);
  return a.ok() ? check_time(record, name, waiting_helps) : a;
}

// Floors: what is borrowed is promised to nobody, and a tenant without a limit is promised nothing.
Answer Ledger::check_time(const wire::TenantRecord& record, const std::string& name,
                          bool waiting_helps) const {
  if ((record.flags & wire::kRecordOvercommit) != 0) return {};
  for (unsigned i = 0; i < record.device_count; ++i) {
    const wire::DeviceGrant& g = record.devices[i];
    const Capacity* c = device(g.uuid);
    policy::TimeSum sum{0, g.compute_x100};
    for (const auto& [other, e] : entries_) {
      const wire::DeviceGrant* has = grant_of(e.record, g.uuid);
      if (has != nullptr && other != name) sum.promised_x100 += has->compute_x100;
    }
    if (c == nullptr || policy::time_fits(sum)) continue;
    const std::uint32_t room = policy::time_room(sum);
    Answer a = refuse(Errc::kFull, name,
                      policy::time_sum_text(sum, gpu_text(*c)) +
                          (room == 0 ? "; remove a tenant, or lower another's share"
                                     : "; ask for at most " + policy::share_text(room, false)) +
                          (waiting_helps ? ", or wait for room with --wait" : ""));
    a.may_wait = true;  // each share fits alone
    return a;
  }
  return {};
}

Answer Ledger::check_memory(const wire::TenantRecord& record, const std::string& name,
                            bool waiting_helps) const {
  for (unsigned i = 0; i < record.device_count; ++i) {
    const wire::DeviceGrant& g = record.devices[i];
    const Capacity* c = device(g.uuid);
    if (c == nullptr) {
      return refuse(
          Errc::kNotFound, name,
          "there is no GPU " + uuid_text(g.uuid) + " on this node: see 'bulkhead status'");
    }
    if (g.memory_bytes < policy::kLeastLimit) {
      return refuse(Errc::kInvalid, name,
                    exact(g.memory_bytes) + " on " + gpu_text(*c) +
                        " is less than the 2 MiB a driver hands out: write a unit");
    }
    const bool in_class = record.reserve_class[0] != '\0' &&
                          rules_.reserve_class == static_cast<const char*>(record.reserve_class);
    policy::NodeSum sum{c->total_bytes, c->overhead_bytes, 0, 0, g.memory_bytes};
    std::uint64_t to_class = 0;
    for (const auto& [other, e] : entries_) {
      const wire::DeviceGrant* has = grant_of(e.record, g.uuid);
      if (has == nullptr || other == name) continue;
      sum.promised_bytes += has->memory_bytes;  // each below 2^56, at most 1,024 of them
      if (rules_.reserve_class == static_cast<const char*>(e.record.reserve_class))
        to_class += has->memory_bytes;
    }
    sum.reserve_bytes = policy::reserve_kept(c->reserve_bytes, to_class, in_class);
    if (policy::node_fits(sum) || (record.flags & wire::kRecordOvercommit) != 0) continue;
    const bool could = policy::node_could_fit(sum);
    Answer a = refuse(could ? Errc::kFull : Errc::kTooLarge, name,
                      policy::node_sum_text(sum, gpu_text(*c)) + "; ask for at most " +
                          exact(policy::node_room(sum)) +
                          (could && waiting_helps ? ", or wait for room with --wait" : ""));
    a.may_wait = could;
    std::memcpy(a.sums.uuid, g.uuid, sizeof a.sums.uuid);
    a.sums.total_bytes = sum.total_bytes;
    a.sums.reserve_bytes = sum.reserve_bytes;
    a.sums.overhead_bytes = sum.overhead_bytes;
    a.sums.promised_bytes = sum.promised_bytes;
    a.sums.asked_bytes = sum.asked_bytes;
    return a;
  }
  return {};
}

Answer Ledger::join_existing(const Peer& peer, const std::string& name,
                             const wire::RegisterRequest& q) const {
  const wire::TenantRecord& has = entries_.at(name).record;
  if (peer.uid != 0 && peer.uid != has.owner_uid) {  // it could not open the region: say so, now
    return refuse(Errc::kUntrusted, name,
                  "this process belongs to tenant " + name + ", whose region only uid " +
                      std::to_string(has.owner_uid) +
                      " can use: ask for a [[tenant]] with match = " + "{uid = " +
                      std::to_string(peer.uid) + "} before it");
  }
  if ((q.flags & wire::kJoinExisting) == 0) {
    return refuse(
        Errc::kExists, name,
        "tenant " + name + " exists already: join it, or 'bulkhead rm " + name + "' first");
  }
  const std::string word = has.reserve_class;
  if (!word.empty() && word == rules_.reserve_class && options_.has_class &&
      !options_.has_class(name, word)) {
    return refuse(Errc::kNotReady, name,
                  "tenant " + name + " has its memory from the reserve '" + word +
                      "', which only a grant of that class may use: run it with --grant FILE of "
                      "one that was issued with --class " +
                      word);
  }
  const auto asked_mode = q.record.compute_mode;  // auto asks for nothing
  if (asked_mode != wire::ComputeMode::kAuto && asked_mode != has.compute_mode) {
    return refuse(
        Errc::kExists, name,
        "tenant " + name +
            " has another mode (in force: " + policy::enforcer_name(mode_of(has).enforcer) +
            "): leave it out to join it, or 'bulkhead set " + name + " --mode' to change it");
  }
  for (unsigned i = 0; (q.flags & wire::kSameOrRefuse) != 0 && i < q.record.device_count; ++i) {
    const wire::DeviceGrant& asked = q.record.devices[i];
    const wire::DeviceGrant* g = grant_of(has, asked.uuid);
    const std::uint64_t bytes = g == nullptr ? 0 : g->memory_bytes;
    if (asked.compute_x100 != 0) {  // 0: not asked for
      const std::string other = other_share(name, has, g, q.record, asked);
      if (!other.empty()) return refuse(Errc::kExists, name, other);
    }
    if (bytes == asked.memory_bytes || asked.memory_bytes == 0) continue;  // 0 as above
    std::string text = "tenant " + name;
    text += " has " + exact(bytes);
    text += " on " + uuid_text(asked.uuid);
    text += ", not the " + exact(asked.memory_bytes);
    text += " asked for: leave that out to join it, or 'bulkhead set " + name;
    text += " --memory' to change it";
    return refuse(Errc::kExists, name, text);
  }
  Answer a;
  a.tenant = name;
  return a;
}

Answer Ledger::create(const Peer& peer, wire::TenantRecord record, const Now& now,
                      const Ahead& ahead) {
  if (record.audit_mode != wire::AuditMode::kOff && !options_.no_audit.empty())
    return refuse(Errc::kInvalid, record.name, options_.no_audit);
  if (record.owner_uid == wire::kNoId) record.owner_uid = peer.uid;
  const bool named_by_us = record.name[0] == '\0';
  if (named_by_us) {
    if (peer.pid == 0) {
      return refuse(Errc::kInvalid, "",
                    "a process of another pid namespace names its tenant: use --tenant NAME");
    }
    const std::string usual =
        "run-" + std::to_string(peer.pid) + "-" + std::to_string(peer.start_ticks);
    std::string name = usual;  // an ordinary name: another may have asked for it first
    for (unsigned n = 2; entries_.contains(name); ++n) name = usual + "-" + std::to_string(n);
    wire::put_text(record.name, name.c_str());
    record.flags |= wire::kRecordEphemeral;
  }
  const std::string name = record.name;
  if (entries_.contains(name))
    return refuse(Errc::kExists, name, "tenant " + name + " exists already");
  if (Answer a = check_rights(peer, record); !a.ok()) {
    post(wire::EventKind::kPeerRefused, a.text,
         {wire::Severity::kWarning, name, peer.pid, peer.uid});
    return a;
  }
  const auto has = std::count_if(entries_.begin(), entries_.end(), [&record](const auto& other) {
    return other.second.record.owner_uid == record.owner_uid;
  });
  if (!is_operator(peer) && has >= kMostTenantsOfOneUid) {
    return refuse(Errc::kFull, name, "128 tenants of this user exist: 'bulkhead rm' some of them");
  }
  Answer room = check_room(record, name, true);
  if (room.ok() && ahead && ahead(record)) {
    room = refuse(Errc::kFull, name,
                  "others came before and wait for room on the same GPU: wait too with --wait");
    room.may_wait = true;
  }
  if (!room.ok()) return room;
  if (const Status made = regions_.make(record); !made.ok()) {
    std::string why = made.text();
    if (made.error_number() != 0) why += std::string{": "} + std::strerror(made.error_number());
    return refuse(made.code(), name, "cannot make tenant " + name + ": " + why);
  }
  apply_mode(name, record);
  if (options_.before_audit) options_.before_audit(name, record.audit_mode, &peer);
  Entry& e = entries_[name];
  e.record = record;
  e.source = Source::kFrontEnd;
  e.by_root = peer.uid == 0;
  e.since_unix_s = now.unix_ns / 1'000'000'000;
  if ((record.flags & wire::kRecordEphemeral) != 0) {
    e.creator_pid = peer.pid;
    e.creator_start_ticks = peer.start_ticks;
  }
  changed(false);
  post(wire::EventKind::kTenantRegistered,
       "tenant " + name + " registered with " + exact(record.devices[0].memory_bytes) +
           (record.devices[0].compute_x100 == 0
                ? ""
                : " and " + rules_text(rules_of(record, record.devices[0])) + " of the time") +
           " on " + uuid_text(record.devices[0].uuid) +
           (record.device_count > 1 ? " and others" : ""),
       {wire::Severity::kInfo, name, peer.pid, peer.uid, record.devices[0].memory_bytes,
        record.devices[0].uuid});
  Answer a;
  a.tenant = name;
  return a;
}

Answer Ledger::enrol(const Peer& peer, const wire::RegisterRequest& q, const Now& now,
                     const Ahead& ahead) {
  const std::vector<policy::Claim> claims = claims_of(entries_, file_order_);
  policy::NodeRules rules;
  rules.daemon_uid = options_.daemon_uid;
  rules.default_tenant = rules_.default_tenant;
  const std::string asked = q.record.name;
  const policy::Belonging b = policy::belongs_to(asker_of(peer), rules, asked, claims);
  const std::string claim = b.claim == policy::kNone ? "" : std::string{claims[b.claim].name};
  switch (b.by) {
    case policy::By::kCgroup:
    case policy::By::kMatch:
    case policy::By::kAsked: {
      Answer a = join_existing(peer, claim, q);
      if (a.ok() && asked.empty()) {
        a.text = "this process belongs to tenant " + claim + " by the operator's rules";
      }
      return a;
    }
    case policy::By::kDefault: {
      // Without a name one's own new tenant comes first, for those who may have one.
      if (asked.empty()) {
        Answer a = create(peer, q.record, now, ahead);
        if (a.result != Errc::kUntrusted) return a;
      }
      return join_existing(peer, claim, q);
    }
    case policy::By::kNew:
    case policy::By::kUnmatched:
      return create(peer, q.record, now, ahead);
    case policy::By::kRefused:
      break;
  }
  const std::string why = claim.empty()
                              ? "tenant " + asked + " belongs to another user: choose another name"
                              : outranked(b, asked, claim.c_str());
  post(wire::EventKind::kPeerRefused, why, {wire::Severity::kWarning, asked, peer.pid, peer.uid});
  return refuse(Errc::kUntrusted, asked, why);
}

// Whether the process belongs to that tenant, which it asks for.
bool Ledger::is_member(const Peer& peer, const std::string& name) const {
  const std::vector<policy::Claim> claims = claims_of(entries_, file_order_);
  policy::NodeRules rules;
  rules.daemon_uid = options_.daemon_uid;
  rules.default_tenant = rules_.default_tenant;
  const policy::Belonging b = policy::belongs_to(asker_of(peer), rules, name, claims);
  return b.by != policy::By::kRefused && b.claim != policy::kNone && claims[b.claim].name == name;
}

Answer Ledger::belongs_to(const Peer& peer, const std::string& name) const {
  if (!entries_.contains(name)) return refuse(Errc::kNotFound, name, "there is no tenant " + name);
  if (!is_member(peer, name)) {
    const std::string why =
        "a process of uid " + std::to_string(peer.uid) + " does not belong to tenant " + name;
    post(wire::EventKind::kPeerRefused, why, {wire::Severity::kWarning, name, peer.pid, peer.uid});
    return refuse(Errc::kUntrusted, name, why);
  }
  Answer a;
  a.tenant = name;
  return a;
}

Errc Ledger::beacons(const Peer& peer, const std::string& name,
                     std::vector<Regions::Beacon>& out) const {
  const auto at = entries_.find(name);
  if (at == entries_.end()) return Errc::kNotFound;
  if (!is_member(peer, name)) return Errc::kUntrusted;
  out = regions_.hand_out(name, peer.uid == 0 || peer.uid == at->second.record.owner_uid);
  return Errc::kOk;
}

Answer Ledger::join(const Peer& peer, const wire::JoinRequest& q, UniqueFd pidfd, const Now&) {
  const std::string name = q.name;
  if (Answer no = belongs_to(peer, name); !no.ok()) return no;
  if (!pidfd.ok() || peer.pid == 0) {
    return refuse(Errc::kNotReady, name, "the process cannot be watched from here");
  }
  const Status s = regions_.watch(name, q.slot, q.generation, std::move(pidfd), peer.pid);
  if (!s.ok()) return refuse(s.code(), name, s.text());
  Answer a;  // the regions tell of it, once: a peer may ask again as often as it likes

  a.tenant = name;
  return a;
}

std::string Ledger::belongs(const Peer& peer) const {
  const std::vector<policy::Claim> claims = claims_of(entries_, file_order_);
  policy::NodeRules rules;
  rules.daemon_uid = options_.daemon_uid;
  rules.default_tenant = rules_.default_tenant;
  const policy::Belonging b = policy::belongs_to(asker_of(peer), rules, "", claims);
  return b.claim == policy::kNone ? "" : std::string{claims[b.claim].name};
}

Answer Ledger::who(const Peer& peer) const {
  const std::string name = belongs(peer);
  if (name.empty()) {
    return refuse(Errc::kNotFound, "",
                  "no rule of the configuration gives this process a tenant: use --memory SIZE or "
                  "--tenant NAME");
  }
  Answer a;
  a.tenant = name;
  return a;
}

}  // namespace bulkhead::daemon
