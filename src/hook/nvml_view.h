// What NVML calls are answered from: the tenant's region, read without a slot.
#pragma once
#include <cstdint>

#include "hook/hook.h"
#include "hook/next.h"
#include "shm/region.h"

namespace bulkhead::hook {

// The region and the device's entry in it; region null: NVML answers for itself (nothing is asked
// of this process, its region cannot be read, or the region does not list the device).
struct NvmlDevice {
  const shm::Region* region = nullptr;
  unsigned index = 0;
};
[[nodiscard]] NvmlDevice nvml_device(nvmlDevice_t device) noexcept;

// Whether a process of the tenant has that pid, as this process's pid namespace numbers it; `slot`
// (may be null) receives where its books are. NVML tells the host's numbers: in a container of its
// own pid namespace the lists stay empty, as they do without us.
[[nodiscard]] bool of_tenant(const shm::Region& r, unsigned pid, unsigned* slot) noexcept;

}  // namespace bulkhead::hook
