// Memory that others made, or that others may open. Charged once, to its maker; see charge.md, Sharing. What is
// not here is forwarded untouched: nothing of ours changes when a handle is exported or an IPC pointer opened.
#include "hook/books.h"
#include "hook/next.h"

namespace bulkhead::hook {

CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* osHandle,
                                        CUmemAllocationHandleType shHandleType) noexcept {
  const CUresult r = next.cuMemImportFromShareableHandle(handle, osHandle, shHandleType);
  // The driver may answer with the handle that this process has for it already.
  if (r == CUDA_SUCCESS && handle != nullptr && books_ready()) vmm_imported(*handle);
  return r;
}

CUresult cuImportExternalMemory(CUexternalMemory* extMem_out,
                                const CUDA_EXTERNAL_MEMORY_HANDLE_DESC* memHandleDesc) noexcept {
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

}  // namespace bulkhead::hook
