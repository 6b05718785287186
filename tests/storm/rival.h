// The rival protocol: one global counter, hint, fetch_add, recheck, roll back. It is here to be
// caught by the same tests that the real one passes.
#pragma once
#include <atomic>
#include <cstdint>

namespace bulkhead::shm {

struct Rival {
  std::atomic<std::uint64_t> limit{0};
  alignas(64) std::atomic<std::uint64_t> counter{0};
};
inline bool rival_charge(Rival& r, std::uint64_t n) {
  const std::uint64_t limit = r.limit.load(std::memory_order_relaxed);
  if (r.counter.load(std::memory_order_relaxed) + n > limit) return false;
  if (r.counter.fetch_add(n, std::memory_order_acq_rel) + n <= limit) return true;
  r.counter.fetch_sub(n, std::memory_order_acq_rel);
  return false;
}
inline void rival_give_back(Rival& r, std::uint64_t n) {
  r.counter.fetch_sub(n, std::memory_order_acq_rel);
}

}  // namespace bulkhead::shm
