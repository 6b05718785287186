// Shares of a device's time as people write them: what --compute, BULKHEAD_COMPUTE and the configuration hold.
//
//   SHARE  NUMBER%   a hard cap         NUMBER: over 0, at most 100, at most two digits after the point
//        | NUMBER%+  a floor; what others leave idle may be used too
//   PACE   NUMBER(us|ms|s)  GPU time, at most 1 s, whole microseconds
// No heap, no locale, no errno; any thread.
#pragma once
#include <cstddef>
#include <cstdint>

namespace bulkhead::policy {

struct Share {
  std::uint32_t x100 = 0;  // hundredths of a percent of the device's time, 1..10000
  bool borrow = false;
};
[[nodiscard]] bool parse_share(const char* text, Share* out) noexcept;
// Why parse_share() refused `text`, and what is possible: the rest of a line after the text itself.
[[nodiscard]] const char* share_problem(const char* text) noexcept;

inline constexpr std::uint32_t kMostPace_us = 1'000'000;
// Microseconds, 1..1000000.
[[nodiscard]] bool parse_pace(const char* text, std::uint32_t* us) noexcept;
inline constexpr const char* kPaceFix = "write it like 5ms or 500us, from 1us to 1s";

// "" for auto, spatial, slice, temporal and partition; else what there is. Whether one is possible is policy/mode.h's to say.
[[nodiscard]] const char* mode_problem(const char* mode) noexcept;

inline constexpr std::size_t kShareText = 24;
// "25%", "12.5%", "0.01%+".
const char* format_share(std::uint32_t x100, bool borrow, char (&out)[kShareText]) noexcept;

}  // namespace bulkhead::policy
