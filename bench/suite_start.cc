// Row 3: from the moment before exec to the first kernel, each start a fresh process, variants interleaved.
#include <algorithm>
#include <filesystem>

#include "bench/crew.h"
#include "bench/suites.h"

namespace bulkhead::bench {
namespace {

using Samples = std::vector<std::vector<double>>;  // by variant

// One round: `together` processes of one variant, each with a tenant of its own, started one right after the other.
void round(Bench& b, std::size_t which, unsigned together, const std::string& name, Samples& kernel,
           Samples& main_to_kernel, Samples& inside) {
  const Variant& v = b.lab.variants[which];
  std::vector<Tenant> tenants;
  for (unsigned i = 0; i < together; ++i) tenants.push_back(b.lab.make_tenant(8 * kGiB));
  {
    Crew crew(b.lab, v, tenants[0], "env");
    for (unsigned i = 0; i < together; ++i) crew.start("start", Params{}, tenants[i]);
    if (!crew.finish(60)) {
      b.results.failed(name, v.name, crew.error());
    } else {
      for (unsigned i = 0; i < together; ++i) {
        const double* at = crew.block(i).value;
        kernel[which].push_back((at[4] - static_cast<double>(crew.started_ns(i))) / 1e6);
        main_to_kernel[which].push_back((at[4] - at[0]) / 1e6);
        if (at[6] > 0) inside[which].push_back(at[6] / 1e6);
      }
    }
  }
  for (const Tenant& t : tenants) b.lab.drop_tenant(t);
}

void starts(Bench& b, unsigned together) {
  const unsigned rounds = (b.lab.quick ? 10u : 100u + together - 1) / (b.lab.quick ? 1 : together);
  const std::string name = std::to_string(together) + (together == 1 ? " at a time" : " at once");
  Samples kernel(b.lab.variants.size()), from_main(kernel), inside(kernel);
  for (unsigned k = 0; k < rounds && !b.lab.late(); ++k)
    for (std::size_t v = 0; v < b.lab.variants.size(); ++v)
      round(b, v, together, name, kernel, from_main, inside);
  for (std::size_t v = 0; v < b.lab.variants.size(); ++v) {
    const std::string& variant = b.lab.variants[v].name;
    for (const double ms : kernel[v])
      b.results.add(name, "exec to first kernel", "ms", variant, ms);
    for (const double ms : from_main[v])
      b.results.add(name, "main to first kernel", "ms", variant, ms);
    for (const double ms : inside[v])
      b.results.add(name, "inside the library by then", "ms", variant, ms);
    if (kernel[v].empty()) {  // no figure is better than one of nothing
      b.results.failed(name, variant, "no time left");
      continue;
    }
    if (v == 0 || kernel[0].empty()) continue;
    const Interval d = difference_of_medians(kernel[0], kernel[v]);
    b.results.add(name, "difference of medians", "ms", variant, d.middle);
    b.results.add(name, "its 95 % interval, low", "ms", variant, d.low);
    b.results.add(name, "its 95 % interval, high", "ms", variant, d.high);
  }
}

}  // namespace

void suite_start(Bench& b) {
  b.results.begin(3, "start");
  // The library that counts its own cycles, where the build has it: a variant of its own, for its reading costs.
  const std::string counting =
      std::filesystem::path(b.lab.library).replace_filename("libbulkhead-ticks.so").string();
  const bool ours = std::any_of(b.lab.variants.begin(), b.lab.variants.end(), [](const Variant& v) {
    return v.kind == Variant::Kind::kBulkhead;
  });
  if (ours && std::filesystem::exists(counting))
    b.lab.variants.push_back({Variant::Kind::kBulkhead, "bulkhead, counting", counting, {}, ""});
  starts(b, 1);
  starts(b, 8);
  b.results.print(b.lab, stdout);
}

}  // namespace bulkhead::bench
