#include "policy/authority.h"

#include <algorithm>

namespace bulkhead::policy {
namespace {

constexpr Ruling kYes{};
constexpr Ruling refuse(Rule rule, const char* field = "") { return {rule, field}; }

bool match_fits(const Claim& c, const Asker& asker) noexcept {
  const bool any = !c.match_cgroup.empty() || c.match_uid != kNobody || c.match_gid != kNobody;
  return any && (c.match_cgroup.empty() || cgroup_below(asker.cgroup, c.match_cgroup)) &&
         (c.match_uid == kNobody || c.match_uid == asker.uid) &&
         (c.match_gid == kNobody || c.match_gid == asker.gid);
}

// Rules 1 and 2: what a process belongs to whatever it asks. The longest registered cgroup is the nearest.
Belonging placed(const Asker& asker, std::span<const Claim> claims) noexcept {
  Belonging best;
  for (std::size_t i = 0; i < claims.size(); ++i) {
    const Claim& c = claims[i];
    if (!c.by_front_end || !cgroup_below(asker.cgroup, c.match_cgroup)) continue;
    if (best.claim == kNone || c.match_cgroup.size() > claims[best.claim].match_cgroup.size()) {
      best = {By::kCgroup, i, false};
    }
  }
  for (std::size_t i = 0; best.claim == kNone && i < claims.size(); ++i) {
    if (!claims[i].by_front_end && match_fits(claims[i], asker)) best = {By::kMatch, i, true};
  }
  return best;
}

// A region is its owner's file, mode 0600: whoever else is given the tenant could not work in it. Root opens any.
bool may_use(const Asker& asker, const Claim& c) noexcept {
  return asker.uid == 0 || (asker.uid != kNobody && asker.uid == c.owner_uid);
}

std::size_t find(std::span<const Claim> claims, std::string_view name) noexcept {
  for (std::size_t i = 0; i < claims.size(); ++i) {
    if (claims[i].name == name) return i;
  }
  return kNone;
}

const char* only_operators(const Wishes& w) noexcept {
  if (w.latency_priority) return "priority";
  if (w.audit) return "audit mode";
  if (w.reserve_class) return "reserve class";
  if (w.grant_subject) return "grant subject";
  if (w.match) return "match";                  // it would draw other users' processes in
  if (w.overcommit) return "overcommit";        // it would take what others were promised
  if (w.mps_group) return "mps group";          // a fault there ends the others of the group
  if (w.open_on_fault) return "on_fault=open";  // it would pass the maxima by a fault of its own
  return nullptr;
}

}  // namespace

bool is_operator(const Asker& asker, const NodeRules& rules) noexcept {
  return asker.uid != kNobody && (asker.uid == 0 || asker.uid == rules.daemon_uid);
}

std::uint32_t ComputeLimit::most_x100() const noexcept {
  if (x100 == 0) return 10000;
  if (!borrow) return x100;
  return ceiling_x100 == 0 ? 10000 : std::max(x100, ceiling_x100);
}

Ruling within_maxima(const NodeRules& rules, const DeviceWish& d) noexcept {
  if (rules.max_memory_bytes != 0 &&
      (d.others_memory_bytes > rules.max_memory_bytes ||
       d.memory_bytes > rules.max_memory_bytes - d.others_memory_bytes)) {
    return refuse(Rule::kOverMaxMemory);
  }
  const std::uint64_t compute = d.compute_x100 == 0 ? 10000 : d.compute_x100;
  if (rules.max_compute_x100 != 0 && compute + d.others_compute_x100 > rules.max_compute_x100) {
    return refuse(Rule::kOverMaxCompute);
  }
  return kYes;
}

Ruling may_create(const Asker& asker, const NodeRules& rules, const Wishes& wishes,
                  std::span<const DeviceWish> devices) noexcept {
  // A region belongs to its owner; only root can give files away.
  if (wishes.owner_uid != asker.uid && asker.uid != 0) return refuse(Rule::kForOthers);
  if (rules.daemon_uid != 0 && wishes.owner_uid != rules.daemon_uid)
    return refuse(Rule::kForOthers);
  if (is_operator(asker, rules)) return kYes;
  if (!rules.users_may_create) return refuse(Rule::kUsersMayNotCreate);
  if (const char* field = only_operators(wishes); field != nullptr) {
    return refuse(Rule::kOperatorsOnly, field);
  }
  for (const DeviceWish& d : devices) {
    if (const Ruling r = within_maxima(rules, d); !r.ok()) return r;
  }
  return kYes;
}

Ruling may_handle(const Asker& asker, const NodeRules& rules, std::uint32_t owner_uid) noexcept {
  if (is_operator(asker, rules)) return kYes;
  return asker.uid != kNobody && asker.uid == owner_uid ? kYes : refuse(Rule::kNotOwner);
}

Ruling may_operate(const Asker& asker, const NodeRules& rules) noexcept {
  return is_operator(asker, rules) ? kYes : refuse(Rule::kOperatorsOnly, "this");
}

Ruling may_update(const Asker& asker, const NodeRules& rules, std::uint32_t owner_uid,
                  const Changes& c) noexcept {
  if (is_operator(asker, rules)) return kYes;
  if (const Ruling r = may_handle(asker, rules, owner_uid); !r.ok()) return r;
  if (c.changes_priority) return refuse(Rule::kOperatorsOnly, "priority");
  if (c.changes_audit) return refuse(Rule::kOperatorsOnly, "audit mode");
  if (c.changes_mode) return refuse(Rule::kOperatorsOnly, "compute mode");
  if (c.widens_share_with) return refuse(Rule::kWouldRaise, "share_with");
  if (c.opens_on_fault) return refuse(Rule::kOperatorsOnly, "on_fault=open");
  if (c.widens_pace) return refuse(Rule::kWouldRaise, "burst or window");
  for (const DeviceChange& d : c.devices) {
    if (d.memory_after > d.memory_before) return refuse(Rule::kWouldRaise, "memory");
    const std::uint32_t floor_before = d.compute_before.x100 == 0 ? 10000 : d.compute_before.x100;
    const std::uint32_t floor_after = d.compute_after.x100 == 0 ? 10000 : d.compute_after.x100;
    if (floor_after > floor_before || d.compute_after.most_x100() > d.compute_before.most_x100()) {
      return refuse(Rule::kWouldRaise, "compute");
    }
  }
  return kYes;
}

bool cgroup_below(std::string_view path, std::string_view prefix) noexcept {
  while (prefix.size() > 1 && prefix.back() == '/') prefix.remove_suffix(1);
  if (prefix.empty() || !path.starts_with(prefix)) return false;
  return prefix == "/" || path.size() == prefix.size() || path[prefix.size()] == '/';
}

Belonging belongs_to(const Asker& asker, const NodeRules& rules, std::string_view asked,
                     std::span<const Claim> claims) noexcept {
  const Belonging by_rule = placed(asker, claims);
  if (asked.empty()) {
    if (by_rule.claim != kNone) return by_rule;
    const std::size_t fallback =
        rules.default_tenant.empty() ? kNone : find(claims, rules.default_tenant);
    const bool usable = fallback != kNone && may_use(asker, claims[fallback]);
    return usable ? Belonging{By::kDefault, fallback, false} : Belonging{};
  }
  const std::size_t wanted = find(claims, asked);
  if (wanted != kNone && wanted == by_rule.claim) return by_rule;
  if (asker.uid == 0 && wanted != kNone) return {By::kAsked, wanted, false};
  if (by_rule.claim != kNone && asker.uid != 0) {
    return {By::kRefused, by_rule.claim, by_rule.outranked_by_match};
  }
  if (wanted == kNone) return {By::kNew, kNone, false};
  if (asker.uid != kNobody && claims[wanted].owner_uid == asker.uid) {
    return {By::kAsked, wanted, false};
  }
  return {By::kRefused, kNone, false};
}

std::string ruling_text(const Ruling& ruling, std::string_view tenant) {
  const std::string name{tenant.empty() ? std::string_view{"the tenant"} : tenant};
  switch (ruling.rule) {
    case Rule::kGranted:
      return {};
    case Rule::kNotOwner:
      return name + " belongs to another user: ask its owner or root";
    case Rule::kUsersMayNotCreate:
      return "users may not create tenants on this node: ask root for one, or for [policy] "
             "users_may_create = true";
    case Rule::kForOthers:
      return "only root makes tenants for another user";
    case Rule::kOperatorsOnly:
      return std::string{ruling.field} + " is set by root only: leave it out, or ask root";
    case Rule::kWouldRaise:
      return "owners may only lower limits, and this would raise " + std::string{ruling.field} +
             " of " + name + ": ask root";
    case Rule::kOverMaxMemory:
      return "over the memory that [policy] max_memory allows all tenants of one user on one GPU";
    case Rule::kOverMaxCompute:
      return "over the compute that [policy] max_compute allows all tenants of one user on one "
             "GPU; "
             "a tenant without a compute limit counts as 100%";
  }
  return {};
}

}  // namespace bulkhead::policy
