// What is paid for a memory pool (or a device's graph memory), kept equal to what the driver reserves for it.
//
// Claim  charged + pending >= reserved at every moment, but for calls made on free bytes inside the pool
//        (docs/formats/charge.md, Pools); when no call is in the driver, charged == reserved after the last settle().
// Proof  who lets the pool grow adds the growth to `pending` before the call and takes it out in settle(), which moves
//        into `charged` what the driver's figure shows. A lowering of `charged` is read back from the driver before
//        the bytes leave our hands: a growth that was seen neither by that reading nor in `pending` compares
//        its own reading with the lowered word (both sides: change, then look; one of them sees the other).
// Block  a request that a hole takes is looked at after the call, by such a query or without one: if its pointer lies in
//        `block`, the pool cannot be larger than its charge by it. Proof: a pool is made of aligned blocks of the
//        device's grain (charge.md), and `block` was in it when a query showed reserved == charged. Since then it
//        grew only by calls that doubt() the word before their own query (every settling and lowering does, and
//        a look outside the block), or by this very block. Who reads the word still set after its call was
//        therefore before that doubt, so before the query, which saw its growth (a growth maps memory: a system call).
//        Tag: a word doubted by another since is not set; it would take 2^24 doubts within one query to be fooled.
// Price  one driver query (27 ns) an allocation that leaves the block of the last one.
//
// Lock-free; every loop is bounded. All functions may be called from any thread.
#pragma once
#include <atomic>
#include <cstdint>

#include "abi/cuda_types.h"
#include "hook/hook.h"

namespace bulkhead::hook {

inline constexpr unsigned kPoolUnitShift = 21;  // of the words below

inline constexpr std::uint64_t kBlockMask = (std::uint64_t{1} << 40) - 1;

struct alignas(64) Pool {
  std::atomic<std::uintptr_t> handle{0};  // 0: free
  std::atomic<std::uint8_t> ready{0};     // device and kind are written
  std::uint8_t kind = 0;                  // PoolKind
  std::uint8_t device = 0;                // number
  std::atomic<bool> tight{false};  // the last growth was refused: free bytes inside come first
  std::atomic<std::uint32_t> glance{0};  // slow calls until `used` is asked again
  std::atomic<std::uint64_t> word{0};    // tag:24 | pending:20 | charged:20, units of 2 MiB
  std::atomic<std::uint64_t> too_large{
      0};  // bytes that found no place inside, in frees() `at_frees`; hints
  std::atomic<std::uint32_t> at_frees{0};
  std::atomic<std::int64_t> hole{0};          // bytes that surely are free in one piece; a hint
  std::atomic<std::uint64_t> block{0};        // tag:24 | address / 2 MiB:40, 0: none; see Block
  std::atomic<std::uint32_t> reuse_epoch{0};  // reuse.h; hints, both
  std::atomic<std::uint64_t> reuse[8]{};
};
enum class PoolKind : std::uint8_t {
  kDevice = 1,
  kFree,
  kGraph
};  // kFree: host or imported, not charged

class PoolTable {
 public:
  static constexpr unsigned kCount = 1024;
  Pool* find(CUmemoryPool pool) noexcept;
  // The record of a pool; makes it. Null: the table is full (counted as a fault by the caller).
  Pool* make(CUmemoryPool pool, std::uint8_t device, PoolKind kind) noexcept;
  void forget(Pool& p) noexcept;
  // The pool was destroyed with live pointers: its handle may come again, its charge stays.
  void orphan(Pool& p) noexcept;
  Pool& graph(std::uint8_t device) noexcept { return graph_[device & 15]; }
  std::atomic<Pool*>& current(std::uint8_t device) noexcept { return current_[device & 15]; }
  [[nodiscard]] bool any() const noexcept {
    return high_.load(std::memory_order_relaxed) !=
           0;  // a hint: records are never taken out of reach
  }
  // Records with something to look at.
  template <class Fn>
  void for_each(Fn fn) noexcept {
    const unsigned n = high_.load(std::memory_order_acquire);  // pairs with make()
    for (unsigned i = 0; i < n; ++i) {
      if (pools_[i].handle.load(std::memory_order_relaxed) != 0 &&  // an identity
          pools_[i].ready.load(std::memory_order_acquire) != 0 &&   // pairs with make()
          pools_[i].kind != static_cast<std::uint8_t>(PoolKind::kFree)) {
        fn(pools_[i]);
      }
    }
  }
  void clear() noexcept;

 private:
  Pool pools_[kCount];
  Pool graph_[16];
  std::atomic<Pool*> current_[16] = {};
  std::atomic<unsigned> high_{0};
  std::atomic<unsigned> touched_{0};  // no record at or above it was ever written
};

// Reserved and used bytes as the driver says; false: it does not say (the pool is gone).
bool pool_reserved(const Pool& p, std::uint64_t& bytes) noexcept;
bool pool_used(const Pool& p, std::uint64_t& bytes) noexcept;
std::uint64_t pool_charged(const Pool& p) noexcept;

// Whether [at, at + bytes) lies in the block that is known to be paid for; after the call that gave it.
[[gnu::always_inline]] inline bool pool_known(const Pool& p, CUdeviceptr at, std::uint64_t bytes,
                                              std::uint64_t grain) noexcept {
  // seq_cst: after the call; pairs with pool_doubt()
  const std::uint64_t block = p.block.load(std::memory_order_seq_cst) & kBlockMask;
  return block == (at & -grain) >> kPoolUnitShift && ((at + bytes - 1) ^ at) < grain;
}
// Forgets the block; returns the word as it is then.
inline std::uint64_t pool_doubt(Pool& p) noexcept {
  std::uint64_t w = p.block.load(std::memory_order_relaxed);  // the CAS validates it
  std::uint64_t none = 0;
  do {  // lock-free
    none = (w & ~kBlockMask) + kBlockMask + 1;
    // seq_cst: before the driver is asked; pairs with pool_known()
  } while (!p.block.compare_exchange_weak(w, none, std::memory_order_seq_cst));
  return none;
}
// Asks the driver: true if reserved == charged; then the block of `at` is known from here on.
[[gnu::noinline]] bool pool_look(Pool& p, CUdeviceptr at, std::uint64_t bytes,
                                 std::uint64_t grain) noexcept;
// Pays for a growth of at most `bytes` (multiple of 2 MiB) before the call. False: refused.
[[nodiscard]] bool pool_begin(Pool& p, Device& d, std::uint64_t bytes) noexcept;
// After the call: corrects the charge to what is reserved and gives the rest of `mine` (what pool_begin() paid, or
// 0) back. False: the pool holds more than is paid for.
bool pool_settle(Pool& p, Device& d, std::uint64_t mine) noexcept;
// The same where the driver cannot be asked to undo: what could not be charged is forced.
void pool_settle_forced(Pool& p, Device& d, std::uint64_t mine) noexcept;
// Gives back what is no longer reserved, and pays for nothing: a growth is its caller's to settle.
void pool_shrink(Pool& p, Device& d) noexcept;
// The pool is gone: everything paid is given back.
void pool_drop(Pool& p, Device& d) noexcept;
// Looks at all pools, or those of one device; at places where reserved memory may have fallen.
void pools_reconcile() noexcept;

}  // namespace bulkhead::hook
