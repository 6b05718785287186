// The texts of rollouts: their file, and their records for the log. nlohmann's dump without indentation is canonical for what stands here.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "daemon/rollout.h"

namespace bulkhead::daemon {
namespace {

using Json = nlohmann::json;

std::string canonical(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}
// What a tenant wrote may be anything; the log's integers are below 2^63.
std::uint64_t bounded(std::uint64_t n) { return std::min<std::uint64_t>(n, INT64_MAX); }

template <class T>
bool take(const Json& from, const char* key, T& out, std::uint64_t most = ~0ull) {
  const auto at = from.find(key);
  if (at == from.end() || !at->is_number_unsigned() || at->template get<std::uint64_t>() > most)
    return false;
  out = static_cast<T>(at->template get<std::uint64_t>());
  return true;
}
bool take_text(const Json& from, const char* key, std::string& out) {
  const auto at = from.find(key);
  if (at == from.end() || !at->is_string()) return false;
  out = at->get<std::string>();
  return true;
}

Json json_of(const policy::RolloutRules& r) {
  return {{"on_gap", r.on_gap ? 1u : 0u},       {"p99_ns", r.p99_ns}, {"refusals", r.refusals},
          {"service_p99_ns", r.service_p99_ns}, {"target", r.target}, {"watch_ns", r.watch_ns}};
}

Json json_of(const Rollout& r) {
  return {{"base",
           {{"broken", r.base.broken},
            {"held", r.base.held},
            {"missed_bytes", r.base.missed_bytes},
            {"missed_calls", r.base.missed_calls},
            {"refusals", r.base.refusals},
            {"region", r.base.region}}},
          {"began", static_cast<std::uint64_t>(std::max<std::int64_t>(r.began_unix_ns, 0))},
          {"by_pid", r.by_pid},
          {"by_uid", r.by_uid},
          {"from", r.from},
          {"mode", r.mode},
          {"moving", r.moving ? 1u : 0u},
          {"rules", json_of(r.rules)},
          {"service_file", r.service_file},
          {"state", static_cast<unsigned>(r.state)},
          {"why", r.why}};
}

bool take_rules(const Json& from, policy::RolloutRules& r) {
  unsigned on_gap = 0;
  const bool all = from.is_object() && take(from, "on_gap", on_gap, 1) &&
                   take(from, "p99_ns", r.p99_ns) && take(from, "refusals", r.refusals) &&
                   take(from, "service_p99_ns", r.service_p99_ns) &&
                   take(from, "target", r.target, 2) && take(from, "watch_ns", r.watch_ns);
  r.on_gap = on_gap != 0;
  return all;
}

bool take_base(const Json& from, RolloutBase& b) {
  if (!from.is_object() || !take(from, "broken", b.broken) ||
      !take(from, "missed_bytes", b.missed_bytes) || !take(from, "missed_calls", b.missed_calls) ||
      !take(from, "refusals", b.refusals) || !take(from, "region", b.region))
    return false;
  const auto held = from.find("held");
  if (held == from.end() || !held->is_array() || held->size() != shm::kAuditBuckets) return false;
  for (unsigned i = 0; i < shm::kAuditBuckets; ++i) {
    if (!(*held)[i].is_number_unsigned()) return false;
    b.held[i] = (*held)[i].get<std::uint64_t>();
  }
  return true;
}

bool take_rollout(const Json& from, Rollout& r) {
  unsigned state = 0, moving = 0;
  std::uint64_t began = 0;
  if (!from.is_object() || !from.contains("rules") || !from.contains("base")) return false;
  if (!take_rules(from["rules"], r.rules) || !take_base(from["base"], r.base)) return false;
  if (!take(from, "began", began, INT64_MAX) || !take(from, "state", state, 3) ||
      !take(from, "moving", moving, 1))
    return false;
  r.moving = moving != 0;
  r.state = static_cast<policy::RolloutState>(state);
  r.began_unix_ns = static_cast<std::int64_t>(began);
  return take(from, "by_pid", r.by_pid, UINT32_MAX) && take(from, "by_uid", r.by_uid, UINT32_MAX) &&
         take(from, "from", r.from, 2) && take(from, "mode", r.mode, 2) &&
         take_text(from, "service_file", r.service_file) && take_text(from, "why", r.why);
}

Json json_of(const AuditCounts& counts) {
  Json calls = Json::array(), bytes = Json::array(), moved = Json::array();
  for (const auto& c : counts.totals.classes) {
    calls.push_back(bounded(c.calls));
    bytes.push_back(bounded(c.bytes));
  }
  for (const std::uint64_t n : counts.moved_bytes) moved.push_back(bounded(n));
  const auto sum = counts.totals.sum();
  return {{"bytes", bytes},
          {"calls", calls},
          {"missed_bytes", bounded(sum.missed_bytes)},
          {"missed_calls", bounded(sum.missed_calls)},
          {"moved", moved},
          {"unlogged_refused", bounded(sum.unlogged_refused)},
          {"unlogged_refused_bytes", bounded(sum.unlogged_refused_bytes)}};
}

}  // namespace

std::string to_json(const KeptRollouts& kept) {
  Json rollouts = Json::object(), told = Json::object();
  for (const auto& [tenant, r] : kept.rollouts) rollouts[tenant] = json_of(r);
  for (const auto& [tenant, t] : kept.told) {
    told[tenant] = {{"mode", t.mode},
                    {"no_lane_bytes", t.no_lane_bytes},
                    {"no_lane_calls", t.no_lane_calls},
                    {"region", t.region}};
  }
  return canonical({{"rollouts", rollouts}, {"schema", 1}, {"told", told}}) + "\n";
}

bool from_json(const std::string& text, KeptRollouts& out) {
  const Json j = Json::parse(text, nullptr, false);
  unsigned schema = 0;
  if (!j.is_object() || !take(j, "schema", schema, 1) || schema != 1) return false;
  if (!j.contains("rollouts") || !j["rollouts"].is_object() || !j.contains("told") ||
      !j["told"].is_object())
    return false;
  KeptRollouts kept;
  for (const auto& [tenant, one] : j["rollouts"].items()) {
    if (!take_rollout(one, kept.rollouts[tenant])) return false;
  }
  for (const auto& [tenant, one] : j["told"].items()) {
    AuditTold& t = kept.told[tenant];
    if (!one.is_object() || !take(one, "mode", t.mode, 2) || !take(one, "region", t.region) ||
        !take(one, "no_lane_calls", t.no_lane_calls) ||
        !take(one, "no_lane_bytes", t.no_lane_bytes))
      return false;
  }
  out = std::move(kept);
  return true;
}

std::string mode_record(const ModeChange& c, const AuditCounts& counts, std::int64_t unix_ns) {
  return canonical({{"by", c.by},
                    {"by_pid", c.by_pid},
                    {"by_uid", c.by_uid},
                    {"counted", json_of(counts)},
                    {"lanes", c.lanes},
                    {"mode", policy::audit_mode_name(c.mode)},
                    {"record", "mode"},
                    {"region", counts.region},
                    {"tenant", c.tenant},
                    {"utc", unix_ns},
                    {"was", policy::audit_mode_name(c.was)},
                    {"why", c.why}});
}

std::string rollout_record(const std::string& tenant, const char* step, const Rollout& r,
                           std::int64_t unix_ns) {
  return canonical({{"by_pid", r.by_pid},
                    {"by_uid", r.by_uid},
                    {"from", policy::audit_mode_name(r.from)},
                    {"mode", policy::audit_mode_name(r.mode)},
                    {"record", "rollout"},
                    {"rules", json_of(r.rules)},
                    {"service_file", r.service_file},
                    {"step", step},
                    {"target", policy::audit_mode_name(r.rules.target)},
                    {"tenant", tenant},
                    {"utc", unix_ns},
                    {"why", r.why}});
}

std::string no_lane_record(const std::string& tenant, std::uint64_t calls, std::uint64_t bytes,
                           std::int64_t unix_ns) {
  return canonical({{"bytes", bounded(bytes)},
                    {"count", bounded(calls)},
                    {"from", 0},
                    {"lane", 0xffff},
                    {"record", "gap"},
                    {"session", 0},
                    {"tenant", tenant},
                    {"to", 0},
                    {"utc", unix_ns},
                    {"why", "there was no lane"}});
}

}  // namespace bulkhead::daemon
