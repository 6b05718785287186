// A fixed number of places, of which a thread has one from its first use to its end: for what each thread keeps for itself and is too
// large for its static storage.
//
// Claim  No two living threads have the same place, and that of a thread that has ended is given out again.
// Proof  A bit is set by one compare-exchange and cleared by its owner's own exit, in a destructor of a pthread key.
// Price  A key of the process for each pool. A thread that ends without its destructors (a raw clone) keeps its place, as does one whose
//        destructors use it again and again. When all are taken a thread has none, and asks again at its next cold use.
#pragma once
#include <pthread.h>

#include <atomic>
#include <cstdint>

namespace bulkhead::hook {

// In .bss, all zeros. Any thread; cold. What lies in a place is cleared by its taker: the last owner's is there still.
class ThreadPlaces {
 public:
  static constexpr unsigned kPlaces = 256;
  // 1..kPlaces, which `left` gets as its argument when the thread ends and gives back; 0: none is free. `left` is one for each pool.
  [[nodiscard]] std::uint16_t take(void (*left)(void*)) noexcept;
  void give(std::uint16_t place) noexcept;
  // In the child of a fork, whose one thread has `own` (or 0).
  void forked_child(std::uint16_t own) noexcept;

 private:
  enum : std::uint32_t { kNone, kMaking, kMade, kRefused };
  bool ready(void (*left)(void*)) noexcept;

  std::atomic<std::uint64_t> taken_[kPlaces / 64]{};
  std::atomic<std::uint32_t> state_{kNone};
  pthread_key_t key_{};
};

}  // namespace bulkhead::hook
