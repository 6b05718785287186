// How this process's share is enforced, as the node page says it: in multiprocessors (MPS) or by slices beside the bucket.
// docs/spatial.md "The library". Nothing here is on a launch's path.
#pragma once
#include <cstdint>

#include "hook/hook.h"

namespace bulkhead::hook {

// Puts the group's pipe directory and the lower of the tenant's percentage and the one that stands there, or its partition, into the
// environment, if the page says that MPS holds the tenant. From cuInit, before the driver is told. `simulated`: as shm::dir_options().
void take_enforcer(bool simulated) noexcept;

// Under process.binding, after the devices are matched: asks the driver how many multiprocessors this process has.
void measure_partition() noexcept;
// The rate of the bucket, hundredths of a percent, for a share of `floor_x100` of the device (by Device::number): the share itself, or
// what it is of the partition that the process runs in, at most kPartition_x100 (then it is confined). Any thread.
inline constexpr std::uint32_t kPartition_x100 = 9'999;  // 10000 would mean: never held
[[nodiscard]] std::uint32_t rate_in_partition(unsigned number, std::uint32_t floor_x100) noexcept;
// Whether nothing of this process is ever held: it is confined on every GPU it is granted, and no other process of the tenant lives. Once a second.
[[nodiscard]] bool alone_in_partition() noexcept;

}  // namespace bulkhead::hook
