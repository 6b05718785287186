#include "cli/events.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "cli/ask.h"
#include "cli/install.h"
#include "cli/request.h"
#include "cli/when.h"
#include "wire/lines.h"

namespace bulkhead::cli {
namespace {

constexpr std::size_t kColumns = 80, kIndent = 4;

struct Filter {
  std::int64_t since_ns = INT64_MIN;
  std::string tenant;
  wire::Severity least = wire::Severity::kInfo;
  [[nodiscard]] bool passes(const wire::EventView& e) const {
    return e.unix_ns >= since_ns && e.severity >= least &&
           (tenant.empty() || tenant == wire::text_of(e.tenant, sizeof e.tenant));
  }
};

bool read_filter(const EventsOptions& o, Filter& filter, std::string& problem) {
  filter.tenant = o.tenant;
  if (!o.since.empty()) {
    const auto since = parse_since(o.since, ::time(nullptr));
    if (!since)
      problem = "--since " + o.since + ": say 90s, 10m, 2h, 7d or a date as 2026-11-22T07:05";
    if (since) filter.since_ns = *since * 1'000'000'000;
  }
  for (std::uint32_t s = 0; !o.severity.empty(); ++s) {
    const char* name = wire::severity_name(static_cast<wire::Severity>(s));
    filter.least = static_cast<wire::Severity>(s);
    if (o.severity == name) break;
    if (std::strcmp(name, "unknown") == 0) {
      problem = "--severity " + o.severity + ": say info, notice, warning or alarm";
      break;
    }
  }
  return problem.empty();
}

// At spaces, within the columns; a word that is longer is cut.
void print_text(const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    std::size_t n = std::min(text.size() - at, kColumns - kIndent);
    if (at + n < text.size()) {
      const std::size_t space = text.rfind(' ', at + n);
      if (space != std::string::npos && space > at) n = space - at;
    }
    fmt::print("{:{}}{}\n", "", kIndent, text.substr(at, n));
    at += n;
    while (at < text.size() && text[at] == ' ') ++at;
  }
}

void print_event(const wire::EventView& e, bool json) {
  if (json) {
    fmt::print("{{\"schema\":1,{}\n", wire::event_line(e).substr(1));
    return;
  }
  // Cleaned when it was posted; cleaned again, for the file may have been anybody's.
  const std::string tenant = wire::clean_text(wire::text_of(e.tenant, sizeof e.tenant), 29);
  fmt::print("{}  {:<8}  {:<18} {}\n", local_time(e.unix_ns / 1'000'000'000),
             wire::severity_name(e.severity), wire::event_name(e.kind), tenant);
  print_text(wire::clean_text(wire::text_of(e.text, sizeof e.text), sizeof e.text));
}

int from_files(const Machine& machine, const Filter& filter, bool json) {
  const std::string state = daemon_state(machine, "events.jsonl");
  bool any = false;
  for (const char* name : {"/events.1.jsonl", "/events.jsonl"}) {
    std::ifstream in{state + name};
    any |= in.good();
    for (std::string line; std::getline(in, line);) {
      wire::EventView event;
      if (wire::parse_event_line(line, event) && filter.passes(event)) print_event(event, json);
    }
  }
  std::fflush(stdout);
  if (!any)
    return fail(kExitProblem, "no daemon answers, and there are no events in " + state + ": " +
                                  std::strerror(errno == 0 ? ENOENT : errno));
  warn("no daemon answers; these are the events in " + state);
  return kExitOk;
}

int from_daemon(wire::Client& client, const Filter& filter, const EventsOptions& o) {
  wire::EventsRequest request{};
  request.follow = o.follow ? 1 : 0;
  const std::string problem =
      ask_all(client, wire::Kind::kEvents, request, o.follow, [&](const void* message) {
        const auto& reply = *static_cast<const wire::EventsReply*>(message);
        const auto* event = reinterpret_cast<const wire::EventView*>(&reply + 1);
        for (std::uint32_t i = 0; i < reply.events; ++i) {
          if (filter.passes(event[i])) print_event(event[i], o.json);
        }
        std::fflush(stdout);
        return std::ferror(stdout) == 0;  // who reads us may have gone
      });
  return problem.empty() ? kExitOk : fail(kExitProblem, problem);
}

}  // namespace

int events(const EventsOptions& options) {
  disarm_environment();
  Filter filter;
  std::string problem;
  if (!read_filter(options, filter, problem)) return fail(kExitUsage, problem);
  auto machine =
      open_machine(options.simulator.empty() ? env_or_empty("BULKHEAD_SIM") : options.simulator,
                   Directory::kMayBeMissing);
  if (!machine.ok()) return fail(kExitProblem, machine.problem);
  auto client = connect_daemon(**machine, problem);
  if (client) return from_daemon(*client, filter, options);
  if (!problem.empty()) warn(problem);
  if (options.follow) return fail(kExitProblem, "--follow needs a daemon: start bulkheadd");
  return from_files(**machine, filter, options.json);
}

}  // namespace bulkhead::cli
