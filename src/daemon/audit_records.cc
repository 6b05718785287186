// nlohmann's dump without indentation is canonical for what stands here: keys sorted, whole numbers, UTF-8.
#include <nlohmann/json.hpp>

#include "daemon/audit_writer.h"

namespace bulkhead::daemon {
namespace {

using Json = nlohmann::json;

// Paths may hold any bytes.
std::string text_of(const Json& j) {
  return j.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string session_record(const AuditSession& s, std::int64_t unix_ns) {
  return text_of({{"devices", s.devices},
                  {"shim", s.shim},
                  {"exe", s.exe},
                  {"mode", s.enforce ? "enforce" : "observe"},
                  {"pid", s.pid},
                  {"record", "session"},
                  {"serial", s.serial},
                  {"start_ticks", s.start_ticks},
                  {"tenant", s.tenant},
                  {"uid", s.uid},
                  {"utc", unix_ns}});
}

std::string session_end_record(const AuditSession& s, std::int64_t unix_ns) {
  Json lanes = Json::array();
  for (unsigned i = 0; i < shm::kLanes; ++i) {
    const AuditSession::Drain& d = s.drains[i];
    if (d.lane == nullptr) continue;
    lanes.push_back({{"faulty", d.faulty}, {"lane", i}, {"next", d.expected}});
  }
  return text_of({{"lanes", std::move(lanes)},
                  {"record", "session_end"},
                  {"serial", s.serial},
                  {"utc", unix_ns},
                  {"why", s.why}});
}

std::string lane_gap_record(const AuditSession& s, unsigned lane, std::uint64_t entries,
                            std::int64_t unix_ns) {
  const std::uint64_t at = s.drains[lane].expected;
  return text_of({{"count", entries},
                  {"from", at == 0 ? 0 : at - 1},
                  {"lane", lane},
                  {"record", "gap"},
                  {"session", s.serial},
                  {"to", at},
                  {"utc", unix_ns},
                  {"why", "the lane was full"}});
}

std::string lane_finding_record(const AuditSession& s, unsigned lane, std::uint64_t sequence,
                                std::int64_t unix_ns) {
  return text_of({{"lane", lane},
                  {"record", "finding"},
                  {"sequence", sequence},
                  {"session", s.serial},
                  {"utc", unix_ns},
                  {"what", "a slot holds what no producer writes: the lane is read no further"}});
}

}  // namespace bulkhead::daemon
