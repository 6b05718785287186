// atomics: the bucket of copies is a word of the region that the library passes in.
// The pace of copies: the bucket of bucket.h over bytes, at a rate in 10^6 bytes a second. docs/compute.md, 'Copies'.
// Pure; any thread. Post-paid as all buckets here: a copy larger than the burst goes, and the next one waits for it.
#pragma once
#include <cstdint>

#include "policy/compute/bucket.h"

namespace bulkhead::policy::compute {

inline constexpr std::uint64_t kCopyBurst_ns = 10'000'000;  // at the rate
inline constexpr std::uint64_t kCopySlice_ns = 20'000'000;  // then the rate is looked at again
inline constexpr std::uint64_t kCopyMostWait_ns = 1'000'000'000;
inline constexpr Rules kCopyRules = make_rules(kWhole_x100, kCopyBurst_ns);

// How long so many bytes take at the rate (> 0), ns; at most kMaxCost_ns.
[[nodiscard]] constexpr std::uint64_t copy_ns(std::uint64_t bytes,
                                              std::uint32_t rate_mb_s) noexcept {
  const auto ns = (static_cast<unsigned __int128>(bytes) * 1000 + rate_mb_s - 1) / rate_mb_s;
  return ns < kMaxCost_ns ? static_cast<std::uint64_t>(ns) : kMaxCost_ns;
}

// ns to wait before the next copy, at most a slice of it; 0: go. `waited_ns` so far: nobody waits beyond kCopyMostWait_ns.
[[nodiscard]] constexpr std::uint64_t copy_wait_ns(std::uint64_t tat, std::uint64_t now,
                                                   std::uint64_t waited_ns) noexcept {
  if (waited_ns >= kCopyMostWait_ns) return 0;
  const std::uint64_t left = wait_ns(tat, now, kCopyRules);
  return left < kCopySlice_ns ? left : kCopySlice_ns;
}

// What is beyond the clamp (1 s over the burst) is forgiven: a copy that long is its own hold.
inline void charge_copy(Bucket& tat, std::uint64_t now, std::uint64_t bytes,
                        std::uint32_t rate_mb_s) noexcept {
  static_cast<void>(charge(tat, now, copy_ns(bytes, rate_mb_s), kCopyRules));
}

}  // namespace bulkhead::policy::compute
