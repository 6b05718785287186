// NVML's memory figures: the tenant's quota and use, the same as cuMemGetInfo's.
#include <cstring>

#include "hook/nvml_view.h"
#include "hook/process.h"
#include "shm/quota.h"
#include "shm/slots.h"

namespace bulkhead::hook {
namespace {

bool uuid_of(nvmlDevice_t device, CUuuid& out, char (&text)[NVML_DEVICE_UUID_V2_BUFFER_SIZE]) {
  return nvml_next.nvmlDeviceGetUUID(device, text, sizeof text) == NVML_SUCCESS &&
         parse_uuid(text, out);
}

// Quota and use. False: NVML answers for itself.
bool viewed(nvmlDevice_t device, View& out) noexcept {
  const NvmlDevice d = nvml_device(device);
  if (d.region != nullptr) {
    const shm::QuotaView v = shm::view(*d.region, d.index);
    const std::uint64_t used = v.held_bytes < v.limit_bytes ? v.held_bytes : v.limit_bytes;
    out = {v.limit_bytes, used, v.limit_bytes - used};
    return true;
  }
  // No process of the tenant has met the driver yet: what the variables promise, all of it free.
  const Settings& s = settings();
  CUuuid uuid;
  char text[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
  if (!s.has_limits || s.malformed || region_to_read() != nullptr) return false;
  if (!uuid_of(device, uuid, text)) return false;
  // BULKHEAD_MEMORY_<i> counts in the driver's order, which NVML does not know
  const policy::Size* size = size_asked(s, kMaxDevices, text);
  nvmlMemory_t real{};
  if (size == nullptr) return false;
  if (nvml_next.nvmlDeviceGetMemoryInfo(device, &real) != NVML_SUCCESS) return false;
  const std::uint64_t limit = size_bytes(*size, real.total);
  out = {limit, 0, limit};
  return true;
}

}  // namespace

NvmlDevice nvml_device(nvmlDevice_t device) noexcept {
  const shm::Region* const r = region_to_read();
  CUuuid uuid;
  char text[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
  if (r == nullptr || !uuid_of(device, uuid, text)) return {};
  const unsigned count = process.tenant.get().device_count();
  for (unsigned i = 0; i < count; ++i) {
    if (std::memcmp(r->devices[i].uuid, uuid.bytes, shm::kUuidBytes) == 0) return {r, i};
  }
  return {};
}

bool of_tenant(const shm::Region& r, unsigned pid, unsigned* slot) noexcept {
  // acquire pairs with the raise in slots.cc
  std::uint32_t end = r.header.slots_high.load(std::memory_order_acquire);
  if (end > shm::kMaxSlots) end = shm::kMaxSlots;
  for (unsigned i = 0; i < end; ++i) {
    const shm::ProcSlot& s = r.slots[i];
    // acquire pairs with the CAS to live: the identity is there
    if (shm::state_of(s.state.load(std::memory_order_acquire)) != shm::kLive) continue;
    if (s.pid.load(std::memory_order_relaxed) != pid) continue;  // published by the state
    if (slot != nullptr) *slot = i;
    return true;
  }
  return false;
}

// The real call goes first, so that its errors (uninitialised, a lost device) stay its own.
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t* memory) noexcept {
  const nvmlReturn_t r = nvml_next.nvmlDeviceGetMemoryInfo(device, memory);
  View v;
  if (r != NVML_SUCCESS || !viewed(device, v)) return r;
  *memory = {v.limit, v.free, v.used};
  return r;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t* memory) noexcept {
  const nvmlReturn_t r = nvml_next.nvmlDeviceGetMemoryInfo_v2(device, memory);
  View v;
  if (r != NVML_SUCCESS || !viewed(device, v)) return r;
  memory->total = v.limit;
  memory->reserved = 0;
  memory->free = v.free;
  memory->used = v.used;
  return r;
}

// Of MIG devices only.
nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device,
                                        nvmlDeviceAttributes_t* attributes) noexcept {
  const nvmlReturn_t r = nvml_next.nvmlDeviceGetAttributes_v2(device, attributes);
  View v;
  if (r == NVML_SUCCESS && viewed(device, v)) attributes->memorySizeMB = v.limit >> 20;
  return r;
}

nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t device,
                                     nvmlDeviceAttributes_t* attributes) noexcept {
  const nvmlReturn_t r = nvml_next.nvmlDeviceGetAttributes(device, attributes);
  View v;
  if (r == NVML_SUCCESS && viewed(device, v)) attributes->memorySizeMB = v.limit >> 20;
  return r;
}

}  // namespace bulkhead::hook
