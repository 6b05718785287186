// The instruction gate: each operation is run twice under callgrind, with few and with many calls; the difference of
// the instructions spent in libbulkhead.so itself, over the difference of the calls, is what a call costs. Start-up,
// the simulator, libc and the library's own threads drop out. Instructions do not depend on how busy the machine is; they depend on the compiler,
// so the budgets name theirs.
#include <sys/wait.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "bench/crew.h"
#include "bench/suites.h"

namespace bulkhead::bench {
namespace {

constexpr const char* kOps[] = {
    "alloc",  "alloc_growing", "free",         "alloc_async_pair",    "mem_get_info", "refused",
    "launch", "launch_capped", "graph_launch", "graph_launch_capped", "copy"};
constexpr std::uint64_t kFew = 50, kMany = 250;
constexpr double kSlack = 0.02;
constexpr const char* kCompiler = "g++ " __VERSION__;

// Self cost (instructions) of all functions of one object in a callgrind output file; inclusive costs of calls, which
// follow a `calls=` line, are left out. Format: valgrind's manual, "Callgrind Format Specification".
std::uint64_t self_cost(const std::string& file, const std::string& object) {
  std::ifstream in(file);
  std::map<std::string, bool> wanted;  // "(7)" -> is ours
  std::string line;
  bool ours = false, skip = false;
  std::uint64_t sum = 0;
  while (std::getline(in, line)) {
    if (line.rfind("ob=", 0) == 0 || line.rfind("cob=", 0) == 0) {
      const std::size_t at = line.find('=') + 1;
      const std::size_t end = line.find(')', at);
      const std::string id = line.substr(at, end - at + 1);
      if (end + 1 < line.size()) wanted[id] = line.find(object, end) != std::string::npos;
      if (line[0] == 'o') ours = wanted[id];
    } else if (line.rfind("calls=", 0) == 0) {
      skip = true;
    } else if (!line.empty() && (std::isdigit(static_cast<unsigned char>(line[0])) != 0 ||
                                 line[0] == '+' || line[0] == '-' || line[0] == '*')) {
      if (ours && !skip) {
        std::istringstream fields(line);
        std::string position;
        std::uint64_t cost = 0;
        fields >> position >> cost;
        sum += cost;
      }
      skip = false;
    }
  }
  return sum;
}

// Runs the gate worker under callgrind. False: it failed; the reason is on stderr.
bool count(const Lab& lab, const Variant& v, const std::string& op, std::uint64_t n,
           std::uint64_t& instructions) {
  const Tenant t = lab.make_tenant(8 * kGiB);
  const std::string out = t.dir + "/callgrind.out";
  Params p;
  p.set("op", op);
  p.set("n", n);
  p.set("most", kMany);
  p.set("quota", t.quota_bytes);
  p.set("loud", 1);
  std::string command = "env -i";
  auto quoted = [](const std::string& s) { return " '" + s + "'"; };
  for (const std::string& e : lab.environment(v, t, "env")) command += quoted(e);
  command += " valgrind --tool=callgrind --separate-threads=yes --callgrind-out-file=" + out +
             " --log-file=" + t.dir + "/log";
  for (const std::string& c : lab.command(v, t, "gate", p, "env")) command += quoted(c);
  const int rc = std::system(command.c_str());  // NOLINT: a fixed program, arguments quoted
  instructions = self_cost(out + "-01", "libbulkhead.so");  // the calling thread's
  const bool good = rc != -1 && WIFEXITED(rc) && WEXITSTATUS(rc) == 0;
  if (!good) {
    std::fprintf(stderr, "bulkhead-bench: '%s' under callgrind failed (%d):\n", op.c_str(), rc);
    std::ifstream log(t.dir + "/log");
    std::string line;
    while (std::getline(log, line)) std::fprintf(stderr, "  %s\n", line.c_str());
  }
  lab.drop_tenant(t);
  return good;
}

}  // namespace

int run_gate(Bench& b, const GateOptions& options) {
  const Variant* ours = nullptr;
  for (const Variant& v : b.lab.variants)
    if (v.kind == Variant::Kind::kBulkhead) ours = &v;
  if (ours == nullptr || std::system("valgrind --version >/dev/null 2>&1") != 0) {
    std::fprintf(stderr, "bulkhead-bench: the gate needs valgrind and %s\n", b.lab.library.c_str());
    return 2;
  }
  nlohmann::json file = nlohmann::json::object();
  if (std::ifstream in(options.file); in) file = nlohmann::json::parse(in, nullptr, false);
  const nlohmann::json budgets =
      file.is_object() && file.contains("budgets") ? file["budgets"] : nlohmann::json::object();
  const bool same_compiler = file.is_object() && file.value("compiler", "") == kCompiler;
  // A small one: valgrind cannot reserve the addresses that the pools of an H200 span.
  const Lab lab = simulated_machine(b.lab, "gate", 16 * kGiB, 64u << 20);
  b.results.begin(1, "gate: instructions in libbulkhead.so a call");
  nlohmann::json measured = nlohmann::json::object();
  int over = 0;
  std::printf("%-20s %12s %12s  (compiler %s)\n", "operation", "counted", "budget", kCompiler);
  for (const char* op : kOps) {
    std::uint64_t few = 0, many = 0;
    if (!count(lab, *ours, op, kFew, few) || !count(lab, *ours, op, kMany, many)) return 2;
    const double each =
        std::round((static_cast<double>(many) - static_cast<double>(few)) / (kMany - kFew) * 10) /
        10;
    b.results.add(op, "instructions", "", "bulkhead", each);
    measured[op] = each;
    const double budget = budgets.value(op, -1.0);
    // Nothing counted means nothing intercepted: that is no pass.
    const bool bad = each <= 0 || budget < 0 || each > budget * (1 + kSlack);
    const char* verdict = !bad             ? ""
                          : budget < 0     ? "  no budget"
                          : !same_compiler ? "  (budget of another compiler)"
                                           : "  OVER";
    if (bad && (same_compiler || budget < 0 || each <= 0)) ++over;
    std::printf("%-20s %12.1f %12.1f%s\n", op, each, budget, verdict);
    std::fflush(stdout);
  }
  // Not gated: from the constructor to the first context, all of it; it depends on what the directory holds.
  std::uint64_t start = 0;
  if (count(lab, *ours, "start", 0, start)) {
    b.results.add("start, to the first context", "instructions", "", "bulkhead",
                  static_cast<double>(start));
    std::printf("%-20s %12llu            -\n", "start (in all)",
                static_cast<unsigned long long>(start));
  }
  if (options.update) {
    const nlohmann::json out{{"schema", 1}, {"compiler", kCompiler}, {"budgets", measured}};
    std::ofstream(options.file) << out.dump(2) << '\n';
    return 0;
  }
  return over == 0 ? 0 : 1;
}

}  // namespace bulkhead::bench
