#include "hook/contexts.h"

namespace bulkhead::hook {

std::uint8_t ContextTable::search(std::uintptr_t key, bool make) noexcept {
  if (key <= kDying) return make ? kUntagged : 0;
  const unsigned first = start(key);
  for (;;) {  // repeated only because another thread took a record: at most kCount times
    unsigned room = kCount;
    for (unsigned i = 0; i < kCount; ++i) {
      const unsigned at = (first + i) % kCount;
      const std::uintptr_t h = records_[at].handle.load(std::memory_order_relaxed);  // an identity
      if (h == key) return static_cast<std::uint8_t>(at + 1);
      if (h <= kRetired && room == kCount) room = at;
      if (h == 0) break;
    }
    if (!make) return 0;
    if (room == kCount) return kUntagged;
    std::uintptr_t seen =
        records_[room].handle.load(std::memory_order_relaxed);  // the CAS validates
    if (seen > kRetired) continue;
    // acquire pairs with forget(): the record is clean
    if (records_[room].handle.compare_exchange_strong(seen, key, std::memory_order_acquire,
                                                      std::memory_order_relaxed)) {
      return static_cast<std::uint8_t>(room + 1);
    }
  }
}

}  // namespace bulkhead::hook
