// atomics: ranks of a communicator meet in one word of memory that they share.
// What a collective costs its ranks: the same for each. A rank that came early spins until the last one comes, and that
// is not its work; so each is charged the least that any rank of the communicator measured for that collective.
// docs/compute.md, 'Collectives'. Never held for; repaid at the rank's next compute launch.
//
// The word is {epoch:24, cost_ns:40}: the number of the collective in its communicator, modulo 2^24, and the least cost
// so far, ns. Relaxed: the word is all there is. A rank that died leaves the others' figures as they are.
#pragma once
#include <atomic>
#include <cstdint>

namespace bulkhead::policy::compute {

using CollectiveWord = std::atomic<std::uint64_t>;
inline constexpr int kCollectiveTries = 64;  // then the rank's own figure

// Offers what this rank measured for collective `epoch` and returns the least known. Another epoch is replaced
// only if it is older (by less than half the circle).
inline std::uint64_t agree_ns(CollectiveWord& word, std::uint32_t epoch,
                              std::uint64_t cost_ns) noexcept {
  constexpr std::uint64_t kCostMask = (1ull << 40) - 1;
  const std::uint64_t mine = cost_ns < kCostMask ? cost_ns : kCostMask;
  const std::uint64_t e = epoch & 0xff'ffffu;
  std::uint64_t seen = word.load(std::memory_order_relaxed);  // a guess, the CAS decides
  for (int i = 0; i < kCollectiveTries; ++i) {
    const std::uint64_t ahead = (e - (seen >> 40)) & 0xff'ffffu;
    const bool same = ahead == 0 && seen != 0;
    if (ahead >= 0x80'0000u) return mine;  // the others are further: this one is settled alone
    if (same && (seen & kCostMask) <= mine) return seen & kCostMask;
    // Relaxed: the word is all there is.
    if (word.compare_exchange_weak(seen, (e << 40) | mine, std::memory_order_relaxed,
                                   std::memory_order_relaxed))
      return mine;
  }
  return mine;
}

}  // namespace bulkhead::policy::compute
