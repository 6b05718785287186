// What a process counts of its copies in words of its slot, apart from the tenant's (docs/formats/region.md, 'Own counts'): so that the thread
// which copies changes them by a load and a store. Sums are those of the tenant's words and of all slots together.
//
// Claim  no count is lost with its owner, and none is ever there twice.
// Proof  The words outlive their owner, are never zeroed and never moved: the next owner of the slot goes on with them. One whose first device is
//        another than the one they are of counts its copies with the others'.
// Price  of a slot that a reaper took from a living owner two may write, and what one of them counts may be lost.
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

// Whether the new owner of the slot may count copies of `device` (< kMaxDevices) there; asked before any thread of it does.
[[nodiscard]] inline bool own_counts_for(ProcSlot& slot, unsigned device) noexcept {
  // relaxed, all: sums, of the slot's owner alone
  const std::uint32_t last = slot.own_device.load(std::memory_order_relaxed);
  if (last != 0 && last <= kMaxDevices) return last == device + 1;
  slot.own_device.store(device + 1, std::memory_order_relaxed);  // as above
  return true;
}

// What all slots have of a device's copies, added to `moved` and `copies`. Of memory that the tenant writes: any numbers.
void add_own_copies(const Region& r, unsigned device, std::uint64_t (&moved)[kCopyDirections],
                    std::uint64_t& copies) noexcept;
// Of all devices: what every ComputeEntry and slot has.
void moved_bytes(const Region& r, std::uint64_t (&moved)[kCopyDirections]) noexcept;

}  // namespace bulkhead::shm
