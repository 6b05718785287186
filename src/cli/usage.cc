#include "cli/usage.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "cli/ask.h"
#include "cli/install.h"
#include "cli/request.h"
#include "cli/when.h"
#include "policy/size.h"
#include "wire/lines.h"

namespace bulkhead::cli {
namespace {

using nlohmann::json;
using wire::UsageRow;

struct Report {
  std::string source;  // "daemon", or the state directory
  std::int64_t since_s = 0;
  std::vector<UsageRow> rows;
};

std::string tenant_of(const UsageRow& row) {
  return std::string{wire::text_of(row.tenant, sizeof row.tenant)};
}

std::string read_daemon(wire::Client& client, Report& report) {
  wire::UsageRequest request{};
  request.since_unix_s = report.since_s;
  report.source = "daemon";
  return ask_all(client, wire::Kind::kUsage, request, false, [&](const void* message) {
    const auto& reply = *static_cast<const wire::UsageReply*>(message);
    const auto* row = reinterpret_cast<const UsageRow*>(&reply + 1);
    report.rows.insert(report.rows.end(), row, row + reply.rows);
    return true;
  });
}

// A row in both files was finished while the daemon was killed: once.
bool read_files(const std::string& state, Report& report) {
  std::ifstream finished{state + "/usage.jsonl"}, open{state + "/usage.open.json"};
  if (!finished.good() && !open.good()) return false;
  report.source = state;
  std::set<std::uint64_t> seen;
  const auto take = [&](const wire::UsageLine& line) {
    if (seen.insert(line.serial).second && line.row.to_unix_s > report.since_s &&
        (line.row.byte_seconds != 0 || line.row.peak_bytes != 0 || line.row.refused != 0 ||
         (line.row.moved_bytes != 0 && line.row.moved_bytes != wire::kNotMeasured))) {
      report.rows.push_back(line.row);
    }
  };
  for (std::string text; std::getline(finished, text);) {
    wire::UsageLine line;
    if (wire::parse_usage_line(text, line)) take(line);
  }
  std::ostringstream content;
  content << open.rdbuf();
  std::vector<wire::UsageLine> running;
  std::uint64_t next = 0;
  if (wire::parse_usage_open(content.str(), running, next)) {
    for (const wire::UsageLine& line : running) take(line);
  }
  return true;
}

std::vector<UsageRow> totals_of(const std::vector<UsageRow>& rows) {
  std::map<std::string, UsageRow> sums;
  for (const UsageRow& r : rows) {
    const auto [at, is_new] = sums.try_emplace(tenant_of(r) + "\n" + wire::uuid_text(r.uuid), r);
    if (is_new) continue;
    UsageRow& s = at->second;
    s.from_unix_s = std::min(s.from_unix_s, r.from_unix_s);
    s.to_unix_s = std::max(s.to_unix_s, r.to_unix_s);
    s.byte_seconds += r.byte_seconds;
    s.held_ms += r.held_ms;
    s.peak_bytes = std::max(s.peak_bytes, r.peak_bytes);
    s.refused += r.refused;
    s.counted_ms += r.counted_ms;
    for (auto [to, from] : {std::pair{&s.gpu_ms, r.gpu_ms}, {&s.moved_bytes, r.moved_bytes}}) {
      if (from != wire::kNotMeasured) *to = (*to == wire::kNotMeasured ? 0 : *to) + from;
    }
  }
  std::vector<UsageRow> out;
  out.reserve(sums.size());
  for (const auto& [key, sum] : sums) out.push_back(sum);
  return out;
}

double gib_hours(std::uint64_t byte_seconds) {
  return static_cast<double>(byte_seconds) / (1ull << 30) / 3600;
}

json measured(std::uint64_t value) {
  return value == wire::kNotMeasured ? json(nullptr) : json(value);
}
// Whose figure gpu_ms is.
const char* source_of(const UsageRow& r) {
  if (r.gpu_ms == wire::kNotMeasured) return "none";
  if (r.counted_ms == 0) return "nvml";
  return r.counted_ms >= r.gpu_ms ? "library" : "both";
}

json row_json(const UsageRow& r) {
  return {{"tenant", tenant_of(r)},         {"gpu", wire::uuid_text(r.uuid)},
          {"from", r.from_unix_s},          {"to", r.to_unix_s},
          {"byte_seconds", r.byte_seconds}, {"held_ms", r.held_ms},
          {"gpu_ms", measured(r.gpu_ms)},   {"moved_bytes", measured(r.moved_bytes)},
          {"peak_bytes", r.peak_bytes},     {"refused", r.refused},
          {"counted_ms", r.counted_ms},     {"gpu_source", source_of(r)}};
}

void print_json(const Report& report) {
  json rows = json::array(), totals = json::array();
  for (const UsageRow& r : report.rows) rows.push_back(row_json(r));
  for (const UsageRow& r : totals_of(report.rows)) totals.push_back(row_json(r));
  const json out = {{"schema", 1},
                    {"source", report.source},
                    {"since", report.since_s},
                    {"rows", rows},
                    {"totals", totals}};
  fmt::print("{}\n", out.dump(2, ' ', false, json::error_handler_t::replace));
}

std::string cell(std::uint64_t value) {
  return value == wire::kNotMeasured ? std::string{} : std::to_string(value);
}
// Names of tenants hold no comma and no quote; what a file says otherwise is cleaned away.
void print_csv(const Report& report) {
  fmt::print(
      "tenant,gpu,from,to,byte_seconds,held_ms,gpu_ms,moved_bytes,peak_bytes,refused,counted_ms\n");
  for (const UsageRow& r : report.rows) {
    std::string name = wire::clean_text(tenant_of(r), sizeof r.tenant);
    for (char& c : name) {
      if (c == ',' || c == '"') c = '?';
    }
    fmt::print("{},{},{},{},{},{},{},{},{},{},{}\n", name, wire::uuid_text(r.uuid), r.from_unix_s,
               r.to_unix_s, r.byte_seconds, r.held_ms, cell(r.gpu_ms), cell(r.moved_bytes),
               r.peak_bytes, r.refused, r.counted_ms);
  }
}

std::string gpu_label(const std::vector<NvmlGpu>& gpus, const std::uint8_t* uuid) {
  for (const NvmlGpu& g : gpus) {
    const auto id = parse_uuid(g.uuid);
    if (id && std::memcmp(id->data(), uuid, id->size()) == 0) return std::to_string(g.index);
  }
  return wire::uuid_text(uuid).substr(0, 3);
}

std::string duration(std::uint64_t ms) {
  const std::uint64_t s = ms / 1000;
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

void print_people(const Report& report, const std::vector<NvmlGpu>& gpus) {
  const auto totals = totals_of(report.rows);
  if (totals.empty()) {
    fmt::print("No usage{}.\n", report.since_s == 0 ? "" : " since " + local_time(report.since_s));
    return;
  }
  std::int64_t from = totals[0].from_unix_s, to = totals[0].to_unix_s;
  for (const UsageRow& r : totals) {
    from = std::min(from, r.from_unix_s);
    to = std::max(to, r.to_unix_s);
  }
  fmt::print("{} to {}\n", local_time(from), local_time(to));
  fmt::print("{:<15}{:>4}{:>12}{:>11}{:>11}{:>10}{:>9}{:>8}\n", "TENANT", "GPU", "GIB-HOURS",
             "HELD", "GPU-S", "MOVED", "PEAK", "REFUSED");
  bool counted = false;
  for (const UsageRow& r : totals) {
    char peak[policy::kSizeText];
    const std::string name = wire::clean_text(tenant_of(r), sizeof r.tenant);
    const std::string gpu_s = r.gpu_ms == wire::kNotMeasured
                                  ? "-"
                                  : fmt::format("{:.{}f}", static_cast<double>(r.gpu_ms) / 1000,
                                                r.gpu_ms < 10'000'000'000 ? 1 : 0) +
                                        (r.counted_ms == 0 ? "" : "*");
    counted |= r.counted_ms != 0;
    char moved[policy::kSizeText] = "-";
    if (r.moved_bytes != wire::kNotMeasured) policy::format_size(r.moved_bytes, moved);
    fmt::print("{:<15}{:>4}{:>12.3f}{:>11}{:>11}{:>10}{:>9}{:>8}\n",
               name.size() <= 14 ? name : name.substr(0, 12) + "..", gpu_label(gpus, r.uuid),
               gib_hours(r.byte_seconds), duration(r.held_ms), gpu_s, moved,
               policy::format_size(r.peak_bytes, peak), r.refused);
  }
  if (counted) fmt::print("* counted by the library while limited; else NVML's estimate\n");
}

}  // namespace

int usage(const UsageOptions& options) {
  disarm_environment();
  Report report;
  if (options.json && options.csv) return fail(kExitUsage, "--json or --csv, not both");
  if (!options.since.empty()) {
    const auto since = parse_since(options.since, ::time(nullptr));
    if (!since)
      return fail(kExitUsage, "--since " + options.since +
                                  ": say 90s, 10m, 2h, 7d or a date as 2026-11-22T07:05");
    report.since_s = *since;
  }
  auto machine =
      open_machine(options.simulator.empty() ? env_or_empty("BULKHEAD_SIM") : options.simulator,
                   Directory::kMayBeMissing);
  if (!machine.ok()) return fail(kExitProblem, machine.problem);
  std::string problem;
  auto client = connect_daemon(**machine, problem);
  if (client) {
    problem = read_daemon(*client, report);
    if (!problem.empty()) return fail(kExitProblem, problem);
  } else {
    if (!problem.empty()) warn(problem);
    const std::string state = daemon_state(**machine);
    if (!read_files(state, report))
      return fail(kExitProblem, "no daemon answers, and there is no usage in " + state);
    warn("no daemon answers; this is the usage in " + state);
  }
  if (!options.tenant.empty())
    std::erase_if(report.rows, [&](const UsageRow& r) { return tenant_of(r) != options.tenant; });
  if (options.json) {
    print_json(report);
  } else if (options.csv) {
    print_csv(report);
  } else {
    print_people(report, (*machine)->nvml ? (*machine)->nvml->gpus() : std::vector<NvmlGpu>{});
  }
  std::fflush(stdout);
  return kExitOk;
}

}  // namespace bulkhead::cli
