#include "cli/bench.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstring>

#include "cli/install.h"
#include "cli/say.h"

namespace bulkhead::cli {

void add_bench(CLI::App& app, BenchOptions& o) {
  app.add_option("SUITE", o.suites, "Which of them; all if none is named")
      ->check(CLI::IsMember({"memory", "hook", "start", "quota", "crash", "compute", "admission",
                             "audit", "daemon", "grant", "trade", "transfer", "all"}))
      ->type_name(
          "memory|hook|start|quota|crash|compute|admission|audit|daemon|grant|trade|transfer|all");
  app.add_flag("--quick", o.quick, "Fewer repeats and sizes: to see that it works");
  app.add_flag("--json{-}", o.json,
               "For programs: on standard output, what people read on standard error; "
               "--json=FILE into a file");
  app.add_option("--only", o.only, "The cases whose name has this text")->type_name("TEXT");
  app.add_option(
         "--preload", o.rivals,
         "Another interposer beside ours: NAME=LIBRARY[,VARIABLE=VALUE...]; may be repeated")
      ->type_name("RIVAL")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--repeats", o.repeats, "So many turns of each case")
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  app.add_option("--seconds", o.seconds, "Begin no further turn after so many seconds")
      ->check(CLI::PositiveNumber)
      ->type_name("N");
  app.add_option("--load", o.load, "How long each load of compute runs: 10, with --quick 1.5")
      ->check(CLI::PositiveNumber)
      ->type_name("SECONDS");
  app.add_option("--launch", o.launch,
                 "How tenants are made: env (preload and variables) or run (bulkhead run)")
      ->check(CLI::IsMember({"env", "run"}))
      ->type_name("env|run");
  app.add_flag("--only-native", o.only_native, "Without this library, as a baseline");
  app.add_flag("--sim{h200}", o.simulator, "On the simulated driver even if there is a GPU");
}

int bench(const BenchOptions& o) {
  const std::string program = find_bench();
  if (program.empty())
    return fail(kExitOurs,
                "bulkhead-bench is not installed: it lies neither beside this program nor in "
                "/usr/lib/bulkhead; install bulkhead's bench part, or run it from a build tree");
  std::vector<std::string> words = {program};
  for (const std::string& s : o.suites) words.insert(words.end(), {"--suite", s});
  if (o.quick) words.emplace_back("--quick");
  if (o.only_native) words.emplace_back("--only-native");
  const std::pair<const char*, const std::string*> values[] = {
      {"--json", &o.json},       {"--only", &o.only},       {"--launch", &o.launch},
      {"--repeats", &o.repeats}, {"--seconds", &o.seconds}, {"--load", &o.load},
      {"--sim", &o.simulator}};
  for (const auto& [name, value] : values)
    if (!value->empty()) words.insert(words.end(), {name, *value});
  for (const std::string& r : o.rivals) words.insert(words.end(), {"--preload", r});
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  ::execv(argv[0], argv.data());
  return fail(kExitOurs, fmt::format("{}: {}", program, std::strerror(errno)));
}

}  // namespace bulkhead::cli
