// Row 1, transfers: what the check and the entry add to a copy's submission. Native, a tenant without auditing, and one under enforce with a
// grant take turns; the daemon's writer drains meanwhile.
#include "bench/crew.h"
#include "bench/granted.h"
#include "bench/suites.h"
#include "bench/ticks.h"

namespace bulkhead::bench {
namespace {

struct Way {
  const char* name;
  const Variant* variant;
  const Tenant* tenant;
};

// p50, p99 and the mean without a clock, ns. False: failed() was told.
bool measure(Bench& b, const Lab& lab, const Way& way, const char* op, const std::string& name,
             double (&ns)[3]) {
  Params p;
  p.set("op", op);
  p.set("n", b.lab.quick ? 10'000 : 50'000);
  Crew crew(lab, *way.variant, *way.tenant);
  crew.start("copies", p);
  bool good = crew.all_said(60);
  if (good) crew.go(), good = crew.finish(120);
  if (!good) {
    b.results.failed(name, way.name, crew.error());
    return false;
  }
  const Block& k = crew.block(0);
  ns[0] = k.histogram[0].quantile(0.5) * ns_per_tick();
  ns[1] = k.histogram[0].quantile(0.99) * ns_per_tick();
  ns[2] = k.value[0];
  return true;
}

void one_kind(Bench& b, const Lab& lab, const std::vector<Way>& ways, const char* op,
              const std::string& name) {
  double of[3][3] = {};
  for (std::size_t i = 0; i < ways.size(); ++i) {
    if (!measure(b, lab, ways[i], op, name, of[i])) return;
    b.results.add(name, "p50", "ns", ways[i].name, of[i][0]);
    b.results.add(name, "p99", "ns", ways[i].name, of[i][1]);
    b.results.add(name, "mean, no clock", "ns", ways[i].name, of[i][2]);
    if (i == 0) continue;
    const char* goal = i == 2 ? "goal <= 60" : "";
    b.results.add(name, "p50, added", "ns", ways[i].name, of[i][0] - of[0][0], goal);
    b.results.add(name, "mean, added", "ns", ways[i].name, of[i][2] - of[0][2]);
  }
}

}  // namespace

void suite_transfer(Bench& b) {
  const Variant *native = nullptr, *ours = nullptr;
  for (const Variant& v : b.lab.variants) {
    if (v.kind == Variant::Kind::kNative) native = &v;
    if (v.kind == Variant::Kind::kBulkhead) ours = &v;
  }
  if (native == nullptr || ours == nullptr) return;
  b.results.begin(1, "transfer");
  const Tenant plain = b.lab.make_tenant(8 * kGiB);
  const Granted granted{b.lab, "transfer", {plain}};
  if (!granted.error().empty())
    return b.results.failed("cuMemcpyHtoDAsync", "bulkhead", granted.error());
  const std::vector<Way> ways = {{"native", native, &plain},
                                 {"audit off", ours, &plain},
                                 {"enforce, with a grant", ours, &granted.tenant()}};
  constexpr std::pair<const char*, const char*> kKinds[] = {
      {"h2d", "cuMemcpyHtoDAsync 4 KiB, pinned"},
      {"d2h", "cuMemcpyDtoHAsync 4 KiB, pinned"},
      {"set", "cuMemsetD8 4 KiB"}};
  for (unsigned repeat = 0; repeat < b.lab.repeats && !b.lab.late(); ++repeat) {
    for (const auto& [op, name] : kKinds)
      if (b.lab.asked(name)) one_kind(b, granted.lab(), ways, op, name);
  }
  b.results.print(b.lab, stdout);
}

}  // namespace bulkhead::bench
