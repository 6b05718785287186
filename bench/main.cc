// bulkhead-bench: the suites of docs/benchmarks.md over variants of one driver.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

#include "base/clock.h"
#include "bench/suites.h"
#include "bench/worker.h"

namespace bulkhead::bench {
namespace {

constexpr char kUsage[] =
    "usage: bulkhead-bench [--suite "
    "memory|hook|start|quota|crash|compute|admission|audit|daemon|grant|trade|transfer|all]... "
    "[--quick] "
    "[--json "
    "FILE]\n"
    "         [--only TEXT] [--preload NAME=LIB[,ENV=VALUE...]]... [--sim [PROFILE]] [--launch "
    "env|run] "
    "[--repeats N] [--seconds N] [--load SECONDS] [--only-native]\n"
    "       bulkhead-bench --gate [--update]\n"
    "With --json - the JSON goes to standard output, all else to standard error.\n"
    "In a VALUE: %l the library, %b the quota in bytes, %M in MiB, %c the share in percent, %d a "
    "directory of the tenant's "
    "own, %t its name.\n";

struct Suite {
  const char* name;
  void (*run)(Bench&);
};
constexpr Suite kSuites[] = {
    {"memory", suite_memory},       {"hook", suite_hook},   {"start", suite_start},
    {"quota", suite_quota},         {"crash", suite_crash}, {"compute", suite_compute},
    {"admission", suite_admission}, {"audit", suite_audit}, {"daemon", suite_daemon},
    {"grant", suite_grant},         {"trade", suite_trade}, {"transfer", suite_transfer}};

struct Options {
  std::vector<std::string> suites;
  std::string json, sim, only, launch = "env";
  std::vector<Variant> rivals;
  bool quick = false, gate = false, update = false, only_native = false;
  unsigned repeats = 0, seconds = 0, load_s = 0;  // 0: as the mode says; no limit
};

bool add_rival(Options& o, const std::string& text) {
  const std::size_t eq = text.find('=');
  if (eq == std::string::npos || eq == 0) return false;
  Variant v;
  v.kind = Variant::Kind::kRival;
  v.name = text.substr(0, eq);
  std::size_t at = eq + 1;
  for (bool first = true; at <= text.size(); first = false) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    const std::string part = text.substr(at, comma - at);
    if (first)
      v.library = std::filesystem::absolute(part).string();
    else if (part.find('=') != std::string::npos)
      v.env.push_back(part);
    else
      return false;
    at = comma + 1;
  }
  o.rivals.push_back(v);
  return std::filesystem::exists(v.library);
}

// False: usage.
bool parse(int argc, char** argv, Options& o) {
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    const bool more = i + 1 < argc;
    if (a == "--quick") {
      o.quick = true;
    } else if (a == "--gate") {
      o.gate = true;
    } else if (a == "--update") {
      o.update = true;
    } else if (a == "--only-native") {
      o.only_native = true;
    } else if (a == "--sim") {
      o.sim = more && argv[i + 1][0] != '-' ? argv[++i] : "h200x1";
    } else if (a == "--suite" && more) {
      o.suites.emplace_back(argv[++i]);
    } else if (a == "--json" && more) {
      o.json = argv[++i];
    } else if (a == "--only" && more) {
      o.only = argv[++i];
    } else if (a == "--launch" && more) {
      o.launch = argv[++i];
    } else if (a == "--repeats" && more) {
      o.repeats = static_cast<unsigned>(std::strtoul(argv[++i], nullptr, 10));
    } else if (a == "--seconds" && more) {
      o.seconds = static_cast<unsigned>(std::strtoul(argv[++i], nullptr, 10));
    } else if (a == "--load" && more) {
      o.load_s = static_cast<unsigned>(std::strtoul(argv[++i], nullptr, 10));
    } else if (a == "--preload" && more) {
      if (!add_rival(o, argv[++i])) return false;
    } else {
      return false;
    }
  }
  for (const std::string& s : o.suites)
    if (s != "all" && std::none_of(std::begin(kSuites), std::end(kSuites),
                                   [&](const Suite& k) { return s == k.name; }))
      return false;
  return (o.launch == "env" || o.launch == "run");
}

void choose_variants(Bench& b, const Options& o) {
  b.lab.variants.push_back({Variant::Kind::kNative, "native", "", {}, ""});
  if (o.only_native) return;
  const std::string& ours = b.lab.library;
  if (std::filesystem::exists(ours))
    b.lab.variants.push_back({Variant::Kind::kBulkhead, "bulkhead", ours, {}, ""});
  else
    std::fprintf(stderr, "bulkhead-bench: %s is not there; measured without it\n", ours.c_str());
  b.lab.variants.insert(b.lab.variants.end(), o.rivals.begin(), o.rivals.end());
}

// Where the JSON goes; "-": standard output, and everything else goes to standard error from here on.
std::FILE* open_json(const std::string& name) {
  if (name != "-") return std::fopen(name.c_str(), "we");
  const int kept = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  return kept >= 0 && ::dup2(STDERR_FILENO, STDOUT_FILENO) >= 0 ? ::fdopen(kept, "w") : nullptr;
}

int run(const Options& o, const std::string& command) {
  std::FILE* const json = o.json.empty() ? nullptr : open_json(o.json);
  if (!o.json.empty() && json == nullptr) {
    std::fprintf(stderr, "bulkhead-bench: cannot write %s\n", o.json.c_str());
    return 1;
  }
  Bench b;
  b.lab.quick = o.quick;
  b.lab.repeats = o.repeats != 0 ? o.repeats : o.quick ? 3 : 5;
  if (o.seconds != 0) b.lab.deadline_ns = monotonic_ns() + o.seconds * 1'000'000'000ull;
  b.lab.load_s = o.load_s;
  b.lab.launch = o.launch;
  b.lab.only = o.only;
  const bool no_driver = !o.suites.empty() && !o.gate &&
                         std::all_of(o.suites.begin(), o.suites.end(), [](const std::string& s) {
                           return s == "admission" || s == "audit" || s == "grant";
                         });
  if (!(no_driver ? open_scratch(b.lab)
                  : open_lab(b.lab, o.gate && o.sim.empty() ? "h200x1" : o.sim)))
    return 1;
  if (!no_driver) choose_variants(b, o);
  int status = 0;
  if (o.gate) {
    GateOptions gate{BH_BENCH_SOURCE_DIR "/gates.json", o.update};
    status = run_gate(b, gate);
  } else {
    if (!no_driver) b.outside.open(b.lab);
    verify_limits(b);
    for (const Suite& s : kSuites)
      if (o.suites.empty() || std::count(o.suites.begin(), o.suites.end(), "all") != 0 ||
          std::count(o.suites.begin(), o.suites.end(), s.name) != 0)
        s.run(b);
    status = b.results.failures() == 0 ? 0 : 1;
  }
  if (json != nullptr && (!b.results.write(b.lab, command, json) || std::fclose(json) != 0)) {
    std::fprintf(stderr, "bulkhead-bench: cannot write %s\n", o.json.c_str());
    status = 1;
  }
  close_lab(b.lab);
  return status;
}

}  // namespace
}  // namespace bulkhead::bench

int main(int argc, char** argv) {
  using namespace bulkhead::bench;
  if (argc > 2 && std::strcmp(argv[1], "--worker") == 0) return worker_main(argc - 2, argv + 2);
  Options o;
  if (!parse(argc, argv, o)) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {  // hundreds of workers, a socket each
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  std::string command;
  for (int i = 0; i < argc; ++i) command += (i == 0 ? "" : " ") + std::string(argv[i]);
  return run(o, command);
}
