#include "hook/array_book.h"

#include <cstring>

namespace bulkhead::hook {

struct ArrayBook::Slab {
  std::uint32_t live;  // 0: free
  std::uint8_t context, device;
  std::uint8_t used[kSlabUnits];
};

std::size_t ArrayBook::bytes_needed() noexcept { return sizeof(Slab) * kSlabs; }

void ArrayBook::init(void* zeroed) noexcept {
  slabs_ = static_cast<Slab*>(zeroed);
  high_ = 0;
  lock_.store(0, std::memory_order_relaxed);  // nobody else knows the book yet
}

bool ArrayBook::lock() noexcept {
  for (int i = 0; i < kSpins; ++i) {
    std::uint32_t free = 0;
    // acquire pairs with unlock()
    if (lock_.compare_exchange_weak(free, 1, std::memory_order_acquire,
                                    std::memory_order_relaxed)) {
      return true;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  return false;
}
void ArrayBook::unlock() noexcept {
  lock_.store(0, std::memory_order_release);
}  // pairs with lock()

ArrayBook::Place ArrayBook::place(std::uint8_t context, std::uint8_t device, std::uint32_t units,
                                  std::uint32_t align_units) noexcept {
  Place out;
  if (units == 0 || units > kSlabUnits || !lock()) return out;
  const std::uint32_t step = align_units == 0 ? 1 : align_units;
  std::uint32_t empty = kSlabs;
  for (std::uint32_t i = 0; i < high_ && out.slab == 0; ++i) {
    Slab& s = slabs_[i];
    if (s.live == 0) {
      empty = empty == kSlabs ? i : empty;
      continue;
    }
    if (s.context != context || s.device != device) continue;
    for (std::uint32_t at = 0; at + units <= kSlabUnits; at += step) {
      if (std::memchr(s.used + at, 1, units) != nullptr) continue;
      out = Place{i + 1, at, units, false};
      break;
    }
  }
  if (out.slab == 0) {
    if (empty == kSlabs && high_ < kSlabs) empty = high_++;
    if (empty < kSlabs) {
      Slab& s = slabs_[empty];
      s.context = context;
      s.device = device;
      std::memset(s.used, 0, sizeof s.used);
      out = Place{empty + 1, 0, units, true};
    }
  }
  if (out.slab != 0) {
    Slab& s = slabs_[out.slab - 1];
    ++s.live;
    std::memset(s.used + out.from, 1, units);
  }
  unlock();
  return out;
}

bool ArrayBook::remove(const Place& p) noexcept {
  if (p.slab == 0 || !lock()) return false;
  Slab& s = slabs_[p.slab - 1];
  bool closed = false;
  if (s.live != 0) {
    std::memset(s.used + p.from, 0, p.units);
    closed = --s.live == 0;
  }
  unlock();
  return closed;
}

std::uint32_t ArrayBook::drop_context(std::uint8_t context, std::uint8_t device) noexcept {
  std::uint32_t dropped = 0;
  if (!lock()) return 0;
  for (std::uint32_t i = 0; i < high_; ++i) {
    if (slabs_[i].live == 0 || slabs_[i].context != context || slabs_[i].device != device) continue;
    slabs_[i].live = 0;
    ++dropped;
  }
  unlock();
  return dropped;
}

}  // namespace bulkhead::hook
