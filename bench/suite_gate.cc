// Row 10, the gate: what a latency tenant's requests take alone, beside a batch tenant's load, and beside it with the gate.
// Only beside a daemon of the bench's own, in a directory of its own: without one there is no gate.
#include <filesystem>

#include "bench/crew.h"
#include "bench/daemon.h"
#include "bench/suites.h"
#include "policy/compute/gate.h"
#include "shm/dir.h"
#include "shm/tenant.h"

namespace bulkhead::bench {
namespace {

enum class Way { kAlone, kBeside, kGate };

// The longest operation of the tenant that was measured, ns; 0: none was.
std::uint64_t longest_op_ns(const Lab& lab, const Tenant& t) {
  shm::DirOptions o;
  o.asked = lab.scratch.c_str();
  o.euid = ::geteuid();
  const Result<shm::Dir> dir = shm::open_dir(o);
  if (!dir.ok()) return 0;
  const auto shot = shm::snapshot_tenant(*dir, t.name.c_str());
  return shot.ok() ? shm::compute_sums(shot->region(), 0).longest_op_ns : 0;
}

// p99 of the requests, us; 0: it could not be measured (failed() says why).
double requests(Bench& b, const Lab& lab, const Variant& v, const Params& request,
                const Params& load, const std::string& name, Way way, std::uint64_t& longest_ns) {
  Tenant mine = lab.make_tenant(4 * kGiB), other = lab.make_tenant(4 * kGiB);
  mine.latency = way == Way::kGate;
  double p99 = 0;
  {
    Crew crew(lab, v, mine, "run");
    crew.start("request", request);
    if (way != Way::kAlone) crew.start("load", load, other);
    bool good = crew.all_said(60);
    Crew::pause(2'500);  // the processes hear of each other within a second or two
    if (good) crew.go(), good = crew.all_said(120);
    if (!good) {
      b.results.failed(name, v.name, crew.error());
    } else {
      const double us = ns_per_tick() / 1000;
      const char* const which = way == Way::kAlone  ? "alone"
                                : way == Way::kGate ? "gate"
                                                    : "no gate";
      p99 = crew.block(0).histogram[0].quantile(0.99) * us;
      b.results.add(name + ", " + which, "p50", "us", v.name,
                    crew.block(0).histogram[0].quantile(0.5) * us);
      b.results.add(name + ", " + which, "p99", "us", v.name, p99);
      longest_ns = longest_op_ns(lab, other);
      crew.go();
      (void)crew.finish(60);
    }
  }
  lab.drop_tenant(mine);
  lab.drop_tenant(other);
  return p99;
}

}  // namespace

void suite_gate(Bench& b, const GateCase& what) {
  const std::string& names = what.names;
  const Variant* ours = nullptr;
  for (const Variant& v : b.lab.variants)
    if (v.kind == Variant::Kind::kBulkhead) ours = &v;
  if (ours == nullptr) return;
  Lab lab = b.lab;
  lab.scratch += "/gate";
  std::filesystem::create_directories(lab.scratch + "/state");
  std::filesystem::permissions(lab.scratch, std::filesystem::perms::owner_all);
  const Daemon daemon(lab, {});
  if (!daemon.error().empty()) return b.results.failed(names, ours->name, daemon.error());
  Params request, load;
  const std::uint64_t ms = b.lab.quick ? 2'000 : 10'000;
  request.set("rounds", what.request_rounds);
  request.set("period_us", what.period_us);
  request.set("ms", ms);
  load.set("rounds", what.hog_rounds);
  load.set("ns", what.hog_ns);
  load.set("ms", ms);
  std::uint64_t longest_ns = 0;
  const double alone = requests(b, lab, *ours, request, load, names, Way::kAlone, longest_ns);
  (void)requests(b, lab, *ours, request, load, names, Way::kBeside, longest_ns);
  const double gate = requests(b, lab, *ours, request, load, names, Way::kGate, longest_ns);
  if (alone == 0 || gate == 0) return;
  const double bound = static_cast<double>(policy::compute::gate_bound_ns(longest_ns)) / 1000;
  b.results.add(names + ", gate", "B", "us", ours->name, bound);
  b.results.add(names + ", gate", "p99 over alone", "x", ours->name, gate / alone);
  b.results.add(names + ", gate", "p99 over 1.5 alone + B", "x", ours->name,
                gate / (1.5 * alone + bound), "goal <= 1");
}

}  // namespace bulkhead::bench
