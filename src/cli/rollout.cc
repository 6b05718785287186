#include "cli/rollout.h"

#include <fmt/format.h>
#include <time.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/install.h"
#include "cli/machine.h"
#include "cli/remote.h"
#include "cli/request.h"
#include "cli/say.h"
#include "policy/rollout.h"
#include "shm/tenant.h"
#include "wire/lines.h"
#include "wire/parse.h"

namespace bulkhead::cli {
namespace {

using policy::RolloutState;

constexpr timespec kPoll{0, 200'000'000};
constexpr unsigned kSilentPolls = 150;  // 30 s without a daemon

std::string mode_name(wire::AuditMode mode) {
  return policy::audit_mode_name(static_cast<std::uint32_t>(mode));
}

std::string fill(const RolloutOptions& o, wire::RolloutRequest& q) {
  wire::put_text(q.name, o.name.c_str());
  if (o.stop) {
    q.action = wire::RolloutDo::kStop;
    return {};
  }
  policy::RolloutRules rules;
  for (const std::string& text : o.abort_on) {
    if (!policy::parse_abort_rule(text, rules)) {
      return fmt::format("--abort-on '{}' is none of gap, p99=0.8ms, refusals=10, service-p99=5ms",
                         text);
    }
  }
  std::uint64_t watch_ns = 0;
  if (!policy::parse_span(o.watch, watch_ns) || watch_ns < 100'000'000)
    return fmt::format("--watch '{}' is not a time of 100ms to 24h, like 10m", o.watch);
  if ((rules.service_p99_ns != 0) != !o.service_file.empty())
    return "--abort-on service-p99=... and --service-file go together";
  q.target = o.to == "enforce" ? wire::AuditMode::kEnforce : wire::AuditMode::kObserve;
  q.flags = rules.on_gap ? wire::kAbortOnGap : 0;
  q.watch_ms = watch_ns / 1'000'000;
  q.p99_ns = rules.p99_ns;
  q.refusals = rules.refusals;
  q.service_p99_ns = rules.service_p99_ns;
  if (o.service_file.empty()) return {};
  std::error_code failed;
  const std::string file = std::filesystem::absolute(o.service_file, failed).string();
  if (failed || file.size() >= sizeof q.service_file) return "--service-file: too long a path";
  wire::put_text(q.service_file, file.c_str());
  return {};
}

void print(const RolloutOptions& o, const wire::RolloutReply& r) {
  const std::string why = wire::clean_text(r.why, sizeof r.why);
  const auto state = static_cast<RolloutState>(r.state);
  if (o.json) {
    nlohmann::json j = {{"schema", 1}, {"tenant", o.name}, {"mode", mode_name(r.mode)}};
    if (r.known != 0) {
      j.update({{"state", policy::rollout_state_name(state)},
                {"from", mode_name(r.from)},
                {"target", mode_name(r.target)},
                {"began", r.began_unix_ns},
                {"watched_ms", r.watched_ms},
                {"watch_ms", r.watch_ms},
                {"missed_calls", r.missed_calls},
                {"missed_bytes", r.missed_bytes},
                {"refusals", r.refusals},
                {"why", why}});
      if ((r.flags & 2) != 0) j["p99_ns"] = {r.p99_from_ns, r.p99_to_ns};
      if ((r.flags & 4) != 0) j["service_p99_ns"] = r.service_ns;
    }
    fmt::print("{}\n", j.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else if (r.known == 0) {
    fmt::print("{}: mode {}, no rollout\n", o.name, mode_name(r.mode));
  } else {
    fmt::print("{}: mode {}, rollout to {} {}: {}\n", o.name, mode_name(r.mode),
               mode_name(r.target), policy::rollout_state_name(state), why);
  }
  std::fflush(stdout);
}

int code_of(const wire::RolloutReply& r) {
  const auto state = static_cast<RolloutState>(r.state);
  return r.known == 0 || state == RolloutState::kRunning || state == RolloutState::kDone
             ? kExitOk
             : kExitProblem;
}

// kNotReady: nobody answers now.
Status ask(const shm::Dir& dir, const std::string& name, wire::RolloutReply& out) {
  wire::Client client;
  std::string problem;
  if (connect_daemon(dir, client, problem) != Daemon::kAnswers)
    return Status{Errc::kNotReady, 0, "no daemon answers"};
  wire::NameRequest q{};
  wire::put_text(q.name, name.c_str());
  if (const Status s = client.call(wire::Kind::kRolloutShow, q, out, kDaemonPatience_ms); !s.ok())
    return Status{Errc::kNotReady, 0, s.text()};
  return out.header.result == 0 ? Status{}
                                : Status{static_cast<Errc>(out.header.result), 0, "no such tenant"};
}

// Until it ends. A daemon that is killed meanwhile goes on when it is started again.
int follow(const RolloutOptions& o, const shm::Dir& dir) {
  std::string last;
  unsigned silent = 0;
  for (;;) {
    wire::RolloutReply r{};
    const Status s = ask(dir, o.name, r);
    if (s.code() == Errc::kNotReady && silent++ < kSilentPolls) {
      ::nanosleep(&kPoll, nullptr);
      continue;
    }
    if (!s.ok()) {
      return fail(kExitProblem,
                  fmt::format("{}: the rollout of {} goes on when a daemon runs again", describe(s),
                              o.name));
    }
    silent = 0;
    const std::string now =
        fmt::format("{} {} {}", r.state, static_cast<std::uint32_t>(r.mode), r.why);
    if (now != last) print(o, r);
    last = now;
    if (static_cast<RolloutState>(r.state) != RolloutState::kRunning) return code_of(r);
    ::nanosleep(&kPoll, nullptr);
  }
}

}  // namespace

int rollout(const RolloutOptions& o) {
  if (!shm::valid_name(o.name.c_str()))
    return fail(kExitUsage, fmt::format("'{}' is not the name of a tenant", o.name));
  if (o.stop && !o.to.empty()) return fail(kExitUsage, "--stop ends a rollout, --to begins one");
  if (o.to.empty() && (!o.abort_on.empty() || !o.service_file.empty()))
    return fail(kExitUsage, "--abort-on and --service-file need --to");
  wire::RolloutRequest q{};
  if (!o.to.empty() || o.stop) {
    if (const std::string p = fill(o, q); !p.empty()) return fail(kExitUsage, p);
  }
  disarm_environment();
  auto machine = open_machine(env_or_empty("BULKHEAD_SIM"), Directory::kMayBeMissing);
  if (!machine.ok()) return fail(kExitProblem, machine.problem);
  const shm::Dir& dir = (*machine)->dir;
  wire::Client client;
  std::string problem;
  if (!dir.fd.ok() || connect_daemon(dir, client, problem) != Daemon::kAnswers)
    return fail(kExitProblem, "audit modes are the daemon's: start bulkheadd with [audit]");
  if (o.to.empty() && !o.stop) {
    wire::RolloutReply r{};
    const Status s = ask(dir, o.name, r);
    if (!s.ok()) return fail(kExitProblem, fmt::format("tenant {}: {}", o.name, describe(s)));
    print(o, r);
    return code_of(r);
  }
  wire::Verdict v{};
  const Status s = client.call(wire::Kind::kRollout, q, v, kDaemonPatience_ms);
  if (!s.ok() || v.header.result != 0)
    return fail(kExitProblem, s.ok() ? wire::clean_text(v.text, sizeof v.text) : describe(s));
  client.close();
  return o.stop || o.detach ? kExitOk : follow(o, dir);
}

}  // namespace bulkhead::cli
