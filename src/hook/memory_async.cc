// Stream-ordered memory and pools.
#include "hook/books.h"
#include "hook/next.h"
#include "hook/plain_deferred.h"

namespace bulkhead::hook {
namespace {

bool capturing(CUstream stream, bool per_thread) noexcept {
  if (per_thread && stream == nullptr) stream = reinterpret_cast<CUstream>(kStreamPerThread);
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  return next.cuStreamIsCapturing(stream, &status) == CUDA_SUCCESS &&
         status != CU_STREAM_CAPTURE_STATUS_NONE;
}

// One stream-ordered allocation, as its entry point sees it.
struct Request {
  std::uint64_t bytes;
  CUstream stream;
  bool per_thread;
};

void forget_pointer(CUdeviceptr p, const Request& q) noexcept {
  static_cast<void>(q.per_thread ? next.cuMemFreeAsync_ptsz(p, q.stream)
                                 : next.cuMemFreeAsync(p, q.stream));
}

// The pool grew past what could be paid: undo, and book what the driver keeps all the same.
[[gnu::cold, gnu::noinline]] CUresult undo(Pool& p, Device& d, CUdeviceptr ptr,
                                           const Request& q) noexcept {
  p.too_large.store(q.bytes, std::memory_order_relaxed);  // hints, both
  p.at_frees.store(books.frees.load(std::memory_order_relaxed), std::memory_order_relaxed);
  forget_pointer(ptr, q);
  next.cuMemPoolTrimTo(reinterpret_cast<CUmemoryPool>(p.handle.load(std::memory_order_relaxed)), 0);
  books.freed.store(true, std::memory_order_relaxed);  // a hint
  pool_settle_forced(p, d, 0);
  return CUDA_ERROR_OUT_OF_MEMORY;
}

// Whether a request may find a place in the free bytes inside: not if one of this size or below made the pool
// grow and nothing was freed since.
bool may_fit(const Pool& p, std::uint64_t bytes) noexcept {
  const std::uint64_t too_large = p.too_large.load(std::memory_order_relaxed);  // hints, all three
  return too_large == 0 || bytes < too_large ||
         p.at_frees.load(std::memory_order_relaxed) != books.frees.load(std::memory_order_relaxed);
}

// What is surely free in one piece after a call that grew the pool, or that found it empty.
void learn_hole(Pool& p, std::uint64_t before, std::uint64_t bytes) noexcept {
  const std::uint64_t now = pool_charged(p);
  std::int64_t hole = 0;
  if (now > before && now - before > bytes) {
    hole = static_cast<std::int64_t>(now - before - bytes);
  } else if (p.glance.load(std::memory_order_relaxed) == 0) {  // a pacing counter
    std::uint64_t used = 0;
    if (pool_used(p, used) && used <= bytes && now > bytes) {
      hole = static_cast<std::int64_t>(now - bytes);
    } else {
      // relaxed: a pacing counter
      p.glance.store(16, std::memory_order_relaxed);
    }
  } else {
    // relaxed: a pacing counter
    p.glance.fetch_sub(1, std::memory_order_relaxed);
  }
  // relaxed: a hint
  if (hole > p.hole.load(std::memory_order_relaxed)) {
    p.hole.store(hole, std::memory_order_relaxed);  // a hint; settle() judges
  }
}

// Pays for growth first. False: refused, nothing done.
template <class Call>
bool grown_call(Pool& p, Device& d, std::uint64_t growth, const Request& q, CUdeviceptr* dptr,
                Call call, CUresult& result) noexcept {
  const std::uint64_t before = pool_charged(p);
  if (!pool_begin(p, d, growth)) return false;
  CUdeviceptr ptr = 0;
  result = call(&ptr);
  if (!pool_settle(p, d, growth)) {
    result = result == CUDA_SUCCESS ? undo(p, d, ptr, q) : result;
    return true;
  }
  if (result != CUDA_SUCCESS) return true;
  p.tight.store(false, std::memory_order_relaxed);  // a hint
  learn_hole(p, before, q.bytes);
  *dptr = ptr;
  return true;
}

// Not surely inside the pool.
template <class Call>
[[gnu::noinline]] CUresult slow_alloc(Pool& p, Device& d, const Request& q, CUdeviceptr* dptr,
                                      Call call) noexcept {
  if (capturing(q.stream, q.per_thread)) return call(dptr);  // becomes a node: nothing is taken now
  const std::uint64_t unit = books.grain[p.device].pool;
  CUresult r = CUDA_SUCCESS;
  if (!p.tight.load(std::memory_order_relaxed)) {  // a hint
    if (grown_call(p, d, round_up(q.bytes, unit), q, dptr, call, r)) return r;
    p.tight.store(true, std::memory_order_relaxed);
  }
  // The quota is full: what is free inside the pool comes first.
  static_cast<void>(pool_settle(p, d, 0));
  std::uint64_t reserved = 0;
  std::uint64_t used = 0;
  static_cast<void>(pool_reserved(p, reserved) && pool_used(p, used));
  const std::uint64_t room = reserved > used ? reserved - used : 0;
  if (q.bytes > room) {
    if (!grown_call(p, d, round_up(q.bytes - room, unit), q, dptr, call, r)) {
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return r;
  }
  if (!may_fit(p, q.bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUdeviceptr ptr = 0;
  r = call(&ptr);
  if (r != CUDA_SUCCESS) return r;
  if (!pool_settle(p, d, 0)) return undo(p, d, ptr, q);
  *dptr = ptr;
  return r;
}

// Whether the hole takes it; then it is the caller's.
bool hole_take(Pool& p, std::uint64_t bytes) noexcept {
  std::int64_t hole = p.hole.load(std::memory_order_relaxed);  // a hint
  return hole >= static_cast<std::int64_t>(bytes) &&
         p.hole.compare_exchange_strong(hole, hole - static_cast<std::int64_t>(bytes),
                                        std::memory_order_relaxed);  // a hint
}

template <class Call>
[[gnu::noinline]] CUresult pool_alloc_slow(Pool& p, Device& d, const Request& q, CUdeviceptr* dptr,
                                           Call call) noexcept {
  const CUresult r = slow_alloc(p, d, q, dptr, call);
  if (r != CUDA_SUCCESS) return r;
  if (reuse_tracked(q.stream, q.per_thread)) books.given.put(*dptr, q.bytes >> kUnitShift, p);
  count(Count::kAlloc);
  return r;
}

template <class Call>
inline CUresult pool_alloc(Pool& p, const Request& q, CUdeviceptr* dptr, Call call) noexcept {
  if (p.kind != static_cast<std::uint8_t>(PoolKind::kDevice)) return call(dptr);
  Device& d = hot_numbered(p.device);
  const std::uint64_t bytes = round_up(q.bytes, kSmallUnit);
  const bool tracked = reuse_tracked(q.stream, q.per_thread);
  if (tracked && reuse_take(p, {p, bytes >> kUnitShift, q.stream})) [[likely]] {
    // relaxed: a hint; the driver may have cut this one out of the hole
    if (p.hole.load(std::memory_order_relaxed) != 0) p.hole.store(0, std::memory_order_relaxed);
  } else {
    reuse_forget(p);  // this one may be cut out of what was freed
    if (!hole_take(p, bytes)) {
      return pool_alloc_slow(p, d, Request{bytes, q.stream, q.per_thread}, dptr, call);
    }
  }
  CUdeviceptr ptr = 0;
  const CUresult r = call(&ptr);
  if (r != CUDA_SUCCESS) [[unlikely]]
    return r;
  const std::uint64_t grain = books.grain[p.device].pool;
  if (!pool_known(p, ptr, bytes, grain) && !pool_look(p, ptr, bytes, grain)) [[unlikely]] {
    if (!pool_settle(p, d, 0)) return undo(p, d, ptr, q);
  }
  if (tracked) books.given.put(ptr, bytes >> kUnitShift, p);
  hot_count(Count::kAlloc);
  *dptr = ptr;
  return r;
}

[[gnu::cold, gnu::noinline]] Pool* current_pool(Device& d) noexcept {
  CUmemoryPool handle = nullptr;
  if (next.cuDeviceGetMemPool(&handle, d.ordinal) != CUDA_SUCCESS) return nullptr;
  Pool* const p = books.pools.make(handle, static_cast<std::uint8_t>(d.number), PoolKind::kDevice);
  // release pairs with the acquire in async_alloc(); a cache: the table is the truth
  books.pools.current(static_cast<std::uint8_t>(d.number)).store(p, std::memory_order_release);
  return p;
}

// A pool that must be charged and cannot be booked.
CUresult no_record() noexcept {
  count(Count::kFault);
  return CUDA_ERROR_OUT_OF_MEMORY;
}

template <class Call>
CUresult async_alloc(const Request& q, CUdeviceptr* dptr, Call call) noexcept {
  const Here at = hot_here(q.stream);
  if (at.device == nullptr || !usable() || dptr == nullptr || q.bytes == 0) [[unlikely]] {
    return unplaced([&] { return call(dptr); });
  }
  // acquire pairs with current_pool()
  Pool* p = books.pools.current(static_cast<std::uint8_t>(at.device->number))
                .load(std::memory_order_acquire);
  if (p == nullptr) [[unlikely]]
    p = current_pool(*at.device);
  if (p == nullptr) [[unlikely]]
    return no_record();
  return pool_alloc(*p, q, dptr, call);
}

template <class Call>
CUresult from_pool(CUmemoryPool pool, const Request& q, CUdeviceptr* dptr, Call call) noexcept {
  if (dptr == nullptr || q.bytes == 0 || mode() != Mode::kOn || !usable()) {
    return unplaced([&] { return call(dptr); });
  }
  Pool* p = books.pools.find(pool);
  if (p ==
      nullptr) {  // a default pool seen for the first time: it is the stream's device's, or named by nobody
    const Here at = here(q.stream);
    if (at.device == nullptr) return unplaced([&] { return call(dptr); });
    p = books.pools.make(pool, static_cast<std::uint8_t>(at.device->number), PoolKind::kDevice);
  }
  if (p == nullptr) return no_record();
  return pool_alloc(*p, q, dptr, call);
}

template <class Free>
inline CUresult async_free(CUdeviceptr p, CUstream stream, bool per_thread, Free call) noexcept {
  if (!books_ready()) return call();
  const AllocMap::Cursor c = books.map.find(pointer_key(p));
  if (c) [[unlikely]]
    return free_plain_async(p, c, call);
  // relaxed: a hint
  if (!books.freed.load(std::memory_order_relaxed)) {
    books.freed.store(true, std::memory_order_relaxed);  // a hint for memory_trim()
  }
  // No read-modify-write: a lost step only lets a hint stand longer.
  books.frees.store(books.frees.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  const CUresult r = call();
  if (r != CUDA_SUCCESS) [[unlikely]]
    return r;
  Pool* pool = nullptr;
  const std::uint64_t units = books.given.take(p, pool);
  if (units != 0 && pool != nullptr && reuse_tracked(stream, per_thread)) {
    reuse_add(*pool, {*pool, units, stream});
  }
  hot_count(Count::kFree);
  return r;
}

}  // namespace

CUresult cuMemAllocAsync(CUdeviceptr* dptr, size_t bytesize, CUstream hStream) noexcept {
  return async_alloc({bytesize, hStream, false}, dptr,
                     [=](CUdeviceptr* p) { return next.cuMemAllocAsync(p, bytesize, hStream); });
}
CUresult cuMemAllocAsync_ptsz(CUdeviceptr* dptr, size_t bytesize, CUstream hStream) noexcept {
  return async_alloc({bytesize, hStream, true}, dptr, [=](CUdeviceptr* p) {
    return next.cuMemAllocAsync_ptsz(p, bytesize, hStream);
  });
}
CUresult cuMemAllocFromPoolAsync(CUdeviceptr* dptr, size_t bytesize, CUmemoryPool pool,
                                 CUstream hStream) noexcept {
  return from_pool(pool, {bytesize, hStream, false}, dptr, [=](CUdeviceptr* p) {
    return next.cuMemAllocFromPoolAsync(p, bytesize, pool, hStream);
  });
}
CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr* dptr, size_t bytesize, CUmemoryPool pool,
                                      CUstream hStream) noexcept {
  return from_pool(pool, {bytesize, hStream, true}, dptr, [=](CUdeviceptr* p) {
    return next.cuMemAllocFromPoolAsync_ptsz(p, bytesize, pool, hStream);
  });
}
CUresult cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream) noexcept {
  return async_free(dptr, hStream, false, [=] { return next.cuMemFreeAsync(dptr, hStream); });
}
CUresult cuMemFreeAsync_ptsz(CUdeviceptr dptr, CUstream hStream) noexcept {
  return async_free(dptr, hStream, true, [=] { return next.cuMemFreeAsync_ptsz(dptr, hStream); });
}

}  // namespace bulkhead::hook
