// Row 13: tenants of one share are added until one of them keeps less than 95 % of the rate it has alone, or more than 1.1 times its p99.
// Each copies its input in, runs a kernel, copies the result out and waits; ours have a daemon, a quota, a share and auditing on.
#include <algorithm>
#include <filesystem>
#include <memory>

#include "bench/crew.h"
#include "bench/daemon.h"
#include "bench/suites.h"

namespace bulkhead::bench {
namespace {

constexpr double kRate = 0.95, kP99 = 1.1;

struct Served {
  double per_s = 0, p99_us = 0;
};

// The first `n` tenants at once; empty: one ended (crew.error()).
std::vector<Served> serve(Crew& crew, unsigned n) {
  for (unsigned i = 0; i < n; ++i) crew.go(i);
  std::vector<Served> out;
  for (unsigned i = 0; i < n; ++i) {
    if (!crew.said(i, 120)) return {};
    const Block& k = crew.block(i);
    out.push_back({static_cast<double>(k.histogram[0].total) / k.value[0],
                   k.histogram[0].quantile(0.99) * ns_per_tick() / 1000});
  }
  return out;
}

void add_until_one_fails(Bench& b, const Variant& v, const std::string& name, Crew& crew) {
  for (unsigned i = 0; i < crew.size(); ++i)
    if (!crew.said(i, 60)) return b.results.failed(name, v.name, crew.error());
  // First all of them, uncounted: what their operations cost is learned, and bursts are spent.
  if (serve(crew, crew.size()).empty()) return b.results.failed(name, v.name, crew.error());
  unsigned passed = 0;
  Served solo;
  for (unsigned n = 1; n <= crew.size(); ++n) {
    const std::vector<Served> all = serve(crew, n);
    if (all.empty()) return b.results.failed(name, v.name, crew.error());
    if (n == 1) {
      solo = all[0];
      b.results.add(name, "alone", "/s", v.name, solo.per_s);
      b.results.add(name, "alone, p99", "us", v.name, solo.p99_us);
    }
    double rate = 1, p99 = 0;
    for (const Served& one : all)
      rate = std::min(rate, one.per_s / solo.per_s), p99 = std::max(p99, one.p99_us / solo.p99_us);
    if (n > 1) {
      b.results.add(name, std::to_string(n) + " tenants, least rate", "x", v.name, rate);
      b.results.add(name, std::to_string(n) + " tenants, worst p99", "x", v.name, p99);
    }
    if (rate < kRate || p99 > kP99) break;
    passed = n;
  }
  b.results.add(name, "tenants that pass", "", v.name, passed, "on an H200: goal >= 8 MLPs");
}

unsigned share_of(const Bench& b) { return b.lab.quick ? 25 : 10; }

}  // namespace

std::string density_case(const Bench& b, const std::string& kernels) {
  return kernels + " requests of tenants at " + std::to_string(share_of(b)) + "%";
}

void suite_density(Bench& b, std::uint64_t rounds, const std::string& kernels) {
  const unsigned share = share_of(b);
  const std::string name = density_case(b, kernels);
  for (const Variant& v : b.lab.variants) {
    if (v.kind == Variant::Kind::kNative) continue;
    Lab lab = b.lab;
    lab.scratch += "/density-" + v.name;
    std::filesystem::create_directories(lab.scratch + "/state");
    std::filesystem::permissions(lab.scratch, std::filesystem::perms::owner_all);
    const bool ours = v.kind == Variant::Kind::kBulkhead;
    std::vector<Tenant> tenants;
    for (unsigned i = 0; i < 100 / share; ++i) {
      tenants.push_back(lab.make_tenant(4 * kGiB));
      tenants.back().compute_percent = share;
      tenants.back().audited = ours;
    }
    const auto daemon = ours ? std::make_unique<Daemon>(lab, tenants) : nullptr;
    if (daemon && !daemon->error().empty()) {
      b.results.failed(name, v.name, daemon->error());
      continue;
    }
    Crew crew(lab, v, tenants[0], ours ? "run" : "env");
    Params p;
    p.set("rounds", rounds);
    p.set("ms", b.lab.quick ? 1'000 : 12'000);  // 10,000 requests of 0.1 ms at 10 %
    for (const Tenant& t : tenants) crew.start("closed", p, t);
    add_until_one_fails(b, v, name, crew);
  }
}

}  // namespace bulkhead::bench
