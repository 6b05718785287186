// A size as written, turned into a limit on one device. Pure; any thread.
#pragma once
#include <cstdint>

#include "policy/size.h"

namespace bulkhead::policy {

inline constexpr std::uint64_t kLimitStep = 2u << 20;     // percents are rounded down to it
inline constexpr std::uint64_t kLeastLimit = kLimitStep;  // below it no driver can hold anything

// Bytes. `total_bytes` is the device's cuDeviceTotalMem. A percent is rounded down to 2 MiB; bytes
// are kept as written. The result may exceed the device: the caller refuses that where it matters.
[[nodiscard]] constexpr std::uint64_t limit_of(const Size& size,
                                               std::uint64_t total_bytes) noexcept {
  if (!size.is_percent) return size.bytes;
  const std::uint64_t share =
      total_bytes / 10000 * size.percent_x100 + total_bytes % 10000 * size.percent_x100 / 10000;
  return share / kLimitStep * kLimitStep;
}

}  // namespace bulkhead::policy
