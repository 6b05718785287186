// The beacon, format 1.0 (docs/formats/beacon.md): layout only. A tenant writes its own, everybody else maps it
// read-only; advice from a stranger.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "shm/region.h"

namespace bulkhead::shm {

inline constexpr std::uint64_t kBeaconMagic = 0x0031'4341'4542'4842;  // "BHBEAC1" in memory order
inline constexpr std::uint16_t kBeaconMajor = 1;

struct Beacon {
  AtomicU64 magic;  // stored last by format_beacon()
  std::uint16_t major;
  std::uint16_t minor;
  std::uint32_t reserved0;
  char name[kNameBytes];
  std::uint8_t reserved1[48];
  // This and all below: the tenant's processes. By the tenant's device, as the hand-out names them: busy until,
  // CLOCK_MONOTONIC (policy/compute/gate.h).
  AtomicU64 busy_until_ns[kMaxDevices];
  AtomicU64 demand_ns;
  std::uint8_t reserved2[56];
  AtomicU64 used_ns;
  std::uint8_t reserved3[3768];
};
static_assert(std::is_standard_layout_v<Beacon> && sizeof(Beacon) == 4096);
static_assert(offsetof(Beacon, name) == 16 && offsetof(Beacon, busy_until_ns) == 128);
static_assert(offsetof(Beacon, demand_ns) == 256 && offsetof(Beacon, used_ns) == 320);

// Into zeroed memory; `name` is a valid tenant's name.
inline void format_beacon(Beacon& b, const char* name) noexcept {
  b.major = kBeaconMajor;
  for (std::size_t i = 0; i + 1 < kNameBytes && name[i] != 0; ++i) b.name[i] = name[i];
  b.magic.store(kBeaconMagic, std::memory_order_release);  // pairs with a reader's acquire
}

}  // namespace bulkhead::shm
