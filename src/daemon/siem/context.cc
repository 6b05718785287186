#include "daemon/siem/context.h"

#include <algorithm>

namespace bulkhead::daemon::siem {
namespace {

using Json = nlohmann::json;
constexpr std::int64_t kSecond_ns = 1'000'000'000;
constexpr std::int64_t kGrantKept_s = 3600;  // behind its end: late entries still find its subject
constexpr std::size_t kMostDevices = 16, kMostTypes = 8, kText = 255;

std::optional<std::uint32_t> serial_in(const Json& j) {
  const std::int64_t n = number_in(j, "serial");
  if (n <= 0 || n > UINT32_MAX) return std::nullopt;
  return static_cast<std::uint32_t>(n);
}

SessionInfo session_of(const Json& j) {
  SessionInfo s;
  s.tenant = text_in(j, "tenant");
  s.exe = text_in(j, "exe", 200);
  s.pid = number_in(j, "pid");
  s.uid = j.contains("uid") ? number_in(j, "uid") : -1;
  s.devices = texts_in(j, "devices", kMostDevices);
  return s;
}

GrantInfo grant_of(const Json& j) {
  GrantInfo g;
  g.tenant = text_in(j, "session_tenant");
  g.subject = text_in(j, "sub", 200);
  g.id = text_in(j, "jti", 64);
  g.datatypes = texts_in(j, "datatypes", kMostTypes);
  g.expires_s = number_in(j, "exp");
  return g;
}

template <class Map>
void keep_bounded(Map& map) {
  while (map.size() > Context::kMost) map.erase(map.begin());
}

}  // namespace

std::string text_in(const Json& j, const char* key, std::size_t most) {
  const auto it = j.find(key);
  if (it == j.end() || !it->is_string()) return {};
  const std::string& all = it->get_ref<const std::string&>();
  return all.substr(0, most);
}

std::int64_t number_in(const Json& j, const char* key) {
  const auto it = j.find(key);
  if (it == j.end() || !it->is_number_integer()) return 0;
  return it->get<std::int64_t>();
}

std::vector<std::string> texts_in(const Json& j, const char* key, std::size_t most) {
  std::vector<std::string> out;
  const auto it = j.find(key);
  if (it == j.end() || !it->is_array()) return out;
  for (const Json& one : *it) {
    if (out.size() == most) break;
    out.push_back(one.is_string() ? one.get_ref<const std::string&>().substr(0, 63) : "");
  }
  return out;
}

bool Context::take(const Json& record) {
  const std::string kind = text_in(record, "record");
  if (kind == "session") {
    const auto serial = serial_in(record);
    if (!serial) return false;
    sessions_[*serial] = session_of(record);
    keep_bounded(sessions_);
    return true;
  }
  if (kind == "grant") {
    const auto serial = serial_in(record);
    if (!serial) return false;
    grants_[*serial] = grant_of(record);
    keep_bounded(grants_);
    return true;
  }
  if (kind == "boot") {  // another boot of the machine: all sessions are over
    const std::string id = text_in(record, "boot_id");
    if (id == boot_id_) return false;
    boot_id_ = id;
    sessions_.clear();
    return true;
  }
  if (kind == "key") return expire(number_in(record, "utc") / kSecond_ns);
  return false;
}

bool Context::forget(const Json& record) {
  if (text_in(record, "record") != "session_end") return false;
  const auto serial = serial_in(record);
  return serial && sessions_.erase(*serial) != 0;
}

bool Context::expire(std::int64_t utc_s) {
  return std::erase_if(grants_, [utc_s](const auto& one) {
           return one.second.expires_s < utc_s - kGrantKept_s;
         }) != 0;
}

const SessionInfo* Context::session(std::uint32_t serial) const {
  const auto it = sessions_.find(serial);
  return it == sessions_.end() ? nullptr : &it->second;
}
const GrantInfo* Context::grant(std::uint32_t serial) const {
  const auto it = grants_.find(serial);
  return it == grants_.end() ? nullptr : &it->second;
}

std::string Context::text() const {
  Json sessions = Json::array(), grants = Json::array();
  for (const auto& [serial, s] : sessions_)
    sessions.push_back({{"serial", serial},
                        {"tenant", s.tenant},
                        {"exe", s.exe},
                        {"pid", s.pid},
                        {"uid", s.uid},
                        {"devices", s.devices}});
  for (const auto& [serial, g] : grants_)
    grants.push_back({{"serial", serial},
                      {"session_tenant", g.tenant},
                      {"sub", g.subject},
                      {"jti", g.id},
                      {"datatypes", g.datatypes},
                      {"exp", g.expires_s}});
  return Json{{"boot_id", boot_id_}, {"grants", grants}, {"sessions", sessions}}.dump(
      -1, ' ', true, Json::error_handler_t::replace);
}

std::optional<Context> Context::of(std::string_view text) {
  const Json j = Json::parse(text, nullptr, false);
  if (!j.is_object() || !j.contains("sessions") || !j.contains("grants")) return std::nullopt;
  Context out;
  out.boot_id_ = text_in(j, "boot_id");
  for (const Json& one : j["sessions"]) {
    const auto serial = one.is_object() ? serial_in(one) : std::nullopt;
    if (!serial) return std::nullopt;
    out.sessions_[*serial] = session_of(one);
  }
  for (const Json& one : j["grants"]) {
    const auto serial = one.is_object() ? serial_in(one) : std::nullopt;
    if (!serial) return std::nullopt;
    out.grants_[*serial] = grant_of(one);
  }
  return out;
}

}  // namespace bulkhead::daemon::siem
