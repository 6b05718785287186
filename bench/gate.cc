// The instruction gate: each operation is run twice under callgrind, with few and with many calls; the difference of
// the instructions spent in libbulkhead.so itself, over the difference of the calls, is what a call costs. Start-up,
// the simulator, libc and the library's own threads drop out. Instructions do not depend on how busy the machine is; they depend on the compiler,
// so the budgets name theirs.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "bench/gate_count.h"

namespace bulkhead::bench {
namespace {

constexpr const char* kOps[] = {
    "alloc",  "alloc_growing", "free",         "alloc_async_pair",    "mem_get_info", "refused",
    "launch", "launch_capped", "graph_launch", "graph_launch_capped", "copy"};
constexpr std::uint64_t kFew = 50, kMany = 250;
constexpr int kTakes = 3;
constexpr double kSlack = 0.02;
constexpr const char* kCompiler = "g++ " __VERSION__;

// 1: over its budget.
int judge(const std::string& op, double each, double budget, bool same_compiler) {
  // Nothing counted means nothing intercepted: that is no pass.
  const bool bad = each <= 0 || budget < 0 || each > budget * (1 + kSlack);
  const char* verdict = !bad             ? ""
                        : budget < 0     ? "  no budget"
                        : !same_compiler ? "  (budget of another compiler)"
                                         : "  OVER";
  std::printf("%-20s %12.1f %12.1f%s\n", op.c_str(), each, budget, verdict);
  std::fflush(stdout);
  return bad && (same_compiler || budget < 0 || each <= 0) ? 1 : 0;
}

bool count(const Lab& lab, const Variant& v, const std::string& op, std::uint64_t n,
           std::uint64_t& instructions) {
  const Tenant t = lab.make_tenant(8 * kGiB);
  Params p;
  p.set("op", op);
  p.set("n", n);
  p.set("most", kMany);
  p.set("quota", t.quota_bytes);
  const bool good = count_instructions(lab, v, t, {"gate", op, p}, instructions);
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
  const auto one = [&](const std::string& op, double each) {
    b.results.add(op, "instructions", "", "bulkhead", each);
    measured[op] = each;
    over += judge(op, each, budgets.value(op, -1.0), same_compiler);
  };
  for (const char* op : kOps) {
    // A launch a millisecond goes the long way whatever it is, so a busy machine counts more of those: the least is nearest.
    const int takes = std::string{op}.find("capped") == std::string::npos ? 1 : kTakes;
    std::uint64_t few = ~0ull, many = ~0ull;
    for (int i = 0; i < takes; ++i) {
      std::uint64_t fewer = 0, more = 0;
      if (!count(lab, *ours, op, kFew, fewer) || !count(lab, *ours, op, kMany, more)) return 2;
      few = std::min(few, fewer), many = std::min(many, more);
    }
    const double each =
        std::round((static_cast<double>(many) - static_cast<double>(few)) / (kMany - kFew) * 10) /
        10;
    one(op, each);
  }
  if (!gate_audit(lab, *ours, one)) return 2;
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
