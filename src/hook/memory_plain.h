// The way of a plain allocation, shared by cuMemAlloc, pitched and managed memory. docs/formats/charge.md.
#pragma once
#include "hook/books.h"
#include "hook/next.h"

namespace bulkhead::hook {

// Small requests on a full quota: a call on a hole that the books know, without a payment.
//
// Claim  the slabs that the driver has open are paid for at every moment, whatever the threads of this process
//        do beside such a call.
// Proof  the call announces itself (unpaid) before it looks for its hole, and the hole must hold all announced
//        calls. What is being freed is no hole (find_holes()). A thread that takes the hole with a payment, or that closes the slab with the
//        hole in it, has joined its slab (or left it) before it asks for announced calls: either the search saw that, or the thread sees the
//        announcement and leaves its 2 MiB (donated) to whoever opened a slab unpaid. The last to leave gives
//        the rest back.
[[gnu::cold, gnu::noinline]] bool small_hole(Device& d, std::uint8_t tag,
                                             std::uint32_t units) noexcept;
[[gnu::cold, gnu::noinline]] void hole_done(Device& d, std::uint8_t tag,
                                            std::uint32_t units) noexcept;
// A call on a hole opened a slab after all: pays with a donation or anew; false: undone.
[[gnu::cold, gnu::noinline]] bool pay_late(Device& d, std::uint8_t tag, CUdeviceptr p) noexcept;
// One that could not be booked, after it had joined its slab: freed, and the payments set right.
[[gnu::cold, gnu::noinline]] void unbook_small(Device& d, std::uint8_t tag, CUdeviceptr p,
                                               bool opened, bool paid) noexcept;
[[gnu::cold, gnu::noinline]] void donate(Device& d, ContextRecord& r) noexcept;

// A slab's payment that its holder needs no longer.
inline void slab_back(Device& d, std::uint8_t tag) noexcept {
  ContextRecord& r = books.contexts.record(tag);
  // seq_cst, after the read-modify-write of join() or leave(): pairs with small_hole()
  if (r.unpaid.load(std::memory_order_seq_cst) != 0) [[unlikely]]
    return donate(d, r);
  hot_give_back(d, kSlabBytes);
}

// At least an allocation unit: paid exactly and alone. `bytes` is already rounded, and few more than kMostBytes.
template <class Pointer, class Call>
inline CUresult whole_alloc(const Here& at, Pointer* dptr, std::uint64_t bytes,
                            Call call) noexcept {
  Device& d = *at.device;
  if (!hot_charge(d, bytes)) [[unlikely]]
    return CUDA_ERROR_OUT_OF_MEMORY;
  Pointer p{};
  const CUresult r = call(&p);
  if (r != CUDA_SUCCESS) [[unlikely]] {
    hot_give_back(d, bytes);
    return r;
  }
  const Value v{units_of(bytes), static_cast<std::uint8_t>(d.number), Kind::kLarge,
                books.contexts.tag(at.context)};
  if (!keep(pointer_key(p), v)) [[unlikely]] {
    next.cuMemFree_v2(p);
    give_back(d, bytes);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  hot_count(Count::kAlloc);
  *dptr = p;
  return r;
}

// Books a small pointer and finds out whether its slab is new. False: undone, nothing is held.
inline bool book_small(Device& d, std::uint8_t tag, CUdeviceptr p, std::uint32_t units,
                       bool paid) noexcept {
  const auto number = static_cast<std::uint8_t>(d.number);
  const std::uint64_t key = pointer_key(p);
  // The slab first, then the entry: see find_holes().
  const SlabBook::Joined joined = books.slabs.join(p, tag, number);
  if (joined == SlabBook::Joined::kUntracked) [[unlikely]] {  // charged alone
    if (paid && keep(key, {kSlabUnits, number, Kind::kLarge, tag})) return true;
    next.cuMemFree_v2(p);
    if (paid) give_back(d, kSlabBytes);
    return false;
  }
  const bool opened = joined == SlabBook::Joined::kOpened;
  if (!keep(key, {units, number, Kind::kSmall, tag})) [[unlikely]] {
    unbook_small(d, tag, p, opened, paid);
    return false;
  }
  if (opened) {
    // relaxed: a number that only has to differ, for there is a hole that no earlier search saw
    books.contexts.record(tag).epoch.fetch_add(1, std::memory_order_relaxed);
    return paid || pay_late(d, tag, p);
  }
  if (paid) slab_back(d, tag);
  return true;
}

// Below it: in a slab. `bytes` is rounded to the small unit.
template <class Pointer, class Call>
inline CUresult small_alloc(const Here& at, Pointer* dptr, std::uint64_t bytes,
                            Call call) noexcept {
  Device& d = *at.device;
  const std::uint8_t tag = books.contexts.tag(at.context);
  const std::uint32_t units = units_of(bytes);
  const bool paid = hot_charge(d, kSlabBytes);
  if (!paid && !small_hole(d, tag, units)) [[unlikely]]
    return CUDA_ERROR_OUT_OF_MEMORY;
  Pointer p{};
  CUresult r = call(&p);
  if (r != CUDA_SUCCESS) [[unlikely]] {
    if (paid) give_back(d, kSlabBytes);
  } else if (!book_small(d, tag, p, units, paid)) [[unlikely]] {
    r = CUDA_ERROR_OUT_OF_MEMORY;
  } else {
    hot_count(Count::kAlloc);
    *dptr = p;
  }
  if (!paid) [[unlikely]]
    hole_done(d, tag, units);
  return r;
}

template <class Pointer, class Call>
inline CUresult plain_alloc(Pointer* dptr, std::uint64_t bytes, Call call) noexcept {
  const Here at = hot_here();
  // Nothing asked for, or nowhere to put it: the driver knows the code for it.
  if (at.device == nullptr || !usable() || dptr == nullptr || bytes == 0) [[unlikely]] {
    return unplaced([&] { return call(dptr); });
  }
  if (bytes > kMostBytes) [[unlikely]]
    return CUDA_ERROR_OUT_OF_MEMORY;
  const Grain& g = books.grain[at.device->number];
  if (bytes <= g.alloc - kSmallUnit && g.alloc == kSlabBytes && g.slab == kSlabBytes) {
    return small_alloc(at, dptr, round_down(bytes + kSmallUnit - 1, kSmallUnit), call);
  }
  return whole_alloc(at, dptr, round_down(bytes + g.alloc - 1, g.alloc), call);
}

}  // namespace bulkhead::hook
