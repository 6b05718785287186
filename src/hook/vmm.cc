// cuMemCreate and what keeps its memory alive: references to the handle and mappings of it.
//
// A record (node) a handle: references << 40 | mappings << 16 | flags. The charge is given back when both are 0, and
// only after the driver call that made them so: until then the driver may hold the memory. A handle imported from another
// process has a record too: then what goes at 0 is the hold on that export (b: its id, c: its index).
#include "hook/books.h"
#include "hook/next.h"
#include "hook/shares.h"
#include "hook/transfer_map.h"

namespace bulkhead::hook {
namespace {

constexpr std::uint64_t kReference = std::uint64_t{1} << 40, kMapped = std::uint64_t{1} << 16;
constexpr std::uint64_t kCounts = ~std::uint64_t{0xFFFF};
constexpr std::uint64_t kWasExported = 1, kIsImported = 2;  // flags

std::uint64_t vmm_key(CUmemGenericAllocationHandle h) noexcept { return map_key(h, Space::kVmm); }

// The record of a handle; 0: not one of ours (imported, on the host, or made before the process was bound).
std::uint32_t record_of(CUmemGenericAllocationHandle h) noexcept {
  const AllocMap::Cursor c = books.map.find(vmm_key(h));
  return c ? AllocMap::value_of(c).units : 0;
}

// Adds to a record that is alive. False: it is not.
bool hold(std::uint32_t index, std::uint64_t what) noexcept {
  std::atomic<std::uint64_t>& word = books.nodes[index].word;
  std::uint64_t w = word.load(std::memory_order_relaxed);  // the CAS validates it
  while ((w & kCounts) != 0) {
    // relaxed: a count; who gives back is decided by the CAS in drop()
    if (word.compare_exchange_weak(w, w + what, std::memory_order_relaxed)) return true;
  }
  return false;
}

// Takes away; with the last thing that kept the memory, its charge and record go too.
void drop(std::uint32_t index, std::uint64_t what) noexcept {
  Node& n = books.nodes[index];
  std::uint64_t w = n.word.load(std::memory_order_relaxed);  // the CAS validates it
  do {
    if ((what == kReference ? w >> 40 : w >> 16 & 0xFF'FFFF) == 0) return;  // more than was held
    // acquire and release: whoever comes last frees after all others
  } while (!n.word.compare_exchange_weak(w, w - what, std::memory_order_acq_rel,
                                         std::memory_order_relaxed));
  if (((w - what) & kCounts) != 0) return;
  const std::uint64_t key = vmm_key(n.a);
  for (int i = 0; i < 64; ++i) {  // repeated only if others move entries of the same key
    const AllocMap::Cursor c = books.map.find(key);
    if (!c || AllocMap::value_of(c).units != index || books.map.take(key, c)) break;
  }
  if ((w & kIsImported) != 0) {
    share_closed(Import{n.c, n.b});
  } else {
    if ((w & kWasExported) == 0 || !share_freed(key, n.b)) {
      give_back(numbered(static_cast<std::uint8_t>(n.c)), n.b);
    }
    count(Count::kFree);
  }
  books.nodes.put(index);
}

}  // namespace

CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t size,
                     const CUmemAllocationProp* prop, unsigned long long flags) noexcept {
  const auto call = [=](CUmemGenericAllocationHandle* h) {
    return next.cuMemCreate(h, size, prop, flags);
  };
  if (handle == nullptr || prop == nullptr || size == 0 ||
      prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE) {
    return call(handle);
  }
  Device* const d = device(prop->location.id);
  if (d == nullptr || !usable()) return unplaced([&] { return call(handle); });
  const std::uint64_t bytes = round_up(size, books.grain[d->number].alloc);
  if (bytes > kMostBytes || !charge(*d, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  const std::uint32_t index = books.nodes.get();
  CUmemGenericAllocationHandle h = 0;
  if (index == 0) {
    count(Count::kFault);
    give_back(*d, bytes);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  const CUresult r = call(&h);
  if (r != CUDA_SUCCESS) {
    books.nodes.put(index);
    give_back(*d, bytes);
    return r;
  }
  Node& n = books.nodes[index];
  n.a = h;
  n.b = bytes;
  n.c = d->number;
  n.word.store(kReference, std::memory_order_relaxed);  // published by the map's insert
  if (!keep(vmm_key(h), {index, static_cast<std::uint8_t>(d->number), Kind::kVmm, 0})) {
    next.cuMemRelease(h);
    books.nodes.put(index);
    give_back(*d, bytes);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  count(Count::kAlloc);
  *handle = h;
  return r;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle) noexcept {
  const std::uint32_t index = books_ready() ? record_of(handle) : 0;
  const CUresult r = next.cuMemRelease(handle);
  if (r == CUDA_SUCCESS && index != 0) drop(index, kReference);
  if (r == CUDA_SUCCESS && index == 0 && books_ready()) multicast_gone(handle);
  return r;
}

CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle, void* addr) noexcept {
  const CUresult r = next.cuMemRetainAllocationHandle(handle, addr);
  if (r != CUDA_SUCCESS || handle == nullptr || !books_ready()) return r;
  const std::uint32_t index = record_of(*handle);
  if (index != 0) static_cast<void>(hold(index, kReference));
  return r;
}

bool vmm_imported(CUmemGenericAllocationHandle h, const Import& import) noexcept {
  // The driver may answer with the handle that this process has for it already: one more reference.
  const std::uint32_t known = record_of(h);
  if (known != 0) {
    share_closed(import);
    return hold(known, kReference);
  }
  if (!import) return true;
  const std::uint32_t index = books.nodes.get();
  if (index == 0) return not_kept();
  Node& n = books.nodes[index];
  n.a = h;
  n.b = import.id;
  n.c = import.index;
  // relaxed: published by the map's insert
  n.word.store(kReference | kIsImported, std::memory_order_relaxed);
  if (keep(vmm_key(h), {index, 0, Kind::kVmm, 0})) return true;
  books.nodes.put(index);
  return false;
}

void vmm_exported(CUmemGenericAllocationHandle h, CUmemAllocationHandleType type,
                  const void* handle) noexcept {
  const std::uint32_t index = record_of(h);
  const std::uint64_t key = vmm_key(h);
  Device* d = nullptr;
  std::uint64_t bytes = 0;
  if (index != 0) {
    Node& n = books.nodes[index];
    // relaxed: read again by the CAS in drop(), which comes after this call in the program's own order
    if ((n.word.fetch_or(kWasExported, std::memory_order_relaxed) & kIsImported) != 0) return;
    d = &numbered(static_cast<std::uint8_t>(n.c));
    bytes = n.b;
  }
  if (type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) {
    share_exported_fd(ShareKind::kDescriptor, *static_cast<const int*>(handle), key, d, bytes, key);
  } else if (type == CU_MEM_HANDLE_TYPE_FABRIC) {
    share_exported(ShareKind::kFabric, handle, key, d, bytes, key);
  }
}

static CUresult mem_map(CUdeviceptr ptr, size_t size, size_t offset,
                        CUmemGenericAllocationHandle handle, unsigned long long flags) noexcept {
  const std::uint32_t index = books_ready() ? record_of(handle) : 0;
  const bool held =
      index != 0 && hold(index, kMapped);  // before: a release beside us may be the last
  const CUresult r = next.cuMemMap(ptr, size, offset, handle, flags);
  if (!held) return r;
  if (r != CUDA_SUCCESS) {
    drop(index, kMapped);
    return r;
  }
  const std::uint32_t mapping = books.nodes.get();
  if (mapping != 0) {
    Node& m = books.nodes[mapping];
    m.a = size;
    m.c = index;
    if (keep(map_key(ptr, Space::kMapping), {mapping, 0, Kind::kMapping, 0})) return r;
    books.nodes.put(mapping);
  } else {
    count(Count::kFault);
  }
  next.cuMemUnmap(ptr, size);
  drop(index, kMapped);
  return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemUnmap(CUdeviceptr ptr, size_t size) noexcept {
  places_changed(ptr, size);  // before: the addresses may be another device's at once
  const CUresult r = next.cuMemUnmap(ptr, size);
  if (r != CUDA_SUCCESS || !books_ready()) return r;
  constexpr std::uint64_t kStep = std::uint64_t{2} << 20;  // no mapping is finer
  const CUdeviceptr end = ptr + size;
  for (CUdeviceptr at = ptr; at >= ptr && at < end;) {
    Value v;
    std::uint64_t step = kStep;
    if (books.map.remove(map_key(at, Space::kMapping), v)) {
      Node& m = books.nodes[v.units];
      step = m.a != 0 ? m.a : kStep;
      const std::uint32_t index = m.c;
      books.nodes.put(v.units);
      drop(index, kMapped);
    }
    at += step;
  }
  return r;
}

// A multicast object keeps what is bound to it. A binding is a node under its own key, chained to nothing:
// (object, offset) names it. Releasing the object without unbinding is found by a scan (rare, cold).
namespace {

std::uint64_t binding_key(CUmemGenericAllocationHandle mc, size_t offset) noexcept {
  return map_key((mc * 0x9E37'79B9'7F4A'7C15ull ^ offset) & ((std::uint64_t{1} << 61) - 1),
                 Space::kMapping);
}

void bound(CUmemGenericAllocationHandle mc, size_t offset, std::uint32_t index) noexcept {
  const std::uint32_t node = books.nodes.get();
  if (node == 0) return count(Count::kFault);  // the memory's charge stays: hold() was done
  Node& n = books.nodes[node];
  n.a = offset;
  n.b = mc;
  n.c = index;
  if (!keep(binding_key(mc, offset), {node, 0, Kind::kMapping, 1})) books.nodes.put(node);
}

}  // namespace

void multicast_gone(CUmemGenericAllocationHandle mc) noexcept {
  if (!books.multicast.load(std::memory_order_relaxed)) return;  // a flag that only rises
  books.map.for_each([&](std::uint64_t key, const AllocMap::Cursor& c) {
    const Value v = AllocMap::value_of(c);
    if (v.kind != Kind::kMapping || v.context != 1 || books.nodes[v.units].b != mc) return;
    if (!books.map.take(key, c)) return;
    const std::uint32_t index = books.nodes[v.units].c;
    books.nodes.put(v.units);
    drop(index, kMapped);
  });
}

static CUresult multicast_bind_mem(CUmemGenericAllocationHandle mcHandle, size_t mcOffset,
                                   CUmemGenericAllocationHandle memHandle, size_t memOffset,
                                   size_t size, unsigned long long flags) noexcept {
  const std::uint32_t index = books_ready() ? record_of(memHandle) : 0;
  const bool held = index != 0 && hold(index, kMapped);
  const CUresult r = next.cuMulticastBindMem(mcHandle, mcOffset, memHandle, memOffset, size, flags);
  if (!held) return r;
  if (r != CUDA_SUCCESS) {
    drop(index, kMapped);
    return r;
  }
  books.multicast.store(true, std::memory_order_relaxed);  // a flag that only rises
  bound(mcHandle, mcOffset, index);
  return r;
}

CUresult cuMulticastUnbind(CUmemGenericAllocationHandle mcHandle, CUdevice dev, size_t mcOffset,
                           size_t size) noexcept {
  const CUresult r = next.cuMulticastUnbind(mcHandle, dev, mcOffset, size);
  Value v;
  if (r != CUDA_SUCCESS || !books_ready() ||
      !books.map.remove(binding_key(mcHandle, mcOffset), v)) {
    return r;
  }
  const std::uint32_t index = books.nodes[v.units].c;
  books.nodes.put(v.units);
  drop(index, kMapped);
  return r;
}

// Both open a way for bytes to move: granted and recorded first.

namespace {

AuditEvent mapped_to(AuditOp op, std::uint64_t source, std::uint64_t destination,
                     std::uint64_t bytes) noexcept {
  AuditEvent e = map_of(op, source, bytes);
  e.destination = destination;
  return e;
}

}  // namespace

CUresult cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags) noexcept {
  return map_event([&] { return mapped_to(AuditOp::k_cuMemMap, handle, ptr, size); },
                   [&] { return mem_map(ptr, size, offset, handle, flags); });
}
CUresult cuMulticastBindMem(CUmemGenericAllocationHandle mcHandle, size_t mcOffset,
                            CUmemGenericAllocationHandle memHandle, size_t memOffset, size_t size,
                            unsigned long long flags) noexcept {
  return map_event(
      [&] { return mapped_to(AuditOp::k_cuMulticastBindMem, memHandle, mcHandle, size); },
      [&] { return multicast_bind_mem(mcHandle, mcOffset, memHandle, memOffset, size, flags); });
}

}  // namespace bulkhead::hook
