// STATE/tenants.json, schema 1: the tenants that the configuration does not make again, and those of it that `set` has changed.
#include <nlohmann/json.hpp>

#include "daemon/ledger_internal.h"

namespace bulkhead::daemon {
namespace {

using Json = nlohmann::json;

// UUIDs and the few enums as numbers and hex, texts as they are (checked when they came in).
std::string hex_of(const std::uint8_t* uuid) { return uuid_text(uuid).substr(4); }

bool uuid_from(const std::string& text, std::uint8_t (&out)[wire::kUuidBytes]) {
  std::string digits;
  for (const char c : text) {
    if (c != '-') digits += c;
  }
  if (digits.size() != 2 * sizeof out) return false;
  for (std::size_t i = 0; i < sizeof out; ++i) {
    unsigned v = 0;
    for (const char c : {digits[2 * i], digits[2 * i + 1]}) {
      if (c >= '0' && c <= '9')
        v = v * 16 + static_cast<unsigned>(c - '0');
      else if (c >= 'a' && c <= 'f')
        v = v * 16 + static_cast<unsigned>(c - 'a') + 10;
      else
        return false;
    }
    out[i] = static_cast<std::uint8_t>(v);
  }
  return true;
}

Json to_json(const wire::TenantRecord& r) {
  Json devices = Json::array();
  for (unsigned i = 0; i < r.device_count; ++i) {
    const wire::DeviceGrant& g = r.devices[i];
    devices.push_back({{"uuid", hex_of(g.uuid)},
                       {"memory_bytes", g.memory_bytes},
                       {"compute_x100", g.compute_x100},
                       {"ceiling_x100", g.ceiling_x100}});
  }
  Json shares = Json::array();
  for (const auto& name : r.share_with) {
    if (name[0] != '\0') shares.push_back(static_cast<const char*>(name));
  }
  return {{"name", static_cast<const char*>(r.name)},
          {"owner_uid", r.owner_uid},
          {"flags", r.flags},
          {"on_fault", static_cast<std::uint32_t>(r.on_fault)},
          {"priority", static_cast<std::uint32_t>(r.priority)},
          {"compute_mode", static_cast<std::uint32_t>(r.compute_mode)},
          {"audit_mode", static_cast<std::uint32_t>(r.audit_mode)},
          {"devices", devices},
          {"reserve_class", static_cast<const char*>(r.reserve_class)},
          {"mps_group", static_cast<const char*>(r.mps_group)},
          {"grant_subject", static_cast<const char*>(r.grant_subject)},
          {"share_with", shares},
          {"match_cgroup", static_cast<const char*>(r.match_cgroup)},
          {"match_uid", r.match_uid},
          {"match_gid", r.match_gid},
          {"burst_us", r.burst_us},
          {"window_us", r.window_us},
          {"dampening_x1000", r.dampening_x1000},
          {"copy_rate_mb_s", r.copy_rate_mb_s}};
}

template <std::size_t N>
void text_from(const Json& j, const char* key, char (&to)[N]) {
  wire::put_text(to, j.at(key).get_ref<const std::string&>().c_str());
}
template <class E>
E enum_from(const Json& j, const char* key) {
  return static_cast<E>(j.at(key).get<std::uint32_t>());
}

// Throws Json::exception for a key that is missing or of another type. Ranges are check_record()'s.
bool from_json(const Json& j, wire::TenantRecord& r) {
  text_from(j, "name", r.name);
  r.owner_uid = j.at("owner_uid").get<std::uint32_t>();
  r.flags = j.at("flags").get<std::uint32_t>();
  r.on_fault = enum_from<wire::OnFault>(j, "on_fault");
  r.priority = enum_from<wire::Priority>(j, "priority");
  r.compute_mode = enum_from<wire::ComputeMode>(j, "compute_mode");
  r.audit_mode = enum_from<wire::AuditMode>(j, "audit_mode");
  const Json& devices = j.at("devices");
  if (!devices.is_array() || devices.size() > wire::kMaxDevices) return false;
  for (const Json& d : devices) {
    wire::DeviceGrant& g = r.devices[r.device_count++];
    if (!uuid_from(d.at("uuid").get_ref<const std::string&>(), g.uuid)) return false;
    g.memory_bytes = d.at("memory_bytes").get<std::uint64_t>();
    g.compute_x100 = d.at("compute_x100").get<std::uint32_t>();
    g.ceiling_x100 = d.at("ceiling_x100").get<std::uint32_t>();
  }
  text_from(j, "reserve_class", r.reserve_class);
  text_from(j, "mps_group", r.mps_group);
  text_from(j, "grant_subject", r.grant_subject);
  const Json& shares = j.at("share_with");
  if (!shares.is_array() || shares.size() > wire::kMaxShares) return false;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    wire::put_text(r.share_with[i], shares[i].get_ref<const std::string&>().c_str());
  }
  text_from(j, "match_cgroup", r.match_cgroup);
  r.match_uid = j.at("match_uid").get<std::uint32_t>();
  r.match_gid = j.at("match_gid").get<std::uint32_t>();
  r.burst_us = j.value("burst_us", std::uint32_t{0});  // later than the others: 0 = the usual
  r.window_us = j.value("window_us", std::uint32_t{0});
  r.dampening_x1000 = j.value("dampening_x1000", std::uint32_t{0});
  r.copy_rate_mb_s = j.value("copy_rate_mb_s", std::uint32_t{0});
  return r.name[0] != '\0' && wire::check_record(r, wire::RecordUse::kRegister).ok();
}

bool entry_from(const Json& j, Entry& e) {
  if (!from_json(j.at("record"), e.record)) return false;
  const auto& source = j.at("source").get_ref<const std::string&>();
  e.source = source == "configured" ? Source::kConfigured
             : source == "adopted"  ? Source::kAdopted
                                    : Source::kFrontEnd;
  if (e.source == Source::kConfigured && !from_json(j.at("declared"), e.declared)) return false;
  e.by_root = j.at("by_root").get<bool>();
  e.since_unix_s = j.at("since_unix_s").get<std::int64_t>();
  e.creator_pid = j.at("creator_pid").get<std::uint32_t>();
  e.creator_start_ticks = j.at("creator_start_ticks").get<std::uint64_t>();
  return true;
}

}  // namespace

std::string Ledger::to_json() const {
  Json tenants = Json::array();
  for (const auto& [name, e] : entries_) {
    const bool configured = e.source == Source::kConfigured;
    if (configured && std::memcmp(&e.record, &e.declared, sizeof e.record) == 0) continue;
    Json j = {{"record", daemon::to_json(e.record)},
              {"source", configured                     ? "configured"
                         : e.source == Source::kAdopted ? "adopted"
                                                        : "front-end"},
              {"by_root", e.by_root},
              {"since_unix_s", e.since_unix_s},
              {"creator_pid", e.creator_pid},
              {"creator_start_ticks", e.creator_start_ticks}};
    if (configured) j["declared"] = daemon::to_json(e.declared);
    tenants.push_back(std::move(j));
  }
  return Json{{"schema", 1}, {"tenants", tenants}}.dump(1) + "\n";
}

bool Ledger::restore(const std::string& text) {
  const Json j = Json::parse(text, nullptr, false);
  std::map<std::string, Entry> found;
  try {
    if (!j.is_object() || j.at("schema") != 1 || !j.at("tenants").is_array()) return false;
    for (const Json& t : j.at("tenants")) {
      Entry e;
      if (!entry_from(t, e)) return false;
      found.emplace(e.record.name, e);
    }
  } catch (const Json::exception&) {
    return false;
  }
  // Configured ones that the file no longer has were never ours to make again: configure() lets go of them.
  for (const auto& [name, e] : found) {
    if (e.source == Source::kConfigured) file_order_.push_back(name);
  }
  entries_ = std::move(found);
  return true;
}

}  // namespace bulkhead::daemon
