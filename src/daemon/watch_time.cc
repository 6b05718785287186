// What tenants say of their own GPU time, held against NVML's figure.
#include <fmt/format.h>

#include "daemon/watch.h"

namespace bulkhead::daemon {

// Once a second, of a tenant whose time is limited. `nvml_ms` since the last time, `used_ns` its own sum, which rises.
void Watch::compare_time(const Now& now, const TenantDevice& key, std::uint64_t nvml_ms,
                         std::uint64_t used_ns) {
  Compared& c = compared_[key];
  const std::uint64_t more_ns = c.known && used_ns > c.seen_ns ? used_ns - c.seen_ns : 0;
  const std::uint64_t span_ms = c.known ? (now.mono_ns - c.at_ns) / 1'000'000 : 0;
  c.seen_ns = used_ns;
  c.at_ns = now.mono_ns;
  const std::uint64_t own_ns = more_ns + c.rest_ns;
  c.rest_ns = own_ns % 1'000'000;
  if (!c.known || span_ms > kUsageGap_ns / 1'000'000) {  // what came before is of another time
    c.known = true;
    return;
  }
  const policy::TimeNews news = c.rule.add(span_ms, nvml_ms, own_ns / 1'000'000);
  if (news == policy::TimeNews::kNone) return;
  EventFields fields;
  fields.tenant = key.first;
  fields.uuid = key.second.data();
  const bool found = news == policy::TimeNews::kUnderstated;
  fields.severity = found ? wire::Severity::kWarning : wire::Severity::kInfo;
  const auto percent = [&](std::uint64_t ms) {
    return 100.0 * static_cast<double>(ms) / static_cast<double>(c.rule.last_span_ms);
  };
  journal_.post(
      now, wire::EventKind::kTimeUnderstated,
      fmt::format("its own count of its GPU time {} NVML's: {:.0f} % against {:.0f} % of "
                  "the last {} s",
                  found ? "is far below" : "agrees again with", percent(c.rule.last_own_ms),
                  percent(c.rule.last_nvml_ms), c.rule.last_span_ms / 1'000),
      fields);
}

}  // namespace bulkhead::daemon
