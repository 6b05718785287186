// A rollout of an audit mode, one step at a time: off, observe, enforce (docs/rollout.md). Pure: what was seen comes in, what to do goes
// out; no clock, no I/O. Any thread.
#pragma once
#include <cstdint>
#include <string>

namespace bulkhead::policy {

enum class RolloutState : std::uint8_t {
  kRunning = 0,
  kDone = 1,      // the target is in force and was watched
  kFellBack = 2,  // a condition was broken: one mode back
  kStopped = 3,   // somebody ended it, or set a mode by hand: left as it is
};
// What ends it. 0 and false: not asked for.
struct RolloutRules {
  std::uint32_t target = 2;          // audit mode: 1 observe, 2 enforce
  std::uint64_t watch_ns = 0;        // each mode holds for so long before the next
  bool on_gap = false;               // calls or bytes without an entry
  std::uint64_t p99_ns = 0;          // of how long auditing held a call
  std::uint64_t refusals = 0;        // so many calls that were refused, or would have been
  std::uint64_t service_p99_ns = 0;  // the service's own figure, from its file
  bool operator==(const RolloutRules&) const = default;
};
// What was seen since the mode in force began to be watched.
struct RolloutSeen {
  std::uint32_t mode = 0;  // in force
  std::uint64_t watched_ns = 0;
  bool counts_lost = false;  // the tenant's counts began anew: what happened before cannot be known
  std::uint64_t missed_calls = 0, missed_bytes = 0;
  std::uint64_t broken_lanes =
      0;  // lanes of the node that cannot be read any more, and entries that no library writes
  std::uint64_t refusals = 0;
  bool has_p99 = false;
  std::uint64_t p99_from_ns = 0, p99_to_ns = 0;  // it lies between them
  bool service_known = false;                    // false: the file is missing, old, or no number
  std::uint64_t service_ns = 0;
};
struct RolloutAnswer {
  enum Do : std::uint8_t { kWait, kNext, kDone, kBack, kStop } what = kWait;
  std::string why;  // one line, for the log
};
// `expected`: the mode that this rollout has put in force.
[[nodiscard]] RolloutAnswer judge_rollout(const RolloutRules& rules, std::uint32_t expected,
                                          const RolloutSeen& seen);
// The mode to fall back to from `mode`: one back, never before the one it began with.
[[nodiscard]] constexpr std::uint32_t rollout_back(std::uint32_t mode,
                                                   std::uint32_t began_with) noexcept {
  return mode > began_with ? mode - 1 : began_with;
}

// "gap", "p99=0.8ms", "refusals=10", "service-p99=5ms". False: none of them.
[[nodiscard]] bool parse_abort_rule(const std::string& text, RolloutRules& rules);
// "800us", "0.8ms", "5s", 10m: nanoseconds. False: not one, or above an hour.
[[nodiscard]] bool parse_span(const std::string& text, std::uint64_t& ns);
[[nodiscard]] std::string span_text(std::uint64_t ns);  // "0.8 ms"
[[nodiscard]] const char* audit_mode_name(
    std::uint32_t mode) noexcept;  // "off", "observe", "enforce"
[[nodiscard]] const char* rollout_state_name(RolloutState state) noexcept;

}  // namespace bulkhead::policy
