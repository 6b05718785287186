// The rival of our admission protocol, as both seeds of the project give it: one global counter, a relaxed hint, add,
// look again, roll back. Here to be measured beside ours, never used. Its known faults: an add that is about to be
// rolled back refuses others falsely, and what a killed process had added stays.
#pragma once
// atomics: the protocol under measurement is made of them
#include <atomic>
#include <cstdint>

namespace bulkhead::bench {

struct RivalCounter {
  alignas(64) std::atomic<std::uint64_t> limit;
  alignas(64) std::atomic<std::uint64_t> held;

  bool take(std::uint64_t n) noexcept {
    // orders: as the seeds state them: a hint needs none, the counter's own changes pair with each other
    const std::uint64_t most = limit.load(std::memory_order_relaxed);
    if (held.load(std::memory_order_relaxed) + n > most) return false;
    if (held.fetch_add(n, std::memory_order_acq_rel) + n <= most) return true;
    held.fetch_sub(n, std::memory_order_acq_rel);
    return false;
  }
  void give(std::uint64_t n) noexcept {
    held.fetch_sub(n, std::memory_order_acq_rel);  // pairs with take()
  }
};

}  // namespace bulkhead::bench
