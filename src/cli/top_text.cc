#include "cli/top_text.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/mode.h"
#include "cli/say.h"
#include "cli/share.h"

namespace bulkhead::cli {
namespace {

using nlohmann::json;

std::string cut(const std::string& text, std::size_t width) {
  return text.size() <= width ? text : text.substr(0, width - 2) + "..";
}

std::string percent(double value) { return value < 0 ? "-" : fmt::format("{:.0f} %", value); }

// What the library counted goes before NVML's estimate.
double had(const TopDevice& d) {
  return d.delivered_percent >= 0 ? d.delivered_percent : d.share_percent;
}

double part(std::uint64_t a, std::uint64_t b) {
  return b == 0 ? -1 : 100.0 * static_cast<double>(a) / static_cast<double>(b);
}

// "[||||||      ]"; more than all of it is all of it.
std::string bar(std::uint64_t used, std::uint64_t whole, std::size_t width) {
  const double full = whole == 0 ? 0 : std::min(1.0, part(used, whole) / 100);
  const auto n = static_cast<std::size_t>(std::lround(full * static_cast<double>(width)));
  return "[" + std::string(n, '|') + std::string(width - n, ' ') + "]";
}

std::string clock_text(std::int64_t unix_ms) {
  const time_t s = unix_ms / 1000;
  tm at{};
  ::localtime_r(&s, &at);
  return fmt::format("{:02}:{:02}:{:02}", at.tm_hour, at.tm_min, at.tm_sec);
}

void push(std::vector<Line>& to, const TopView& view, std::string text,
          Style style = Style::kPlain) {
  if (text.size() > view.width) text.resize(view.width);
  to.push_back({std::move(text), style});
}

struct Row {
  const TopTenant* tenant;
  const TopDevice* device;  // null: none is known
};

std::vector<Row> rows_of(const TopPicture& p, TopSort sort) {
  std::vector<Row> rows;
  for (const TopTenant& t : p.tenants) {
    for (const TopDevice& d : t.devices) rows.push_back({&t, &d});
    if (t.devices.empty()) rows.push_back({&t, nullptr});
  }
  const auto key = [&](const Row& r) -> std::uint64_t {
    if (r.device == nullptr || sort == TopSort::kName) return 0;
    return sort == TopSort::kUsed ? r.device->used_bytes : r.device->limit_bytes;
  };
  std::stable_sort(rows.begin(), rows.end(),
                   [&](const Row& a, const Row& b) { return key(a) > key(b); });
  return rows;
}

std::size_t name_width(const TopView& view) {  // what is left of the line, for names of 12 to 63
  constexpr std::size_t kRest = 60;
  return std::min<std::size_t>(64, view.width > kRest + 12 ? view.width - kRest : 12);
}

std::string who(const TopProcess& m) {
  if (m.our_namespace) return fmt::format("{} {}", m.pid, m.command);
  if (m.pid_here == 0) return fmt::format("{} (elsewhere)", m.pid);
  return fmt::format("{} ({}) {}", m.pid_here, m.pid, m.command);
}

void add_members(std::vector<Line>& out, const TopView& view, const Row& row) {
  const auto d = static_cast<std::size_t>(row.device - row.tenant->devices.data());
  const std::size_t wide = name_width(view) + 4;  // the GPU's column is free here
  for (const TopProcess& m : row.tenant->members) {
    if (m.used_bytes[d] == 0) continue;
    push(out, view,
         fmt::format("{:<{}}{:>11}{}", cut("  " + who(m), wide), wide, short_size(m.used_bytes[d]),
                     m.dead ? "  dead" : ""),
         Style::kSoft);
  }
}

// ", spatial (asked auto) in MPS group serving, goes first"; "" without a daemon.
std::string mode_note(const TopMode& m) {
  if (!m.told) return {};
  const std::string asked = mode_text(m.asked), in_force = enforcer_text(m.enforcer);
  std::string out = ", " + in_force;
  if (asked != in_force) out += " (asked " + asked + ")";
  if (m.mps_state != 0) {
    out += " in MPS group " + m.mps_group;
    if (m.mps_state != 1) out += std::string{" ("} + mps_text(m.mps_state) + ")";
  }
  return m.latency ? out + ", goes first" : out;
}

void add_time(std::vector<Line>& out, const TopView& view, const TopTenant& t, const TopDevice& d) {
  push(out, view,
       fmt::format("  share {}, had {}{}", share_text(d.compute), percent(d.delivered_percent),
                   mode_note(t.mode)),
       Style::kSoft);
  push(out, view, "  " + sums_text(d.time), Style::kSoft);
}

}  // namespace

std::vector<Line> head_lines(const TopPicture& p, const TopView& view) {
  std::vector<Line> out;
  std::size_t processes = 0;
  for (const TopTenant& t : p.tenants) processes += t.processes;
  push(out, view,
       fmt::format("bulkhead top  {}  {} tenant{}, {} process{}  {}{}", clock_text(p.unix_ms),
                   p.tenants.size(), p.tenants.size() == 1 ? "" : "s", processes,
                   processes == 1 ? "" : "es", p.daemon ? "daemon" : "no daemon",
                   p.simulated ? "  simulated driver" : ""),
       Style::kTitle);
  if (!p.daemon_problem.empty()) push(out, view, "daemon: " + p.daemon_problem, Style::kWarn);
  for (const TopGpu& g : p.gpus) {
    push(out, view,
         fmt::format("GPU {:<3}{:<18}{} {:>10} of {:<10}{:>6}", g.gpu, cut(g.name, 17),
                     bar(g.used_bytes, g.total_bytes, view.width >= 80 ? 20 : 8),
                     short_size(g.used_bytes), short_size(g.total_bytes), percent(g.busy_percent)));
    if (g.gate_bound_us != 0) {
      push(out, view,
           fmt::format("       who goes first waits {:.2f} ms at most", g.gate_bound_us / 1e3),
           Style::kSoft);
    }
  }
  push(out, view, "");
  push(out, view,
       fmt::format("{:<{}}{:>4}{:>11}{:>11} {:<13}{:>6}{:>6}{:>8}", "TENANT", name_width(view),
                   "GPU", "USED", "LIMIT", "", "TIME", "PROCS", "REFUSED"),
       Style::kHead);
  return out;
}

std::vector<Line> body_lines(const TopPicture& p, const TopView& view) {
  std::vector<Line> out;
  for (const Row& row : rows_of(p, view.sort)) {
    const TopTenant& t = *row.tenant;
    const std::string name = cut(t.name, name_width(view) - 1);
    if (row.device == nullptr) {
      push(out, view, fmt::format("{:<{}} {}", name, name_width(view), t.problem), Style::kAlarm);
      continue;
    }
    const TopDevice& d = *row.device;
    const bool over = d.used_bytes > d.limit_bytes;
    push(out, view,
         fmt::format("{:<{}}{:>4}{:>11}{:>11} {:<13}{:>6}{:>6}{:>8}", name, name_width(view), d.gpu,
                     short_size(d.used_bytes), short_size(d.limit_bytes),
                     bar(d.used_bytes, d.limit_bytes, 10), percent(had(d)), d.processes, t.refused),
         over || !t.problem.empty() ? Style::kAlarm
         : t.faults != 0            ? Style::kWarn
                                    : Style::kPlain);
    if (over) {
      push(out, view,
           fmt::format("  {} over its limit: growth has stopped",
                       short_size(d.used_bytes - d.limit_bytes)),
           Style::kAlarm);
    }
    if (d.dead_bytes != 0)
      push(out, view, fmt::format("  {} held by the dead", short_size(d.dead_bytes)), Style::kWarn);
    if (d.compute.limited()) {
      add_time(out, view, t, d);
    } else if (t.mode.latency) {
      push(out, view, "  goes first", Style::kSoft);
    }
    if (d.time.gates != 0) {
      push(out, view,
           fmt::format("  held {:.1f} s for latency tenants",
                       static_cast<double>(d.time.gated_ns) / 1e9),
           Style::kSoft);
    }
    if (view.processes) add_members(out, view, row);
  }
  if (p.tenants.empty()) {
    push(out, view, fmt::format("No tenants in {}", p.directory), Style::kSoft);
  }
  if (!p.strays.empty()) {
    push(out, view, "");
    push(out, view, "OUTSIDE THE BOOKS", Style::kHead);
  }
  for (const TopStray& s : p.strays) {
    push(out, view,
         fmt::format("{:>10}  on GPU {:<3} pid {:<8} {:<16} uid {:<6} {}{}", short_size(s.bytes),
                     s.gpu, s.pid, cut(s.command, 16), s.uid, s.kind,
                     s.tenant.empty() ? "" : " of " + s.tenant),
         Style::kAlarm);
  }
  return out;
}

std::vector<Line> help_lines() {
  std::vector<Line> out;
  for (const char* text :
       {"q  end", "h  this help", "u  sort by memory used", "m  sort by limit", "n  sort by name",
        "p  processes on and off", "Up, Down, PgUp, PgDn, Home, End  scroll", "",
        "TIME is the part of the GPU's time in the last second, if a daemon runs or it is limited.",
        "REFUSED counts requests for memory that the quota refused.",
        "A pid in brackets is the process's own, in its container.", "", "any key: back"}) {
    out.push_back({text, Style::kPlain});
  }
  return out;
}

namespace {

// null: no limit.
json time_json(const TopDevice& d) {
  if (!d.compute.limited()) return {};
  return {{"share_percent", d.compute.floor_x100 / 100.0},
          {"ceiling_percent", d.compute.ceiling_x100 / 100.0},
          {"delivered_percent", d.delivered_percent < 0 ? json{} : json(d.delivered_percent)},
          {"used_ns", d.time.used_ns},
          {"held_ns", d.time.held_ns},
          {"borrowed_ns", d.time.borrowed_ns},
          {"forgiven_ns", d.time.forgiven_ns},
          {"launches", d.time.launches}};
}

// null: no daemon told.
json mode_json(const TopMode& m, json value) { return m.told ? std::move(value) : json{}; }

json self_tests_json(const TopGpu& g) {
  if (!g.told) return {};
  wire::NodeDevice device{};
  device.flags = g.flags;
  json out = json::object();
  for (unsigned i = 0; i < wire::kSelfTests; ++i)
    out[wire::self_test_name(i)] = wire::seen_name(wire::seen_of(device, i));
  return out;
}

}  // namespace

std::string top_json(const TopPicture& p) {
  const auto share = [](double v) { return v < 0 ? json{} : json(v); };
  json gpus = json::array();
  for (const TopGpu& g : p.gpus) {
    gpus.push_back({{"uuid", g.uuid},
                    {"gpu", g.gpu},
                    {"name", g.name},
                    {"total_bytes", g.total_bytes},
                    {"used_bytes", g.used_bytes},
                    {"promised_bytes", g.promised_bytes},
                    {"busy_percent", share(g.busy_percent)},
                    {"gate_bound_us", g.gate_bound_us != 0 ? json(g.gate_bound_us) : json{}},
                    {"self_tests", self_tests_json(g)}});
  }
  json tenants = json::array();
  for (const TopTenant& t : p.tenants) {
    json devices = json::array();
    json processes = json::array();
    for (const TopDevice& d : t.devices) {
      devices.push_back({{"uuid", d.uuid},
                         {"gpu", d.gpu},
                         {"limit_bytes", d.limit_bytes},
                         {"used_bytes", d.used_bytes},
                         {"other_bytes", d.other_bytes},
                         {"dead_bytes", d.dead_bytes},
                         {"share_percent", share(d.share_percent)},
                         {"time", time_json(d)},
                         {"gated_ns", d.time.gated_ns},
                         {"processes", d.processes}});
    }
    for (const TopProcess& m : t.members) {
      processes.push_back({{"pid", m.pid},
                           {"pid_here", m.pid_here != 0 ? json(m.pid_here) : json{}},
                           {"our_namespace", m.our_namespace},
                           {"dead", m.dead},
                           {"command", m.command},
                           {"used_bytes", m.used_bytes}});
    }
    tenants.push_back(
        {{"name", t.name},
         {"problem", t.problem},
         {"from", t.by_daemon ? "daemon" : "region"},
         {"over_limit", t.over_limit},
         {"priority", mode_json(t.mode, t.mode.latency ? "latency" : "batch")},
         {"mode", mode_json(t.mode, mode_text(t.mode.asked))},
         {"enforcer", mode_json(t.mode, enforcer_text(t.mode.enforcer))},
         {"mps_group", t.mode.mps_group.empty() ? json{} : mode_json(t.mode, t.mode.mps_group)},
         {"mps_state",
          t.mode.mps_state == 0 ? json{} : mode_json(t.mode, mps_text(t.mode.mps_state))},
         {"refused", t.refused},
         {"faults", t.faults},
         {"devices", devices},
         {"processes", processes}});
  }
  json strays = json::array();
  for (const TopStray& s : p.strays) {
    strays.push_back({{"pid", s.pid},
                      {"uid", s.uid},
                      {"gpu", s.gpu},
                      {"command", s.command},
                      {"kind", s.kind},
                      {"tenant", s.tenant},
                      {"bytes", s.bytes},
                      {"sightings", s.sightings}});
  }
  const json out = {{"schema", 1},
                    {"unix_ms", p.unix_ms},
                    {"directory", p.directory},
                    {"simulated", p.simulated},
                    {"daemon", p.daemon},
                    {"gpus", gpus},
                    {"tenants", tenants},
                    {"strays", strays}};
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace bulkhead::cli
