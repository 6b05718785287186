#include "hook/pool.h"

#include "hook/books.h"
#include "hook/next.h"
#include "hook/reuse.h"

namespace bulkhead::hook {
namespace {

// tag:24 | pending:20 | charged:20, units of 2 MiB
constexpr std::uint64_t kField = (std::uint64_t{1} << 20) - 1;
constexpr std::uint64_t to_units(std::uint64_t bytes) noexcept {
  return (bytes + (std::uint64_t{1} << kPoolUnitShift) - 1) >> kPoolUnitShift;
}
constexpr std::uint64_t to_bytes(std::uint64_t units) noexcept { return units << kPoolUnitShift; }
constexpr std::uint64_t charged_of(std::uint64_t w) noexcept { return w & kField; }
constexpr std::uint64_t pending_of(std::uint64_t w) noexcept { return w >> 20 & kField; }
constexpr std::uint64_t make_word(std::uint64_t old, std::uint64_t charged,
                                  std::uint64_t pending) noexcept {
  return ((old >> 40) + 1) << 40 | (pending & kField) << 20 | (charged & kField);
}
constexpr int kTries = 256;  // each failed one is another thread's progress

// Adds to `charged` what was paid already.
void add_charged(Pool& p, std::uint64_t units) noexcept {
  std::uint64_t w = p.word.load(std::memory_order_relaxed);  // the CAS validates it
  while (!p.word.compare_exchange_weak(w, make_word(w, charged_of(w) + units, pending_of(w)),
                                       std::memory_order_seq_cst)) {  // as in lower()
  }
}

// The pool shrank from `w`'s charge to `reserved` units: take the word down, look again, then give back.
bool lower(Pool& p, Device& d, std::uint64_t w, std::uint64_t reserved,
           std::uint64_t mine) noexcept {
  const std::uint64_t charged = charged_of(w);
  // seq_cst: the lowered word is visible before the driver is asked again (see Proof in pool.h)
  if (!p.word.compare_exchange_strong(w, make_word(w, reserved, pending_of(w) - mine),
                                      std::memory_order_seq_cst)) {
    return false;
  }
  p.hole.store(0, std::memory_order_relaxed);  // a hint
  reuse_forget(p);
  std::uint64_t back = charged - reserved;
  std::uint64_t bytes = 0;
  pool_doubt(p);
  if (pool_reserved(p, bytes) && to_units(bytes) > reserved) {
    const std::uint64_t grown = to_units(bytes) - reserved;
    const std::uint64_t keep = grown < back ? grown : back;
    add_charged(p, keep);
    back -= keep;
  }
  if (back + mine != 0) give_back(d, to_bytes(back + mine));
  return true;
}

}  // namespace

bool pool_reserved(const Pool& p, std::uint64_t& bytes) noexcept {
  bytes = 0;
  const std::uintptr_t h = p.handle.load(std::memory_order_relaxed);  // an identity
  if ((h & 1) != 0) return false;                                     // an orphan
  if (p.kind == static_cast<std::uint8_t>(PoolKind::kGraph)) {
    return next.cuDeviceGetGraphMemAttribute(numbered(p.device).ordinal,
                                             CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT,
                                             &bytes) == CUDA_SUCCESS;
  }
  return next.cuMemPoolGetAttribute(reinterpret_cast<CUmemoryPool>(h),
                                    CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &bytes) == CUDA_SUCCESS;
}

bool pool_used(const Pool& p, std::uint64_t& bytes) noexcept {
  bytes = 0;
  const std::uintptr_t h = p.handle.load(std::memory_order_relaxed);  // an identity
  if ((h & 1) != 0) return false;                                     // an orphan
  if (p.kind == static_cast<std::uint8_t>(PoolKind::kGraph)) {
    return next.cuDeviceGetGraphMemAttribute(numbered(p.device).ordinal,
                                             CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT,
                                             &bytes) == CUDA_SUCCESS;
  }
  return next.cuMemPoolGetAttribute(reinterpret_cast<CUmemoryPool>(h),
                                    CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &bytes) == CUDA_SUCCESS;
}

std::uint64_t pool_charged(const Pool& p) noexcept {
  return to_bytes(charged_of(p.word.load(std::memory_order_seq_cst)));  // pairs with lower()
}

bool pool_look(Pool& p, CUdeviceptr at, std::uint64_t bytes, std::uint64_t grain) noexcept {
  std::uint64_t none = pool_doubt(p);
  std::uint64_t reserved = 0;
  if (!pool_reserved(p, reserved) || reserved != pool_charged(p)) return false;
  const std::uint64_t block = (at & -grain) >> kPoolUnitShift;
  if (((at + bytes - 1) ^ at) < grain && block <= kBlockMask) {
    // seq_cst: as in pool_doubt(); fails if somebody doubted meanwhile
    p.block.compare_exchange_strong(none, none | block, std::memory_order_seq_cst);
  }
  return true;
}

bool pool_begin(Pool& p, Device& d, std::uint64_t bytes) noexcept {
  if (bytes > kMostBytes || !charge(d, bytes)) return false;
  std::uint64_t w = p.word.load(std::memory_order_relaxed);  // the CAS validates it
  // release: the growth is announced before the driver is called; lock-free
  while (!p.word.compare_exchange_weak(
      w, make_word(w, charged_of(w), pending_of(w) + to_units(bytes)), std::memory_order_seq_cst)) {
  }
  return true;
}

bool pool_settle(Pool& p, Device& d, std::uint64_t mine_bytes) noexcept {
  const std::uint64_t mine = to_units(mine_bytes);
  for (int i = 0; i < kTries; ++i) {
    pool_doubt(p);
    std::uint64_t w = p.word.load(std::memory_order_seq_cst);  // pairs with lower()
    std::uint64_t bytes = 0;
    if (!pool_reserved(p, bytes)) bytes = to_bytes(charged_of(w));  // gone: leave the charge alone
    const std::uint64_t reserved = to_units(bytes);
    const std::uint64_t charged = charged_of(w);
    const std::uint64_t others = pending_of(w) >= mine ? pending_of(w) - mine : 0;
    if (reserved < charged) {
      if (lower(p, d, w, reserved, mine)) return true;
      continue;
    }
    const std::uint64_t grown = reserved - charged;
    const std::uint64_t taken = grown < mine ? grown : mine;
    if (grown == 0 && mine == 0) return true;
    if (!p.word.compare_exchange_strong(w, make_word(w, charged + taken, others),
                                        std::memory_order_seq_cst)) {  // as in lower()
      continue;
    }
    if (mine > taken) give_back(d, to_bytes(mine - taken));
    const std::uint64_t open = grown - taken;
    if (open <= others) return true;  // growth of calls that are still to settle theirs
    if (!charge(d, to_bytes(open - others))) return false;
    add_charged(p, open - others);
    return true;
  }
  count(Count::kFault);
  return true;
}

void pool_settle_forced(Pool& p, Device& d, std::uint64_t mine) noexcept {
  if (pool_settle(p, d, mine)) return;
  std::uint64_t bytes = 0;
  const std::uint64_t charged = pool_charged(p);
  if (!pool_reserved(p, bytes) || bytes <= charged) return;
  charge_other(d, static_cast<std::int64_t>(bytes - charged));
  add_charged(p, to_units(bytes - charged));
}

void pool_shrink(Pool& p, Device& d) noexcept {
  for (int i = 0; i < kTries; ++i) {
    const std::uint64_t w = p.word.load(std::memory_order_seq_cst);  // pairs with lower()
    std::uint64_t bytes = 0;
    if (!pool_reserved(p, bytes) || to_units(bytes) >= charged_of(w)) return;
    if (lower(p, d, w, to_units(bytes), 0)) return;
  }
}

void pool_drop(Pool& p, Device& d) noexcept {
  std::uint64_t w = p.word.load(std::memory_order_relaxed);  // the CAS validates it
  while (!p.word.compare_exchange_weak(w, make_word(w, 0, pending_of(w)),
                                       std::memory_order_seq_cst)) {  // as in lower()
  }
  p.hole.store(0, std::memory_order_relaxed);  // a hint
  pool_doubt(p);
  reuse_forget(p);
  if (charged_of(w) != 0) give_back(d, to_bytes(charged_of(w)));
}

void pools_reconcile() noexcept {
  books.pools.for_each([](Pool& p) { pool_shrink(p, numbered(p.device)); });
}

Pool* PoolTable::find(CUmemoryPool pool) noexcept {
  const auto key = reinterpret_cast<std::uintptr_t>(pool);
  if (key == 0) return nullptr;
  const unsigned n = high_.load(std::memory_order_acquire);  // pairs with make()
  for (unsigned i = 0; i < n; ++i) {
    if (pools_[i].handle.load(std::memory_order_relaxed) == key &&  // an identity
        pools_[i].ready.load(std::memory_order_acquire) != 0) {     // pairs with make()
      return &pools_[i];
    }
  }
  return nullptr;
}

Pool* PoolTable::make(CUmemoryPool pool, std::uint8_t device, PoolKind kind) noexcept {
  if (Pool* known = find(pool)) return known;
  const auto key = reinterpret_cast<std::uintptr_t>(pool);
  for (unsigned i = 0; i < kCount; ++i) {
    Pool& p = pools_[i];
    std::uintptr_t seen = p.handle.load(std::memory_order_relaxed);  // the CAS validates it
    if (seen == key) {  // another thread is making it: two words, a moment
      for (int s = 0; s < 1 << 16; ++s) {
        if (p.ready.load(std::memory_order_acquire) != 0) return &p;  // pairs with the store below
      }
      return nullptr;
    }
    if (seen != 0) continue;
    unsigned touched = touched_.load(std::memory_order_relaxed);  // for clear(), alone after a fork
    while (touched < i + 1 &&
           !touched_.compare_exchange_weak(touched, i + 1, std::memory_order_relaxed)) {
    }
    // acquire pairs with forget()
    if (!p.handle.compare_exchange_strong(seen, key, std::memory_order_acquire,
                                          std::memory_order_relaxed)) {
      --i;  // look at it again: it may be the same pool now
      continue;
    }
    p.kind = static_cast<std::uint8_t>(kind);
    p.device = device;
    p.tight.store(false, std::memory_order_relaxed);  // published below, with what follows
    p.glance.store(0, std::memory_order_relaxed);
    p.hole.store(0, std::memory_order_relaxed);
    reuse_forget(p);
    pool_doubt(p);
    p.word.store(0, std::memory_order_relaxed);
    p.ready.store(1, std::memory_order_release);            // pairs with find(), for_each()
    unsigned high = high_.load(std::memory_order_relaxed);  // the CAS validates it
    while (high < i + 1 && !high_.compare_exchange_weak(high, i + 1, std::memory_order_release,
                                                        std::memory_order_relaxed)) {
    }
    return &p;
  }
  return nullptr;
}

void PoolTable::forget(Pool& p) noexcept {
  for (std::atomic<Pool*>& c : current_) {
    Pool* mine = &p;
    c.compare_exchange_strong(mine, nullptr, std::memory_order_relaxed);  // a cache
  }
  p.ready.store(0, std::memory_order_relaxed);   // published below
  p.handle.store(0, std::memory_order_release);  // pairs with make()
}

void PoolTable::orphan(Pool& p) noexcept {
  for (std::atomic<Pool*>& c : current_) {
    Pool* mine = &p;
    c.compare_exchange_strong(mine, nullptr, std::memory_order_relaxed);  // a cache
  }
  // An odd address: never a pool's. ready 2 keeps it from being asked.
  p.ready.store(2, std::memory_order_release);  // pairs with find(), for_each()
  p.handle.store(reinterpret_cast<std::uintptr_t>(&p) | 1, std::memory_order_relaxed);
}

void PoolTable::clear() noexcept {
  // relaxed: alone, before the first call or after a fork. The pages of the rest were never written.
  const unsigned touched = touched_.load(std::memory_order_relaxed);
  for (unsigned i = 0; i < touched; ++i) {
    Pool& p = pools_[i];
    p.handle.store(0, std::memory_order_relaxed);  // as above
    p.ready.store(0, std::memory_order_relaxed);
    p.word.store(0, std::memory_order_relaxed);
    pool_doubt(p);
    reuse_forget(p);
  }
  for (unsigned i = 0; i < 16; ++i) {
    graph_[i].kind = static_cast<std::uint8_t>(PoolKind::kGraph);
    graph_[i].device = static_cast<std::uint8_t>(i);
    graph_[i].word.store(0, std::memory_order_relaxed);  // as above
    current_[i].store(nullptr, std::memory_order_relaxed);
  }
  high_.store(0, std::memory_order_relaxed);
}

}  // namespace bulkhead::hook
