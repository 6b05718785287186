// Pools that other processes may import: the pool's whole address space is one memfd.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>

#include "sim/api.h"
#include "sim/family.h"
#include "sim/pool.h"
#include "sim/vmm.h"

namespace bulkhead::sim {
namespace {

struct Token {  // inside the 64 opaque bytes
  std::uint64_t magic, object, offset, bytes;
};
static_assert(sizeof(Token) <= sizeof(CUmemPoolPtrExportData));
constexpr std::uint64_t kToken = 0x4c'4f4f'504d'5342;  // "BSMPOOL"

}  // namespace

bool make_exportable(Pool& p) noexcept {
  p.fd = make_memfd(p.space.span_bytes());
  if (p.fd < 0) return false;
  const std::uint64_t id = create_object(p.space.unit(), 0, false, false, 0);
  if (id == 0) {
    ::close(p.fd);
    p.fd = -1;
    return false;
  }
  bind_object(id, p.fd);
  p.space.share(p.fd, id);
  return true;
}

CUresult api::cuMemPoolExportToShareableHandle(void* handle_out, CUmemoryPool pool,
                                               CUmemAllocationHandleType handleType,
                                               unsigned long long flags) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Pool* p = to_pool(pool);
  if (p == nullptr || handle_out == nullptr || flags != 0 || p->fd < 0 || p->imported ||
      handleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const int fd = ::fcntl(p->fd, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  *static_cast<int*>(handle_out) = fd;
  return CUDA_SUCCESS;
}

CUresult api::cuMemPoolImportFromShareableHandle(CUmemoryPool* pool_out, void* handle,
                                                 CUmemAllocationHandleType handleType,
                                                 unsigned long long flags) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (pool_out == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (handleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_NOT_SUPPORTED;
  const int from = static_cast<int>(reinterpret_cast<std::intptr_t>(handle));
  SharedObject object;
  if (!find_object(from, object) || object.token != 0) return CUDA_ERROR_INVALID_VALUE;
  int ordinal = -1;
  for (std::size_t i = 0; i < driver().devices.size(); ++i) {
    if (driver().devices[i].unit == object.unit) ordinal = static_cast<int>(i);
  }
  if (ordinal < 0) return CUDA_ERROR_INVALID_DEVICE;
  auto* p = new (std::nothrow) Pool(object.unit, ordinal);
  if (p == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  p->import_base = map_pages(p->space.span_bytes(), from);
  if (p->import_base == 0 || !hold_object(object.id)) {
    if (p->import_base != 0) unmap_pages(p->import_base, p->space.span_bytes());
    delete p;
    return CUDA_ERROR_INVALID_VALUE;
  }
  p->imported = true;
  p->import_object = object.id;
  register_pool(p);
  *pool_out = reinterpret_cast<CUmemoryPool>(p);
  return CUDA_SUCCESS;
}

CUresult api::cuMemPoolExportPointer(CUmemPoolPtrExportData* shareData_out,
                                     CUdeviceptr ptr) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Range* r = find_range(ptr);
  const bool ours = r != nullptr && r->kind == Kind::kPool && r->pool->space.object() != 0;
  if (shareData_out == nullptr || !ours) return CUDA_ERROR_INVALID_VALUE;
  const BlockSpace& space = r->pool->space;
  const Token t{kToken, space.object(), r->base - space.base(), r->bytes};
  std::memset(shareData_out, 0, sizeof *shareData_out);
  std::memcpy(shareData_out, &t, sizeof t);
  return CUDA_SUCCESS;
}

CUresult api::cuMemPoolImportPointer(CUdeviceptr* ptr_out, CUmemoryPool pool,
                                     CUmemPoolPtrExportData* shareData) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Pool* p = to_pool(pool);
  if (ptr_out == nullptr || p == nullptr || shareData == nullptr || !p->imported) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  Token t;
  std::memcpy(&t, shareData, sizeof t);
  const std::size_t span = p->space.span_bytes();
  if (t.magic != kToken || t.object != p->import_object || t.offset > span ||
      t.bytes > span - t.offset) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  Range r;
  r.kind = Kind::kPool;
  r.base = p->import_base + t.offset;
  r.bytes = t.bytes;
  r.context = current_context();
  r.ordinal = p->ordinal;
  r.pool = p;
  ++p->live;
  add_range(r);
  *ptr_out = r.base;
  return CUDA_SUCCESS;
}

}  // namespace bulkhead::sim
