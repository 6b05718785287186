// Memory that others made, or that others may open: docs/formats/sharing.md. Charged once; an export of another tenant
// is refused.
#include "hook/books.h"
#include "hook/next.h"
#include "hook/shares.h"
#include "hook/transfer_map.h"

namespace bulkhead::hook {
namespace {

constexpr CUresult kNotPermitted = CUDA_ERROR_NOT_PERMITTED;

std::uint64_t opened_key(CUdeviceptr p) noexcept { return map_key(p, Space::kOpened); }

int descriptor_in(void* os_handle) noexcept {
  return static_cast<int>(reinterpret_cast<std::intptr_t>(os_handle));
}

// One more opening of a pointer: a record of it, or a count in the one it has.
bool book_opened(CUdeviceptr p, const Import& import) noexcept {
  const AllocMap::Cursor c = books.map.find(opened_key(p));
  if (c) {
    Node& n = books.nodes[AllocMap::value_of(c).units];
    n.word.fetch_add(1, std::memory_order_relaxed);  // a count; who closes last takes the entry out
    return true;
  }
  const std::uint32_t index = books.nodes.get();
  if (index == 0) return not_kept();
  Node& n = books.nodes[index];
  n.word.store(1, std::memory_order_relaxed);  // published by the map's insert
  n.b = import.id;
  n.c = import.index;
  if (keep(opened_key(p), {index, 0, Kind::kOpened, books.contexts.tag(here().context)})) {
    return true;
  }
  books.nodes.put(index);
  return false;
}

template <class Call>
CUresult open_ipc(CUdeviceptr* pdptr, const CUipcMemHandle& handle, Call call) noexcept {
  if (pdptr == nullptr || mode() != Mode::kOn || !usable()) return call(pdptr);
  Import import;
  if (!share_open(ShareKind::kIpc, &handle, import)) return kNotPermitted;
  CUdeviceptr p = 0;
  const CUresult r = call(&p);
  if (r != CUDA_SUCCESS) {
    share_closed(import);
    return r;
  }
  if (import && !book_opened(p, import)) {
    next.cuIpcCloseMemHandle(p);
    share_closed(import);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  *pdptr = p;
  return r;
}

}  // namespace

// Its context went, and every opening with it.
void opened_gone(const Value& v) noexcept {
  Node& n = books.nodes[v.units];
  const Import import{n.c, n.b};
  // relaxed: the entry was taken out of the map, the record is ours alone
  for (std::uint64_t left = n.word.load(std::memory_order_relaxed); left > 0; --left) {
    share_closed(import);
  }
  books.nodes.put(v.units);
}

static CUresult ipc_get_mem_handle(CUipcMemHandle* pHandle, CUdeviceptr dptr) noexcept {
  const CUresult r = next.cuIpcGetMemHandle(pHandle, dptr);
  if (r != CUDA_SUCCESS || mode() != Mode::kOn || !usable()) return r;
  CUdeviceptr base = dptr;
  std::size_t size = 0;
  static_cast<void>(next.cuMemGetAddressRange_v2(&base, &size, dptr));  // a handle is of the whole
  const std::uint64_t key = pointer_key(base);
  AllocMap::Cursor c = books.map.find(key);
  Value v;
  if (c) v = AllocMap::value_of(c);
  if (c && v.kind == Kind::kLarge) {
    Value exported = v;
    exported.kind = Kind::kExported;
    if (!books.map.update(c, exported)) c = {};  // freed beside us: a mistake of the program's
  }
  const bool small = c && v.kind == Kind::kSmall;
  const bool known = small || (c && (v.kind == Kind::kLarge || v.kind == Kind::kExported));
  share_exported(ShareKind::kIpc, pHandle, known ? key : 0, known ? &numbered(v.device) : nullptr,
                 small ? kSlabBytes : bytes_of(v.units), small ? base >> kSlabShift : key);
  return r;
}

static CUresult ipc_open_mem_handle_v2(CUdeviceptr* pdptr, CUipcMemHandle handle,
                                       unsigned int Flags) noexcept {
  return open_ipc(pdptr, handle,
                  [&](CUdeviceptr* p) { return next.cuIpcOpenMemHandle_v2(p, handle, Flags); });
}
static CUresult ipc_open_mem_handle(CUdeviceptr* pdptr, CUipcMemHandle handle,
                                    unsigned int Flags) noexcept {
  return open_ipc(pdptr, handle,
                  [&](CUdeviceptr* p) { return next.cuIpcOpenMemHandle(p, handle, Flags); });
}

CUresult cuIpcCloseMemHandle(CUdeviceptr dptr) noexcept {
  places_changed();  // before: the addresses may be another device's at once
  const CUresult r = next.cuIpcCloseMemHandle(dptr);
  if (r != CUDA_SUCCESS || !books_ready()) return r;
  const AllocMap::Cursor c = books.map.find(opened_key(dptr));
  if (!c) return r;
  const std::uint32_t index = AllocMap::value_of(c).units;
  Node& n = books.nodes[index];
  const Import import{n.c, n.b};
  // relaxed: a count; the driver has closed as often
  if (n.word.fetch_sub(1, std::memory_order_relaxed) == 1 && books.map.take(opened_key(dptr), c)) {
    books.nodes.put(index);
  }
  share_closed(import);
  return r;
}

static CUresult mem_export_to_shareable_handle(void* shareableHandle,
                                               CUmemGenericAllocationHandle handle,
                                               CUmemAllocationHandleType handleType,
                                               unsigned long long flags) noexcept {
  const CUresult r = next.cuMemExportToShareableHandle(shareableHandle, handle, handleType, flags);
  if (r == CUDA_SUCCESS && mode() == Mode::kOn && usable()) {
    vmm_exported(handle, handleType, shareableHandle);
  }
  return r;
}

static CUresult mem_import_from_shareable_handle(CUmemGenericAllocationHandle* handle,
                                                 void* osHandle,
                                                 CUmemAllocationHandleType shHandleType) noexcept {
  const auto call = [=] {
    return next.cuMemImportFromShareableHandle(handle, osHandle, shHandleType);
  };
  const bool fd = shHandleType == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  const bool fabric = shHandleType == CU_MEM_HANDLE_TYPE_FABRIC && osHandle != nullptr;
  if (handle == nullptr || (!fd && !fabric) || mode() != Mode::kOn || !usable()) return call();
  Import import;
  if (!(fd ? share_open_fd(ShareKind::kDescriptor, descriptor_in(osHandle), import)
           : share_open(ShareKind::kFabric, osHandle, import))) {
    return kNotPermitted;
  }
  const CUresult r = call();
  if (r != CUDA_SUCCESS) {
    share_closed(import);
    return r;
  }
  if (vmm_imported(*handle, import)) return r;
  next.cuMemRelease(*handle);
  share_closed(import);
  return CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult mem_pool_export_to_shareable_handle(void* handle_out, CUmemoryPool pool,
                                                    CUmemAllocationHandleType handleType,
                                                    unsigned long long flags) noexcept {
  const CUresult r = next.cuMemPoolExportToShareableHandle(handle_out, pool, handleType, flags);
  if (r != CUDA_SUCCESS || mode() != Mode::kOn || !usable()) return r;
  const std::uint64_t key = handle_key(pool, Space::kOpened);
  if (handleType == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) {
    share_exported_fd(ShareKind::kPool, *static_cast<int*>(handle_out), key, nullptr, 0, 0);
  } else if (handleType == CU_MEM_HANDLE_TYPE_FABRIC) {
    share_exported(ShareKind::kPool, handle_out, key, nullptr, 0, 0);
  }
  return r;
}

static CUresult mem_pool_import_from_shareable_handle(CUmemoryPool* pool_out, void* handle,
                                                      CUmemAllocationHandleType handleType,
                                                      unsigned long long flags) noexcept {
  const auto call = [=] {
    return next.cuMemPoolImportFromShareableHandle(pool_out, handle, handleType, flags);
  };
  if (pool_out == nullptr || mode() != Mode::kOn || !usable()) return call();
  const bool fd = handleType == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  Import import;  // of the pool itself nothing is owed: its pointers are
  if ((fd || handle != nullptr) &&
      !(fd ? share_open_fd(ShareKind::kPool, descriptor_in(handle), import)
           : share_open(ShareKind::kPool, handle, import))) {
    return kNotPermitted;
  }
  const CUresult r = call();
  share_closed(import);
  if (r == CUDA_SUCCESS) {
    static_cast<void>(books.pools.make(*pool_out, 0, PoolKind::kFree));  // the owner pays
  }
  return r;
}

static CUresult mem_pool_export_pointer(CUmemPoolPtrExportData* shareData_out,
                                        CUdeviceptr ptr) noexcept {
  const CUresult r = next.cuMemPoolExportPointer(shareData_out, ptr);
  if (r != CUDA_SUCCESS || mode() != Mode::kOn || !usable()) return r;
  CUmemoryPool handle = nullptr;
  CUdeviceptr base = ptr;
  std::size_t size = 0;
  static_cast<void>(next.cuMemGetAddressRange_v2(&base, &size, ptr));
  const CUresult asked =
      next.cuPointerGetAttribute(&handle, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, ptr);
  Pool* const p = asked == CUDA_SUCCESS ? books.pools.find(handle) : nullptr;
  const bool ours = p != nullptr && p->kind == static_cast<std::uint8_t>(PoolKind::kDevice);
  Device* const d = ours ? &numbered(p->device) : nullptr;
  const std::uint64_t grain = ours ? books.grain[p->device].pool : std::uint64_t{1} << kSlabShift;
  // Whole blocks of the pool: what is left of it was two pointers of 96 MiB, exactly
  const std::uint64_t from = round_down(base, grain);
  share_exported(ShareKind::kPoolPointer, shareData_out, handle_key(handle, Space::kOpened), d,
                 round_up(base + size - from, grain), from | 1);
  return r;
}

// Its memory stays until this process ends, whatever it frees (sharing.md): the hold is never given up.
static CUresult mem_pool_import_pointer(CUdeviceptr* ptr_out, CUmemoryPool pool,
                                        CUmemPoolPtrExportData* shareData) noexcept {
  const auto call = [=] { return next.cuMemPoolImportPointer(ptr_out, pool, shareData); };
  if (shareData == nullptr || mode() != Mode::kOn || !usable()) return call();
  Import import;
  if (!share_open(ShareKind::kPoolPointer, shareData, import)) return kNotPermitted;
  const CUresult r = call();
  if (r != CUDA_SUCCESS) share_closed(import);
  return r;
}

static CUresult import_external_memory(
    CUexternalMemory* extMem_out, const CUDA_EXTERNAL_MEMORY_HANDLE_DESC* memHandleDesc) noexcept {
  const auto call = [=](CUexternalMemory* m) {
    return next.cuImportExternalMemory(m, memHandleDesc);
  };
  if (extMem_out == nullptr || memHandleDesc == nullptr) return call(extMem_out);
  const Here at = here();
  if (at.device == nullptr || !usable()) return unplaced([&] { return call(extMem_out); });
  Device& d = *at.device;
  const std::uint64_t bytes = round_up(memHandleDesc->size, books.grain[d.number].alloc);
  if (bytes > kMostBytes || !charge(d, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUexternalMemory made = nullptr;
  const CUresult r = call(&made);
  if (r != CUDA_SUCCESS) {
    give_back(d, bytes);
    return r;
  }
  const Value v{units_of(bytes), static_cast<std::uint8_t>(d.number), Kind::kExternal,
                books.contexts.tag(at.context)};
  if (!keep(handle_key(made, Space::kExternal), v)) {
    next.cuDestroyExternalMemory(made);
    give_back(d, bytes);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  count(Count::kAlloc);
  *extMem_out = made;
  return r;
}

CUresult cuDestroyExternalMemory(CUexternalMemory extMem) noexcept {
  const std::uint64_t key = handle_key(extMem, Space::kExternal);
  Value v;
  if (!books_ready() || !books.map.remove(key, v)) return next.cuDestroyExternalMemory(extMem);
  const CUresult r = next.cuDestroyExternalMemory(extMem);
  if (r != CUDA_SUCCESS) {
    restore(key, v);
    return r;
  }
  give_back(numbered(v.device), bytes_of(v.units));
  count(Count::kFree);
  return r;
}

// Each of these opens a way for bytes to move: granted and recorded first.

namespace {

AuditEvent exported_address(AuditOp op, CUdeviceptr p) noexcept {
  AuditEvent e = map_of(op, p, 0);
  e.source_device = current_device();
  return e;
}
AuditEvent imported_handle(AuditOp op, void* handle, CUmemAllocationHandleType type) noexcept {
  const bool fabric = type == CU_MEM_HANDLE_TYPE_FABRIC;
  return map_of(op, fabric ? first_word(handle) : reinterpret_cast<std::uintptr_t>(handle), 0);
}
AuditEvent external_memory(const CUDA_EXTERNAL_MEMORY_HANDLE_DESC* d) noexcept {
  AuditEvent e = map_of(AuditOp::k_cuImportExternalMemory, 0, d != nullptr ? d->size : 0);
  if (d == nullptr) return e;
  const bool fd = d->type == CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD;
  e.source = fd ? static_cast<std::uint64_t>(d->handle.fd) : first_word(&d->handle);
  e.destination_device = current_device();
  return e;
}

}  // namespace

CUresult cuIpcGetMemHandle(CUipcMemHandle* pHandle, CUdeviceptr dptr) noexcept {
  return map_event([&] { return exported_address(AuditOp::k_cuIpcGetMemHandle, dptr); },
                   [&] { return ipc_get_mem_handle(pHandle, dptr); });
}
CUresult cuIpcOpenMemHandle_v2(CUdeviceptr* pdptr, CUipcMemHandle handle,
                               unsigned int Flags) noexcept {
  return map_event([&] { return map_of(AuditOp::k_cuIpcOpenMemHandle, first_word(&handle), 0); },
                   [&] { return ipc_open_mem_handle_v2(pdptr, handle, Flags); });
}
CUresult cuIpcOpenMemHandle(CUdeviceptr* pdptr, CUipcMemHandle handle,
                            unsigned int Flags) noexcept {
  return map_event([&] { return map_of(AuditOp::k_cuIpcOpenMemHandle, first_word(&handle), 0); },
                   [&] { return ipc_open_mem_handle(pdptr, handle, Flags); });
}
CUresult cuMemExportToShareableHandle(void* shareableHandle, CUmemGenericAllocationHandle handle,
                                      CUmemAllocationHandleType handleType,
                                      unsigned long long flags) noexcept {
  return map_event(
      [&] { return map_of(AuditOp::k_cuMemExportToShareableHandle, handle, 0); },
      [&] { return mem_export_to_shareable_handle(shareableHandle, handle, handleType, flags); });
}
CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* osHandle,
                                        CUmemAllocationHandleType shHandleType) noexcept {
  return map_event(
      [&] {
        return imported_handle(AuditOp::k_cuMemImportFromShareableHandle, osHandle, shHandleType);
      },
      [&] { return mem_import_from_shareable_handle(handle, osHandle, shHandleType); });
}
CUresult cuMemPoolExportToShareableHandle(void* handle_out, CUmemoryPool pool,
                                          CUmemAllocationHandleType handleType,
                                          unsigned long long flags) noexcept {
  return map_event(
      [&] { return map_of_handle(AuditOp::k_cuMemPoolExportToShareableHandle, pool); },
      [&] { return mem_pool_export_to_shareable_handle(handle_out, pool, handleType, flags); });
}
CUresult cuMemPoolImportFromShareableHandle(CUmemoryPool* pool_out, void* handle,
                                            CUmemAllocationHandleType handleType,
                                            unsigned long long flags) noexcept {
  return map_event(
      [&] {
        return imported_handle(AuditOp::k_cuMemPoolImportFromShareableHandle, handle, handleType);
      },
      [&] { return mem_pool_import_from_shareable_handle(pool_out, handle, handleType, flags); });
}
CUresult cuMemPoolExportPointer(CUmemPoolPtrExportData* shareData_out, CUdeviceptr ptr) noexcept {
  return map_event([&] { return exported_address(AuditOp::k_cuMemPoolExportPointer, ptr); },
                   [&] { return mem_pool_export_pointer(shareData_out, ptr); });
}
CUresult cuMemPoolImportPointer(CUdeviceptr* ptr_out, CUmemoryPool pool,
                                CUmemPoolPtrExportData* shareData) noexcept {
  return map_event([&] { return map_of_handle(AuditOp::k_cuMemPoolImportPointer, pool); },
                   [&] { return mem_pool_import_pointer(ptr_out, pool, shareData); });
}
CUresult cuImportExternalMemory(CUexternalMemory* extMem_out,
                                const CUDA_EXTERNAL_MEMORY_HANDLE_DESC* memHandleDesc) noexcept {
  return map_event([&] { return external_memory(memHandleDesc); },
                   [&] { return import_external_memory(extMem_out, memHandleDesc); });
}

}  // namespace bulkhead::hook
