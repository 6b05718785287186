#include "daemon/grants_json.h"

#include <nlohmann/json.hpp>

namespace bulkhead::daemon {
namespace {

using nlohmann::json;

// Members in order of name, no spaces, text as it is: for what stands here that is RFC 8785.
std::string canonical(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

bool take(const json& from, const char* key, std::uint64_t most, std::uint64_t& out) {
  const auto at = from.find(key);
  if (at == from.end() || !at->is_number_unsigned()) return false;
  out = at->get<std::uint64_t>();
  return out <= most;
}
bool take(const json& from, const char* key, std::string& out) {
  const auto at = from.find(key);
  if (at == from.end() || !at->is_string()) return false;
  out = at->get<std::string>();
  return true;
}

bool take_grant(const json& from, KeptGrants::One& one) {
  std::uint64_t serial = 0;
  if (!from.is_object() || !take(from, "serial", 0xffff'ffff, serial) || serial == 0) return false;
  one.serial = static_cast<std::uint32_t>(serial);
  return take(from, "tenant", one.tenant) && take(from, "jwt", one.token) &&
         take(from, "bytes_used", ~0ull, one.bytes_used);
}

}  // namespace

std::string to_json(const KeptGrants& kept) {
  json denied = json::array(), grants = json::array();
  for (const auto& [id, until] : kept.denied) denied.push_back({{"jti", id}, {"exp", until}});
  for (const KeptGrants::One& one : kept.grants)
    grants.push_back({{"serial", one.serial},
                      {"tenant", one.tenant},
                      {"jwt", one.token},
                      {"bytes_used", one.bytes_used}});
  return canonical({{"schema", 1},
                    {"next_serial", kept.next_serial},
                    {"denied", denied},
                    {"grants", grants}}) +
         "\n";
}

bool from_json(const std::string& text, KeptGrants& out) {
  const json j = json::parse(text, nullptr, false);
  std::uint64_t schema = 0, next = 0;
  if (!j.is_object() || !take(j, "schema", 1, schema) || schema != 1) return false;
  if (!take(j, "next_serial", 0xffff'0000, next) || next == 0) return false;
  KeptGrants kept;
  kept.next_serial = static_cast<std::uint32_t>(next);
  const auto denied = j.find("denied"), grants = j.find("grants");
  if (denied == j.end() || !denied->is_array() || grants == j.end() || !grants->is_array())
    return false;
  for (const json& d : *denied) {
    std::string id;
    std::uint64_t until = 0;
    if (!d.is_object() || !take(d, "jti", id) || !take(d, "exp", 1ull << 40, until)) return false;
    kept.denied[id] = static_cast<std::int64_t>(until);
  }
  for (const json& g : *grants) {
    KeptGrants::One one;
    if (!take_grant(g, one)) return false;
    kept.grants.push_back(std::move(one));
  }
  out = std::move(kept);
  return true;
}

std::string grant_record(std::uint32_t serial, const std::string& tenant, const std::string& token,
                         const grant::Grant& g, const std::vector<std::string>& devices,
                         const Now& now) {
  json directions = json::array();
  for (const char* word : {"h2d", "d2h", "d2d", "p2p", "set", "h2h", "map"}) {
    if ((g.actions & grant::action_of(word)) != 0) directions.push_back(word);
  }
  json j = {{"record", "grant"},
            {"serial", serial},
            {"session_tenant", tenant},
            {"tenant", tenant},
            {"jwt", token},
            {"kid", g.kid},
            {"iss", g.issuer},
            {"sub", g.subject},
            {"jti", g.id},
            {"nbf", g.not_before_s},
            {"exp", g.expires_s},
            {"directions", directions},
            {"devices", devices},
            {"datatypes", g.datatypes},
            {"bytes", g.bytes},
            {"utc", now.unix_ns}};
  if (g.length != 0) {
    j["address"] = g.address & 0x7fff'ffff'ffff'ffff;
    j["length"] = g.length & 0x7fff'ffff'ffff'ffff;
  }
  return canonical(j);
}

std::string revoked_record(std::uint32_t serial, const std::string& id, const std::string& why,
                           const Now& now) {
  return canonical({{"record", "policy"},
                    {"revoked_grant", serial},
                    {"jti", id},
                    {"why", why},
                    {"utc", now.unix_ns}});
}

std::string jwks_record(const std::string& jwks, const Now& now) {
  json keys = json::parse(jwks, nullptr, false);
  if (keys.is_discarded()) keys = nullptr;
  return canonical({{"record", "jwks"}, {"jwks", std::move(keys)}, {"utc", now.unix_ns}});
}

std::string accepted_text(std::uint32_t serial, const grant::Grant& g) {
  return "grant " + std::to_string(serial) + " for " + g.subject + " until " +
         grant::time_text(g.expires_s) + ": " + grant::actions_text(g.actions);
}

}  // namespace bulkhead::daemon
