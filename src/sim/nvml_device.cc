// NVML: start and end, the system's versions, and the devices' identities.
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/fd.h"
#include "sim/identity.h"
#include "sim/nvml_api.h"

namespace bulkhead::sim::nvml {
namespace {

pthread_mutex_t count_mutex = PTHREAD_MUTEX_INITIALIZER;
unsigned inits = 0;

// A handle is the address of an entry; the table never moves.
struct Entry {
  Target target;
};
Entry gpus[kMaxUnits];
Entry instances[kMaxUnits];

unsigned per_gpu() noexcept { return static_cast<unsigned>(machine.profile.mig_instances); }
unsigned gpu_count() noexcept { return static_cast<unsigned>(machine.profile.count); }

template <class T>
bool within(const T* p, const T* table, unsigned n) noexcept {
  return p >= table && p < table + n &&
         (reinterpret_cast<const char*>(p) - reinterpret_cast<const char*>(table)) % sizeof(T) == 0;
}

nvmlReturn_t start() noexcept {
  pthread_mutex_lock(&count_mutex);
  const char* wrong = say_what_is_wrong();
  if (wrong == nullptr) {
    ++inits;
    for (unsigned i = 0; i < kMaxUnits; ++i) {
      gpus[i].target = {i, -1};
      if (per_gpu() != 0) instances[i].target = {i / per_gpu(), static_cast<int>(i % per_gpu())};
    }
  }
  pthread_mutex_unlock(&count_mutex);
  return wrong == nullptr ? NVML_SUCCESS : NVML_ERROR_DRIVER_NOT_LOADED;
}

nvmlReturn_t need(const void* out) noexcept {
  if (!initialised()) return NVML_ERROR_UNINITIALIZED;
  return out == nullptr ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
}

void uuid_of(Target t, char (&out)[48]) noexcept {
  unsigned char id[16];
  if (t.instance >= 0) {
    mig_uuid(t.gpu, static_cast<unsigned>(t.instance), id);
  } else {
    gpu_uuid(t.gpu, id);
  }
  uuid_text(id, t.instance >= 0, out);
}

}  // namespace

bool initialised() noexcept {
  pthread_mutex_lock(&count_mutex);
  const bool yes = inits != 0;
  pthread_mutex_unlock(&count_mutex);
  return yes;
}

nvmlReturn_t ask(nvmlDevice_t h, const void* out, Target& t) noexcept {
  if (!initialised()) return NVML_ERROR_UNINITIALIZED;
  const auto* e = reinterpret_cast<const Entry*>(h);
  const bool known = within(e, gpus, gpu_count()) || within(e, instances, gpu_count() * per_gpu());
  if (!known || out == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  t = e->target;
  return NVML_SUCCESS;
}

nvmlDevice_t handle_of(Target t) noexcept {
  Entry* e = t.instance < 0 ? &gpus[t.gpu]
                            : &instances[t.gpu * per_gpu() + static_cast<unsigned>(t.instance)];
  return reinterpret_cast<nvmlDevice_t>(e);
}

Units units_of(Target t) noexcept {
  if (per_gpu() == 0) return {t.gpu, 1};
  if (t.instance < 0) return {t.gpu * per_gpu(), per_gpu()};
  return {t.gpu * per_gpu() + static_cast<unsigned>(t.instance), 1};
}

nvmlReturn_t copy_text(const char* from, char* to, unsigned length) noexcept {
  if (std::strlen(from) >= length) return NVML_ERROR_INSUFFICIENT_SIZE;
  std::strcpy(to, from);
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlInit_v2() noexcept { return start(); }
nvmlReturn_t nvmlInit() noexcept { return start(); }
nvmlReturn_t nvmlInitWithFlags(unsigned int /*flags*/) noexcept { return start(); }

nvmlReturn_t nvmlShutdown() noexcept {
  pthread_mutex_lock(&count_mutex);
  const bool was = inits != 0;
  if (was) --inits;
  pthread_mutex_unlock(&count_mutex);
  return was ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char* version, unsigned int length) noexcept {
  if (const nvmlReturn_t r = need(version); r != NVML_SUCCESS) return r;
  return copy_text(machine.profile.driver_version, version, length);
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char* version, unsigned int length) noexcept {
  if (const nvmlReturn_t r = need(version); r != NVML_SUCCESS) return r;
  return copy_text(machine.profile.nvml_version, version, length);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int* cudaDriverVersion) noexcept {
  if (const nvmlReturn_t r = need(cudaDriverVersion); r != NVML_SUCCESS) return r;
  *cudaDriverVersion = static_cast<int>(machine.profile.cuda_version);
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlSystemGetCudaDriverVersion(int* cudaDriverVersion) noexcept {
  return nvmlSystemGetCudaDriverVersion_v2(cudaDriverVersion);
}

nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char* name, unsigned int length) noexcept {
  if (const nvmlReturn_t r = need(name); r != NVML_SUCCESS) return r;
  char path[40], text[256];
  std::snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
  const UniqueFd fd{::open(path, O_RDONLY | O_CLOEXEC)};
  const ssize_t n = fd.ok() ? ::read(fd.get(), text, sizeof text - 1) : -1;
  if (n <= 0) return NVML_ERROR_NOT_FOUND;
  text[n] = 0;
  std::snprintf(name, length, "%s", text);
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int* deviceCount) noexcept {
  if (const nvmlReturn_t r = need(deviceCount); r != NVML_SUCCESS) return r;
  *deviceCount = gpu_count();
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetCount(unsigned int* deviceCount) noexcept {
  return nvmlDeviceGetCount_v2(deviceCount);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t* device) noexcept {
  if (const nvmlReturn_t r = need(device); r != NVML_SUCCESS) return r;
  if (index >= gpu_count()) return NVML_ERROR_INVALID_ARGUMENT;
  *device = handle_of({index, -1});
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t* device) noexcept {
  return nvmlDeviceGetHandleByIndex_v2(index, device);
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char* uuid, nvmlDevice_t* device) noexcept {
  if (const nvmlReturn_t r = need(device); r != NVML_SUCCESS) return r;
  if (uuid == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  for (unsigned g = 0; g < gpu_count(); ++g) {
    for (int i = -1; i < static_cast<int>(per_gpu()); ++i) {
      char text[48];
      uuid_of({g, i}, text);
      if (std::strcmp(text, uuid) != 0) continue;
      *device = handle_of({g, i});
      return NVML_SUCCESS;
    }
  }
  return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char* pciBusId, nvmlDevice_t* device) noexcept {
  if (const nvmlReturn_t r = need(device); r != NVML_SUCCESS) return r;
  unsigned domain = 0, bus = 0, slot = 0;
  if (pciBusId == nullptr || std::sscanf(pciBusId, "%x:%x:%x", &domain, &bus, &slot) != 3) {
    return NVML_ERROR_INVALID_ARGUMENT;
  }
  for (unsigned g = 0; g < gpu_count(); ++g) {
    if (pci_bus(g) != bus || domain != 0 || slot != 0) continue;
    *device = handle_of({g, -1});
    return NVML_SUCCESS;
  }
  return NVML_ERROR_NOT_FOUND;
}
nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char* pciBusId, nvmlDevice_t* device) noexcept {
  return nvmlDeviceGetHandleByPciBusId_v2(pciBusId, device);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char* uuid, unsigned int length) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, uuid, t); r != NVML_SUCCESS) return r;
  char text[48];
  uuid_of(t, text);
  return copy_text(text, uuid, length);
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char* name, unsigned int length) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, name, t); r != NVML_SUCCESS) return r;
  char full[128];
  const Profile& p = machine.profile;
  const bool mig = t.instance >= 0;
  std::snprintf(full, sizeof full, "%s%s%s", p.name, mig ? " MIG " : "", mig ? p.mig_profile : "");
  return copy_text(full, name, length);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int* index) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, index, t); r != NVML_SUCCESS) return r;
  *index = t.instance >= 0 ? static_cast<unsigned>(t.instance) : t.gpu;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int* minorNumber) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, minorNumber, t); r != NVML_SUCCESS) return r;
  *minorNumber = t.gpu;
  return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t* pci) noexcept {
  Target t;
  if (const nvmlReturn_t r = ask(device, pci, t); r != NVML_SUCCESS) return r;
  std::memset(pci, 0, sizeof *pci);
  pci->bus = pci_bus(t.gpu);
  pci->pciDeviceId = static_cast<unsigned>(machine.profile.pci_device_id);
  pci->pciSubSystemId = static_cast<unsigned>(machine.profile.pci_subsystem_id);
  std::snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", pci->bus & 0xff);
  std::snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "0000:%02X:00.0", pci->bus & 0xff);
  return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t* pci) noexcept {
  return nvmlDeviceGetPciInfo_v3(device, pci);
}

}  // namespace bulkhead::sim::nvml
