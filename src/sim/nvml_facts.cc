// NVML: what the profile says of a device: clocks, power, temperature, MIG, links; and event sets that never
// see an event.
#include <sched.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <new>

#include "sim/gate.h"
#include "sim/nvml_api.h"

namespace bulkhead::sim::nvml {
namespace {

template <class T>
nvmlReturn_t tell(nvmlDevice_t device, T* out, T value) noexcept {
  Target t;
  const nvmlReturn_t r = ask(device, out, t);
  if (r == NVML_SUCCESS) *out = value;
  return r;
}

nvmlReturn_t clock(nvmlDevice_t device, nvmlClockType_t type, unsigned* mhz) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, mhz, t); r != NVML_SUCCESS) return r;
  if (type >= NVML_CLOCK_COUNT) return NVML_ERROR_INVALID_ARGUMENT;
  const Profile& p = machine.profile;
  *mhz =
      static_cast<unsigned>((type == NVML_CLOCK_MEM ? p.memory_clock_khz : p.sm_clock_khz) / 1000);
  return NVML_SUCCESS;
}

// All processors the machine has: a simulated GPU is near to each.
nvmlReturn_t affinity(nvmlDevice_t device, unsigned words, unsigned long* set) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, set, t); r != NVML_SUCCESS) return r;
  std::memset(set, 0, words * sizeof *set);
  const long cpus = ::sysconf(_SC_NPROCESSORS_CONF);
  for (long i = 0; i < cpus && i / 64 < static_cast<long>(words); ++i)
    set[i / 64] |= 1ul << (i % 64);
  return NVML_SUCCESS;
}

bool mig() noexcept { return machine.profile.mig_instances != 0; }

}  // namespace

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type,
                                    unsigned int* mhz) noexcept {
  return clock(device, type, mhz);
}
nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type,
                                       unsigned int* mhz) noexcept {
  return clock(device, type, mhz);
}
nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int* power) noexcept {
  return tell(device, power, static_cast<unsigned>(machine.profile.power_idle_mw));
}
nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int* limit) noexcept {
  return tell(device, limit, static_cast<unsigned>(machine.profile.power_limit_mw));
}
nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned int* limit) noexcept {
  return tell(device, limit, static_cast<unsigned>(machine.profile.power_limit_mw));
}
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t,
                                      unsigned int* temp) noexcept {
  return tell(device, temp, static_cast<unsigned>(machine.profile.temperature_c));
}
nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t device, nvmlPstates_t* pState) noexcept {
  return tell(device, pState, NVML_PSTATE_0);
}
nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device,
                                                    unsigned long long* reasons) noexcept {
  return tell(device, reasons, 0ull);
}
nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device,
                                                       unsigned long long* reasons) noexcept {
  return tell(device, reasons, 0ull);
}
nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, nvmlComputeMode_t* mode) noexcept {
  return tell(device, mode, NVML_COMPUTEMODE_DEFAULT);
}
nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, nvmlEnableState_t* mode) noexcept {
  return tell(device, mode, NVML_FEATURE_ENABLED);
}
nvmlReturn_t nvmlDeviceGetDisplayMode(nvmlDevice_t device, nvmlEnableState_t* display) noexcept {
  return tell(device, display, NVML_FEATURE_DISABLED);
}
nvmlReturn_t nvmlDeviceGetDisplayActive(nvmlDevice_t device, nvmlEnableState_t* isActive) noexcept {
  return tell(device, isActive, NVML_FEATURE_DISABLED);
}
nvmlReturn_t nvmlDeviceGetAccountingMode(nvmlDevice_t device, nvmlEnableState_t* mode) noexcept {
  return tell(device, mode, NVML_FEATURE_DISABLED);
}
nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t device, nvmlBrandType_t* type) noexcept {
  return tell(device, type, NVML_BRAND_NVIDIA);
}
nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device,
                                       nvmlDeviceArchitecture_t* arch) noexcept {
  return tell(device, arch, NVML_DEVICE_ARCH_HOPPER);
}
nvmlReturn_t nvmlDeviceGetMemoryBusWidth(nvmlDevice_t device, unsigned int* busWidth) noexcept {
  return tell(device, busWidth, static_cast<unsigned>(machine.profile.memory_bus_bits));
}
nvmlReturn_t nvmlDeviceGetNumGpuCores(nvmlDevice_t device, unsigned int* numCores) noexcept {
  return tell(device, numCores, static_cast<unsigned>(machine.profile.sms * 128));
}
nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t device, unsigned int* gen) noexcept {
  return tell(device, gen, 5u);
}
nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t device, unsigned int* gen) noexcept {
  return tell(device, gen, 5u);
}
nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t device, unsigned int* width) noexcept {
  return tell(device, width, 16u);
}
nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t device, unsigned int* width) noexcept {
  return tell(device, width, 16u);
}

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t* current,
                                  nvmlEnableState_t* pending) noexcept {
  if (pending != nullptr) *pending = NVML_FEATURE_ENABLED;
  return tell(device, current, NVML_FEATURE_ENABLED);
}
nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t,
                                         nvmlEccCounterType_t,
                                         unsigned long long* eccCounts) noexcept {
  return tell(device, eccCounts, 0ull);
}
nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int* major,
                                                int* minor) noexcept {
  if (minor == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *minor = static_cast<int>(machine.profile.cc_minor);
  return tell(device, major, static_cast<int>(machine.profile.cc_major));
}
nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t* bar1) noexcept {
  const unsigned long long bytes = 256ull
                                   << 30;  // BAR1 of a data-centre GPU covers all of its memory
  return tell(device, bar1, nvmlBAR1Memory_t{bytes, bytes, 0});
}
nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned int words,
                                      unsigned long* set) noexcept {
  return affinity(device, words, set);
}
nvmlReturn_t nvmlDeviceGetCpuAffinityWithinScope(nvmlDevice_t device, unsigned int words,
                                                 unsigned long* set, nvmlAffinityScope_t) noexcept {
  return affinity(device, words, set);
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int* currentMode,
                                  unsigned int* pendingMode) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, currentMode, t); r != NVML_SUCCESS) return r;
  if (t.instance >= 0) return NVML_ERROR_INVALID_ARGUMENT;
  *currentMode = mig() ? NVML_DEVICE_MIG_ENABLE : NVML_DEVICE_MIG_DISABLE;
  if (pendingMode != nullptr) *pendingMode = *currentMode;
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int* count) noexcept {
  return tell(device, count, mig() ? 7u : 0u);
}
nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index,
                                                 nvmlDevice_t* migDevice) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, migDevice, t); r != NVML_SUCCESS) return r;
  if (t.instance >= 0 || index >= 7) return NVML_ERROR_INVALID_ARGUMENT;
  if (index >= machine.profile.mig_instances) return NVML_ERROR_NOT_FOUND;
  *migDevice = handle_of({t.gpu, static_cast<int>(index)});
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int* isMigDevice) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, isMigDevice, t); r != NVML_SUCCESS) return r;
  *isMigDevice = t.instance >= 0 ? 1 : 0;
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t migDevice,
                                                          nvmlDevice_t* device) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(migDevice, device, t); r != NVML_SUCCESS) return r;
  if (t.instance < 0) return NVML_ERROR_INVALID_ARGUMENT;
  *device = handle_of({t.gpu, -1});
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int* id) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, id, t); r != NVML_SUCCESS) return r;
  if (t.instance < 0) return NVML_ERROR_NOT_SUPPORTED;
  *id = static_cast<unsigned>(t.instance) + 1;
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device,
                                        nvmlDeviceAttributes_t* attributes) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, attributes, t); r != NVML_SUCCESS) return r;
  if (t.instance < 0) return NVML_ERROR_NOT_SUPPORTED;
  *attributes = {};
  attributes->multiprocessorCount = static_cast<unsigned>(machine.profile.mig_sms);
  attributes->gpuInstanceSliceCount = attributes->computeInstanceSliceCount = 1;
  attributes->memorySizeMB = machine.profile.mig_total_bytes >> 20;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device,
                                              unsigned long long* eventTypes) noexcept {
  return tell(device, eventTypes, 0ull);
}
nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t* set) noexcept {
  if (!initialised()) return NVML_ERROR_UNINITIALIZED;
  if (set == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *set = reinterpret_cast<nvmlEventSet_t>(new (std::nothrow) char);
  return *set != nullptr ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}
nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long,
                                      nvmlEventSet_t set) noexcept {
  Target t;
  return ask(device, set, t);
}
nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t* data,
                                 unsigned int timeoutms) noexcept {
  if (!initialised()) return NVML_ERROR_UNINITIALIZED;
  if (set == nullptr || data == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  sleep_ns(std::uint64_t{timeoutms} * 1'000'000);
  return NVML_ERROR_TIMEOUT;
}
nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) noexcept {
  if (!initialised()) return NVML_ERROR_UNINITIALIZED;
  if (set == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  delete reinterpret_cast<char*>(set);
  return NVML_SUCCESS;
}

}  // namespace bulkhead::sim::nvml
