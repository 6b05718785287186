#include "daemon/siem/ocsf.h"

#include <algorithm>

namespace bulkhead::daemon::siem {
namespace {

using Json = nlohmann::json;
using abi::AuditEntry;
using abi::Decision;
using abi::Direction;
using abi::EntryKind;

constexpr int kMemory = 1004, kProcess = 1007, kFinding = 2004, kAuthorize = 3003, kAccess = 3005,
              kLifecycle = 6002;
constexpr std::uint64_t kMs = 1'000'000;
constexpr std::size_t kMostText = 160;

const char* direction_text(std::uint8_t d) {
  constexpr const char* kTexts[] = {"none", "h2d", "d2h", "d2d", "p2p", "set", "h2h", "unknown"};
  return kTexts[d & 7];
}
const char* decision_text(std::uint8_t d) {
  constexpr const char* kTexts[] = {"allowed", "denied", "observed", "violation"};
  return kTexts[d & 3];
}
const char* reason_text(std::uint8_t r) {
  constexpr const char* kTexts[] = {"none",      "no-grant", "expired", "not-yet-valid", "revoked",
                                    "direction", "device",   "range",   "bytes",         "foreign",
                                    "lane-full", "no-lane",  "clock",   "malformed"};
  return r < std::size(kTexts) ? kTexts[r] : "unknown";
}

std::string device_text(std::uint8_t device, const SessionInfo* session) {
  if (device == abi::kHostDevice) return "host";
  if (device == abi::kRemoteDevice) return "remote";
  if (session != nullptr && device < session->devices.size()) return session->devices[device];
  return "device " + std::to_string(device);
}

std::string operation_text(std::uint8_t operation) {
  const char* const name = abi::name_of(static_cast<abi::AuditOp>(operation));
  return name != nullptr ? name : "operation " + std::to_string(operation);
}

// Control characters and what is no UTF-8 are escaped or replaced: one line of ASCII.
std::string ascii(const Json& j) { return j.dump(-1, ' ', true, Json::error_handler_t::replace); }

// A record of the log may hold anything. What does not fit goes, least needed first; what identifies the event stays.
std::string bounded(Json& j, std::size_t room) {
  struct Part {
    const char *object, *key;
  };
  constexpr Part kLeastNeeded[] = {
      {"unmapped", "devices"},  {"unmapped", "datatypes"}, {"process", "file"},
      {"unmapped", "issuer"},   {"unmapped", "key_id"},    {"unmapped", "unknown"},
      {"unmapped", "why"},      {"finding_info", "desc"},  {nullptr, "message"},
      {"unmapped", "grant_id"}, {"unmapped", "boot_id"},   {"unmapped", "grant_subject"}};
  std::string text = ascii(j);
  for (const Part& part : kLeastNeeded) {
    if (text.size() <= room) return text;
    if (part.object != nullptr && !j.contains(part.object)) continue;
    (part.object == nullptr ? j : j[part.object]).erase(part.key);
    j["metadata"]["is_truncated"] = true;
    text = ascii(j);
  }
  if (text.size() > room && j.contains("user")) {  // its class requires one
    j["user"]["name"] = text_in(j["user"], "name", 16);
    text = ascii(j);
  }
  return text;
}

// `host` and `uid` stand in the message's header, too.
Event event_of(Json& j, const Origin& origin, const std::string& uid, const char* msgid,
               int severity, std::uint64_t utc_ns) {
  constexpr std::size_t kHeader = 100;
  const std::size_t header = kHeader + origin.host.size() + uid.size();
  return {uid, msgid, severity, utc_ns,
          bounded(j, kMostMessage - std::min(kMostMessage / 2, header))};
}

std::uint64_t utc_of(const Json& record) {
  return static_cast<std::uint64_t>(std::max<std::int64_t>(number_in(record, "utc"), 0));
}

SumKey key_of(const AuditEntry& e) {
  SumKey k;
  k.session = e.session;
  k.grant = e.grant;
  k.operation = e.operation;
  k.direction = static_cast<std::uint8_t>(abi::direction_of(e));
  k.decision = static_cast<std::uint8_t>(abi::decision_of(e));
  k.source_device = e.source_device;
  k.destination_device = e.destination_device;
  return k;
}

struct Activity {
  int id;
  const char* name;
};
Activity activity_of(std::uint8_t direction) {
  switch (static_cast<Direction>(direction)) {
    case Direction::kDeviceToHost:
      return {7, "Read"};
    case Direction::kUnknown:
    case Direction::kNone:
      return {99, "Transfer"};
    default:
      return {8, "Write"};
  }
}

}  // namespace

Json Ocsf::base(const Head& head, const std::string& uid, std::uint64_t utc_ns, std::uint64_t leaf,
                const std::string& tenant) const {
  Json meta = {{"version", "1.8.0"},
               {"product",
                {{"name", "Bulkhead"}, {"vendor_name", "Bulkhead"}, {"version", origin_.version}}},
               {"uid", uid},
               {"log_name", origin_.name},
               {"sequence", leaf}};
  if (!tenant.empty()) meta["tenant_uid"] = tenant;
  return {{"activity_id", head.activity_id},
          {"activity_name", head.activity_name},
          {"category_uid", head.category_uid},
          {"class_uid", head.class_uid},
          {"type_uid", head.class_uid * 100 + head.activity_id},
          {"severity_id", head.severity_id},
          {"time", utc_ns / kMs},
          {"metadata", std::move(meta)}};
}

// What classes of the system category require. Of a session without a record only its serial is known.
void Ocsf::put_process(Json& j, std::uint32_t session, const Context& context, bool actor) const {
  const SessionInfo* const s = context.session(session);
  Json p = {{"uid", std::to_string(session)}};
  if (s != nullptr && s->pid > 0) p["pid"] = s->pid;
  if (s != nullptr && !s->exe.empty()) {
    const std::size_t slash = s->exe.rfind('/');
    p["file"] = {{"path", s->exe},
                 {"name", slash == s->exe.npos ? s->exe : s->exe.substr(slash + 1)},
                 {"type_id", 8}};
  }
  if (actor) {
    Json who = {{"process", {{"uid", std::to_string(session)}}}};
    if (s != nullptr && s->pid > 0) who["process"]["pid"] = s->pid;
    if (s != nullptr && s->uid >= 0) who["user"] = {{"uid", std::to_string(s->uid)}};
    j["actor"] = std::move(who);
    j["device"] = {{"hostname", origin_.host}, {"type_id", 1}};
    j["metadata"]["profiles"] = {"host", "security_control"};
  }
  j["process"] = std::move(p);
}

Json Ocsf::memory(const SumKey& key, int activity, const char* name, int severity,
                  const std::string& uid, std::uint64_t utc_ns, std::uint64_t leaf,
                  const Context& context) const {
  const SessionInfo* const s = context.session(key.session);
  const GrantInfo* const g = key.grant == 0 ? nullptr : context.grant(key.grant);
  Json j = base({kMemory, 1, activity, severity, name}, uid, utc_ns, leaf,
                s != nullptr ? s->tenant : "");
  put_process(j, key.session, context, true);
  j["metadata"]["event_code"] = operation_text(key.operation);
  const auto decision = static_cast<Decision>(key.decision);
  j["action_id"] = decision == Decision::kAllowed ? 1 : decision == Decision::kObserved ? 3 : 2;
  j["disposition_id"] = decision == Decision::kAllowed    ? 1
                        : decision == Decision::kObserved ? 17
                        : decision == Decision::kDenied   ? 2
                                                          : 26;
  Json extra = {{"direction", direction_text(key.direction)},
                {"decision", decision_text(key.decision)},
                {"grant", key.grant},
                {"session", key.session},
                {"source", device_text(key.source_device, s)},
                {"destination", device_text(key.destination_device, s)}};
  if (g != nullptr) {
    extra["grant_subject"] = g->subject;
    extra["grant_id"] = g->id;
    if (!g->datatypes.empty()) extra["datatypes"] = g->datatypes;
  }
  j["unmapped"] = std::move(extra);
  return j;
}

Event Ocsf::sum(const SumKey& key, const Sum& sum, const std::string& uid, std::uint64_t checkpoint,
                const Context& context) const {
  const Activity a = activity_of(key.direction);
  Json j = memory(key, a.id, a.name, 1, uid, sum.last_ns, sum.first_leaf, context);
  j["count"] = sum.count;
  j["size"] = sum.bytes;
  j["start_time"] = sum.first_ns / kMs;
  j["end_time"] = sum.last_ns / kMs;
  j["duration"] = (sum.last_ns - sum.first_ns) / kMs;
  Json& extra = j["unmapped"];
  extra["leaf_first"] = sum.first_leaf;
  extra["leaf_last"] = sum.last_leaf;
  extra["checkpoint"] = checkpoint;
  j["message"] = std::to_string(sum.count) + " " + direction_text(key.direction) + " copies, " +
                 std::to_string(sum.bytes) + " bytes";
  return event_of(j, origin_, uid, "DMA", 6, sum.last_ns);
}

Event Ocsf::entry(const AuditEntry& e, std::uint64_t leaf, std::uint64_t checkpoint,
                  const Context& context) const {
  const std::string uid = origin_.prefix() + "leaf/" + std::to_string(leaf);
  const SumKey key = key_of(e);
  const EntryKind kind = abi::kind_of(e);
  const std::uint64_t utc_ns = e.utc_ns, bytes = abi::bytes_of(e);
  if (kind == EntryKind::kGap) {
    const SessionInfo* const s = context.session(key.session);
    Json j = finding_json(uid, "gap in the audit log",
                          std::to_string(bytes) + " entries of session " +
                              std::to_string(key.session) + " were not recorded",
                          utc_ns, leaf, s != nullptr ? s->tenant : "");
    const std::uint64_t from = e.source, to = e.destination;
    j["count"] = bytes;
    j["unmapped"].update(Json{{"session", key.session},
                              {"lane", std::uint16_t{e.lane}},
                              {"from", from},
                              {"to", to},
                              {"checkpoint", checkpoint}});
    return event_of(j, origin_, uid, "GAP", 2, utc_ns);
  }
  const bool denied = key.decision == static_cast<std::uint8_t>(Decision::kDenied) ||
                      key.decision == static_cast<std::uint8_t>(Decision::kViolation);
  const bool failed = kind == EntryKind::kFailure;
  const Activity a = failed                    ? Activity{99, "Failure"}
                     : kind == EntryKind::kMap ? Activity{9, "Map View"}
                                               : activity_of(key.direction);
  Json j = memory(key, a.id, a.name, failed ? 2 : denied ? 4 : 1, uid, utc_ns, leaf, context);
  Json& extra = j["unmapped"];
  extra["leaf_first"] = extra["leaf_last"] = leaf;
  extra["checkpoint"] = checkpoint;
  if (e.reason != 0) extra["reason"] = reason_text(e.reason);
  if (failed) {
    j["status_id"] = 2;
    j["status_code"] = std::to_string(bytes);
    j["message"] = "the driver refused the call with " + std::to_string(bytes);
    const std::uint64_t of = e.source;
    extra["sequence"] = of;
    extra["lane"] = std::uint16_t{e.lane};
    return event_of(j, origin_, uid, "FAIL", 4, utc_ns);
  }
  j["count"] = 1;
  j["size"] = bytes;
  j["is_alert"] = denied;
  j["message"] = std::string{decision_text(key.decision)} + ": " + operation_text(key.operation) +
                 (denied ? std::string{", "} + reason_text(e.reason) : "");
  return event_of(j, origin_, uid, denied ? "DENY" : "MAP", denied ? 4 : 6, utc_ns);
}

Json Ocsf::finding_json(const std::string& uid, const std::string& title, const std::string& text,
                        std::uint64_t utc_ns, std::uint64_t leaf, const std::string& tenant) const {
  Json j = base({kFinding, 2, 1, 5, "Create"}, uid, utc_ns, leaf, tenant);
  j["finding_info"] = {{"uid", uid}, {"title", title}, {"desc", text.substr(0, kMostText)}};
  j["is_alert"] = true;
  j["status_id"] = 1;
  j["device"] = {{"hostname", origin_.host}, {"type_id", 1}};
  j["metadata"]["profiles"] = {"host"};
  j["message"] = title + ": " + text.substr(0, kMostText);
  j["unmapped"] = Json::object();
  return j;
}

Event Ocsf::finding(const char* what, const std::string& text, std::uint64_t from, std::uint64_t to,
                    std::uint64_t checkpoint, std::uint64_t utc_ns) const {
  const std::string uid = origin_.prefix() + what + "/" + std::to_string(from) + "-" +
                          std::to_string(to) + "/" + std::to_string(checkpoint);
  Json j = finding_json(uid, std::string{"audit log: "} + what, text, utc_ns, from, "");
  j["unmapped"] = {{"leaf_first", from}, {"leaf_end", to}, {"checkpoint", checkpoint}};
  return event_of(j, origin_, uid, "FINDING", 2, utc_ns);
}

bool Ocsf::shows(const Json& record) {
  const std::string kind = text_in(record, "record");
  return kind != "key" && kind != "read";
}

Event Ocsf::record(const Json& r, std::uint64_t leaf, std::uint64_t checkpoint,
                   const Context& context) const {
  const std::string uid = origin_.prefix() + "leaf/" + std::to_string(leaf);
  const std::string kind = text_in(r, "record", 63);
  const std::uint64_t utc_ns = utc_of(r);
  const auto serial = static_cast<std::uint32_t>(number_in(r, "serial"));
  const auto finish = [&](Json& j, const char* msgid, int severity) {
    j["metadata"]["event_code"] = kind;
    j["unmapped"].update(
        Json{{"leaf_first", leaf}, {"leaf_last", leaf}, {"checkpoint", checkpoint}});
    return event_of(j, origin_, uid, msgid, severity, utc_ns);
  };
  if (kind == "session" || kind == "session_end") {
    const SessionInfo* const s = context.session(serial);
    const bool ends = kind == "session_end";
    bool faulty = false;
    if (const auto lanes = r.find("lanes"); lanes != r.end() && lanes->is_array())
      for (const Json& lane : *lanes)
        faulty |= lane.is_object() && lane.contains("faulty") && lane["faulty"] == true;
    const std::string tenant = s != nullptr ? s->tenant : text_in(r, "tenant");
    if (faulty) {
      Json j = finding_json(uid, "a lane of a process held what nothing writes",
                            "session " + std::to_string(serial), utc_ns, leaf, tenant);
      j["unmapped"]["session"] = serial;
      return finish(j, "FINDING", 2);
    }
    Json j = base({kProcess, 1, ends ? 2 : 1, 1, ends ? "Terminate" : "Launch"}, uid, utc_ns, leaf,
                  tenant);
    put_process(j, serial, context, true);
    j["unmapped"] = {{"session", serial}};
    if (!ends) j["unmapped"]["mode"] = text_in(r, "mode", 16);
    if (!ends && s != nullptr) j["unmapped"]["devices"] = s->devices;
    if (ends) j["unmapped"]["why"] = text_in(r, "why", kMostText);
    return finish(j, "SESSION", 6);
  }
  if (kind == "grant") {
    const GrantInfo* const g = context.grant(serial);
    Json j = base({kAuthorize, 3, 1, 1, "Assign Privileges"}, uid, utc_ns, leaf,
                  text_in(r, "session_tenant"));
    j["user"] = {{"name", g != nullptr ? g->subject : text_in(r, "sub", 200)}, {"type_id", 4}};
    j["privileges"] = texts_in(r, "directions", 8);
    j["unmapped"] = {{"grant", serial},
                     {"grant_id", text_in(r, "jti", 64)},
                     {"issuer", text_in(r, "iss", 127)},
                     {"key_id", text_in(r, "kid", 64)},
                     {"not_before", number_in(r, "nbf")},
                     {"expires", number_in(r, "exp")},
                     {"devices", texts_in(r, "devices", 16)},
                     {"datatypes", texts_in(r, "datatypes", 8)}};
    return finish(j, "GRANT", 6);
  }
  if (kind == "policy" && r.contains("revoked_grant")) {
    const std::int64_t revoked = number_in(r, "revoked_grant");
    const GrantInfo* const g = context.grant(static_cast<std::uint32_t>(revoked));
    Json j = base({kAccess, 3, 2, 3, "Revoke Privileges"}, uid, utc_ns, leaf,
                  g != nullptr ? g->tenant : "");
    j["user"] = {{"name", g != nullptr ? g->subject : "grant " + std::to_string(revoked)},
                 {"type_id", 4}};
    j["privileges"] = {"grant " + std::to_string(revoked)};
    j["unmapped"] = {{"grant", revoked},
                     {"grant_id", text_in(r, "jti", 64)},
                     {"why", text_in(r, "why", kMostText)}};
    return finish(j, "REVOKE", 4);
  }
  if (kind == "gap" || kind == "finding") {
    const auto session = static_cast<std::uint32_t>(number_in(r, "session"));
    const SessionInfo* const s = context.session(session);
    const bool gap = kind == "gap";
    const std::int64_t count = number_in(r, "count");
    Json j = finding_json(uid, gap ? "gap in the audit log" : "finding of the audit",
                          text_in(r, gap ? "why" : "what", kMostText), utc_ns, leaf,
                          s != nullptr ? s->tenant : text_in(r, "tenant"));
    if (gap && count > 0) j["count"] = count;
    j["unmapped"] = {{"session", session}, {"lane", number_in(r, "lane")}};
    if (gap) j["unmapped"].update(Json{{"from", number_in(r, "from")}, {"to", number_in(r, "to")}});
    return finish(j, gap ? "GAP" : "FINDING", 2);
  }
  const bool starts = kind == "boot" || kind == "start", stops = kind == "stop";
  // Less is recorded or refused from here on than before.
  const bool weaker =
      kind == "mode" && (text_in(r, "mode") == "off" ||
                         (text_in(r, "mode") == "observe" && text_in(r, "was") == "enforce"));
  Json j = base({kLifecycle, 6,
                 starts  ? 3
                 : stops ? 4
                         : 99,
                 weaker            ? 4
                 : kind == "clock" ? 3
                                   : 1,
                 starts  ? "Start"
                 : stops ? "Stop"
                         : kind.c_str()},
                uid, utc_ns, leaf, text_in(r, "tenant", 63));
  j["app"] = {{"name", "bulkheadd"}, {"vendor_name", "Bulkhead"}, {"version", origin_.version}};
  j["device"] = {{"hostname", origin_.host}, {"type_id", 1}};
  j["metadata"]["profiles"] = {"host"};
  j["unmapped"] = Json::object();
  for (const char* key : {"boot_id", "unknown", "why"})
    if (r.contains(key)) j["unmapped"][key] = text_in(r, key, kMostText);
  for (const char* key : {"mode", "was", "by", "step", "from", "target"})  // words of a few letters
    if (r.contains(key)) j["unmapped"][key] = text_in(r, key, 16);
  for (const char* key : {"cut_bytes", "recovered", "step_ns", "retained_from", "by_uid", "by_pid"})
    if (r.contains(key)) j["unmapped"][key] = number_in(r, key);
  return finish(j, "LOG", 6);
}

}  // namespace bulkhead::daemon::siem
