// The contexts of this process: a small number (tag) for each, so that every book entry can name the context it
// belongs to in one byte, and what was charged for the context itself.
//
// Claim  a live context has one tag; a tag is not reused before its context was retired. Lookups are one or two
//        loads.
// Price  254 contexts; further ones share kUntagged: their entries are not dropped with them (counted as a fault).
//
// Lock-free; all functions may be called from any thread.
#pragma once
#include <atomic>
#include <cstdint>

#include "abi/cuda_types.h"

namespace bulkhead::hook {

struct alignas(64) ContextRecord {
  std::atomic<std::uintptr_t> handle;      // 0: never used, 1: retired
  std::atomic<std::uint64_t> other_bytes;  // charged for the context itself
  std::atomic<std::uint32_t> device;       // number + 1; 0: not known (created before we looked)
  std::atomic<std::uint32_t> attached;     // cuCtxAttach: further references
  std::atomic<std::uint64_t>
      epoch;  // new holes: frees of small allocations, slabs opened; orders `no_hole`
  std::atomic<std::uint64_t> no_hole;  // epoch << 13 | largest hole known, in units
  std::atomic<std::uint64_t> unpaid;   // calls on a known hole: number << 32 | units
  std::atomic<std::uint32_t> donated;  // slabs paid for and left to such calls
};

class ContextTable {
 public:
  static constexpr unsigned kCount = 254;
  static constexpr std::uint8_t kUntagged = 255;

  // 1..254, or kUntagged. Makes a record at first sight.
  std::uint8_t tag(CUcontext ctx) noexcept {
    const auto key = reinterpret_cast<std::uintptr_t>(ctx);
    const unsigned at = start(key);
    if (records_[at].handle.load(std::memory_order_relaxed) == key) [[likely]] {  // an identity
      return static_cast<std::uint8_t>(at + 1);
    }
    return search(key, true);
  }
  // 0 if the context has no record.
  std::uint8_t known(CUcontext ctx) noexcept {
    return search(reinterpret_cast<std::uintptr_t>(ctx), false);
  }
  ContextRecord& record(std::uint8_t tag) noexcept {
    return tag >= 1 && tag <= kCount ? records_[tag - 1] : untagged_;
  }
  // The context is about to be destroyed: a new one of the same address gets another tag. The record stays
  // readable until reopen() or forget().
  bool retire(std::uint8_t tag, CUcontext ctx) noexcept {
    auto key = reinterpret_cast<std::uintptr_t>(ctx);
    // relaxed: an identity; the context's own calls order the rest
    return record(tag).handle.compare_exchange_strong(key, kDying, std::memory_order_relaxed);
  }
  void reopen(std::uint8_t tag, CUcontext ctx) noexcept {
    record(tag).handle.store(reinterpret_cast<std::uintptr_t>(ctx), std::memory_order_relaxed);
  }
  void forget(std::uint8_t tag) noexcept {
    ContextRecord& r = record(tag);
    r.other_bytes.store(0, std::memory_order_relaxed);  // published by the release below
    r.device.store(0, std::memory_order_relaxed);
    r.attached.store(0, std::memory_order_relaxed);
    r.handle.store(kRetired, std::memory_order_release);  // pairs with the CAS in search()
  }
  template <class Fn>
  void for_each(Fn fn) noexcept {
    for (unsigned i = 0; i < kCount; ++i) {
      const std::uintptr_t h = records_[i].handle.load(std::memory_order_relaxed);  // an identity
      if (h > kDying)
        fn(static_cast<std::uint8_t>(i + 1), reinterpret_cast<CUcontext>(h), records_[i]);
    }
  }
  void clear() noexcept {
    for (ContextRecord& r : records_) {
      r.handle.store(0,
                     std::memory_order_relaxed);  // alone: a forked child, or before the first call
      r.other_bytes.store(0, std::memory_order_relaxed);
      r.device.store(0, std::memory_order_relaxed);
      r.attached.store(0, std::memory_order_relaxed);
      r.no_hole.store(0, std::memory_order_relaxed);
      r.unpaid.store(0, std::memory_order_relaxed);
      r.donated.store(0, std::memory_order_relaxed);
    }
  }

 private:
  static constexpr std::uintptr_t kRetired = 1, kDying = 2;  // never addresses
  static unsigned start(std::uintptr_t key) noexcept {
    return static_cast<unsigned>(key * 0x9E37'79B9'7F4A'7C15ull >> 57);  // 0..127
  }
  std::uint8_t search(std::uintptr_t key, bool make) noexcept;

  ContextRecord records_[kCount] = {};
  ContextRecord untagged_ = {};
};

}  // namespace bulkhead::hook
