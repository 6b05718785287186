// NVML's lists of processes and their utilisation: the tenant's own and no other's.
#include <time.h>

#include <cstring>

#include "base/clock.h"
#include "hook/nvml_view.h"
#include "hook/process.h"
#include "shm/quota.h"

namespace bulkhead::hook {
namespace {

constexpr unsigned long long kUnavailable = ~0ull;  // NVML_VALUE_NOT_AVAILABLE
constexpr unsigned kMost = 2048;                    // processes on one device

// The whole device's list is read here before the tenant's part goes to the caller.
alignas(16) constinit unsigned char scratch[kMost * sizeof(nvmlProcessUtilizationInfo_v1_t)]{};
constinit PrivateLock scratch_lock{};
template <class T>
T* scratch_as() noexcept {
  static_assert(sizeof(T) <= sizeof(nvmlProcessUtilizationInfo_v1_t));
  return reinterpret_cast<T*>(scratch);
}

// Moves the tenant's entries to the front; how many they are.
template <class T>
unsigned keep_own(const NvmlDevice& d, T* all, unsigned count) noexcept {
  unsigned kept = 0;
  for (unsigned i = 0; i < count && i < kMost; ++i) {
    unsigned slot = 0;
    if (!of_tenant(*d.region, all[i].pid, &slot)) continue;
    T entry = all[i];
    if constexpr (requires { entry.usedGpuMemory; }) {
      if (entry.usedGpuMemory == kUnavailable) {
        entry.usedGpuMemory = shm::slot_held_bytes(*d.region, slot, d.index);
      }
    }
    all[kept++] = entry;
  }
  return kept;
}

// NVML's habit: too little room answers INSUFFICIENT_SIZE and how many there are.
template <class T>
nvmlReturn_t hand_out(const T* own, unsigned kept, T* to, unsigned* room) noexcept {
  const unsigned had = *room;
  *room = kept;
  if (kept == 0) return NVML_SUCCESS;
  if (to == nullptr || had < kept) return NVML_ERROR_INSUFFICIENT_SIZE;
  std::memcpy(to, own, kept * sizeof(T));
  return NVML_SUCCESS;
}

template <class T, class Call>
nvmlReturn_t list(const Call& real, nvmlDevice_t device, unsigned int* count, T* infos) noexcept {
  const NvmlDevice d = count != nullptr ? nvml_device(device) : NvmlDevice{};
  if (d.region == nullptr) return real(device, count, infos);
  const Held held{scratch_lock};
  T* const all = scratch_as<T>();
  unsigned int found = kMost;
  const nvmlReturn_t r = real(device, &found, all);
  if (r != NVML_SUCCESS) return r;
  return hand_out(all, keep_own(d, all, found), infos, count);
}

// The tenant's share of the last two seconds: its processes' newest samples, added up. Percent.
nvmlReturn_t own_utilization(nvmlDevice_t device, const NvmlDevice& d,
                             nvmlUtilization_t* out) noexcept {
  const Held held{scratch_lock};
  auto* const all = scratch_as<nvmlProcessUtilizationSample_t>();
  unsigned int found = kMost;
  const std::uint64_t since_us = clock_ns(CLOCK_REALTIME) / 1000 - 2'000'000;
  const nvmlReturn_t r = nvml_next.nvmlDeviceGetProcessUtilization(device, all, &found, since_us);
  if (r != NVML_SUCCESS && r != NVML_ERROR_NOT_FOUND) return r;
  const unsigned kept = r == NVML_SUCCESS ? keep_own(d, all, found) : 0;
  std::uint64_t gpu = 0, memory = 0;
  for (unsigned i = 0; i < kept; ++i) {
    bool newest = true;
    for (unsigned j = 0; j < kept; ++j) {
      const bool later =
          all[j].timeStamp > all[i].timeStamp || (all[j].timeStamp == all[i].timeStamp && j > i);
      if (all[j].pid == all[i].pid && later) newest = false;
    }
    if (!newest) continue;
    gpu += all[i].smUtil;
    memory += all[i].memUtil;
  }
  *out = {gpu < 100 ? static_cast<unsigned>(gpu) : 100u,
          memory < 100 ? static_cast<unsigned>(memory) : 100u};
  return NVML_SUCCESS;
}

}  // namespace

#define BH_LIST(name, type)                                                               \
  nvmlReturn_t name(nvmlDevice_t device, unsigned int* infoCount, type* infos) noexcept { \
    return list(nvml_next.name, device, infoCount, infos);                                \
  }
BH_LIST(nvmlDeviceGetComputeRunningProcesses, nvmlProcessInfo_v1_t)
BH_LIST(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
BH_LIST(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_t)
BH_LIST(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t)
BH_LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t)
BH_LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t)
BH_LIST(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t)
BH_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
BH_LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t)
#undef BH_LIST

nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device,
                                                   nvmlProcessDetailList_t* plist) noexcept {
  const NvmlDevice d = plist != nullptr ? nvml_device(device) : NvmlDevice{};
  if (d.region == nullptr) return nvml_next.nvmlDeviceGetRunningProcessDetailList(device, plist);
  const Held held{scratch_lock};
  nvmlProcessDetailList_t all = *plist;
  all.procArray = scratch_as<nvmlProcessDetail_v1_t>();
  all.numProcArrayEntries = kMost;
  const nvmlReturn_t r = nvml_next.nvmlDeviceGetRunningProcessDetailList(device, &all);
  if (r != NVML_SUCCESS) return r;
  const unsigned kept = keep_own(d, all.procArray, all.numProcArrayEntries);
  return hand_out(all.procArray, kept, plist->procArray, &plist->numProcArrayEntries);
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                             nvmlProcessUtilizationSample_t* utilization,
                                             unsigned int* processSamplesCount,
                                             unsigned long long lastSeenTimeStamp) noexcept {
  const NvmlDevice d = processSamplesCount != nullptr ? nvml_device(device) : NvmlDevice{};
  if (d.region == nullptr) {
    return nvml_next.nvmlDeviceGetProcessUtilization(device, utilization, processSamplesCount,
                                                     lastSeenTimeStamp);
  }
  const Held held{scratch_lock};
  auto* const all = scratch_as<nvmlProcessUtilizationSample_t>();
  unsigned int found = kMost;
  const nvmlReturn_t r =
      nvml_next.nvmlDeviceGetProcessUtilization(device, all, &found, lastSeenTimeStamp);
  if (r != NVML_SUCCESS) return r;
  const unsigned kept = keep_own(d, all, found);
  if (kept == 0) return NVML_ERROR_NOT_FOUND;
  return hand_out(all, kept, utilization, processSamplesCount);
}

nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(
    nvmlDevice_t device, nvmlProcessesUtilizationInfo_t* procesesUtilInfo) noexcept {
  const NvmlDevice d = procesesUtilInfo != nullptr ? nvml_device(device) : NvmlDevice{};
  if (d.region == nullptr) {
    return nvml_next.nvmlDeviceGetProcessesUtilizationInfo(device, procesesUtilInfo);
  }
  const Held held{scratch_lock};
  nvmlProcessesUtilizationInfo_t all = *procesesUtilInfo;
  all.procUtilArray = scratch_as<nvmlProcessUtilizationInfo_v1_t>();
  all.processSamplesCount = kMost;
  const nvmlReturn_t r = nvml_next.nvmlDeviceGetProcessesUtilizationInfo(device, &all);
  if (r != NVML_SUCCESS) return r;
  procesesUtilInfo->lastSeenTimeStamp = all.lastSeenTimeStamp;
  const unsigned kept = keep_own(d, all.procUtilArray, all.processSamplesCount);
  if (kept == 0) return NVML_ERROR_NOT_FOUND;
  return hand_out(all.procUtilArray, kept, procesesUtilInfo->procUtilArray,
                  &procesesUtilInfo->processSamplesCount);
}

// Where NVML has no figures by process (MIG, old devices) the device's own stays.
nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device,
                                           nvmlUtilization_t* utilization) noexcept {
  const nvmlReturn_t r = nvml_next.nvmlDeviceGetUtilizationRates(device, utilization);
  const NvmlDevice d = r == NVML_SUCCESS ? nvml_device(device) : NvmlDevice{};
  if (d.region != nullptr) static_cast<void>(own_utilization(device, d, utilization));
  return r;
}

nvmlReturn_t nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int* count,
                                         unsigned int* pids) noexcept {
  const NvmlDevice d = count != nullptr ? nvml_device(device) : NvmlDevice{};
  if (d.region == nullptr) return nvml_next.nvmlDeviceGetAccountingPids(device, count, pids);
  const Held held{scratch_lock};
  auto* const all = scratch_as<unsigned int>();
  unsigned int found = kMost;
  const nvmlReturn_t r = nvml_next.nvmlDeviceGetAccountingPids(device, &found, all);
  if (r != NVML_SUCCESS) return r;
  unsigned kept = 0;
  for (unsigned i = 0; i < found && i < kMost; ++i) {
    if (of_tenant(*d.region, all[i], nullptr)) all[kept++] = all[i];
  }
  return hand_out(all, kept, pids, count);
}

nvmlReturn_t nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned int pid,
                                          nvmlAccountingStats_t* stats) noexcept {
  const NvmlDevice d = nvml_device(device);
  if (d.region != nullptr && !of_tenant(*d.region, pid, nullptr)) return NVML_ERROR_NOT_FOUND;
  return nvml_next.nvmlDeviceGetAccountingStats(device, pid, stats);
}

nvmlReturn_t nvmlDeviceGetAccountingStats_v2(nvmlDevice_t device,
                                             nvmlAccountingStats_v2_t* stats) noexcept {
  const NvmlDevice d = stats != nullptr ? nvml_device(device) : NvmlDevice{};
  if (d.region != nullptr && !of_tenant(*d.region, stats->pid, nullptr)) {
    return NVML_ERROR_NOT_FOUND;
  }
  return nvml_next.nvmlDeviceGetAccountingStats_v2(device, stats);
}

}  // namespace bulkhead::hook
