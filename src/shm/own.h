// What a process counts of its copies in words of its slot, apart from the tenant's (docs/formats/region.md, 'Own counts'): so that the thread
// which copies changes them by a load and a store. Sums are those of the tenant's words and of all slots together.
//
// Claim  no count is lost but by a kill between a take-over's two steps, and none is ever there twice.
// Proof  The words outlive their owner and are never zeroed, so the next owner of the slot goes on with them. Only where it counts for
//        another device than the last did they are first moved to that device's shared words: taken out, then added.
// Price  whoever is killed between the two takes those sums of a dead process's copies along; of a slot that a reaper took from a living
//        owner two may write, and what one of them counts may be lost. Counts of audited calls are never moved.
#pragma once
#include "shm/region.h"

namespace bulkhead::shm {

// Which of the own words counts calls of an audit class; kOwnAudited: none, it is counted with the others'.
[[nodiscard]] constexpr unsigned own_audited(unsigned audit_class) noexcept {
  constexpr unsigned kBits = 3u << 0 | 0u << 2 | 1u << 4 | 3u << 6 | 3u << 8 | 2u << 10 | 3u << 12 |
                             3u << 14;  // two for each abi::Direction
  return kBits >> 2 * (audit_class & 7) & 3;
}
inline constexpr unsigned kClassOfOwn[kOwnAudited] = {1, 2, 5};

// The new owner of the slot counts for `device` (< kMaxDevices), before any thread of it does.
inline void own_counts_for(Region& r, ProcSlot& slot, unsigned device) noexcept {
  // relaxed, all: sums, of the slot's owner alone
  const std::uint32_t last = slot.own_device.load(std::memory_order_relaxed);
  if (last == device + 1) return;
  if (last != 0 && last <= kMaxDevices) {
    ComputeEntry& e = r.compute[last - 1];
    for (unsigned i = 0; i < kCopyDirections; ++i)
      e.moved_bytes[i].fetch_add(slot.own_moved[i].exchange(0, std::memory_order_relaxed),
                                 std::memory_order_relaxed);
    e.stream_ops[kCopyOps].fetch_add(slot.own_copies.exchange(0, std::memory_order_relaxed),
                                     std::memory_order_relaxed);
  }
  slot.own_device.store(device + 1, std::memory_order_relaxed);  // as above
}

// What all slots have of a device's copies, added to `moved` and `copies`. Of memory that the tenant writes: any numbers.
void add_own_copies(const Region& r, unsigned device, std::uint64_t (&moved)[kCopyDirections],
                    std::uint64_t& copies) noexcept;
// Of all devices: what every ComputeEntry and slot has.
void moved_bytes(const Region& r, std::uint64_t (&moved)[kCopyDirections]) noexcept;

}  // namespace bulkhead::shm
