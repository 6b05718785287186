// Which 2 MiB blocks of the address space are slabs of small plain allocations, and how many live
// allocations each holds.
//
// Claim  of all join() calls for a block while it holds something, exactly the first says "opened", and of all
//        leave() calls exactly the last says "closed"; whoever is told so keeps, or gives back, the block's
//        charge. No order of threads between a driver call and its join() or leave() makes a block that
//        the driver holds uncharged (docs/formats/charge.md, invariant 6).
// Proof  the count is one word changed by CAS. join() follows the driver's allocation and leave() the driver's
//        free, and a joiner holds a slab's charge of its own until it was told that the block is paid for.
//        The word's upper 16 bits count its changes, so that who looks at a block twice knows that none came between.
// Price  8 B a block, in leaves of 32 GiB of address space made when first touched; addresses of 2^48 and above are
//        not tracked (join says so, the caller charges each alone).
//
// Lock-free, no allocation: leaves come from zeroed memory of the caller.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "hook/alloc_map.h"

namespace bulkhead::hook {

inline constexpr unsigned kSlabShift = 21;
inline constexpr std::uint64_t kSlabBytes = std::uint64_t{1} << kSlabShift;
inline constexpr unsigned kUnitShift = 9;  // the driver's grain inside a slab
inline constexpr std::uint32_t kSlabUnits = kSlabBytes >> kUnitShift;

class SlabBook {
 public:
  static constexpr unsigned kLeafBits = 14, kTopBits = 13, kMaxLeaves = 512;
  static constexpr std::size_t kLeafBytes = sizeof(std::uint64_t) << kLeafBits;
  static std::size_t bytes_needed() noexcept { return kLeafBytes * kMaxLeaves; }
  void init(void* zeroed) noexcept;

  enum class Joined : std::uint8_t { kKnown, kOpened, kUntracked };
  // One more live allocation of context tag `context` in the block of `at`.
  Joined join(std::uint64_t at, std::uint8_t context, std::uint8_t device) noexcept;
  // One less; true: it was the last, the block is closed.
  bool leave(std::uint64_t at) noexcept;
  // The block's word: equal at two looks if nothing joined or left between them (65,536 changes come around).
  [[nodiscard]] std::uint64_t look(std::uint64_t at) const noexcept;
  static constexpr std::uint64_t live_of(std::uint64_t w) noexcept { return w & 0xFFFF'FFFF; }
  // Whether the block of `at` holds live small allocations.
  [[nodiscard]] bool holds(std::uint64_t at) const noexcept;
  // Forgets the blocks of a context; fn(device) for each. Cold.
  template <class Fn>
  void drop_context(std::uint8_t context, Fn fn) noexcept {
    // acquire pairs with leaf(): a leaf is zero before it is counted
    const unsigned n = leaves_.load(std::memory_order_acquire);
    for (unsigned i = 0; i < n && i < kMaxLeaves; ++i) {
      std::atomic<std::uint64_t>* words = arena_ + (static_cast<std::size_t>(i) << kLeafBits);
      for (std::size_t b = 0; b < std::size_t{1} << kLeafBits; ++b) {
        std::uint64_t w = words[b].load(std::memory_order_relaxed);  // the CAS validates it
        if (live_of(w) == 0 || context_of(w) != context) continue;
        // relaxed: a count, it orders nothing
        if (words[b].compare_exchange_strong(w, emptied(w), std::memory_order_relaxed))
          fn(device_of(w));
      }
    }
  }

 private:
  // live:32 | context:8 | device:8 | changes:16, above
  static constexpr std::uint64_t kChange = std::uint64_t{1} << 48;
  static constexpr std::uint64_t emptied(std::uint64_t w) noexcept {
    return (w & ~(kChange - 1)) + kChange;
  }
  static constexpr std::uint8_t context_of(std::uint64_t w) noexcept {
    return static_cast<std::uint8_t>(w >> 32);
  }
  static constexpr std::uint8_t device_of(std::uint64_t w) noexcept {
    return static_cast<std::uint8_t>(w >> 40);
  }
  std::atomic<std::uint64_t>* word(std::uint64_t at, bool make) noexcept;
  [[gnu::cold, gnu::noinline]] std::atomic<std::uint64_t>* leaf(std::size_t top) noexcept;

  std::atomic<std::uint64_t>* arena_ = nullptr;
  std::atomic<unsigned> leaves_{0};
  std::atomic<std::atomic<std::uint64_t>*> top_[std::size_t{1} << kTopBits] = {};
};

// Whether the live small allocations of a context leave a hole of `units` in one of its slabs: built from the map, on
// the refusal path only.
//
// Claim  the driver holds nothing in a hole that was found, as far as calls had joined their slab before the scan's end.
// Proof  what is in the map has joined its slab and has not left it: join() comes before the entry, and leave() after the driver's free,
//        which follows the entry's removal. So a slab whose word did not change while its entries were counted, and whose live
//        allocations are as many, has none that was taken out of the map and is still being freed. Any other slab is in doubt and gives no hole.
struct HoleScratch;
std::size_t hole_scratch_bytes() noexcept;
struct Holes {
  std::uint32_t largest = 0;  // in units, over all slabs of the context that are not in doubt
  bool sure = true;           // none was in doubt: a "no" can be remembered
};
[[nodiscard]] Holes find_holes(const AllocMap& map, const SlabBook& slabs, std::uint8_t context,
                               HoleScratch* scratch) noexcept;

}  // namespace bulkhead::hook
