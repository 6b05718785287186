// The gate before a launch, and how a held thread waits: docs/compute.md, 'Waiting'. Pure: the library pauses and sleeps.
#pragma once
#include <cstdint>

#include "policy/compute/bucket.h"

namespace bulkhead::policy::compute {

inline constexpr std::uint64_t kPause_ns = 20'000;          // waits below this are paused through
inline constexpr std::uint64_t kHoldSlice_ns = 20'000'000;  // then the rules are looked at again
inline constexpr std::uint64_t kWindowLook_ns =
    100'000;  // a full window: how often its end is looked for

// A key without a sample may cost anything: two of them fill a window.
[[nodiscard]] constexpr std::uint64_t window_ns_of(std::uint64_t predicted_ns, bool sampled,
                                                   std::uint64_t window_ns) noexcept {
  const std::uint64_t least = sampled ? 0 : window_ns / 2;
  return predicted_ns > least ? predicted_ns : least;
}

// ns to wait before this launch; 0 = go. `in_flight_ns`: predicted work that the process has queued (window_ns_of sums).
// `held`: this launch waits already. It goes on only with a little in hand, so that operations come in rows: one by one
// each would meet an idle device, pay for its start and be measured with the host's time in it.
[[nodiscard]] constexpr std::uint64_t gate_ns(std::uint64_t tat, std::uint64_t now,
                                              const Rules& rules, std::uint64_t in_flight_ns,
                                              std::uint64_t window_ns, bool held) noexcept {
  // Who has all of the device is not held for what was charged: the charge's error would keep the device idle.
  std::uint64_t wait = rules.rate_x100 == kWhole_x100 ? 0 : wait_ns(tat, now, rules);
  if (wait != 0 || (held && rules.rate_x100 != kWhole_x100 && tat > now &&
                    wait_ns(tat + rules.resume_wait_ns, now, rules) != 0))
    wait = wait_ns(tat + rules.resume_wait_ns, now, rules);
  if (in_flight_ns < window_ns || in_flight_ns == 0) return wait;
  return wait > kWindowLook_ns ? wait : kWindowLook_ns;
}

struct HoldStep {
  std::uint32_t pauses = 0;       // spin this many times, then look again; or
  std::uint64_t sleep_until = 0;  // absolute, CLOCK_MONOTONIC
};
// The step number `step` (0, 1, ...) of a hold that has `wait` to go.
[[nodiscard]] constexpr HoldStep hold_step(std::uint32_t step, std::uint64_t now,
                                           std::uint64_t wait) noexcept {
  if (wait <= kPause_ns && step < 16) return {1u << (step < 9 ? step : 9), 0};
  return {0, now + (wait < kHoldSlice_ns ? wait : kHoldSlice_ns)};
}

}  // namespace bulkhead::policy::compute
