// cuMemAlloc and cuMemFree: whole allocations, and small ones in slabs.
#include "hook/memory_plain.h"

#include <sched.h>

#include "hook/transfer.h"

namespace bulkhead::hook {

namespace {

constexpr int kScanTries = 1 << 16;  // a scan takes microseconds, and each try lets its holder run
constexpr int kDoubtTries = 16;      // scans while other threads are in the middle of a call
constexpr std::uint64_t kOneCall = std::uint64_t{1} << 32;

// The holes of the context's slabs; none if the scratch could not be had.
Holes scan(std::uint8_t tag) noexcept {
  for (int i = 0; i < kScanTries; ++i) {
    std::uint32_t idle = 0;
    // acquire and release pair with each other: the scratch is one thread's at a time
    if (books.scanning.compare_exchange_weak(idle, 1, std::memory_order_acquire,
                                             std::memory_order_relaxed)) {
      const Holes holes = find_holes(books.map, books.slabs, tag, books.scratch);
      books.scanning.store(0, std::memory_order_release);
      return holes;
    }
    ::sched_yield();  // its holder may be waiting for this very processor
  }
  count(Count::kFault);
  return {0, false};
}

}  // namespace

void donate(Device& d, ContextRecord& r) noexcept {
  r.donated.fetch_add(1, std::memory_order_seq_cst);  // pairs with hole_done(): one of us sees it
  if (r.unpaid.load(std::memory_order_seq_cst) != 0) return;
  const std::uint32_t left = r.donated.exchange(0, std::memory_order_seq_cst);
  if (left != 0) give_back(d, left * kSlabBytes);
}

// True: a hole is there, and the caller calls, books and ends with hole_done().
bool small_hole(Device& d, std::uint8_t tag, std::uint32_t units) noexcept {
  if (tag == ContextTable::kUntagged) return false;
  ContextRecord& r = books.contexts.record(tag);
  // relaxed, both: a stale pair only costs a scan, or a refusal that a free or a new slab in the same moment would have spared
  const std::uint64_t epoch = r.epoch.load(std::memory_order_relaxed) & 0x7'FFFF'FFFF'FFFF;
  const std::uint64_t seen = r.no_hole.load(std::memory_order_relaxed);
  if (seen != 0 && seen >> 13 == epoch + 1 && units > (seen & 0x1FFF)) return false;
  // seq_cst: announced before the search; pairs with slab_back()
  const std::uint64_t all = r.unpaid.fetch_add(kOneCall + units, std::memory_order_seq_cst) + units;
  Holes holes = scan(tag);
  for (int i = 1; i < kDoubtTries && !holes.sure && (all & (kOneCall - 1)) > holes.largest; ++i) {
    ::sched_yield();  // who is in a call may be waiting for this very processor
    holes = scan(tag);
  }
  // relaxed: as above
  if (holes.sure) r.no_hole.store((epoch + 1) << 13 | holes.largest, std::memory_order_relaxed);
  if ((all & (kOneCall - 1)) <= holes.largest) return true;
  hole_done(d, tag, units);
  return false;
}

void hole_done(Device& d, std::uint8_t tag, std::uint32_t units) noexcept {
  ContextRecord& r = books.contexts.record(tag);
  // seq_cst, both: pairs with donate()
  if (r.unpaid.fetch_sub(kOneCall + units, std::memory_order_seq_cst) != kOneCall + units) return;
  const std::uint32_t left = r.donated.exchange(0, std::memory_order_seq_cst);
  if (left != 0) give_back(d, left * kSlabBytes);
}

void unbook_small(Device& d, std::uint8_t tag, CUdeviceptr p, bool opened, bool paid) noexcept {
  const bool freed = next.cuMemFree_v2(p) == CUDA_SUCCESS;
  const int owed = books.slabs.leave(p) && freed ? 0 : 1;  // the slab's own payment
  for (int has = (paid ? 1 : 0) + (opened ? 0 : 1); has > owed; --has) slab_back(d, tag);
  if (paid || !opened || owed == 0) return;
  charge_other(d, static_cast<std::int64_t>(kSlabBytes));  // as in pay_late()
  count(Count::kFault);
}

bool pay_late(Device& d, std::uint8_t tag, CUdeviceptr p) noexcept {
  ContextRecord& r = books.contexts.record(tag);
  std::uint32_t left = r.donated.load(std::memory_order_seq_cst);  // pairs with donate()
  while (left != 0) {
    if (r.donated.compare_exchange_weak(left, left - 1, std::memory_order_seq_cst)) return true;
  }
  if (charge(d, kSlabBytes)) return true;
  Value v;
  static_cast<void>(books.map.remove(pointer_key(p), v));
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
    places_changed();  // a pool's, or an external buffer's: of a size that is not known
    const CUresult r = call();
    if (r == CUDA_SUCCESS && books.pools.any()) pools_reconcile();  // it may have been a pool's
    return r;
  }
  places_changed(p, bytes_of(v.units));  // before: the addresses may be another device's at once
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
