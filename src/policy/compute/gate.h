// atomics: a flag is a word of a beacon, which the library passes in.
// The latency gate's arithmetic: docs/compute.md, 'Gate'. Pure; any thread. All times CLOCK_MONOTONIC, ns.
//
// Claim  Whatever stands in a beacon, one launch is held at most kHoldMost_ns (and one look more), and the holds of one latency
//        tenant in a process sum up to at most share * T + kHoldBurst_ns over any time T.
// Proof  hold_left_ns() is 0 from kHoldMost_ns on. What was held is charged to a bucket (bucket.h) whose emptiness makes
//        the flag count as down.
// Price  A latency tenant that works without a pause, or lies, takes up to its share from the others' launches.
#pragma once
#include <atomic>
#include <cstdint>

#include "policy/compute/bucket.h"

namespace bulkhead::policy::compute {

using FlagWord = std::atomic<std::uint64_t>;  // busy until; 0: never was

inline constexpr std::uint64_t kFlagMost_ns = 20'000'000;  // a flag further ahead is none
inline constexpr std::uint64_t kHoldMost_ns = 20'000'000;
inline constexpr std::uint64_t kHoldBurst_ns = 100'000'000;
inline constexpr std::uint32_t kHoldShare_x100 = 5'000;  // of a latency tenant without a share
inline constexpr std::uint64_t kHoldLook_ns = 50'000;    // how often a held launch looks
inline constexpr std::uint64_t kLeastLinger_ns = 1'000'000, kMostLinger_ns = kFlagMost_ns;
inline constexpr std::uint64_t kMostBridge_ns = 5'000'000;
inline constexpr std::uint64_t kLeastWindow_ns = 200'000, kMostWindow_ns = 8'000'000;
inline constexpr std::uint64_t kWindowDoubles_ns = 50'000'000;
inline constexpr std::uint64_t kSwitch_ns =
    180'000;  // measured on an H200: from one context to another

[[nodiscard]] constexpr bool flag_up(std::uint64_t word, std::uint64_t now) noexcept {
  return word > now && word - now <= kFlagMost_ns;
}

// How long a launch that was held for `held_ns` waits before its next look; 0: it goes.
[[nodiscard]] constexpr std::uint64_t hold_left_ns(std::uint64_t word, std::uint64_t now,
                                                   std::uint64_t held_ns) noexcept {
  if (!flag_up(word, now) || held_ns >= kHoldMost_ns) return 0;
  std::uint64_t left = word - now;
  if (left > kHoldMost_ns - held_ns) left = kHoldMost_ns - held_ns;
  return left < kHoldLook_ns ? left : kHoldLook_ns;
}

// The predicted work that a batch process may have in flight, when the latest flag of all was up until `last_up` (0: never).
[[nodiscard]] constexpr std::uint64_t window_beside_ns(std::uint64_t last_up,
                                                       std::uint64_t now) noexcept {
  if (flag_up(last_up, now)) return kLeastWindow_ns;
  if (last_up > now) return kMostWindow_ns;  // no time at all
  const std::uint64_t doublings = (now - last_up) / kWindowDoubles_ns;
  const std::uint64_t window = kLeastWindow_ns << (doublings < 6 ? doublings : 6);
  return window < kMostWindow_ns ? window : kMostWindow_ns;
}

// How long behind a call the flag stays up, when the longest request lately took so long.
[[nodiscard]] constexpr std::uint64_t linger_ns(std::uint64_t request_ns) noexcept {
  if (request_ns <= kLeastLinger_ns / 2) return kLeastLinger_ns;
  return request_ns < kMostLinger_ns / 2 ? 2 * request_ns : kMostLinger_ns;
}
// The longest lately: what is longer counts at once, what is shorter by a sixteenth.
[[nodiscard]] constexpr std::uint64_t longest_lately_ns(std::uint64_t before,
                                                        std::uint64_t took) noexcept {
  return took >= before ? took : before - (before - took) / 16;
}

// How long the flag stays up behind a request that is over, when the longest gap between requests lately was `gap_ns`: an operation
// that began in a short gap would meet the next request. 0: it falls at once.
[[nodiscard]] constexpr std::uint64_t bridge_ns(std::uint64_t gap_ns) noexcept {
  return gap_ns > kMostBridge_ns ? 0 : gap_ns + gap_ns / 4;
}
// The longest lately, of those that are bridged; one that is longer begins anew: 0.
[[nodiscard]] constexpr std::uint64_t gap_lately_ns(std::uint64_t before,
                                                    std::uint64_t gap) noexcept {
  if (gap > kMostBridge_ns) return 0;
  return longest_lately_ns(before, gap == 0 ? 1 : gap);
}

// Up, at least until `until`. Relaxed: the word is all there is; a reader bounds what it does with it.
inline void raise_flag(FlagWord& word, std::uint64_t now, std::uint64_t until) noexcept {
  std::uint64_t seen = word.load(std::memory_order_relaxed);  // a guess, the CAS decides
  for (int i = 0; i < kBucketTries; ++i) {
    if (seen >= until && flag_up(seen, now)) return;
    // as above
    if (word.compare_exchange_weak(seen, until, std::memory_order_relaxed,
                                   std::memory_order_relaxed))
      return;
  }
}
// Down from `when` on, now or a little later. Another process of the tenant that works raises it with its next call.
inline void lower_flag(FlagWord& word, std::uint64_t when) noexcept {
  word.store(when, std::memory_order_relaxed);  // as above
}

// The longest that a request is delayed by batch work, ns; 0: nobody was measured yet.
[[nodiscard]] constexpr std::uint64_t gate_bound_ns(std::uint64_t longest_batch_op_ns) noexcept {
  return longest_batch_op_ns == 0 ? 0 : longest_batch_op_ns + kLeastWindow_ns + kSwitch_ns;
}

}  // namespace bulkhead::policy::compute
