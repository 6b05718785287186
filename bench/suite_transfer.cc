// Row 1, transfers: what the check and the entry add to a copy's submission. Native, a tenant without auditing, and one under enforce with a
// grant take turns; the daemon's writer drains meanwhile.
#include "bench/granted.h"
#include "bench/suites.h"
#include "bench/ticks.h"
#include "bench/turns.h"

namespace bulkhead::bench {
namespace {

struct Way {
  const char* name;
  const Variant* variant;
  const Tenant* tenant;
};

void one_kind(Bench& b, const Lab& lab, const std::vector<Way>& ways, const char* op,
              const std::string& name, unsigned repeat) {
  Params p;
  p.set("op", op);
  p.set("n", b.lab.quick ? 10'000 : 50'000);
  Turns turns(core_of(repeat));
  for (const Way& way : ways) turns.add(lab, *way.variant, *way.tenant, "copies", p);
  if (const std::string error = turns.lead(); !error.empty())
    return b.results.failed(name, ways[turns.failed() % ways.size()].name, error);
  double p50 = 0;
  for (unsigned i = 0; i < ways.size(); ++i) {
    const Block& k = turns.block(i);
    const double middle = k.histogram[0].quantile(0.5) * ns_per_tick();
    b.results.add(name, "p50", "ns", ways[i].name, middle);
    b.results.add(name, "p99", "ns", ways[i].name, k.histogram[0].quantile(0.99) * ns_per_tick());
    b.results.add(name, "best of 64, no clock", "ns", ways[i].name, k.value[0]);
    if (i == 0) p50 = middle;
    if (i == 0) continue;
    const char* goal = i == 2 ? "goal <= 60" : "";
    b.results.add(name, "p50, added", "ns", ways[i].name, middle - p50, goal);
    b.results.add(name, "mean, added, by rounds", "ns", ways[i].name, turns.added_ns(i));
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
      if (b.lab.asked(name)) one_kind(b, granted.lab(), ways, op, name, repeat);
  }
  b.results.print(b.lab, stdout);
}

}  // namespace bulkhead::bench
