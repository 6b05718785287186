#include "policy/rollout.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace bulkhead::policy {
namespace {

constexpr std::uint64_t kMostSpan_ns = 24ull * 3600 * 1'000'000'000;

std::string number(std::uint64_t n) { return std::to_string(n); }

// Why to fall back, or "".
std::string broken(const RolloutRules& r, const RolloutSeen& s) {
  if (s.counts_lost) return "the tenant's counts began anew: what happened before is not known";
  if (r.on_gap && s.missed_calls != 0) {
    return "gap: " + number(s.missed_calls) + " calls, " + number(s.missed_bytes) +
           " bytes without an entry";
  }
  if (r.on_gap && s.broken_lanes != 0)
    return "gap: " + number(s.broken_lanes) + " entries or lanes that no library writes";
  if (r.p99_ns != 0 && s.has_p99 && s.p99_from_ns >= r.p99_ns) {
    return "p99: auditing held a call for " + span_text(s.p99_from_ns) + " to " +
           span_text(s.p99_to_ns) + " at the 99th percentile, allowed are " + span_text(r.p99_ns);
  }
  if (r.refusals != 0 && s.refusals >= r.refusals) {
    return "refusals: " + number(s.refusals) +
           (s.mode == 2 ? " calls were refused" : " calls would have been refused") +
           ", allowed are fewer than " + number(r.refusals);
  }
  if (r.service_p99_ns == 0) return {};
  if (!s.service_known) return "service-p99: the service's figure is missing, old or no number";
  if (s.service_ns > r.service_p99_ns) {
    return "service-p99: the service says " + span_text(s.service_ns) + ", allowed are " +
           span_text(r.service_p99_ns);
  }
  return {};
}

}  // namespace

RolloutAnswer judge_rollout(const RolloutRules& rules, std::uint32_t expected,
                            const RolloutSeen& seen) {
  if (seen.mode != expected) {
    return {RolloutAnswer::kStop, std::string{"mode "} + audit_mode_name(seen.mode) +
                                      " was set by hand, the rollout had put " +
                                      audit_mode_name(expected) + " in force"};
  }
  if (std::string why = broken(rules, seen); !why.empty())
    return {RolloutAnswer::kBack, std::move(why)};
  if (expected != 0 && seen.watched_ns < rules.watch_ns) return {};
  if (expected >= rules.target)
    return {RolloutAnswer::kDone,
            "watched for " + span_text(seen.watched_ns) + " without a breach"};
  return {RolloutAnswer::kNext,
          expected == 0 ? "the rollout begins"
                        : "watched for " + span_text(seen.watched_ns) + " without a breach"};
}

bool parse_span(const std::string& text, std::uint64_t& ns) {
  if (text.empty() || text[0] < '0' || text[0] > '9') return false;
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  const std::string unit{end};
  const double scale = unit == "ns"   ? 1
                       : unit == "us" ? 1e3
                       : unit == "ms" ? 1e6
                       : unit == "s"  ? 1e9
                       : unit == "m"  ? 60e9
                       : unit == "h"  ? 3600e9
                                      : 0;
  if (scale == 0 || !std::isfinite(value) || value * scale < 1 ||
      value * scale > static_cast<double>(kMostSpan_ns))
    return false;
  ns = static_cast<std::uint64_t>(std::llround(value * scale));
  return true;
}

bool parse_abort_rule(const std::string& text, RolloutRules& rules) {
  const auto equals = text.find('=');
  const std::string name = text.substr(0, equals);
  const std::string value = equals == std::string::npos ? "" : text.substr(equals + 1);
  if (name == "gap") {
    rules.on_gap = true;
    return equals == std::string::npos;
  }
  if (name == "p99") return parse_span(value, rules.p99_ns);
  if (name == "service-p99") return parse_span(value, rules.service_p99_ns);
  if (name != "refusals" || value.empty() ||
      value.find_first_not_of("0123456789") != std::string::npos || value.size() > 12)
    return false;
  rules.refusals = std::strtoull(value.c_str(), nullptr, 10);
  return rules.refusals != 0;
}

std::string span_text(std::uint64_t ns) {
  static constexpr struct {
    std::uint64_t least;
    double scale;
    const char* unit;
  } kUnits[] = {{60'000'000'000, 60e9, "min"},
                {1'000'000'000, 1e9, "s"},
                {100'000, 1e6, "ms"},
                {1'000, 1e3, "us"},
                {0, 1, "ns"}};
  for (const auto& u : kUnits) {
    if (ns < u.least) continue;
    char text[40];
    std::snprintf(text, sizeof text, "%.4g %s", static_cast<double>(ns) / u.scale, u.unit);
    return text;
  }
  return {};
}

const char* audit_mode_name(std::uint32_t mode) noexcept {
  return mode == 0 ? "off" : mode == 1 ? "observe" : mode == 2 ? "enforce" : "unknown";
}

const char* rollout_state_name(RolloutState state) noexcept {
  switch (state) {
    case RolloutState::kRunning:
      return "running";
    case RolloutState::kDone:
      return "done";
    case RolloutState::kFellBack:
      return "fell-back";
    case RolloutState::kStopped:
      return "stopped";
  }
  return "unknown";
}

}  // namespace bulkhead::policy
