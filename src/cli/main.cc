// The command line: grammar only; each command is a file of its own. CLI11 is met here and in
// describe.cc.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <vector>

#include "cli/audit.h"
#include "cli/bench.h"
#include "cli/demo.h"
#include "cli/describe.h"
#include "cli/doctor.h"
#include "cli/events.h"
#include "cli/grant.h"
#include "cli/probe.h"
#include "cli/rm.h"
#include "cli/rollout.h"
#include "cli/run.h"
#include "cli/say.h"
#include "cli/selftest.h"
#include "cli/set.h"
#include "cli/shim.h"
#include "cli/sniff.h"
#include "cli/status.h"
#include "cli/timeslice.h"
#include "cli/top.h"
#include "cli/usage.h"
#include "cli/words.h"

namespace {

using namespace bulkhead::cli;
constexpr const char* kVersion = "bulkhead 0.1.0";

// Everything after the first "--" is the command, whatever it looks like.
struct Line {
  std::vector<std::string> ours;  // reversed, as CLI11 wants them
  std::vector<std::string> command;
};
Line split(int argc, char** argv) {
  Line line;
  std::vector<std::string> all(argv + 1, argv + argc);
  const auto dashes = std::find(all.begin(), all.end(), "--");
  line.ours.assign(std::make_reverse_iterator(dashes), all.rend());
  if (dashes != all.end()) line.command.assign(dashes + 1, all.end());
  return line;
}

// Without "--" the command begins at the first word that is no option.
bool take_command(const CLI::App& app, std::vector<std::string>& command, std::string& problem) {
  const std::vector<std::string> rest = app.remaining();
  if (!rest.empty() && rest[0].size() > 1 && rest[0][0] == '-') {
    problem = "no such option: " + rest[0];
    return false;
  }
  command.insert(command.begin(), rest.begin(), rest.end());
  if (command.empty())
    problem = "a command is missing: bulkhead " + app.get_name() + " ... -- COMMAND";
  return !command.empty();
}

struct Options {
  RunOptions run;
  StatusOptions status;
  DoctorOptions doctor;
  SniffOptions sniff;
  DemoOptions demo;
  RmOptions rm;
  TopOptions top;
  SetOptions set;
  EventsOptions events;
  UsageOptions usage;
  AuditOptions audit;
  GrantOptions grant;
  ShimOptions shim;
  RolloutOptions rollout;
  BenchOptions bench;
};

void add_share(CLI::App& app, ShareOptions& o, const char* which) {
  app.add_option("--compute", o.compute, which)->type_name("SHARE");
  app.add_option("--compute-burst", o.burst,
                 "GPU time that may be used at once after a rest: 5ms if nothing is said")
      ->type_name("TIME");
  app.add_option("--compute-window", o.window,
                 "GPU time that may be queued ahead: 2ms if nothing is said")
      ->type_name("TIME");
  app.add_option("--mode", o.mode,
                 "How the share is held: in time, in multiprocessors (MPS), by short time slices")
      ->type_name("auto|spatial|slice|temporal|partition");
  app.add_option("--priority", o.priority,
                 "latency: batch tenants' work waits while this one's runs (needs the daemon)")
      ->type_name("latency|batch");
}

void add_run(CLI::App& app, RunOptions& o) {
  app.add_option("--tenant", o.tenant,
                 "Name of the tenant: made if there is none, joined if there is")
      ->type_name("NAME");
  app.add_option("--memory", o.memory,
                 "Quota on each visible GPU: 10GiB, 512m, 50%; GPU=SIZE for one")
      ->type_name("SPEC");
  add_share(app, o.share,
            "Share of each GPU's time: 25% is a cap, 25%+ may use what others leave idle");
  app.add_option("--mps-group", o.share.mps_group,
                 "The failure domain it may share with others (operators; see [mps] groups)")
      ->type_name("NAME");
  app.add_option("--streams", o.streams,
                 "Multiprocessors of their own for streams of a high priority: high=25%")
      ->type_name("SPEC");
  app.add_option("--on-fault", o.on_fault,
                 "If the library cannot do its work: deny (default) or open")
      ->check(CLI::IsMember({"deny", "open"}))
      ->type_name("deny|open");
  app.add_option("--audit", o.audit,
                 "Record transfers: off, observe, or enforce; what the operator set binds")
      ->check(CLI::IsMember({"off", "observe", "enforce"}))
      ->type_name("MODE");
  app.add_flag("--overcommit", o.overcommit,
               "Let the quotas of all tenants pass the GPU's memory, their shares its time");
  app.add_option("--grant", o.grant_file,
                 "Token that allows its transfers; replaced in time it is renewed without a pause")
      ->type_name("FILE");
  app.add_flag("--no-daemon", o.no_daemon, "Do not look for a daemon");
  app.add_flag("--wait{forever}", o.wait_time,
               "If the node is full wait for room: --wait=90s, 5m, 2h for so long");
  app.add_flag("--sim{h200}", o.simulator, "Use the simulated driver: --sim=h200x2 for two GPUs");
  app.add_flag("-q,--quiet", o.quiet, "Print nothing but errors");
  app.prefix_command();
}

void add_top(CLI::App& app, TopOptions& o) {
  app.add_flag("--batch", o.batch, "Plain text, again and again; no terminal needed");
  app.add_flag("--json", o.json, "For programs: one object a line");
  app.add_option("-n,--rounds", o.rounds, "End after so many rounds (with --batch or --json)")
      ->check(CLI::Range(1, 1'000'000))
      ->type_name("N");
  app.add_option("-d,--delay", o.delay_s, "Time between two rounds (default 2)")
      ->check(CLI::Range(0.1, 3600.0))
      ->type_name("SECONDS");
  app.add_flag("--sim{h200}", o.simulator, "Of the simulated driver");
}

int usage_error(const std::string& text) {
  return fail(kExitUsage, text + "; see 'bulkhead --help'");
}

int dispatch(const CLI::App& app, Options& o, std::vector<std::string> command) {
  std::string problem;
  const CLI::App& sub = *app.get_subcommands().front();
  if (sub.get_name() == "run") {
    o.run.command = std::move(command);
    return take_command(sub, o.run.command, problem) ? run(o.run) : usage_error(problem);
  }
  if (sub.get_name() == "sniff") {
    o.sniff.command = std::move(command);
    return take_command(sub, o.sniff.command, problem) ? sniff(o.sniff) : usage_error(problem);
  }
  if (!command.empty()) return usage_error(sub.get_name() + " takes no command");
  if (sub.get_name() == "status") return status(o.status);
  if (sub.get_name() == "top") return top(o.top);
  if (sub.get_name() == "doctor") return doctor(o.doctor);
  if (sub.get_name() == "demo") return demo(o.demo);
  if (sub.get_name() == "set") return set(o.set);
  if (sub.get_name() == "grant")
    return bulkhead::cli::grant(sub.get_subcommands().front()->get_name(), o.grant);
  if (sub.get_name() == "shim")
    return bulkhead::cli::shim(sub.get_subcommands().front()->get_name(), o.shim);
  if (sub.get_name() == "rollout") return rollout(o.rollout);
  if (sub.get_name() == "bench") return bulkhead::cli::bench(o.bench);
  if (sub.get_name() == "events") return events(o.events);
  if (sub.get_name() == "audit") return audit(sub, o.audit);
  if (sub.get_name() == "usage") return bulkhead::cli::usage(o.usage);
  return rm(o.rm);
}

void add_events(CLI::App& app, EventsOptions& o) {
  app.add_flag("--follow", o.follow, "Go on with new ones as they come");
  app.add_option("--since", o.since, "Not older than 90s, 10m, 2h, 7d, or a date and time")
      ->type_name("WHEN");
  app.add_option("--tenant", o.tenant, "Of one tenant")->type_name("NAME");
  app.add_option("--severity", o.severity, "This and worse")
      ->type_name("info|notice|warning|alarm");
  app.add_flag("--json", o.json, "For programs: one object a line");
  app.add_flag("--sim{h200}", o.simulator, "Of the simulated driver");
}

void add_usage(CLI::App& app, UsageOptions& o) {
  app.add_option("--since", o.since, "Rows that reach beyond 90s, 10m, 2h, 7d ago, or a date")
      ->type_name("WHEN");
  app.add_option("--tenant", o.tenant, "Of one tenant")->type_name("NAME");
  app.add_flag("--json", o.json, "For programs");
  app.add_flag("--csv", o.csv, "For spreadsheets: the rows as they were kept");
  app.add_flag("--sim{h200}", o.simulator, "Of the simulated driver");
}

int parse_and_run(int argc, char** argv) {
  CLI::App app{"Shares one GPU between programs, each under a memory quota that holds.",
               "bulkhead"};
  Options o;
  app.require_subcommand(1);
  app.set_version_flag("--version", kVersion);
  add_run(*app.add_subcommand("run", "Run a command under a quota"), o.run);
  CLI::App& status = *app.add_subcommand("status", "Show tenants, their quotas and what they use");
  status.add_flag("--json", o.status.json, "For programs");
  status.add_flag("--sim{h200}", o.status.simulator, "Of the simulated driver");
  add_top(*app.add_subcommand("top", "Watch who holds how much of each GPU"), o.top);
  add_events(*app.add_subcommand("events", "Show what the daemon reported"), o.events);
  add_usage(*app.add_subcommand("usage", "Show who held how much of which GPU for how long"),
            o.usage);
  add_audit(app, o.audit);
  add_rollout(*app.add_subcommand("rollout",
                                  "Move a tenant's audit mode step by step, and back on a breach"),
              o.rollout);
  CLI::App& doctor = *app.add_subcommand("doctor", "Check this machine, with one fix a line");
  doctor.add_flag("--json", o.doctor.json, "For programs");
  doctor.add_flag("--sim{h200}", o.doctor.simulator, "Check with the simulated driver");
  doctor.add_flag(
      "--self-test", o.doctor.self_test,
      "Try on the idle GPUs how shares can be held, with a private MPS, and keep what was seen");
  doctor.add_flag("--no-mps", o.doctor.no_mps,
                  "Start no MPS for the self-test: what needs it stays unknown");
  doctor
      .add_option("--mps-control", o.doctor.mps_control,
                  "The MPS control program for the self-test")
      ->type_name("FILE");
  CLI::App& sniff = *app.add_subcommand("sniff", "List the driver functions a command asks for");
  sniff.add_flag("--sim{h200}", o.sniff.simulator, "Use the simulated driver");
  sniff.prefix_command();
  CLI::App& demo = *app.add_subcommand("demo", "Show several processes sharing a GPU under quotas");
  demo.add_flag("--sim{h200}", o.demo.simulator, "On the simulated driver even if there is a GPU");
  add_bench(*app.add_subcommand("bench", "Measure what the quotas and shares hold and cost"),
            o.bench);
  add_grant(*app.add_subcommand("grant", "Issue, read, renew and revoke grants of transfers"),
            o.grant);
  add_shim(*app.add_subcommand("shim", "Sign and check the library that is preloaded"), o.shim);
  CLI::App& rm = *app.add_subcommand("rm", "Remove a tenant without processes");
  rm.add_option("NAME", o.rm.name, "The tenant")->required();
  rm.add_flag("--force", o.rm.force,
              "Even if processes of it run: they keep their quota, new ones are refused");
  CLI::App& set =
      *app.add_subcommand("set", "Change a tenant's quota or share while its programs run");
  set.add_option("NAME", o.set.name, "The tenant")->required();
  set.add_option("--memory", o.set.memory, "Quota on each GPU it has: 10GiB, 50%; GPU=SIZE for one")
      ->type_name("SPEC");
  add_share(set, o.set.share, "Share of each GPU's time: 25%, 25%+, none for no limit");
  set.add_option("--audit", o.set.audit,
                 "Record its transfers from now on: off, observe or enforce (operators)")
      ->check(CLI::IsMember({"off", "observe", "enforce"}))
      ->type_name("MODE");
  set.add_flag("--overcommit", o.set.overcommit,
               "Let the quotas of all tenants pass the GPU's memory, their shares its time");
  if (argc == 2 && std::string{argv[1]} == "__describe") return describe_grammar(app);
  Line line = split(argc, argv);
  const std::vector<std::string> words(line.ours.rbegin(), line.ours.rend());
  const std::string misused = misused_word(app, words, !line.command.empty());
  if (!misused.empty()) return usage_error(misused);
  try {
    app.parse(std::move(line.ours));
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::CallForVersion& version) {
    return app.exit(version);
  } catch (const CLI::ParseError& error) {
    return usage_error(error.what());
  }
  return dispatch(app, o, std::move(line.command));
}

}  // namespace

int main(int argc, char** argv) {
  // Hidden: children of ours. They come before the grammar so that nobody's --help shows them.
  if (argc == 3 && std::string{argv[1]} == "__probe") return probe_main(argv[2]);
  if (argc >= 2 && std::string{argv[1]} == "__demo-worker") return demo_worker();
  if (argc == 4 && std::string{argv[1]} == "__timeslice")
    return time_slice_worker(argv[2], argv[3]);
  if (argc == 4 && std::string{argv[1]} == "__selftest") return self_test_worker(argv[2], argv[3]);
  try {
    return parse_and_run(argc, argv);
  } catch (const std::exception& error) {  // a library's: out of memory, for the most part
    return fail(kExitOurs, error.what());
  }
}
