// The way of a plain allocation, shared by cuMemAlloc, pitched and managed memory. docs/formats/charge.md.
#pragma once
#include "hook/books.h"
#include "hook/next.h"

namespace bulkhead::hook {

[[gnu::cold, gnu::noinline]] bool small_hole(std::uint8_t tag, std::uint32_t units) noexcept;
[[gnu::cold, gnu::noinline]] bool pay_late(Device& d, CUdeviceptr p) noexcept;

// At least an allocation unit: paid exactly and alone. `bytes` is already rounded.
template <class Pointer, class Call>
inline CUresult whole_alloc(const Here& at, Pointer* dptr, std::uint64_t bytes, Call call) noexcept {
  Device& d = *at.device;
  if (bytes > kMostBytes || !charge(d, bytes)) [[unlikely]] return CUDA_ERROR_OUT_OF_MEMORY;
  Pointer p{};
  const CUresult r = call(&p);
  if (r != CUDA_SUCCESS) [[unlikely]] {
    give_back(d, bytes);
    return r;
  }
  const Value v{units_of(bytes), static_cast<std::uint8_t>(d.number), Kind::kLarge,
                books.contexts.tag(at.context)};
  if (!keep(pointer_key(p), v)) [[unlikely]] {
    next.cuMemFree_v2(p);
    give_back(d, bytes);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  count(Count::kAlloc);
  *dptr = p;
  return r;
}

// Below it: in a slab. `bytes` is rounded to the small unit.
template <class Pointer, class Call>
inline CUresult small_alloc(const Here& at, Pointer* dptr, std::uint64_t bytes, Call call) noexcept {
  Device& d = *at.device;
  const std::uint8_t tag = books.contexts.tag(at.context);
  const bool paid = charge(d, kSlabBytes);
  if (!paid && !small_hole(tag, units_of(bytes))) [[unlikely]] return CUDA_ERROR_OUT_OF_MEMORY;
  Pointer p{};
  const CUresult r = call(&p);
  if (r != CUDA_SUCCESS) [[unlikely]] {
    if (paid) give_back(d, kSlabBytes);
    return r;
  }
  const SlabBook::Joined joined =
      books.slabs.join(p, tag, static_cast<std::uint8_t>(d.number));
  Value v{units_of(bytes), static_cast<std::uint8_t>(d.number), Kind::kSmall, tag};
  if (joined == SlabBook::Joined::kKnown) {
    if (paid) give_back(d, kSlabBytes);
  } else if (joined == SlabBook::Joined::kUntracked) [[unlikely]] {
    if (!paid) {
      next.cuMemFree_v2(p);
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
    v.kind = Kind::kLarge;  // paid alone
    v.units = kSlabUnits;
  } else if (!paid) [[unlikely]] {
    if (!pay_late(d, p)) return CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (!keep(pointer_key(p), v)) [[unlikely]] {
    next.cuMemFree_v2(p);
    release_pointer(pointer_key(p), v);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  count(Count::kAlloc);
  *dptr = p;
  return r;
}

template <class Pointer, class Call>
inline CUresult plain_alloc(Pointer* dptr, std::uint64_t bytes, Call call) noexcept {
  const Here at = here();
  // Nothing asked for, or nowhere to put it: the driver knows the code for it.
  if (at.device == nullptr || !books_ready() || dptr == nullptr || bytes == 0) [[unlikely]] {
    return unplaced([&] { return call(dptr); });
  }
  const Grain& g = books.grain[at.device->number];
  const std::uint64_t small = round_up(bytes, std::uint64_t{1} << kUnitShift);
  if (small < g.alloc && g.alloc == kSlabBytes && g.slab == kSlabBytes) {
    return small_alloc(at, dptr, small, call);
  }
  return whole_alloc(at, dptr, round_up(small, g.alloc), call);
}

}  // namespace bulkhead::hook
