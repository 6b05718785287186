// Making, choosing, trimming and destroying pools; and the synchronising calls, after which the driver may have
// returned reserved memory.
#include "hook/books.h"
#include "hook/gate.h"
#include "hook/next.h"
#include "hook/plain_deferred.h"
#include "hook/shares.h"
#include "hook/transfer.h"

namespace bulkhead::hook {

void release_deferred() noexcept {
  if (!books.deferred.exchange(false, std::memory_order_acq_rel)) return;  // pairs with the store
  books.map.for_each([](std::uint64_t key, const AllocMap::Cursor& c) {
    if (key >> 61 != static_cast<std::uint64_t>(Space::kDeferred)) return;
    const Value v = AllocMap::value_of(c);
    if (books.map.take(key, c)) {
      release_pointer(pointer_key(key & ((std::uint64_t{1} << 61) - 1)), v);
    }
  });
}

namespace {

inline CUresult synced(CUresult r) noexcept {
  if (r == CUDA_SUCCESS && books_ready() && books.pools.any()) pools_reconcile();
  return r;
}
inline CUresult all_synced(CUresult r) noexcept {
  if (r == CUDA_SUCCESS && books_ready()) {
    if (books.deferred.load(std::memory_order_relaxed))
      release_deferred();  // looked at again there
    if (books.pools.any()) pools_reconcile();
  }
  return r;
}

// Whether a location is a device of ours, and which.
Device* device_at(const CUmemLocation& where) noexcept {
  return where.type == CU_MEM_LOCATION_TYPE_DEVICE ? device(where.id) : nullptr;
}

void choose(Device* d, CUmemoryPool pool) noexcept {
  if (d == nullptr || !books_ready()) return;
  const auto number = static_cast<std::uint8_t>(d->number);
  Pool* const p = books.pools.make(pool, number, PoolKind::kDevice);
  books.pools.current(number).store(p, std::memory_order_release);  // pairs with async_alloc()
}

}  // namespace

CUresult cuCtxSynchronize() noexcept {
  const GateWait wait;
  return all_synced(wait.done(next.cuCtxSynchronize()));
}
CUresult cuCtxSynchronize_v2(CUcontext ctx) noexcept {
  const GateWait wait;
  return all_synced(wait.done(next.cuCtxSynchronize_v2(ctx)));
}
CUresult cuStreamSynchronize(CUstream hStream) noexcept {
  const GateWait wait{hStream};
  return synced(wait.done(next.cuStreamSynchronize(hStream)));
}
CUresult cuStreamSynchronize_ptsz(CUstream hStream) noexcept {
  const GateWait wait{hStream};
  return synced(wait.done(next.cuStreamSynchronize_ptsz(hStream)));
}
CUresult cuEventSynchronize(CUevent hEvent) noexcept {
  return synced(next.cuEventSynchronize(hEvent));
}

CUresult cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps* poolProps) noexcept {
  const CUresult r = next.cuMemPoolCreate(pool, poolProps);
  if (r != CUDA_SUCCESS || pool == nullptr || poolProps == nullptr || !books_ready()) return r;
  Device* const d = device_at(poolProps->location);
  const bool host = poolProps->location.type != CU_MEM_LOCATION_TYPE_DEVICE;
  if (d == nullptr && !host) return r;
  const std::uint8_t number = d != nullptr ? static_cast<std::uint8_t>(d->number) : 0;
  if (books.pools.make(*pool, number, host ? PoolKind::kFree : PoolKind::kDevice) == nullptr) {
    count(Count::kFault);
    next.cuMemPoolDestroy(*pool);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  return r;
}

CUresult cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool) noexcept {
  const CUresult r = next.cuDeviceSetMemPool(dev, pool);
  if (r == CUDA_SUCCESS) choose(device(dev), pool);
  return r;
}

CUresult cuMemSetMemPool(CUmemLocation* location, CUmemAllocationType type,
                         CUmemoryPool pool) noexcept {
  const CUresult r = next.cuMemSetMemPool(location, type, pool);
  if (r == CUDA_SUCCESS && location != nullptr && type == CU_MEM_ALLOCATION_TYPE_PINNED) {
    choose(device_at(*location), pool);
  }
  return r;
}

CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep) noexcept {
  const CUresult r = next.cuMemPoolTrimTo(pool, minBytesToKeep);
  if (r == CUDA_SUCCESS && books_ready()) {
    Pool* const p = books.pools.find(pool);
    if (p != nullptr && p->kind == static_cast<std::uint8_t>(PoolKind::kDevice)) {
      pool_shrink(*p, numbered(p->device));
    }
  }
  return r;
}

// While pointers of the pool live, its memory does too and cannot be asked for any more: the record keeps its charge
// until the device's last context is gone.
CUresult cuMemPoolDestroy(CUmemoryPool pool) noexcept {
  Pool* const p = books_ready() ? books.pools.find(pool) : nullptr;
  std::uint64_t used = 0;
  const bool idle = p != nullptr && pool_used(*p, used) && used == 0;
  places_changed();  // before: its addresses may be another device's at once
  const CUresult r = next.cuMemPoolDestroy(pool);
  if (r != CUDA_SUCCESS || p == nullptr) return r;
  // what others have of it is charged anew: the pool's own charge goes with its reserved bytes
  static_cast<void>(share_freed(handle_key(pool, Space::kOpened), 0, true));
  if (idle || p->kind != static_cast<std::uint8_t>(PoolKind::kDevice)) {
    pool_drop(*p, numbered(p->device));
    books.pools.forget(*p);
  } else {
    books.pools.orphan(*p);
  }
  return r;
}

// Before a refusal: unused reserved memory of pools and graphs goes back to the device.
bool memory_may_trim() noexcept {
  // relaxed: hints
  return books_ready() && (books.graph_memory.load(std::memory_order_relaxed) ||
                           books.freed.load(std::memory_order_relaxed));
}

bool memory_trim(Device& d) noexcept {
  if (!memory_may_trim()) return false;
  const auto number = static_cast<std::uint8_t>(d.number);
  const bool graphs = books.graph_memory.load(std::memory_order_relaxed);  // a hint
  std::uint64_t came = 0;
  bool more = false;
  const auto trim = [&](Pool& p) {
    std::uint64_t reserved = 0;
    std::uint64_t used = 0;
    if (p.device != number || !pool_reserved(p, reserved) || !pool_used(p, used)) return;
    const std::uint64_t before = pool_charged(p);
    if (reserved >= used + books.grain[number].pool) {
      if (p.kind == static_cast<std::uint8_t>(PoolKind::kGraph)) {
        next.cuDeviceGraphMemTrim(d.ordinal);
        books.graph_epoch.fetch_add(1, std::memory_order_relaxed);  // a number that has to differ
      } else {
        next.cuMemPoolTrimTo(
            reinterpret_cast<CUmemoryPool>(p.handle.load(std::memory_order_relaxed)), 0);
      }
      more = true;  // what is still in use by the stream may come later
    }
    if (reserved < before || more) pool_shrink(p, d);
    const std::uint64_t after = pool_charged(p);
    came += before > after ? before - after : 0;
  };
  books.pools.for_each(trim);
  if (graphs) trim(books.pools.graph(number));
  books.freed.store(more, std::memory_order_relaxed);  // a hint
  return came != 0;
}

}  // namespace bulkhead::hook
