// Clocks, in nanoseconds. CLOCK_BOOTTIME is the one for ages that must survive suspend; MONOTONIC
// for durations.
#pragma once
#include <time.h>

#include <cstdint>

namespace bulkhead {

[[nodiscard]] inline std::uint64_t clock_ns(clockid_t id) noexcept {
  timespec t{};
  ::clock_gettime(id, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000u +
         static_cast<std::uint64_t>(t.tv_nsec);
}
[[nodiscard]] inline std::uint64_t monotonic_ns() noexcept { return clock_ns(CLOCK_MONOTONIC); }
[[nodiscard]] inline std::uint64_t boottime_ns() noexcept { return clock_ns(CLOCK_BOOTTIME); }

}  // namespace bulkhead
