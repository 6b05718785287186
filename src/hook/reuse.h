// What was freed in a stream and not handed out again: the driver serves the next request of the same size in the
// same stream from there, so such a request need not pay for growth of its pool first.
//
// All of it is a hint, as Pool::hole is: a wrong one lets a pool grow unpaid for the time of one call, which the
// caller's settling finds and pays or undoes. So nothing here is a proof and everything may be lost: a table that
// overwrites, sizes and streams folded into 48 bits, and an epoch that forgets all when another kind of request may
// have taken the place, or the pool shrank.
#pragma once
#include <atomic>
#include <cstdint>

#include "abi/cuda_types.h"
#include "hook/alone.h"
#include "hook/pool.h"

namespace bulkhead::hook {

// The stream that `null` or a number means is another one in each thread, or in each mode of the program: not tracked.
inline bool reuse_tracked(CUstream stream, bool per_thread) noexcept {
  return per_thread ? reinterpret_cast<std::uintptr_t>(stream) > 2
                    : reinterpret_cast<std::uintptr_t>(stream) != 2;
}

class ReuseKey {
 public:
  ReuseKey(const Pool& p, std::uint64_t units, CUstream stream) noexcept
      // relaxed: a hint
      : hash_((units + p.reuse_epoch.load(std::memory_order_relaxed)) * 0x9E37'79B9'7F4A'7C15ull +
              reinterpret_cast<std::uintptr_t>(stream) * 0xC2B2'AE3D'27D4'EB4Full) {}
  [[nodiscard]] std::atomic<std::uint64_t>& place(Pool& p) const noexcept {
    return p.reuse[hash_ >> 61];
  }
  [[nodiscard]] std::uint64_t name() const noexcept { return hash_ & ~kCount; }
  static constexpr std::uint64_t kCount = 0xffff;

 private:
  std::uint64_t hash_;
};

// True: such a piece was there and is now the caller's.
inline bool reuse_take(Pool& p, const ReuseKey& key) noexcept {
  std::atomic<std::uint64_t>& place = key.place(p);
  std::uint64_t w = place.load(std::memory_order_relaxed);  // the CAS validates it; a hint
  if (w - key.name() - 1 >= ReuseKey::kCount) return false;
  if (!alone()) return place.compare_exchange_strong(w, w - 1, std::memory_order_relaxed);
  place.store(w - 1, std::memory_order_relaxed);  // as above
  return true;
}

inline void reuse_add(Pool& p, const ReuseKey& key) noexcept {
  std::atomic<std::uint64_t>& place = key.place(p);
  std::uint64_t w = place.load(std::memory_order_relaxed);  // the CAS validates it; a hint
  const std::uint64_t more = w - key.name() < ReuseKey::kCount ? w + 1 : key.name() + 1;
  if (alone()) return place.store(more, std::memory_order_relaxed);   // as above
  place.compare_exchange_strong(w, more, std::memory_order_relaxed);  // lost if others were faster
}

inline void reuse_forget(Pool& p) noexcept {
  p.reuse_epoch.fetch_add(1, std::memory_order_relaxed);  // a number that only has to differ
}

// Stream-ordered pointers handed out lately: how large, of which pool.
class GivenTable {
 public:
  void put(CUdeviceptr at, std::uint64_t units, Pool& p) noexcept {
    Given& g = place(at);
    g.pool.store(&p, std::memory_order_relaxed);  // hints, both
    g.what.store(units <= kMostUnits ? at >> 9 << 26 | units : 0, std::memory_order_relaxed);
  }
  // The size in units of 512 B, and the pool; 0: not known. Forgets it.
  std::uint64_t take(CUdeviceptr at, Pool*& p) noexcept {
    Given& g = place(at);
    const std::uint64_t what = g.what.load(std::memory_order_relaxed);  // hints, all
    if (what >> 26 != (at >> 9 & kMostPlace)) return 0;
    p = g.pool.load(std::memory_order_relaxed);
    g.what.store(0, std::memory_order_relaxed);
    return what & kMostUnits;
  }

 private:
  static constexpr std::uint64_t kMostUnits = (1u << 26) - 1, kMostPlace = (1ull << 38) - 1;
  struct Given {
    std::atomic<std::uint64_t> what{0};  // address / 512 in 38 bits | units in 26
    std::atomic<Pool*> pool{nullptr};
  };
  Given& place(CUdeviceptr at) noexcept {
    return given_[(at >> 9) * 0x9E37'79B9'7F4A'7C15ull >> 54];
  }
  Given given_[1024];
};

}  // namespace bulkhead::hook
