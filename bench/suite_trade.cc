// Row 18: what compliance adds to a trade engine's transaction, from the arrival of market data to the order, in open loop at 80 % load;
// alone, and with noisy neighbours, each of which may take 10 % of the GPU. Native, as a tenant without auditing, and as a tenant under enforce with a grant take turns.
#include "bench/crew.h"
#include "bench/granted.h"
#include "bench/suites.h"

namespace bulkhead::bench {
namespace {

constexpr double kLoad = 0.8;
constexpr unsigned kNeighbours = 2, kNoisePercent = 10;

struct Way {
  const char* name;
  const Variant* variant;
  const Tenant* tenant;
};

struct Trade {
  Bench& b;
  const Granted& granted;
  const Variant& ours;
  const std::vector<Tenant>& noise;
  std::uint64_t period_ns = 0;
  std::uint64_t ms = 0;

  // The worker's block is read in `look`. "" or why not.
  template <class Look>
  std::string run(const Way& way, bool neighbours, Look look) const {
    Params p;
    p.set("ms", period_ns == 0 ? 1'000 : ms);
    p.set("period_ns", period_ns);
    Crew crew(granted.lab(), *way.variant, *way.tenant);
    crew.start("trade", p);
    Crew beside(granted.lab(), ours, noise[0]);
    if (neighbours) {
      Params load;
      load.set("rounds", 2'000);
      load.set("ns", 50'000);
      load.set("ms", ms + 3'000);
      for (const Tenant& t : noise) beside.start("load", load, t);
      if (!beside.all_said(60)) return "a neighbour: " + beside.error();
      beside.go();
    }
    if (!crew.all_said(60)) return crew.error();
    crew.go();
    if (!crew.all_said(120)) return crew.error();
    look(crew.block(0));
    crew.go();
    (void)crew.finish(60);
    return "";  // the neighbours end with their crew
  }
};

void one_round(Trade& trade, const std::vector<Way>& ways, bool neighbours) {
  Results& out = trade.b.results;
  const std::string name = neighbours ? "beside two noisy tenants" : "alone";
  double off_us = 0;
  for (const Way& way : ways) {
    const std::string why = trade.run(way, neighbours, [&](const Block& block) {
      const auto us = [&block](double q) { return block.histogram[0].quantile(q) / 1000.0; };
      out.add(name, "p50", "us", way.name, us(0.5));
      out.add(name, "p99", "us", way.name, us(0.99), neighbours ? "" : "goal <= 800");
      out.add(name, "p99.9", "us", way.name, us(0.999));
      out.add(name, "transactions", "", way.name, block.value[1]);
      if (way.tenant == &trade.granted.tenant()) {
        if (off_us != 0)
          out.add(name, "p50, enforce - off", "us", way.name, us(0.5) - off_us, "goal <= 10");
      } else if (way.variant == &trade.ours) {
        off_us = us(0.5);
      }
    });
    if (!why.empty()) return out.failed(name, way.name, why);
  }
}

}  // namespace

void suite_trade(Bench& b) {
  const Variant *native = nullptr, *ours = nullptr;
  for (const Variant& v : b.lab.variants) {
    if (v.kind == Variant::Kind::kNative) native = &v;
    if (v.kind == Variant::Kind::kBulkhead) ours = &v;
  }
  if (native == nullptr || ours == nullptr) return;
  b.results.begin(18, "trade");
  b.lab.timed = true;
  Tenant plain = b.lab.make_tenant(8 * kGiB);
  plain.latency = true;
  std::vector<Tenant> noise, others{plain};
  for (unsigned i = 0; i < kNeighbours; ++i) {
    noise.push_back(b.lab.make_tenant(4 * kGiB));
    noise.back().compute_percent = kNoisePercent;
  }
  others.insert(others.end(), noise.begin(), noise.end());
  const Granted granted{b.lab, "trade", others, true};
  if (!granted.error().empty()) {
    b.lab.timed = false;
    return b.results.failed("alone", "bulkhead", granted.error());
  }
  const std::vector<Way> ways = {{"native", native, &plain},
                                 {"audit off", ours, &plain},
                                 {"enforce, with a grant", ours, &granted.tenant()}};
  Trade trade{b, granted, *ours, noise};
  trade.ms = b.lab.quick ? 2'000 : 10'000;
  double service_ns = 0;
  const std::string why =
      trade.run(ways[0], false, [&](const Block& k) { service_ns = k.value[0]; });
  if (why.empty() && service_ns > 0) {
    b.results.add("one after the other", "a transaction", "us", "native", service_ns / 1000);
    trade.period_ns = static_cast<std::uint64_t>(service_ns / kLoad);
    for (unsigned repeat = 0; repeat < b.lab.repeats && !b.lab.late(); ++repeat) {
      if (b.lab.asked("alone")) one_round(trade, ways, false);
      if (b.lab.asked("beside two noisy tenants")) one_round(trade, ways, true);
    }
  } else {
    b.results.failed("one after the other", "native", why);
  }
  b.lab.timed = false;
  b.results.print(b.lab, stdout);
}

}  // namespace bulkhead::bench
