// The gate's operations of the audit: under a daemon of the gate's own, with a trust file and a grant of the gate's own; and the log.
#include <cmath>

#include "bench/gate_count.h"
#include "bench/granted.h"

namespace bulkhead::bench {
namespace {

constexpr std::uint64_t kFewCopies = 50, kManyCopies = 250;
constexpr std::uint64_t kFewEntries = 2'048, kManyEntries = 18'432;

// Few and many of the same, over the difference. Negative: it could not be counted.
double each(const Lab& lab, const Variant& v, const Tenant& t, Counted what, std::uint64_t few,
            std::uint64_t many) {
  std::uint64_t of_few = 0, of_many = 0;
  what.params.set("op", what.op);
  what.params.set("n", few);
  if (!count_instructions(lab, v, t, what, of_few)) return -1;
  what.params.set("n", many);
  if (!count_instructions(lab, v, t, what, of_many)) return -1;
  return std::round((static_cast<double>(of_many) - static_cast<double>(of_few)) /
                    static_cast<double>(many - few) * 10) /
         10;
}

double granted_copy(const Lab& lab, const Variant& ours) {
  const Granted granted{lab, "granted", {}};
  if (!granted.error().empty()) {
    std::fprintf(stderr, "bulkhead-bench: %s\n", granted.error().c_str());
    return -1;
  }
  Params p;
  p.set("most", kManyCopies);
  p.set("quota", granted.tenant().quota_bytes);
  return each(granted.lab(), ours, granted.tenant(), {"gate", "copy", p}, kFewCopies, kManyCopies);
}

}  // namespace

bool gate_audit(const Lab& lab, const Variant& ours,
                const std::function<void(const std::string&, double)>& tell) {
  const double copy = granted_copy(lab, ours);
  if (copy >= 0) tell("copy_granted", copy);
  const Tenant t = lab.make_tenant(8 * kGiB);
  Params p;
  p.set("dir", t.dir + "/log");
  // the hash's own instructions depend on what the processor has, and valgrind hides the best of it
  const Counted drain{"log", "drain", p, 2, "bulkhead-bench", "compress"};
  const Counted verify{"log", "verify", p, 2, "bulkhead-bench", "compress"};
  const double drained = each(lab, Variant{}, t, drain, kFewEntries, kManyEntries);
  if (drained >= 0) tell("lane_to_tree", drained);
  const double verified = each(lab, Variant{}, t, verify, kFewEntries, kManyEntries);
  if (verified >= 0) tell("verify_entry", verified);
  lab.drop_tenant(t);
  return copy >= 0 && drained >= 0 && verified >= 0;
}

}  // namespace bulkhead::bench
