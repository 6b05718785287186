// Rows 7, 8, 10, 11, by suite_launch.cc 1 (launches), by suite_compute_change.cc 9 and 12, by suite_density.cc 13: shares of a GPU's time.
//
// Work, not busy time, is what is counted: kernels of a fixed number of arithmetic rounds, found by calibration with nobody else
// on the GPU. A tenant's throughput is its kernels done in the judged window; the window leaves the first and last tenth out.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "bench/crew.h"
#include "bench/daemon.h"
#include "bench/suites.h"

namespace bulkhead::bench {
namespace {

struct Size {
  const char* name;
  std::uint64_t ns;
  bool cooperative = false;
  std::uint64_t rounds = 0;
  double solo = 0;  // kernels a second with nobody else and no share
  bool tried = false;
};

std::uint64_t load_ms(const Bench& b) {
  return b.lab.load_s != 0 ? b.lab.load_s * 1000ull : b.lab.quick ? 1500 : 10'000;
}

// What a worker of `load` logged: kernels a second in the judged window, and the worst window of 100 ms.
struct Throughput {
  double per_s = 0, worst_100ms_per_s = 0;
};
Throughput judge(const Block& k) {
  Throughput out;
  if (k.log_count < 4) return out;
  const std::uint64_t first = k.log[0].end, span = k.log[k.log_count - 1].end - first;
  const std::uint64_t from = first + span / 10, to = first + span - span / 10;
  double sum = 0;
  for (std::uint64_t i = 0; i < k.log_count; ++i)
    if (k.log[i].end > from && k.log[i].end <= to) sum += static_cast<double>(k.log[i].bytes);
  out.per_s = sum / (static_cast<double>(to - from) / 1e9);
  constexpr std::uint64_t kWindow = 100'000'000;
  double in = 0;
  for (std::uint64_t i = 0, j = 0; i < k.log_count; ++i) {
    in += static_cast<double>(k.log[i].bytes);
    while (k.log[j].end + kWindow <= k.log[i].end) in -= static_cast<double>(k.log[j++].bytes);
    if (k.log[i].end > from && k.log[i].end <= to)
      out.worst_100ms_per_s = std::max(out.worst_100ms_per_s, in * 10);
  }
  return out;
}

Params load_of(const Size& s, std::uint64_t ms) {
  Params p;
  p.set("rounds", s.rounds);
  p.set("ns", s.ns);
  p.set("ms", ms);
  if (s.cooperative) p.set("cooperative", 1);
  return p;
}

// Rounds of a kernel of s.ns, on the machine's own driver without anything preloaded.
bool calibrate(Bench& b, Size& s) {
  if (s.tried) return s.rounds != 0;
  s.tried = true;
  const Tenant t = b.lab.make_tenant(4 * kGiB);
  Crew crew(b.lab, b.lab.variants[0], t);
  Params p;
  p.set("calibrate", s.ns);
  crew.start("load", p);
  const bool good = crew.finish(60);
  if (!good) b.results.failed(std::string("calibration of ") + s.name, "native", crew.error());
  s.rounds = static_cast<std::uint64_t>(crew.block(0).value[0]);
  b.lab.drop_tenant(t);
  return good && s.rounds != 0;
}

// Each tenant's load at once, for `ms`; their throughputs, empty if it could not be measured (failed() says why).
std::vector<Throughput> together(Bench& b, const Variant& v, const std::string& name,
                                 const std::vector<unsigned>& shares,
                                 const std::vector<const Size*>& sizes, std::uint64_t ms) {
  std::vector<Tenant> tenants;
  for (const unsigned q : shares) {
    tenants.push_back(b.lab.make_tenant(4 * kGiB));
    tenants.back().compute_percent = q;
  }
  std::vector<Throughput> out;
  {
    Crew crew(b.lab, v, tenants[0], "run");
    for (std::size_t i = 0; i < tenants.size(); ++i)
      crew.start("load", load_of(*sizes[i], ms), tenants[i]);
    bool good = crew.all_said(60);
    if (good) crew.go(), good = crew.all_said(static_cast<int>(ms / 1000) + 60);
    if (!good) {
      b.results.failed(name, v.name, crew.error());
    } else {
      for (unsigned i = 0; i < crew.size(); ++i) out.push_back(judge(crew.block(i)));
      crew.go();
      (void)crew.finish(60);
    }
  }
  for (const Tenant& t : tenants) b.lab.drop_tenant(t);
  return out;
}

// Both figures, when they are first asked for: a run of few cases takes no longer than they do.
bool known(Bench& b, Size& s) {
  if (!calibrate(b, s)) return false;
  if (s.solo != 0) return true;
  const auto whole =
      together(b, b.lab.variants[0], std::string(s.name) + " kernels alone", {0}, {&s}, load_ms(b));
  s.solo = whole.empty() ? 0 : whole[0].per_s;
  return s.solo != 0;
}

void alone(Bench& b, const Variant& v, Size& s, const std::vector<unsigned>& shares) {
  const std::string prefix = std::string(s.name) + " kernels alone at ";
  if (std::none_of(shares.begin(), shares.end(),
                   [&](unsigned q) { return b.lab.asked(prefix + std::to_string(q) + "%"); }) ||
      !calibrate(b, s))
    return;
  const auto whole =
      together(b, v, std::string(s.name) + " kernels alone at 100%", {0}, {&s}, load_ms(b));
  if (whole.empty()) return;
  if (v.kind == Variant::Kind::kNative) s.solo = whole[0].per_s;
  const std::string kernels = std::string(s.name) + " kernels alone";
  b.results.add(kernels, "no share", "/s", v.name, whole[0].per_s);
  if (v.kind == Variant::Kind::kNative) return;
  for (const unsigned q : shares) {
    const std::string name = kernels + " at " + std::to_string(q) + "%";
    if (!b.lab.asked(name)) continue;
    const auto got = together(b, v, name, {q}, {&s}, load_ms(b));
    if (got.empty()) continue;
    const double share = 100 * got[0].per_s / whole[0].per_s;
    b.results.add(name, "share", "%", v.name, share);
    b.results.add(name, "error", "points", v.name, std::fabs(share - q));
    b.results.add(name, "worst 100 ms", "%", v.name,
                  100 * got[0].worst_100ms_per_s / whole[0].per_s);
  }
}

// Shares of the summed normalised throughput; the sum itself shows what switching costs.
void contended(Bench& b, const Variant& v, const std::vector<unsigned>& shares,
               const std::vector<Size*>& sizes, const std::string& what = "") {
  std::string name = what;
  for (std::size_t i = 0; i < shares.size(); ++i)
    name += (i == 0 ? "" : " + ") + std::to_string(shares[i]) + "% of " + sizes[i]->name;
  if (!b.lab.asked(name)) return;
  if (!std::all_of(sizes.begin(), sizes.end(), [&b](Size* s) { return known(b, *s); })) return;
  std::vector<Throughput> got;
  {  // With a governor, as tenants beside each other have one.
    const auto daemon = v.kind == Variant::Kind::kBulkhead
                            ? std::make_unique<Daemon>(b.lab, std::vector<Tenant>{})
                            : nullptr;
    if (daemon != nullptr && !daemon->error().empty())
      return b.results.failed(name, v.name, daemon->error());
    got = together(b, v, name, shares, {sizes.begin(), sizes.end()}, load_ms(b));
  }
  if (v.kind == Variant::Kind::kBulkhead) forget_promises(b.lab);
  if (got.empty()) return;
  double sum = 0, asked = 0, linear = 0, squares = 0, worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i)
    sum += got[i].per_s / sizes[i]->solo, asked += shares[i];
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double part = 100 * got[i].per_s / sizes[i]->solo / sum;
    const double entitled = 100.0 * shares[i] / asked, x = part / entitled;
    linear += x, squares += x * x;
    worst = std::max(worst, std::fabs(part - entitled));
    b.results.add(name, "part of tenant " + std::to_string(i + 1), "%", v.name, part);
  }
  b.results.add(name, "worst error", "points", v.name, worst);
  b.results.add(name, "Jain", "", v.name,
                linear * linear / (static_cast<double>(got.size()) * squares));
  b.results.add(name, "of the GPU in all", "%", v.name, 100 * sum);
}

// Short requests of one tenant, alone and beside another's long kernels.
void latency(Bench& b, const Variant& v, Size& request, Size& hog, bool beside) {
  const std::string name = std::string(request.name) + " requests " +
                           (beside ? std::string("at 25% beside ") + hog.name + " kernels at 75%"
                                   : std::string("alone at 25%"));
  if (!b.lab.asked(name) || !calibrate(b, request) || !calibrate(b, hog)) return;
  Tenant mine = b.lab.make_tenant(4 * kGiB), other = b.lab.make_tenant(4 * kGiB);
  mine.compute_percent = 25, other.compute_percent = 75;
  {
    Crew crew(b.lab, v, mine, "run");
    Params p;
    p.set("rounds", request.rounds);
    p.set("ms", load_ms(b));
    crew.start("request", p);
    if (beside) crew.start("load", load_of(hog, load_ms(b)), other);
    bool good = crew.all_said(60);
    if (good) crew.go(), good = crew.all_said(static_cast<int>(load_ms(b) / 1000) + 60);
    if (!good) {
      b.results.failed(name, v.name, crew.error());
    } else {
      const double us = ns_per_tick() / 1000;
      b.results.add(name, "p50", "us", v.name, crew.block(0).histogram[0].quantile(0.5) * us);
      b.results.add(name, "p99", "us", v.name, crew.block(0).histogram[0].quantile(0.99) * us);
      crew.go();
      (void)crew.finish(60);
    }
  }
  b.lab.drop_tenant(mine);
  b.lab.drop_tenant(other);
}

// Row 10 with the gate: `times` kernels' worth a request, one each `period_us`.
void gated(Bench& b, Size& request, std::uint64_t times, std::uint64_t period_us, Size& hog) {
  const std::string names =
      std::to_string(times * request.ns / 1'000) + " us requests beside " + hog.name + " kernels";
  if (!b.lab.asked(names) || !calibrate(b, request) || !calibrate(b, hog)) return;
  suite_gate(b, {names, times * request.rounds, period_us, hog.rounds, hog.ns});
}

}  // namespace

void suite_compute(Bench& b) {
  b.lab.timed = true;
  suite_launch(b);

  std::vector<Size> sizes = {
      {"5 us", 5'000}, {"0.1 ms", 100'000}, {"1 ms", 1'000'000}, {"10 ms", 10'000'000}};
  Size cooperative{"1 ms cooperative", 1'000'000, true};
  if (b.lab.quick) sizes = {{"0.1 ms", 100'000}, {"1 ms", 1'000'000}};
  const std::vector<unsigned> shares =
      b.lab.quick ? std::vector<unsigned>{25, 50} : std::vector<unsigned>{10, 25, 50, 75, 90};
  const unsigned repeats = b.lab.quick ? 1 : b.lab.repeats;
  b.results.begin(7, "compute: a share alone");
  for (unsigned repeat = 0; repeat < repeats && !b.lab.late(); ++repeat)
    for (Size& s : sizes)
      for (const Variant& v : b.lab.variants) alone(b, v, s, shares);
  if (!b.lab.quick)
    for (unsigned repeat = 0; repeat < repeats && !b.lab.late(); ++repeat)
      for (const Variant& v : b.lab.variants) alone(b, v, cooperative, shares);
  b.results.print(b.lab, stdout);

  b.results.begin(7, "compute: shares against each other");
  Size *small = &sizes[b.lab.quick ? 0 : 1], *large = &sizes[b.lab.quick ? 1 : 2];
  for (unsigned repeat = 0; repeat < repeats && !b.lab.late(); ++repeat)
    for (const Variant& v : b.lab.variants) {
      contended(b, v, {30, 70}, {large, large});
      contended(b, v, {25, 75}, {small, large});
      contended(b, v, {20, 30, 50}, {large, large, large});
      if (b.lab.quick) continue;
      if (v.kind == Variant::Kind::kNative) continue;  // it knows no shares: halves, as above
      contended(b, v, {25, 25, 25, 25}, {&sizes[0], small, large, &sizes[3]});
      for (const unsigned q : {10u, 25u, 50u}) {
        for (Size& s : sizes) contended(b, v, {q, 100 - q}, {&s, &s}, "pair: ");
        contended(b, v, {q, 100 - q}, {&cooperative, large}, "pair: ");
      }
    }
  b.results.print(b.lab, stdout);

  b.results.begin(10, "compute: requests beside a load");
  Size hog{"5 ms", 5'000'000};
  for (unsigned repeat = 0; repeat < repeats && !b.lab.late(); ++repeat) {
    for (const Variant& v : b.lab.variants)
      for (const bool beside : {false, true}) latency(b, v, *small, *large, beside);
    // Short requests that come often, and one of several slices now and then.
    gated(b, *small, 1, 2'000, hog);
    gated(b, *large, 5, 25'000, *large);
  }
  b.results.print(b.lab, stdout);

  b.results.begin(11, "compute: fairness, weights 3:1");
  for (unsigned repeat = 0; repeat < repeats && !b.lab.late(); ++repeat)
    for (const Variant& v : b.lab.variants)
      for (const unsigned n : {2u, 4u, 8u}) {
        if (b.lab.quick && v.kind == Variant::Kind::kNative) continue;  // it knows no weights
        std::vector<unsigned> weights;
        for (unsigned i = 0; i < n; ++i) weights.push_back((i % 2 == 0 ? 150 : 50) / n);
        contended(b, v, weights, std::vector<Size*>(n, large),
                  "fairness, " + std::to_string(n) + " tenants: ");
      }
  b.results.print(b.lab, stdout);
  std::vector<Load> loads;
  for (Size* s : {small, large}) {
    if (!changes_asked(b, s->name) || !known(b, *s)) continue;
    loads.push_back({s->name, s->ns, s->rounds, s->solo});
  }
  compute_changes(b, loads);
  b.results.begin(13, "compute: density");
  Size& served = sizes[b.lab.quick ? 0 : 1];
  if (b.lab.asked(density_case(b, served.name)) && calibrate(b, served))
    for (unsigned repeat = 0; repeat < (b.lab.quick ? 1 : b.lab.repeats) && !b.lab.late(); ++repeat)
      suite_density(b, served.rounds, served.name);
  b.results.print(b.lab, stdout);
  b.lab.timed = false;
}

}  // namespace bulkhead::bench
