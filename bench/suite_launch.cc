// Row 1, launches: what a launch and a graph launch cost their caller, uncapped and under a cap that they never use up.
#include "bench/suites.h"
#include "bench/ticks.h"
#include "bench/turns.h"

namespace bulkhead::bench {
namespace {

void one(Bench& b, bool graph, unsigned share, unsigned repeat) {
  const std::string name = std::string(graph ? "cuGraphLaunch" : "cuLaunchKernel") +
                           (share == 0 ? "" : ", with " + std::to_string(share) + "%");
  if (!b.lab.asked(name)) return;
  std::vector<Tenant> tenants;
  {
    Turns turns(core_of(repeat));
    Params p;
    p.set("graph", graph ? 1 : 0);
    p.set("n", b.lab.quick ? 10'000 : 50'000);
    for (const Variant& v : b.lab.variants) {
      tenants.push_back(b.lab.make_tenant(4 * kGiB));
      tenants.back().compute_percent = share;
      turns.add(b.lab, v, tenants.back(), "launch", p, "run");
    }
    const std::string error = turns.lead();
    if (!error.empty()) {
      b.results.failed(name, b.lab.variants[turns.failed() % b.lab.variants.size()].name, error);
    } else {
      const double rate = ns_per_tick();
      for (unsigned i = 0; i < b.lab.variants.size(); ++i) {
        const Block& k = turns.block(i);
        const std::string& who = b.lab.variants[i].name;
        b.results.add(name, "p50", "ns", who, k.histogram[0].quantile(0.5) * rate);
        b.results.add(name, "p99", "ns", who, k.histogram[0].quantile(0.99) * rate);
        b.results.add(name, "best of 64", "ns", who, k.value[0]);
        b.results.add(name, "mean", "ns", who, k.value[1]);
        if (i != 0) b.results.add(name, "mean, added, by rounds", "ns", who, turns.added_ns(i));
      }
    }
  }
  for (const Tenant& t : tenants) b.lab.drop_tenant(t);
}

}  // namespace

void suite_launch(Bench& b) {
  b.results.begin(1, "compute: cost of a launch");
  for (unsigned repeat = 0; repeat < b.lab.repeats && !b.lab.late(); ++repeat)
    for (const bool graph : {false, true})
      for (const unsigned share : {0u, 90u, 100u})  // 90: these never use it up
        one(b, graph, share, repeat);
  b.results.print(b.lab, stdout);
}

}  // namespace bulkhead::bench
