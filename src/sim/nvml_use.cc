// NVML: what is used, and by whom.
#include <time.h>

#include <cstring>

#include "base/clock.h"
#include "sim/nvml_api.h"
#include "sim/timed.h"

namespace bulkhead::sim::nvml {
namespace {

struct Bytes {
  unsigned long long total, reserved, used;  // used without reserved
};

Bytes bytes_of(Target t) noexcept {
  const Profile& p = machine.profile;
  const Units units = units_of(t);
  Bytes b{};
  for (unsigned u = units.first; u < units.first + units.count; ++u) b.used += used_on(u);
  if (t.instance >= 0) {
    b.total = p.mig_total_bytes;
  } else {
    b.total = p.nvml_total_bytes;
    b.reserved = p.nvml_total_bytes - p.total_bytes;
  }
  return b;
}

constexpr unsigned kRoom = kMaxProcesses;

// All processes on a target, one entry a process and unit. Static: too large for a stack of a thread.
struct List {
  ProcessUse uses[kRoom];
  unsigned instance[kRoom];
  unsigned n = 0;
};

void collect(Target t, List& list) noexcept {
  const Units units = units_of(t);
  const bool timed = open_timed(false) == nullptr;
  list.n = 0;
  for (unsigned u = units.first; u < units.first + units.count; ++u) {
    const unsigned before = list.n;
    const unsigned got = process_uses(u, list.uses + list.n, kRoom - list.n);
    list.n += got < kRoom - before ? got : kRoom - before;
    for (unsigned i = before; i < list.n; ++i) {
      ProcessUse& use = list.uses[i];
      if (timed) use.busy_ns += timed_busy_ns(u, use.pid, use.start_ticks);
      list.instance[i] = machine.profile.mig_instances != 0 ? u - units.first : ~0u;
    }
  }
}

// `fill` writes entry i. Too little room: the count that is needed, and NVML_ERROR_INSUFFICIENT_SIZE.
template <class T, class Fill>
nvmlReturn_t processes(nvmlDevice_t device, unsigned* count, T* infos, Fill fill) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, count, t); r != NVML_SUCCESS) return r;
  thread_local List list;
  collect(t, list);
  const unsigned room = *count;
  *count = list.n;
  if (list.n > room) return NVML_ERROR_INSUFFICIENT_SIZE;
  if (list.n != 0 && infos == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  for (unsigned i = 0; i < list.n; ++i) fill(infos[i], list.uses[i], list.instance[i]);
  return NVML_SUCCESS;
}

nvmlReturn_t none(nvmlDevice_t device, unsigned* count) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, count, t); r != NVML_SUCCESS) return r;
  *count = 0;
  return NVML_SUCCESS;
}

void fill_v1(nvmlProcessInfo_v1_t& to, const ProcessUse& use, unsigned /*instance*/) noexcept {
  to = {use.pid, use.bytes};
}
void fill_v2(nvmlProcessInfo_v2_t& to, const ProcessUse& use, unsigned instance) noexcept {
  to = {use.pid, use.bytes, instance, instance == ~0u ? ~0u : 0};
}

unsigned long long now_us() noexcept { return clock_ns(CLOCK_REALTIME) / 1000; }

// Busy time is what kernels and copies cost in the model; percent of the time since it was last asked.
struct Sample {
  unsigned pid;
  std::uint64_t start_ticks;  // a pid alone may be another process by now
  std::uint64_t busy_ns, at_ns;
  unsigned percent;
};
pthread_mutex_t sample_mutex = PTHREAD_MUTEX_INITIALIZER;

unsigned percent_of(const ProcessUse& use, unsigned unit) noexcept {
  static Sample samples[kMaxUnits][64];
  Sample& s = samples[unit][use.pid % 64];
  const std::uint64_t now = monotonic_ns();
  if (s.pid != use.pid || s.start_ticks != use.start_ticks) {
    s = {use.pid, use.start_ticks, use.busy_ns, now, 0};
  }
  const std::uint64_t wall = now - s.at_ns, busy = use.busy_ns - s.busy_ns;
  if (wall < 1'000'000) return s.percent;  // too short to say anything new
  s.percent = static_cast<unsigned>(busy >= wall ? 100 : busy * 100 / wall);
  s.busy_ns = use.busy_ns;
  s.at_ns = now;
  return s.percent;
}

}  // namespace

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t* memory) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, memory, t); r != NVML_SUCCESS) return r;
  const Bytes b = bytes_of(t);
  const unsigned long long used = b.reserved + b.used;
  *memory = {b.total, used < b.total ? b.total - used : 0, used};
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t* memory) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, memory, t); r != NVML_SUCCESS) return r;
  if (memory->version != nvmlMemory_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  const Bytes b = bytes_of(t);
  const unsigned long long taken = b.reserved + b.used;
  *memory = {nvmlMemory_v2, b.total, b.reserved, taken < b.total ? b.total - taken : 0, b.used};
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned int* infoCount,
                                                  nvmlProcessInfo_v1_t* infos) noexcept {
  return processes(device, infoCount, infos, fill_v1);
}
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int* infoCount,
                                                     nvmlProcessInfo_v2_t* infos) noexcept {
  return processes(device, infoCount, infos, fill_v2);
}
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int* infoCount,
                                                     nvmlProcessInfo_t* infos) noexcept {
  return processes(device, infoCount, infos, fill_v2);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t device, unsigned int* infoCount,
                                                   nvmlProcessInfo_v1_t* /*infos*/) noexcept {
  return none(device, infoCount);
}
nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device, unsigned int* infoCount,
                                                      nvmlProcessInfo_v2_t* /*infos*/) noexcept {
  return none(device, infoCount);
}
nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int* infoCount,
                                                      nvmlProcessInfo_t* /*infos*/) noexcept {
  return none(device, infoCount);
}
nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t device, unsigned int* infoCount,
                                                     nvmlProcessInfo_v1_t* /*infos*/) noexcept {
  return none(device, infoCount);
}
nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t device,
                                                        unsigned int* infoCount,
                                                        nvmlProcessInfo_v2_t* /*infos*/) noexcept {
  return none(device, infoCount);
}
nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device,
                                                        unsigned int* infoCount,
                                                        nvmlProcessInfo_t* /*infos*/) noexcept {
  return none(device, infoCount);
}

nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device,
                                                   nvmlProcessDetailList_t* plist) noexcept {
  if (plist == nullptr)
    return initialised() ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_UNINITIALIZED;
  if (plist->version != nvmlProcessDetailList_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  if (plist->mode != 0) return none(device, &plist->numProcArrayEntries);  // 0: compute
  return processes(device, &plist->numProcArrayEntries, plist->procArray,
                   [](nvmlProcessDetail_v1_t& to, const ProcessUse& use, unsigned instance) {
                     to = {use.pid, use.bytes, instance, instance == ~0u ? ~0u : 0, 0};
                   });
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device,
                                           nvmlUtilization_t* utilization) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, utilization, t); r != NVML_SUCCESS) return r;
  if (t.instance >= 0) return NVML_ERROR_NOT_SUPPORTED;
  thread_local List list;
  collect(t, list);
  const unsigned unit = units_of(t).first;
  unsigned sum = 0;
  pthread_mutex_lock(&sample_mutex);
  if (open_timed(false) == nullptr) {  // the device's own books: clients of MPS run at one time
    sum = percent_of({0, 0, timed_unit_busy_ns(unit), 1}, unit);
  } else {
    for (unsigned i = 0; i < list.n; ++i) sum += percent_of(list.uses[i], unit);
  }
  pthread_mutex_unlock(&sample_mutex);
  *utilization = {sum > 100 ? 100 : sum, 0};
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device,
                                             nvmlProcessUtilizationSample_t* utilization,
                                             unsigned int* processSamplesCount,
                                             unsigned long long /*lastSeenTimeStamp*/) noexcept {
  const unsigned long long now = now_us();
  Target t;
  if (const nvmlReturn_t r = ask(device, processSamplesCount, t); r != NVML_SUCCESS) return r;
  if (t.instance >= 0) return NVML_ERROR_NOT_SUPPORTED;
  pthread_mutex_lock(&sample_mutex);
  const nvmlReturn_t r =
      processes(device, processSamplesCount, utilization,
                [&](nvmlProcessUtilizationSample_t& to, const ProcessUse& use, unsigned) {
                  to = {use.pid, now, percent_of(use, units_of(t).first), 0, 0, 0};
                });
  pthread_mutex_unlock(&sample_mutex);
  return r;
}

nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(
    nvmlDevice_t device, nvmlProcessesUtilizationInfo_t* procesesUtilInfo) noexcept {
  if (procesesUtilInfo == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (procesesUtilInfo->version != nvmlProcessesUtilizationInfo_v1) {
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  }
  const unsigned long long now = now_us();
  Target t;
  if (const nvmlReturn_t r = ask(device, procesesUtilInfo, t); r != NVML_SUCCESS) return r;
  pthread_mutex_lock(&sample_mutex);
  const nvmlReturn_t r =
      processes(device, &procesesUtilInfo->processSamplesCount, procesesUtilInfo->procUtilArray,
                [&](nvmlProcessUtilizationInfo_v1_t& to, const ProcessUse& use, unsigned) {
                  to = {now, use.pid, percent_of(use, units_of(t).first), 0, 0, 0, 0, 0};
                });
  pthread_mutex_unlock(&sample_mutex);
  return r;
}

}  // namespace bulkhead::sim::nvml
