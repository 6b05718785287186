// cuInit and the devices.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "sim/api.h"
#include "sim/gate.h"
#include "sim/identity.h"
#include "sim/model.h"

namespace bulkhead::sim {
namespace {

CUresult initialise(Driver& d) noexcept {
  if (say_what_is_wrong() != nullptr) return CUDA_ERROR_SYSTEM_NOT_READY;
  if (timed_mode()) {
    if (const char* wrong = open_timed(true)) {
      std::fprintf(stderr, "bulkhead simulator: %s\n", wrong);
      return CUDA_ERROR_SYSTEM_NOT_READY;
    }
  }
  if (!join_machine()) return CUDA_ERROR_DEVICE_UNAVAILABLE;
  unsigned units[kMaxUnits];
  const unsigned n = visible_units(std::getenv("CUDA_VISIBLE_DEVICES"), units, kMaxUnits);
  if (n == 0) return CUDA_ERROR_NO_DEVICE;
  d.timed = timed_mode();
  d.mps = mps_client();
  const char* bytes = std::getenv("BULKHEAD_SIM_BYTES");
  d.moves_bytes = bytes == nullptr || std::strcmp(bytes, "off") != 0;
  d.devices.assign(n, Device{});
  for (unsigned i = 0; i < n; ++i) d.devices[i].unit = units[i];
  d.phase = Phase::kReady;
  return CUDA_SUCCESS;
}

// Every question about a device: initialised, a good pointer, a good ordinal.
CUresult ask(const Call& call, const void* out, CUdevice dev) noexcept {
  if (call.result != CUDA_SUCCESS) return call.result;
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return valid_device(dev) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

unsigned gpu_of(CUdevice dev) noexcept {
  const Profile& p = machine.profile;
  const unsigned unit = driver().devices[static_cast<unsigned>(dev)].unit;
  return p.mig_instances != 0 ? unit / static_cast<unsigned>(p.mig_instances) : unit;
}

void copy_text(const char* from, char* to, int len) noexcept {
  std::snprintf(to, static_cast<std::size_t>(len), "%s", from);
}

}  // namespace

CUresult api::cuInit(unsigned int Flags) noexcept {
  const Call call{Need::kNothing};
  Driver& d = driver();
  if (d.phase == Phase::kForked) return CUDA_ERROR_NOT_INITIALIZED;
  if (Flags != 0) return CUDA_ERROR_INVALID_VALUE;
  return d.phase == Phase::kReady ? CUDA_SUCCESS : initialise(d);
}

CUresult api::cuDeviceGet(CUdevice* device, int ordinal) noexcept {
  const Call call{Need::kInit};
  if (const CUresult r = ask(call, device, ordinal); r != CUDA_SUCCESS) return r;
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceGetCount(int* count) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *count = static_cast<int>(driver().devices.size());
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceGetName(char* name, int len, CUdevice dev) noexcept {
  const Call call{Need::kInit};
  if (const CUresult r = ask(call, name, dev); r != CUDA_SUCCESS) return r;
  if (len <= 0) return CUDA_ERROR_INVALID_VALUE;
  char full[128];
  const Profile& p = machine.profile;
  const char* gap = p.mig_instances != 0 ? " MIG " : "";
  std::snprintf(full, sizeof full, "%s%s%s", p.name, gap, p.mig_profile);
  copy_text(full, name, len);
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceTotalMem_v2(size_t* bytes, CUdevice dev) noexcept {
  const Call call{Need::kInit};
  if (const CUresult r = ask(call, bytes, dev); r != CUDA_SUCCESS) return r;
  *bytes = machine.profile.unit_bytes();
  return CUDA_SUCCESS;
}

// 3.1's form has 32 bits; the real one answers the largest number it can say.
CUresult api::cuDeviceTotalMem(unsigned int* bytes, CUdevice dev) noexcept {
  const Call call{Need::kInit};
  if (const CUresult r = ask(call, bytes, dev); r != CUDA_SUCCESS) return r;
  const std::uint64_t all = machine.profile.unit_bytes();
  *bytes = all > UINT32_MAX ? UINT32_MAX : static_cast<unsigned int>(all);
  return CUDA_SUCCESS;
}

// With MIG the plain form tells the GPU's UUID, _v2 the instance's.
CUresult api::cuDeviceGetUuid(CUuuid* uuid, CUdevice dev) noexcept {
  const Call call{Need::kInit};
  if (const CUresult r = ask(call, uuid, dev); r != CUDA_SUCCESS) return r;
  unsigned char id[16];
  gpu_uuid(gpu_of(dev), id);
  std::memcpy(uuid->bytes, id, sizeof id);
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice dev) noexcept {
  if (machine.profile.mig_instances == 0) return cuDeviceGetUuid(uuid, dev);
  const Call call{Need::kInit};
  if (const CUresult r = ask(call, uuid, dev); r != CUDA_SUCCESS) return r;
  const unsigned unit = driver().devices[static_cast<unsigned>(dev)].unit;
  unsigned char id[16];
  mig_uuid(gpu_of(dev), unit % static_cast<unsigned>(machine.profile.mig_instances), id);
  std::memcpy(uuid->bytes, id, sizeof id);
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceGetPCIBusId(char* pciBusId, int len, CUdevice dev) noexcept {
  const Call call{Need::kInit};
  if (const CUresult r = ask(call, pciBusId, dev); r != CUDA_SUCCESS) return r;
  if (len < 13) return CUDA_ERROR_INVALID_VALUE;
  std::snprintf(pciBusId, static_cast<std::size_t>(len), "0000:%02X:00.0", pci_bus(gpu_of(dev)));
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceGetByPCIBusId(CUdevice* dev, const char* pciBusId) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (dev == nullptr || pciBusId == nullptr) return CUDA_ERROR_INVALID_VALUE;
  unsigned domain = 0, bus = 0, slot = 0;
  if (std::sscanf(pciBusId, "%x:%x:%x", &domain, &bus, &slot) != 3) return CUDA_ERROR_INVALID_VALUE;
  for (std::size_t i = 0; i < driver().devices.size(); ++i) {
    if (pci_bus(gpu_of(static_cast<int>(i))) != bus || domain != 0 || slot != 0) continue;
    *dev = static_cast<CUdevice>(i);
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_DEVICE;
}

CUresult api::cuDeviceComputeCapability(int* major, int* minor, CUdevice dev) noexcept {
  const Call call{Need::kInit};
  if (const CUresult r = ask(call, major, dev); r != CUDA_SUCCESS) return r;
  if (minor == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *major = static_cast<int>(machine.profile.cc_major);
  *minor = static_cast<int>(machine.profile.cc_minor);
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceCanAccessPeer(int* can, CUdevice dev, CUdevice peerDev) noexcept {
  const Call call{Need::kInit};
  if (const CUresult r = ask(call, can, dev); r != CUDA_SUCCESS) return r;
  if (!valid_device(peerDev)) return CUDA_ERROR_INVALID_DEVICE;
  *can = dev != peerDev ? 1 : 0;
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceGetP2PAttribute(int* value, CUdevice_P2PAttribute attrib, CUdevice srcDevice,
                                      CUdevice dstDevice) noexcept {
  const Call call{Need::kInit};
  if (const CUresult r = ask(call, value, srcDevice); r != CUDA_SUCCESS) return r;
  if (!valid_device(dstDevice) || srcDevice == dstDevice) return CUDA_ERROR_INVALID_DEVICE;
  *value = attrib == CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK ? 0 : 1;
  return CUDA_SUCCESS;
}

}  // namespace bulkhead::sim
