#include "daemon/sight/console.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "daemon/sight/text.h"

namespace bulkhead::daemon {
namespace {

using nlohmann::json;
using namespace wire;

json share_json(std::uint32_t x100) {
  return x100 == kUnknownShare ? json{} : json(static_cast<double>(x100) / 100);
}

json self_tests_json(const NodeDevice& d) {
  json out = json::object();
  for (unsigned i = 0; i < kSelfTests; ++i) out[self_test_name(i)] = seen_name(seen_of(d, i));
  return out;
}

json device_json(const NodeDevice& d) {
  return {{"gate_bound_us", d.gate_bound_us != 0 ? json(d.gate_bound_us) : json{}},
          {"self_tests", self_tests_json(d)},
          {"uuid", gpu_text(d.uuid)},
          {"index", d.index},
          {"name", clean_text(d.name)},
          {"mig", (d.flags & 1) != 0},
          {"total_bytes", d.total_bytes},
          {"usable_bytes", d.usable_bytes},
          {"used_bytes", d.used_bytes},
          {"promised_bytes", d.promised_bytes},
          {"reserve_bytes", d.reserve_bytes},
          {"utilisation_percent", share_json(d.utilisation_x100)}};
}

// null: the tenant's time is not limited.
json time_json(const DeviceView& d) {
  if (d.compute_x100 == 0) return {};
  return {{"share_percent", static_cast<double>(d.compute_x100) / 100},
          {"ceiling_percent", static_cast<double>(d.ceiling_x100) / 100},
          {"delivered_percent", share_json(d.delivered_x100)},
          {"used_ms", d.used_ns / 1'000'000},
          {"held_ms", d.held_ns / 1'000'000},
          {"borrowed_ms", d.borrowed_ns / 1'000'000},
          {"forgiven_ms", d.forgiven_ns / 1'000'000},
          {"launches", d.launches}};
}

json tenant_json(const TenantView& t) {
  json devices = json::array();
  for (std::uint32_t i = 0; i < t.device_count; ++i) {
    const DeviceView& d = t.devices[i];
    devices.push_back({{"uuid", gpu_text(d.uuid)},
                       {"limit_bytes", d.limit_bytes},
                       {"used_bytes", d.used_bytes},
                       {"other_bytes", d.other_bytes},
                       {"dead_bytes", d.dead_bytes},
                       {"share_percent", share_json(d.share_x100)},
                       {"time", time_json(d)},
                       {"gated_ms", d.gated_ns / 1'000'000},
                       {"processes", d.processes}});
  }
  return {{"name", clean_text(t.name)},
          {"owner_uid", t.owner_uid},
          {"ephemeral", (t.flags & kViewEphemeral) != 0},
          {"overcommitted", (t.flags & kViewOvercommitted) != 0},
          {"configured", (t.flags & kViewConfigured) != 0},
          {"faulty", (t.flags & kViewFaulty) != 0},
          {"over_limit", (t.flags & kViewOverLimit) != 0},
          {"processes", t.processes},
          {"refused", t.refused},
          {"faults", t.faults},
          {"reaped_processes", t.reaped_processes},
          {"since_unix_s", t.since_unix_s},
          {"mode", mode_name(t.compute_mode)},
          {"enforcer", enforcer_name(t.enforcer)},
          {"mps_group", t.mps_state != 0 ? json(clean_text(t.mps_group)) : json{}},
          {"mps_state", t.mps_state != 0 ? json(mps_state_name(t.mps_state)) : json{}},
          {"latency", t.priority == static_cast<std::uint32_t>(Priority::kLatency)},
          {"devices", devices}};
}

const char* stray_name(StrayKind kind) {
  switch (kind) {
    case StrayKind::kUnregistered:
      return "unregistered";
    case StrayKind::kDrift:
      return "drift";
    case StrayKind::kHoldsNode:
      return "holds-node";
  }
  return "unknown";
}

json stray_json(const StrayView& s) {
  return {{"pid", s.pid},
          {"uid", s.uid},
          {"uuid", gpu_text(s.uuid)},
          {"bytes", s.bytes},
          {"kind", stray_name(s.kind)},
          {"sightings", s.sightings},
          {"command", clean_text(s.command)},
          {"tenant", clean_text(s.tenant)}};
}

json event_json(const EventView& e) {
  return {{"id", e.id},
          {"unix_ms", e.unix_ns / 1'000'000},
          {"kind", event_name(e.kind)},
          {"severity", severity_name(e.severity)},
          {"pid", e.pid},
          {"bytes", e.bytes},
          {"tenant", clean_text(e.tenant)},
          {"text", clean_text(e.text)}};
}

// From the histogram: the upper bound of the bucket the quantile falls into; null without samples.
json delay_quantile(const DaemonView& d, double q) {
  std::uint64_t total = 0;
  for (const std::uint64_t n : d.reap_delays) total += n;
  if (total == 0) return {};
  const auto rank = static_cast<std::uint64_t>(std::ceil(q * static_cast<double>(total)));
  std::uint64_t seen = 0;
  for (unsigned i = 0; i + 1 < kDelayBuckets; ++i) {
    seen += d.reap_delays[i];
    if (seen >= rank) return std::uint64_t{1} << i;
  }
  return {};
}

json daemon_json(const DaemonView& d) {
  return {
      {"version", clean_text(d.version)},
      {"pid", d.pid},
      {"started_unix_s", d.started_unix_s},
      {"rss_bytes", d.rss_bytes},
      {"reaped_processes", d.reaped_processes},
      {"reaped_bytes", d.reaped_bytes},
      {"reap_delay_below_us", {{"p50", delay_quantile(d, 0.5)}, {"p99", delay_quantile(d, 0.99)}}},
      {"waiting", d.waiting},
      {"bypasses_found", d.bypasses_found},
      {"events_lost", d.events_lost}};
}

json events_json(const Picture& p) {
  json out = json::array();
  for (std::uint64_t i = 1; i <= p.event_count; ++i) {  // newest first
    const std::uint64_t id = p.next_event_id - i;
    const EventView& e = p.event[id % kPictureEvents];
    if (e.id == id) out.push_back(event_json(e));
  }
  return out;
}

json ring_json(const std::array<std::uint32_t, kHistoryPoints>& ring, std::uint64_t tick,
               double unit) {
  json out = json::array();
  for (unsigned i = kHistoryPoints; i-- > 0;) {
    const std::uint32_t v = History::at(ring, tick, i);
    out.push_back(v == kNoPoint ? json{} : json(v * unit));
  }
  return out;
}

std::string text_of(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

std::string console_state(const ConsoleInput& input) {
  json out = {{"schema", 1}, {"up", input.fresh}, {"age_s", input.age_s}};
  if (input.picture == nullptr) return text_of(out);
  const Picture& p = *input.picture;
  json devices = json::array();
  json tenants = json::array();
  json strays = json::array();
  for (std::uint32_t i = 0; i < p.devices; ++i) devices.push_back(device_json(p.device[i]));
  for (std::uint32_t i = 0; i < p.tenants; ++i) tenants.push_back(tenant_json(p.tenant[i]));
  for (std::uint32_t i = 0; i < p.strays; ++i) strays.push_back(stray_json(p.stray[i]));
  out["unix_ms"] = p.unix_ns / 1'000'000;
  out["daemon"] = daemon_json(p.daemon);
  out["devices"] = devices;
  out["tenants"] = tenants;
  out["strays"] = strays;
  out["events"] = events_json(p);
  return text_of(out);
}

std::string console_history(const History& history) {
  json series = json::array();
  for (const auto& [key, s] : history.series()) {
    series.push_back({{"tenant", clean_text(key.first)},
                      {"uuid", key.second},
                      {"used_mib", ring_json(s.used_mib, history.tick(), 1)},
                      {"percent", ring_json(s.share_x100, history.tick(), 0.01)}});
  }
  return text_of(
      {{"schema", 1}, {"step_s", kHistoryStep_s}, {"points", kHistoryPoints}, {"series", series}});
}

}  // namespace bulkhead::daemon
