// BULKHEAD_STREAM_SMS and `run --streams`: multiprocessors of their own for the streams of a high priority (docs/spatial.md, 'Streams').
//
//   SPEC  high=NUMBER%     over 0, below 100, at most two digits after the point
// Libc only, no heap; any thread.
#pragma once
#include <cstdint>
#include <cstring>

#include "policy/compute_spec.h"

namespace bulkhead::policy {

inline constexpr const char* kStreamSmsFix =
    "write it like high=25%: that part of the multiprocessors for streams of a high priority";

// Hundredths of a percent. False: not in the grammar.
[[nodiscard]] inline bool parse_stream_sms(const char* text, std::uint32_t* x100) noexcept {
  constexpr char kHigh[] = "high=";
  Share share;
  if (std::strncmp(text, kHigh, sizeof kHigh - 1) != 0 ||
      !parse_share(text + sizeof kHigh - 1, &share) || share.borrow || share.x100 >= 10'000)
    return false;
  *x100 = share.x100;
  return true;
}

// How many of `sms` the high ones have, in whole units of the driver's; 0: less than a unit, or nothing would be left for the others.
[[nodiscard]] constexpr std::uint32_t high_sms(std::uint32_t x100, std::uint32_t sms,
                                               std::uint32_t unit) noexcept {
  if (unit == 0) return 0;
  const std::uint64_t all = std::uint64_t{sms} * x100 / 10'000;
  const auto high = static_cast<std::uint32_t>(all / unit * unit);
  return high < sms ? high : 0;
}

}  // namespace bulkhead::policy
