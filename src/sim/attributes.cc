// What is asked about devices and pointers. Attributes that the profile knows come from it; those in kFixed are what
// compute capability 9.0 has by its documentation; any other answers 0: not there.
#include <algorithm>
#include <cstring>

#include "sim/api.h"
#include "sim/identity.h"
#include "sim/model.h"

namespace bulkhead::sim {
namespace {

struct Fixed {
  CUdevice_attribute attribute;
  int value;
};
#define BH_ATTRIBUTE(name, value) \
  { CU_DEVICE_ATTRIBUTE_##name, value }
constexpr Fixed kFixed[] = {
    BH_ATTRIBUTE(MAX_THREADS_PER_BLOCK, 1024),
    BH_ATTRIBUTE(MAX_BLOCK_DIM_X, 1024),
    BH_ATTRIBUTE(MAX_BLOCK_DIM_Y, 1024),
    BH_ATTRIBUTE(MAX_BLOCK_DIM_Z, 64),
    BH_ATTRIBUTE(MAX_GRID_DIM_X, 0x7fffffff),
    BH_ATTRIBUTE(MAX_GRID_DIM_Y, 65535),
    BH_ATTRIBUTE(MAX_GRID_DIM_Z, 65535),
    BH_ATTRIBUTE(MAX_SHARED_MEMORY_PER_BLOCK, 49152),
    BH_ATTRIBUTE(MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 232448),
    BH_ATTRIBUTE(MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 233472),
    BH_ATTRIBUTE(RESERVED_SHARED_MEMORY_PER_BLOCK, 1024),
    BH_ATTRIBUTE(TOTAL_CONSTANT_MEMORY, 65536),
    BH_ATTRIBUTE(WARP_SIZE, 32),
    BH_ATTRIBUTE(MAX_PITCH, 0x7fffffff),
    BH_ATTRIBUTE(MAX_REGISTERS_PER_BLOCK, 65536),
    BH_ATTRIBUTE(MAX_REGISTERS_PER_MULTIPROCESSOR, 65536),
    BH_ATTRIBUTE(MAX_BLOCKS_PER_MULTIPROCESSOR, 32),
    BH_ATTRIBUTE(TEXTURE_ALIGNMENT, 512),
    BH_ATTRIBUTE(TEXTURE_PITCH_ALIGNMENT, 32),
    BH_ATTRIBUTE(SURFACE_ALIGNMENT, 512),
    BH_ATTRIBUTE(GPU_OVERLAP, 1),
    BH_ATTRIBUTE(CAN_MAP_HOST_MEMORY, 1),
    BH_ATTRIBUTE(CONCURRENT_KERNELS, 1),
    BH_ATTRIBUTE(ECC_ENABLED, 1),
    BH_ATTRIBUTE(ASYNC_ENGINE_COUNT, 3),
    BH_ATTRIBUTE(UNIFIED_ADDRESSING, 1),
    BH_ATTRIBUTE(STREAM_PRIORITIES_SUPPORTED, 1),
    BH_ATTRIBUTE(MANAGED_MEMORY, 1),
    BH_ATTRIBUTE(CONCURRENT_MANAGED_ACCESS, 1),
    BH_ATTRIBUTE(COMPUTE_PREEMPTION_SUPPORTED, 1),
    BH_ATTRIBUTE(CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1),
    BH_ATTRIBUTE(COOPERATIVE_LAUNCH, 1),
    BH_ATTRIBUTE(HOST_REGISTER_SUPPORTED, 1),
    BH_ATTRIBUTE(VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 1),
    BH_ATTRIBUTE(HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, 1),
    BH_ATTRIBUTE(MEMORY_POOLS_SUPPORTED, 1),
    BH_ATTRIBUTE(MEMPOOL_SUPPORTED_HANDLE_TYPES, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
    BH_ATTRIBUTE(SPARSE_CUDA_ARRAY_SUPPORTED, 1),
    BH_ATTRIBUTE(DEFERRED_MAPPING_CUDA_ARRAY_SUPPORTED, 1),
};
#undef BH_ATTRIBUTE

int from_profile(CUdevice_attribute a, CUdevice dev) noexcept {
  const Profile& p = machine.profile;
  const unsigned unit = driver().devices[static_cast<unsigned>(dev)].unit;
  const unsigned gpu = p.mig_instances != 0 ? unit / static_cast<unsigned>(p.mig_instances) : unit;
  switch (a) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
      return static_cast<int>(driver().mps.sms);
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
      return static_cast<int>(p.cc_major);
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
      return static_cast<int>(p.cc_minor);
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
      return static_cast<int>(p.sm_clock_khz);
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
      return static_cast<int>(p.memory_clock_khz);
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
      return static_cast<int>(p.memory_bus_bits);
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
      return static_cast<int>(p.l2_bytes);
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
      return static_cast<int>(p.threads_per_sm);
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
      return static_cast<int>(pci_bus(gpu));
    case CU_DEVICE_ATTRIBUTE_GPU_PCI_DEVICE_ID:
      return static_cast<int>(static_cast<unsigned>(p.pci_device_id));
    case CU_DEVICE_ATTRIBUTE_GPU_PCI_SUBSYSTEM_ID:
      return static_cast<int>(static_cast<unsigned>(p.pci_subsystem_id));
    default:
      return 0;
  }
}

int value_of(CUdevice_attribute a, CUdevice dev) noexcept {
  for (const Fixed& f : kFixed) {
    if (f.attribute == a) return f.value;
  }
  return from_profile(a, dev);
}

template <class T>
CUresult put(void* at, T value) noexcept {
  std::memcpy(at, &value, sizeof value);
  return CUDA_SUCCESS;
}

bool on_host(const Range& r) noexcept {
  return r.kind == Kind::kHost || r.kind == Kind::kRegistered;
}

CUresult answer(void* data, CUpointer_attribute a, CUdeviceptr ptr, const Range& r) noexcept {
  const bool both = on_host(r) || r.kind == Kind::kManaged;
  switch (a) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      return put(data, r.context != nullptr ? handle_of(r.context) : CUcontext{});
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      return put(data,
                 static_cast<unsigned>(on_host(r) ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE));
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      return put(data, ptr);
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      return both ? put(data, ptr) : CUDA_ERROR_INVALID_VALUE;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
      return put(data, r.id);
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      return put(data, r.kind == Kind::kManaged);
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      return put(data, std::max(r.ordinal, 0));
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
      return put(data, r.kind == Kind::kPlain || r.kind == Kind::kSlab);
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      return put(data, r.base);
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      return put(data, r.bytes);
    case CU_POINTER_ATTRIBUTE_MAPPED:
      return put(data, true);
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
      return put(data, static_cast<unsigned>(r.access));
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
      return put(data, reinterpret_cast<CUmemoryPool>(r.pool));
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
}

// Bytes that an attribute's answer has, to zero it where the pointer is not known.
std::size_t width(CUpointer_attribute a) noexcept {
  switch (a) {
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_MAPPED:
      return 1;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
      return 4;
    case CU_POINTER_ATTRIBUTE_CONTEXT:
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
      return 8;
    default:
      return 0;
  }
}

}  // namespace

namespace api {

CUresult cuDeviceGetAttribute(int* pi, CUdevice_attribute attrib, CUdevice dev) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (pi == nullptr || attrib < 1 || attrib >= CU_DEVICE_ATTRIBUTE_MAX)
    return CUDA_ERROR_INVALID_VALUE;
  if (!valid_device(dev)) return CUDA_ERROR_INVALID_DEVICE;
  *pi = value_of(attrib, dev);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetProperties(CUdevprop* prop, CUdevice dev) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (prop == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!valid_device(dev)) return CUDA_ERROR_INVALID_DEVICE;
  *prop = CUdevprop{1024,
                    {1024, 1024, 64},
                    {0x7fffffff, 65535, 65535},
                    49152,
                    65536,
                    32,
                    0x7fffffff,
                    65536,
                    static_cast<int>(machine.profile.sm_clock_khz),
                    512};
  return CUDA_SUCCESS;
}

CUresult cuPointerGetAttribute(void* data, CUpointer_attribute attribute,
                               CUdeviceptr ptr) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Range* r = find_range(ptr);
  if (data == nullptr || r == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return answer(data, attribute, ptr, *r);
}

// A pointer that is not known is no error here: everything about it is zero.
CUresult cuPointerGetAttributes(unsigned int numAttributes, CUpointer_attribute* attributes,
                                void** data, CUdeviceptr ptr) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (numAttributes == 0 || attributes == nullptr || data == nullptr)
    return CUDA_ERROR_INVALID_VALUE;
  const Range* r = find_range(ptr);
  for (unsigned i = 0; i < numAttributes; ++i) {
    const std::size_t bytes = width(attributes[i]);
    if (data[i] == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (bytes == 0) return CUDA_ERROR_NOT_SUPPORTED;
    if (r == nullptr || answer(data[i], attributes[i], ptr, *r) != CUDA_SUCCESS)
      std::memset(data[i], 0, bytes);
  }
  return CUDA_SUCCESS;
}

}  // namespace api
}  // namespace bulkhead::sim
