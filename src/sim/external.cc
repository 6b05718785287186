// Memory of another interface by file descriptor. A descriptor that another simulated process exported
// is that process's device memory; any other memfd stands for memory that some graphics driver took,
// which is charged to nobody here.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <new>

#include "sim/api.h"
#include "sim/model.h"

namespace bulkhead::sim {
namespace {

struct External {
  int fd = -1;
  std::uint64_t bytes = 0, object = 0;
};
std::unordered_set<External*>& externals() noexcept {
  static auto* set = new std::unordered_set<External*>;
  return *set;
}
External* to_external(CUexternalMemory h) noexcept {
  auto* e = reinterpret_cast<External*>(h);
  return externals().contains(e) ? e : nullptr;
}

}  // namespace

CUresult api::cuImportExternalMemory(CUexternalMemory* extMem_out,
                                     const CUDA_EXTERNAL_MEMORY_HANDLE_DESC* d) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (extMem_out == nullptr || d == nullptr || d->size == 0) return CUDA_ERROR_INVALID_VALUE;
  if (d->type != CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD) return CUDA_ERROR_NOT_SUPPORTED;
  struct stat st {};
  if (::fstat(d->handle.fd, &st) != 0 || static_cast<std::uint64_t>(st.st_size) < d->size) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  auto* e = new (std::nothrow) External;
  if (e == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  SharedObject object;
  if (find_object(d->handle.fd, object) && hold_object(object.id)) e->object = object.id;
  e->fd = d->handle.fd;  // ours from here on
  e->bytes = d->size;
  externals().insert(e);
  *extMem_out = reinterpret_cast<CUexternalMemory>(e);
  return CUDA_SUCCESS;
}

CUresult api::cuExternalMemoryGetMappedBuffer(CUdeviceptr* devPtr, CUexternalMemory extMem,
                                              const CUDA_EXTERNAL_MEMORY_BUFFER_DESC* b) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const External* e = to_external(extMem);
  if (e == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (devPtr == nullptr || b == nullptr || b->size == 0 || b->flags != 0 || b->offset > e->bytes ||
      b->size > e->bytes - b->offset) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const std::size_t whole = round_up(e->bytes, 4096);
  const CUdeviceptr at = map_pages(whole, e->fd);
  if (at == 0) return CUDA_ERROR_MAP_FAILED;
  Range r;
  r.kind = Kind::kExternal;
  r.base = at + b->offset;
  r.bytes = b->size;
  r.context = call.context;
  r.ordinal = call.context->ordinal;
  r.map_base = at;
  r.map_bytes = whole;
  if (e->object != 0 && hold_object(e->object)) r.object = e->object;
  add_range(r);
  *devPtr = r.base;
  return CUDA_SUCCESS;
}

CUresult api::cuDestroyExternalMemory(CUexternalMemory extMem) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  External* e = to_external(extMem);
  if (e == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  externals().erase(e);
  ::close(e->fd);
  if (e->object != 0) drop_object(e->object);
  delete e;
  return CUDA_SUCCESS;
}

}  // namespace bulkhead::sim
