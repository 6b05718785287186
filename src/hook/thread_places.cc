#include "hook/thread_places.h"

namespace bulkhead::hook {

// False: another thread makes the key just now. Without one, places are given out and never come back.
bool ThreadPlaces::ready(void (*left)(void*)) noexcept {
  // acquire pairs with the release below: the key is written
  std::uint32_t seen = state_.load(std::memory_order_acquire);
  if (seen >= kMade) return true;
  // relaxed: only who wins writes the key
  if (seen == kMaking || !state_.compare_exchange_strong(seen, kMaking, std::memory_order_relaxed,
                                                         std::memory_order_relaxed))
    return false;
  const bool made = ::pthread_key_create(&key_, left) == 0;
  state_.store(made ? kMade : kRefused, std::memory_order_release);  // pairs with the acquire above
  return true;
}

std::uint16_t ThreadPlaces::take(void (*left)(void*)) noexcept {
  if (!ready(left)) return 0;
  for (unsigned i = 0; i < kPlaces / 64; ++i) {
    std::uint64_t seen = taken_[i].load(std::memory_order_relaxed);  // a guess, the CAS decides
    while (seen != ~std::uint64_t{0}) {
      const auto bit = static_cast<unsigned>(__builtin_ctzll(~seen));
      // acquire pairs with give(): the last owner is done with it
      if (!taken_[i].compare_exchange_weak(seen, seen | 1ull << bit, std::memory_order_acquire,
                                           std::memory_order_relaxed))
        continue;
      const auto place = static_cast<std::uint16_t>(i * 64 + bit + 1);
      // relaxed: ready() acquired it
      if (state_.load(std::memory_order_relaxed) == kMade)
        ::pthread_setspecific(key_, reinterpret_cast<void*>(std::uintptr_t{place}));
      return place;
    }
  }
  return 0;
}

void ThreadPlaces::give(std::uint16_t place) noexcept {
  if (place == 0 || place > kPlaces) return;
  const unsigned bit = place - 1u;
  taken_[bit / 64].fetch_and(~(1ull << bit % 64), std::memory_order_release);  // pairs with take()
}

void ThreadPlaces::forked_child(std::uint16_t own) noexcept {
  // relaxed, all: alone
  for (unsigned i = 0; i < kPlaces / 64; ++i) {
    const bool here = own != 0 && (own - 1u) / 64 == i;
    taken_[i].store(here ? 1ull << (own - 1u) % 64 : 0, std::memory_order_relaxed);
  }
  if (state_.load(std::memory_order_relaxed) == kMaking)
    state_.store(kNone, std::memory_order_relaxed);
}

}  // namespace bulkhead::hook
