// bulkhead audit coverage: what a tenant's library counted against what its log holds (docs/compliance/coverage.md).
#include <fmt/format.h>
#include <sys/stat.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "audit/records.h"
#include "cli/audit_common.h"
#include "cli/install.h"
#include "cli/machine.h"
#include "cli/request.h"
#include "cli/say.h"
#include "cli/when.h"
#include "shm/audit_totals.h"
#include "shm/tenant.h"
#include "wire/lines.h"

namespace bulkhead::cli {
namespace {

using nlohmann::json;
using shm::AuditTotals;
using shm::kAuditClasses;

constexpr int kNotCompared = 2;
constexpr std::uint64_t kPatience_ms = 5000;  // for entries that are on their way
constexpr timespec kLook{0, 50'000'000};
constexpr const char* kClassNames[kAuditClasses] = {
    "none", "to the device", "to the host", "within a device", "between devices",
    "set",  "host to host",  "not told",    "map events"};

// What the library counted, as far as the comparison needs it.
struct Counted {
  std::array<std::uint64_t, kAuditClasses> calls{}, bytes{};
  std::uint64_t missed_calls = 0, missed_bytes = 0, unlogged_refused = 0,
                unlogged_refused_bytes = 0;
  std::array<std::uint64_t, shm::kCopyDirections> moved{};
};
// Where the comparison begins: a mode's record of the log, or its beginning.
struct Baseline {
  std::uint64_t index = 0, utc_ns = 0, lanes = 0;
  Counted counted;
  bool said = false;  // by a record
};
struct Logged {
  std::array<std::uint64_t, kAuditClasses> calls{}, bytes{};
  std::uint64_t denied = 0, observed = 0, violations = 0, failed = 0, gap_calls = 0, findings = 0;
  bool was_off = false;  // the tenant's mode, within the comparison
};

Counted counted_of(const AuditTotals& t, const shm::Region& r) {
  Counted out;
  for (unsigned i = 0; i < kAuditClasses; ++i) {
    out.calls[i] = t.classes[i].calls;
    out.bytes[i] = t.classes[i].bytes;
  }
  const auto sum = t.sum();
  out.missed_calls = sum.missed_calls;
  out.missed_bytes = sum.missed_bytes;
  out.unlogged_refused = sum.unlogged_refused;
  out.unlogged_refused_bytes = sum.unlogged_refused_bytes;
  std::uint64_t moved[shm::kCopyDirections] = {};
  shm::moved_bytes(r, moved);
  std::copy(std::begin(moved), std::end(moved), out.moved.begin());
  return out;
}

std::uint64_t number_of(const json& j, const char* key) {
  const auto at = j.find(key);
  return at != j.end() && at->is_number_unsigned() ? at->get<std::uint64_t>() : 0;
}
std::string text_of(const json& j, const char* key) {
  const auto at = j.find(key);
  return at != j.end() && at->is_string() ? at->get<std::string>() : std::string{};
}
template <std::size_t N>
void numbers_of(const json& j, const char* key, std::array<std::uint64_t, N>& out) {
  const auto at = j.find(key);
  if (at == j.end() || !at->is_array()) return;
  for (std::size_t i = 0; i < std::min(N, at->size()); ++i) {
    if ((*at)[i].is_number_unsigned()) out[i] = (*at)[i].get<std::uint64_t>();
  }
}
Counted counted_of(const json& j) {
  Counted out;
  numbers_of(j, "calls", out.calls);
  numbers_of(j, "bytes", out.bytes);
  numbers_of(j, "moved", out.moved);
  out.missed_calls = number_of(j, "missed_calls");
  out.missed_bytes = number_of(j, "missed_bytes");
  out.unlogged_refused = number_of(j, "unlogged_refused");
  out.unlogged_refused_bytes = number_of(j, "unlogged_refused_bytes");
  return out;
}

// Reads the log from its beginning, again and again as it grows.
class Reading {
 public:
  Reading(const AuditOptions& o, std::uint64_t region, std::optional<std::int64_t> since_s)
      : options_(o), region_(region), since_s_(since_s) {}

  // "" or why the log cannot be read.
  std::string go_on() {
    auto log = open_log(options_);
    if (!log.ok()) return log.problem;
    if (next_ < (*log)->first()) next_ = (*log)->first();
    for (const std::uint64_t size = (*log)->size(); next_ < size; ++next_) {
      const auto entry = (*log)->entry(next_);
      if (!entry || entry->empty()) return fmt::format("entry {} cannot be read", next_);
      if ((*entry)[0] == abi::kRecordByte) {
        record({reinterpret_cast<const char*>(entry->data()) + 1, entry->size() - 1});
      } else if (entry->size() == sizeof(abi::AuditEntry)) {
        abi::AuditEntry e;
        std::memcpy(&e, entry->data(), sizeof e);
        take(e);
      }
    }
    return {};
  }
  [[nodiscard]] const Baseline& baseline() const { return baseline_; }
  [[nodiscard]] const Logged& logged() const { return logged_; }
  [[nodiscard]] std::uint64_t size() const { return next_; }

 private:
  void record(std::string_view text) {
    const json j = json::parse(text, nullptr, false);
    if (!j.is_object()) return;
    const std::string kind = text_of(j, "record");
    if (kind == "session" && text_of(j, "tenant") == options_.tenant)
      sessions_.insert(static_cast<std::uint32_t>(number_of(j, "serial")));
    if (kind == "mode" && text_of(j, "tenant") == options_.tenant) mode(j);
    const bool ours = text_of(j, "tenant") == options_.tenant ||
                      sessions_.contains(static_cast<std::uint32_t>(number_of(j, "session")));
    if (kind == "gap" && ours) logged_.gap_calls += number_of(j, "count");
    logged_.findings += kind == "finding" && ours;
  }
  // The counts of another region file are not these.
  void mode(const json& j) {
    const bool fits = number_of(j, "region") == region_ && j.contains("counted");
    const std::uint64_t utc = number_of(j, "utc");
    const bool in_time =
        !baseline_.said || (since_s_ && *since_s_ >= 0 &&
                            utc <= static_cast<std::uint64_t>(*since_s_) * 1'000'000'000);
    if (!fits || !in_time) {
      logged_.was_off |= text_of(j, "mode") == "off";
      return;
    }
    baseline_ = {next_, utc, number_of(j, "lanes"), counted_of(j["counted"]), true};
    logged_ = Logged{};
    logged_.was_off = text_of(j, "mode") == "off";
  }
  void take(const abi::AuditEntry& e) {
    if (!sessions_.contains(std::uint32_t{e.session})) return;
    const abi::EntryKind kind = abi::kind_of(e);
    logged_.failed += kind == abi::EntryKind::kFailure;
    if (kind == abi::EntryKind::kGap) logged_.gap_calls += abi::bytes_of(e);
    if (kind != abi::EntryKind::kTransfer && kind != abi::EntryKind::kMap) return;
    const unsigned c = kind == abi::EntryKind::kMap
                           ? shm::kMapClass
                           : static_cast<unsigned>(abi::direction_of(e)) % kAuditClasses;
    ++logged_.calls[c];
    logged_.bytes[c] += abi::bytes_of(e);
    const abi::Decision d = abi::decision_of(e);
    logged_.denied += d == abi::Decision::kDenied;
    logged_.observed += d == abi::Decision::kObserved;
    logged_.violations += d == abi::Decision::kViolation;
  }

  const AuditOptions& options_;
  const std::uint64_t region_;
  const std::optional<std::int64_t> since_s_;
  std::uint64_t next_ = 0;
  std::set<std::uint32_t> sessions_;
  Baseline baseline_;
  Logged logged_;
};

std::uint64_t above(std::uint64_t a, std::uint64_t b) { return a > b ? a - b : 0; }

struct Result {
  Counted counted;  // since the baseline
  std::uint64_t calls = 0, bytes = 0, logged_calls = 0, logged_bytes = 0;
  std::uint64_t missed = 0, missed_bytes = 0;  // counted as without an entry
  std::uint64_t lost = 0;                      // counted, and neither logged nor counted as missed
  bool began_anew = false;
};

Result compare(const Counted& now, const Baseline& from, const Logged& logged) {
  Result r;
  for (unsigned i = 0; i < kAuditClasses; ++i) {
    r.began_anew |= now.calls[i] < from.counted.calls[i];
    r.counted.calls[i] = above(now.calls[i], from.counted.calls[i]);
    r.counted.bytes[i] = above(now.bytes[i], from.counted.bytes[i]);
    r.calls += r.counted.calls[i];
    r.bytes += r.counted.bytes[i];
    r.logged_calls += logged.calls[i];
    r.logged_bytes += logged.bytes[i];
  }
  r.missed = above(now.missed_calls, from.counted.missed_calls);
  r.missed_bytes = above(now.missed_bytes, from.counted.missed_bytes);
  const std::uint64_t refused = above(now.unlogged_refused, from.counted.unlogged_refused);
  // Of each class: what the others have too much of hides nothing. The classes of what was missed are not compared apart.
  std::uint64_t lacking = 0;
  for (unsigned i = 0; i < kAuditClasses; ++i)
    lacking += above(r.counted.calls[i], logged.calls[i]);
  r.lost = above(lacking, r.missed + refused);
  for (unsigned d = 0; d < shm::kCopyDirections; ++d)
    r.counted.moved[d] = above(now.moved[d], from.counted.moved[d]);
  return r;
}

// What no counter of ours can show.
std::vector<std::string> unknown(const Baseline& from, const Logged& logged,
                                 const AuditTotals& totals) {
  std::vector<std::string> out{
      "loads and stores of kernels through mapped memory, and page migration: their map events are "
      "what is logged",
      "a process that does not go through the library at all: 'bulkhead events' tells of bypasses",
      "both counts come from the library in the tenant's process: they bound an honest tenant, and "
      "prove nothing of a hostile one",
      "whether the log was changed since: 'bulkhead audit verify' says that"};
  if (totals.export_tables != 0) {
    out.push_back(
        fmt::format("cuGetExportTable was asked for {} times: functions behind it move "
                    "data unseen, or none do",
                    totals.export_tables));
  }
  if (logged.was_off)
    out.emplace_back("the mode was off for a part of this time: what moved then is nowhere");
  if (!from.said) out.emplace_back("no record of a mode: compared from the log's beginning");
  if (from.lanes != 0) {
    out.push_back(
        fmt::format("{} lanes were open where the comparison begins: as many calls may "
                    "be counted on one side only",
                    from.lanes));
  }
  return out;
}

struct Verdict {
  int code;
  const char* name;
  std::string text;
};
Verdict verdict_of(const Result& r, const Baseline& from, const Logged& logged,
                   const AuditTotals& totals) {
  if (r.began_anew)
    return {kNotCompared, "not-compared",
            "the counts began anew since: another region, or changed"};
  const std::uint64_t lost = above(r.lost, from.lanes);
  if (r.missed != 0 || lost != 0 || logged.findings != 0 || logged.gap_calls > 0) {
    return {
        1, "gap",
        fmt::format("{} calls ({} bytes) went to the driver without an entry, {} more were "
                    "counted and are not in the log, {} lanes could not be read to their end",
                    std::max(r.missed, logged.gap_calls), r.missed_bytes, lost, logged.findings)};
  }
  if (totals.unresolved != 0) {
    return {3, "unresolved",
            fmt::format("the counts agree, and {} functions that move data were handed out unseen",
                        totals.unresolved)};
  }
  if (r.calls == 0 && r.logged_calls == 0)
    return {kNotCompared, "not-compared", "nothing was counted, and nothing is logged"};
  return {0, "covered",
          fmt::format("each of the {} calls ({} bytes) that were counted is in the log", r.calls,
                      r.bytes)};
}

std::vector<std::string> names_of(const AuditTotals& t) {
  std::vector<std::string> out;
  for (const auto& name : t.names) {
    if (name[0] != '\0') out.push_back(wire::clean_text(wire::text_of(name, sizeof name), 64));
  }
  return out;
}

void print(const AuditOptions& o, const Baseline& from, const Logged& logged, const Result& r,
           const AuditTotals& totals, const Verdict& v) {
  const auto blind = unknown(from, logged, totals);
  const auto held_p99 = [&]() -> std::string {
    const std::uint64_t none[shm::kAuditBuckets] = {};
    unsigned bucket = 0;
    if (!shm::p99_bucket(totals.held, none, bucket)) return "not measured";
    return fmt::format("{} to {} ns", shm::bucket_from_ns(bucket), shm::bucket_from_ns(bucket + 1));
  }();
  if (o.json) {
    json classes = json::object();
    for (unsigned i = 0; i < kAuditClasses; ++i) {
      classes[kClassNames[i]] = {{"counted_calls", r.counted.calls[i]},
                                 {"counted_bytes", r.counted.bytes[i]},
                                 {"logged_calls", logged.calls[i]},
                                 {"logged_bytes", logged.bytes[i]}};
    }
    const json out = {{"schema", 1},
                      {"tenant", o.tenant},
                      {"verdict", v.name},
                      {"text", v.text},
                      {"from_index", from.index},
                      {"from_utc", from.utc_ns},
                      {"from_lanes", from.lanes},
                      {"classes", classes},
                      {"counted_calls", r.calls},
                      {"counted_bytes", r.bytes},
                      {"logged_calls", r.logged_calls},
                      {"logged_bytes", r.logged_bytes},
                      {"missed_calls", r.missed},
                      {"missed_bytes", r.missed_bytes},
                      {"lost_calls", r.lost},
                      {"gap_calls", logged.gap_calls},
                      {"no_lane_calls", totals.no_lane_calls},
                      {"no_room_calls", totals.no_room_calls},
                      {"denied", logged.denied},
                      {"observed", logged.observed},
                      {"violations", logged.violations},
                      {"failed", logged.failed},
                      {"moved_bytes", r.counted.moved},
                      {"unresolved", totals.unresolved},
                      {"unresolved_names", names_of(totals)},
                      {"export_tables", totals.export_tables},
                      {"not_known", blind}};
    fmt::print("{}\n", out.dump(-1, ' ', false, json::error_handler_t::replace));
    return;
  }
  fmt::print("tenant    {}, from {}\n", o.tenant,
             from.said ? local_time(static_cast<std::int64_t>(from.utc_ns / 1'000'000'000))
                       : "the log's beginning");
  fmt::print("{:17} {:>14} {:>20} {:>14} {:>20}\n", "", "calls counted", "bytes", "calls logged",
             "bytes");
  for (unsigned i = 0; i < kAuditClasses; ++i) {
    if (r.counted.calls[i] == 0 && logged.calls[i] == 0) continue;
    fmt::print("{:17} {:>14} {:>20} {:>14} {:>20}\n", kClassNames[i], r.counted.calls[i],
               r.counted.bytes[i], logged.calls[i], logged.bytes[i]);
  }
  fmt::print("without an entry  {:>14} {:>20}   (no lane {}, no room {}, of all time)\n", r.missed,
             r.missed_bytes, totals.no_lane_calls, totals.no_room_calls);
  fmt::print("refused {}, observed {}, violations {}, failed in the driver {}\n", logged.denied,
             logged.observed, logged.violations, logged.failed);
  fmt::print(
      "moved by the books of copies: to the device {}, to the host {}, within {}, peer {}, "
      "set {} bytes (a bound: also what moved while the mode was off)\n",
      r.counted.moved[0], r.counted.moved[1], r.counted.moved[2], r.counted.moved[3],
      r.counted.moved[4]);
  fmt::print("auditing held a call for {} at the 99th percentile, of all time\n", held_p99);
  for (const std::string& name : names_of(totals)) fmt::print("handed out unseen: {}\n", name);
  for (const std::string& text : blind) fmt::print("not known: {}\n", text);
  fmt::print("{}: {}\n", v.name, v.text);
}

std::uint64_t inode_of(const shm::Dir& dir, const std::string& tenant) {
  struct stat st {};
  const std::string path = std::string{dir.path} + "/tenants/" + tenant + "/region";
  return ::stat(path.c_str(), &st) == 0 ? st.st_ino : 0;
}

}  // namespace

int audit_coverage(const AuditOptions& o) {
  if (!shm::valid_name(o.tenant.c_str()))
    return fail(kExitUsage, fmt::format("'{}' is not the name of a tenant", o.tenant));
  std::optional<std::int64_t> since;
  if (!o.since.empty()) {
    since = parse_since(o.since, ::time(nullptr));
    if (!since)
      return fail(kExitUsage, fmt::format("--since '{}' is no time: 10m, 2h, a date", o.since));
  }
  disarm_environment();
  auto machine = open_machine(env_or_empty("BULKHEAD_SIM"), Directory::kMayBeMissing);
  if (!machine.ok()) return fail(kNotCompared, machine.problem);
  const shm::Dir& dir = (*machine)->dir;
  if (!dir.fd.ok())
    return fail(kNotCompared, (*machine)->directory + " does not exist: there are no tenants");
  auto shot = shm::snapshot_tenant(dir, o.tenant.c_str());
  if (!shot.ok())
    return fail(kNotCompared, fmt::format("tenant {}: {}", o.tenant, describe(shot.status())));
  AuditTotals totals;
  shm::read_audit_counts(shot->region(), totals);
  const Counted now = counted_of(totals, shot->region());
  Reading reading{o, inode_of(dir, o.tenant), since};
  Result r;
  // What was counted before now is on its way to the log.
  for (std::uint64_t waited_ms = 0;; waited_ms += 50) {
    if (const std::string p = reading.go_on(); !p.empty()) return fail(kNotCompared, p);
    r = compare(now, reading.baseline(), reading.logged());
    if (r.lost == 0 || waited_ms >= kPatience_ms) break;
    ::nanosleep(&kLook, nullptr);
  }
  const Verdict v = verdict_of(r, reading.baseline(), reading.logged(), totals);
  print(o, reading.baseline(), reading.logged(), r, totals, v);
  return v.code;
}

}  // namespace bulkhead::cli
