// cuMemAlloc and cuMemFree: whole allocations, and small ones in slabs.
#include "hook/memory_plain.h"

namespace bulkhead::hook {

// Whether a request surely fits into a slab of the context that is paid for. Cold: only when the quota is full.
bool small_hole(std::uint8_t tag, std::uint32_t units) noexcept {
  if (tag == ContextTable::kUntagged) return false;
  ContextRecord& r = books.contexts.record(tag);
  // relaxed, both: a stale pair only costs a scan, or a refusal that a free in the same moment would have spared
  const std::uint64_t epoch = r.epoch.load(std::memory_order_relaxed) & 0x7'FFFF'FFFF'FFFF;
  const std::uint64_t seen = r.no_hole.load(std::memory_order_relaxed);
  if (seen != 0 && seen >> 13 == epoch + 1 && units > (seen & 0x1FFF)) return false;
  for (int i = 0; i < 1 << 20; ++i) {
    std::uint32_t idle = 0;
    // acquire and release pair with each other: the scratch is one thread's at a time
    if (books.scanning.compare_exchange_weak(idle, 1, std::memory_order_acquire,
                                             std::memory_order_relaxed)) {
      const std::uint32_t largest = largest_hole(books.map, tag, books.scratch);
      books.scanning.store(0, std::memory_order_release);
      r.no_hole.store(epoch + 1 << 13 | largest, std::memory_order_relaxed);  // as above
      return units <= largest;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  count(Count::kFault);
  return false;
}

// A small allocation whose slab was not paid for beforehand opened one after all: pay now, or undo.
bool pay_late(Device& d, CUdeviceptr p) noexcept {
  if (charge(d, kSlabBytes)) return true;
  const CUresult freed = next.cuMemFree_v2(p);
  if (books.slabs.leave(p) && freed == CUDA_SUCCESS) return false;
  // Another thread's allocation keeps the slab open (or the driver kept ours): it has to be booked.
  charge_other(d, static_cast<std::int64_t>(kSlabBytes));
  count(Count::kFault);
  return false;
}

namespace {

template <class Free>
CUresult plain_free(CUdeviceptr p, Free call) noexcept {
  if (!books_ready() || p == 0) return call();
  const std::uint64_t key = pointer_key(p);
  Value v;
  if (!books.map.remove(key, v)) {
    const CUresult r = call();
    if (r == CUDA_SUCCESS && books.pools.any()) pools_reconcile();  // it may have been a pool's
    return r;
  }
  const CUresult r = call();
  if (r != CUDA_SUCCESS) [[unlikely]] {
    restore(key, v);
    return r;
  }
  release_pointer(key, v);
  return r;
}

}  // namespace

CUresult cuMemAlloc_v2(CUdeviceptr* dptr, size_t bytesize) noexcept {
  return plain_alloc(dptr, bytesize,
                     [=](CUdeviceptr* p) { return next.cuMemAlloc_v2(p, bytesize); });
}

CUresult cuMemAlloc(CUdeviceptr_v1* dptr, unsigned int bytesize) noexcept {
  return plain_alloc(dptr, bytesize,
                     [=](CUdeviceptr_v1* p) { return next.cuMemAlloc(p, bytesize); });
}

CUresult cuMemFree_v2(CUdeviceptr dptr) noexcept {
  return plain_free(dptr, [=] { return next.cuMemFree_v2(dptr); });
}
CUresult cuMemFree(CUdeviceptr_v1 dptr) noexcept {
  return plain_free(dptr, [=] { return next.cuMemFree(dptr); });
}

}  // namespace bulkhead::hook
