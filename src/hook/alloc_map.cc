#include "hook/alloc_map.h"

namespace bulkhead::hook {

// In the last table a key lies `level` 2 at its home bucket, 3 anywhere behind it: take() then lowers
// the home's own count too.

template <bool kTagged>
std::size_t BasicAllocMap<kTagged>::bytes_needed(const Shifts& s) noexcept {
  std::size_t bytes = 0;
  for (const unsigned shift : s.level) {
    bytes += (sizeof(MapBucket) << shift) + (sizeof(std::atomic<std::uint32_t>) << shift);
  }
  return bytes + kLevels * 64;
}

template <bool kTagged>
void BasicAllocMap<kTagged>::init(void* zeroed, const Shifts& s) noexcept {
  auto at = reinterpret_cast<std::uintptr_t>(zeroed);
  at = (at + 63) & ~std::uintptr_t{63};
  for (int l = 0; l < kLevels; ++l) {
    buckets_[l] = reinterpret_cast<MapBucket*>(at);
    at += sizeof(MapBucket) << s.level[l];
  }
  for (int l = 0; l < kLevels; ++l) {
    displaced_[l] = reinterpret_cast<std::atomic<std::uint32_t>*>(at);
    at += sizeof(std::atomic<std::uint32_t>) << s.level[l];
    mask_[l] = (std::size_t{1} << s.level[l]) - 1;
    used_[l].store(false, std::memory_order_relaxed);  // nobody else knows the map yet
  }
}

template <bool kTagged>
bool BasicAllocMap<kTagged>::insert_deeper(std::uint64_t key, Value value) noexcept {
  const std::uint64_t h = hash(key);
  int counted = 0;
  for (int l = 1; l < kLevels; ++l) {
    // release pairs with find(): the count is there before the key is
    displaced_[l - 1][home(l - 1, h)].fetch_add(1, std::memory_order_release);
    counted = l;
    if (!used_[l].load(std::memory_order_relaxed)) {
      used_[l].store(true, std::memory_order_relaxed);  // a hint for for_each()
    }
    if (put(buckets_[l][home(l, h)], key, value)) return true;
  }
  constexpr int kLast = kLevels - 1;
  displaced_[kLast][home(kLast, h)].fetch_add(1, std::memory_order_release);  // as above
  counted = kLevels;
  for (std::size_t i = 1; i < kProbes; ++i) {
    if (put(buckets_[kLast][(home(kLast, h) + i) & mask_[kLast]], key, value)) return true;
  }
  for (int l = 0; l < counted; ++l) {
    displaced_[l][home(l, h)].fetch_sub(1, std::memory_order_relaxed);  // no key was stored
  }
  return false;
}

template <bool kTagged>
typename BasicAllocMap<kTagged>::Cursor BasicAllocMap<kTagged>::find_deeper(
    std::uint64_t key) const noexcept {
  const std::uint64_t h = hash(key);
  Cursor c;
  for (int l = 1; l < kLevels; ++l) {
    if (match(buckets_[l][home(l, h)], key, l, c)) return c;
    // acquire pairs with insert_deeper()
    if (displaced_[l][home(l, h)].load(std::memory_order_acquire) == 0) return Cursor{};
  }
  constexpr int kLast = kLevels - 1;
  for (std::size_t i = 1; i < kProbes; ++i) {
    if (match(buckets_[kLast][(home(kLast, h) + i) & mask_[kLast]], key, kLevels, c)) return c;
  }
  return Cursor{};
}

template class BasicAllocMap<true>;
template class BasicAllocMap<false>;

}  // namespace bulkhead::hook
