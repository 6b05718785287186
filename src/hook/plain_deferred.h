// A plain pointer given to cuMemFreeAsync: the driver returns its memory when the stream gets there, at the latest when
// the context was synchronised. Until then it stays charged, under a key of its own (the address may be handed
// out again). Cold.
#pragma once
#include "hook/books.h"
#include "hook/next.h"

namespace bulkhead::hook {

template <class Free>
[[gnu::cold, gnu::noinline]] CUresult free_plain_async(CUdeviceptr p, const AllocMap::Cursor& c,
                                                       Free call) noexcept {
  const std::uint64_t key = pointer_key(p);
  const Value v = AllocMap::value_of(c);
  if (!books.map.take(key, c)) return call();  // another thread freed it first; the driver judges
  const CUresult r = call();
  if (r != CUDA_SUCCESS) {
    restore(key, v);
    return r;
  }
  if (!keep(map_key(p, Space::kDeferred), v)) {
    release_pointer(key, v);
    return r;
  }
  books.deferred.store(true, std::memory_order_release);  // pairs with release_deferred()
  return r;
}

// After the context was synchronised.
[[gnu::cold]] void release_deferred() noexcept;

}  // namespace bulkhead::hook
