// A share of a GPU's multiprocessors, as MPS counts them, and the percentage that asks for it. docs/spatial.md.
// No heap, no locale, no errno; any thread.
#pragma once
#include <cstddef>
#include <cstdint>

namespace bulkhead::policy {

// Multiprocessors that `x100` hundredths of a percent of `sms` come to, rounded down to whole units; 0: less than one unit. The rounding
// is the driver's (measured on an H200: 25 % of 132 are 32, 12.5 % are 16, in units of 2).
[[nodiscard]] constexpr std::uint32_t sms_of_share(std::uint32_t x100, std::uint32_t sms,
                                                   std::uint32_t unit) noexcept {
  if (unit == 0) return 0;
  const std::uint64_t all = std::uint64_t{sms} * (x100 < 10'000 ? x100 : 10'000) / 10'000;
  return static_cast<std::uint32_t>(all / unit * unit);
}

// The smallest share that comes to a unit, hundredths of a percent; 0: unknown.
[[nodiscard]] constexpr std::uint32_t least_share_x100(std::uint32_t sms,
                                                       std::uint32_t unit) noexcept {
  return sms == 0 ? 0 : static_cast<std::uint32_t>((std::uint64_t{unit} * 10'000 + sms - 1) / sms);
}

// CUDA_MPS_ACTIVE_THREAD_PERCENTAGE as the driver reads it: "25", "12.5"; over 0, at most 100. Digits beyond the second after the point
// only lower. False: it is none, and the driver would not obey it either.
[[nodiscard]] bool parse_percentage(const char* text, std::uint32_t* x100) noexcept;

inline constexpr std::size_t kPercentageText = 8;
// "25", "12.5", "0.01": 1..10000.
const char* format_percentage(std::uint32_t x100, char (&out)[kPercentageText]) noexcept;

}  // namespace bulkhead::policy
