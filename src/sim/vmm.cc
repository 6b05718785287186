#include "sim/vmm.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <new>

#include "sim/api.h"
#include "sim/pool.h"

namespace bulkhead::sim {
namespace {

struct Vmm {
  std::unordered_map<std::uint64_t, Allocation*> allocations;
  int heap_fd = -1;  // allocations that nobody else may see share one memfd: descriptors are scarce
  std::uint64_t heap_end = 0;
};
Vmm& vmm() noexcept {
  static auto* v = new Vmm;
  return *v;
}

constexpr std::uint64_t kHeapBytes = 1ull
                                     << 46;  // sparse: only offsets are used up, never given again

bool good_size(std::size_t n) noexcept {
  return n != 0 && n % machine.profile.granularity_bytes == 0;
}

bool on_host(const CUmemLocation& l) noexcept {
  return l.type == CU_MEM_LOCATION_TYPE_HOST || l.type == CU_MEM_LOCATION_TYPE_HOST_NUMA ||
         l.type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
}

// Another open file description of the same memory, as each export and each import of the real driver has its own.
int open_anew(int fd) noexcept {
  char path[40];
  std::snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  return ::open(path, O_RDWR | O_CLOEXEC);
}

CUresult check(const CUmemAllocationProp* prop) noexcept {
  if (prop == nullptr || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED)
    return CUDA_ERROR_INVALID_VALUE;
  if (on_host(prop->location)) return CUDA_SUCCESS;
  if (prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
  return valid_device(prop->location.id) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

}  // namespace

Allocation* to_allocation(CUmemGenericAllocationHandle h) noexcept {
  const auto it = vmm().allocations.find(h);
  return it == vmm().allocations.end() ? nullptr : it->second;
}

void adopt(Allocation* a) noexcept {
  a->handle = driver().next_id++;
  vmm().allocations.emplace(a->handle, a);
}

int make_memfd(std::size_t bytes) noexcept {
  const int fd = ::memfd_create("bulkhead-sim", MFD_CLOEXEC);
  if (fd >= 0 && ::ftruncate(fd, static_cast<off_t>(bytes)) == 0) return fd;
  if (fd >= 0) ::close(fd);
  return -1;
}

bool fabricate(Allocation& a) noexcept {
  const bool shareable = a.prop.requestedHandleTypes != CU_MEM_HANDLE_TYPE_NONE;
  if (shareable) {
    if (a.ordinal >= 0) {
      a.object = create_object(a.unit, a.bytes, false, false, a.bytes);
      if (a.object == 0) {
        trim_pools(a.unit);
        a.object = create_object(a.unit, a.bytes, false, false, a.bytes);
      }
      if (a.object == 0) return false;
    }
    a.fd = make_memfd(a.bytes);
    if (a.fd < 0) {
      if (a.object != 0) drop_object(a.object);
      return false;
    }
    if (a.object != 0) bind_object(a.object, a.fd);
    return true;
  }
  Vmm& v = vmm();
  if (v.heap_fd < 0) v.heap_fd = make_memfd(kHeapBytes);
  if (v.heap_fd < 0 || v.heap_end + a.bytes > kHeapBytes) return false;
  if (a.ordinal >= 0 && !take_bytes(a.unit, a.bytes)) return false;
  a.fd = v.heap_fd;
  a.offset = v.heap_end;
  v.heap_end += a.bytes;
  return true;
}

void drop_if_unused(Allocation* a) noexcept {
  if (a->handles != 0 || a->mappings != 0) return;
  if (a->fd == vmm().heap_fd) {
    ::fallocate(a->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(a->offset),
                static_cast<off_t>(a->bytes));
    if (a->ordinal >= 0) give(a->unit, a->bytes);
  } else {
    ::close(a->fd);
    if (a->object != 0) drop_object(a->object);
  }
  vmm().allocations.erase(a->handle);
  delete a;
}

CUresult api::cuMemGetAllocationGranularity(size_t* granularity, const CUmemAllocationProp* prop,
                                            CUmemAllocationGranularity_flags option) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (granularity == nullptr || option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (const CUresult r = check(prop); r != CUDA_SUCCESS) return r;
  *granularity = machine.profile.granularity_bytes;
  return CUDA_SUCCESS;
}

CUresult api::cuMemCreate(CUmemGenericAllocationHandle* handle, size_t size,
                          const CUmemAllocationProp* prop, unsigned long long flags) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (handle == nullptr || flags != 0 || !good_size(size)) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult r = check(prop); r != CUDA_SUCCESS) return r;
  const auto types = static_cast<unsigned>(prop->requestedHandleTypes);
  if ((types & ~static_cast<unsigned>(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)) != 0) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  auto* a = new (std::nothrow) Allocation;
  if (a == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  a->ordinal = on_host(prop->location) ? -1 : prop->location.id;
  a->unit = a->ordinal < 0 ? 0 : driver().devices[static_cast<unsigned>(a->ordinal)].unit;
  a->bytes = size;
  a->prop = *prop;
  if (!fabricate(*a)) {
    delete a;
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  adopt(a);
  *handle = a->handle;
  return CUDA_SUCCESS;
}

CUresult api::cuMemRelease(CUmemGenericAllocationHandle handle) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Allocation* a = to_allocation(handle);
  if (a == nullptr || a->handles == 0) return CUDA_ERROR_INVALID_VALUE;
  --a->handles;
  drop_if_unused(a);
  return CUDA_SUCCESS;
}

CUresult api::cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle,
                                          void* addr) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Range* r = find_range(reinterpret_cast<CUdeviceptr>(addr));
  Allocation* a = r != nullptr && r->kind == Kind::kMapped ? to_allocation(r->vmm) : nullptr;
  if (handle == nullptr || a == nullptr) return CUDA_ERROR_INVALID_VALUE;
  ++a->handles;
  *handle = a->handle;
  return CUDA_SUCCESS;
}

CUresult api::cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* prop,
                                                     CUmemGenericAllocationHandle handle) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Allocation* a = to_allocation(handle);
  if (prop == nullptr || a == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *prop = a->prop;
  return CUDA_SUCCESS;
}

CUresult api::cuMemExportToShareableHandle(void* shareableHandle,
                                           CUmemGenericAllocationHandle handle,
                                           CUmemAllocationHandleType handleType,
                                           unsigned long long flags) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Allocation* a = to_allocation(handle);
  const bool asked = a != nullptr && (a->prop.requestedHandleTypes & handleType) != 0;
  if (shareableHandle == nullptr || flags != 0 || !asked) return CUDA_ERROR_INVALID_VALUE;
  const int fd = open_anew(a->fd);
  if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  *static_cast<int*>(shareableHandle) = fd;
  return CUDA_SUCCESS;
}

// Memory of another process, or of this one: held, not charged a second time.
CUresult api::cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* osHandle,
                                             CUmemAllocationHandleType shHandleType) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (shHandleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  const int from = static_cast<int>(reinterpret_cast<std::intptr_t>(osHandle));
  SharedObject object;
  if (!find_object(from, object) || object.token == 0) return CUDA_ERROR_INVALID_VALUE;
  int ordinal = -1;
  for (std::size_t i = 0; i < driver().devices.size(); ++i) {
    if (driver().devices[i].unit == object.unit) ordinal = static_cast<int>(i);
  }
  if (ordinal < 0) return CUDA_ERROR_INVALID_DEVICE;
  const int fd = open_anew(from);
  if (fd < 0 || !hold_object(object.id)) {
    if (fd >= 0) ::close(fd);
    return CUDA_ERROR_INVALID_VALUE;
  }
  auto* a = new (std::nothrow) Allocation;
  a->unit = object.unit;
  a->ordinal = ordinal;
  a->bytes = object.bytes;
  a->fd = fd;
  a->object = object.id;
  a->prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  a->prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_NONE;  // only its maker exports it
  a->prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, ordinal};
  adopt(a);
  *handle = a->handle;
  return CUDA_SUCCESS;
}

}  // namespace bulkhead::sim
