// Memory admission inside one tenant: one helped turn, exact refusals, no lock between processes.
//
// Claim  Safe: every grant is made with held + n <= the limit as read within that call; forced
//        charges apart (below). Exact: a refused charge had a moment within the call at which
//        held + n was over the limit. A process killed or stopped at any instruction makes no other
//        wait, and its books are whole: wiping its words is the whole recovery.
// Proof  c_j = used + slack + unmoved grant of a cell, h_j = used + unmoved grant; C, H their sums.
//        1 A wish (i, seq) is granted only while G = {i, seq}, and decided once: whoever clears or
//          hands on that turn has seen P[i] no longer in wish seq; seq never returns, not even to a
//          new owner.
//        2 While G = {i, seq} no c_j rises but by that decision: a fast charge and give_back leave
//          c_j, a sweep and a reaper lower it, the move of a grant leaves it.
//        3 Safe: a helper's collect lies within G = {i, seq} (it saw P[i] in wish after it read G),
//          so by 2 its sum bounds the present C; H <= C. A late helper fails at P's CAS.
//        4 Exact: let t be the load of the limit between two collects. Between the two reads of
//          cell j, h_j rises only by a fast or a forced charge, which changes its version; equal
//          versions mean h_j(t) >= the h_j read second. Their sum + n > limit, so
//          H(t) + n > limit(t).
//        4' Exact, without a turn (surely_full): the same two collects, by anybody at any time. Then h_j may
//          also rise by a decision, which changes P; and no P comes twice. A P that is equal at both reads of cell
//          j was the same all the time between them, so only fast and forced charges are left, as in 4. The sum
//          is of `used` alone and of the cells that had some at the first look: both only make it smaller.
//        5 Counted once: t in W tells the two sides of the move apart; P is read before and after W.
//        6 Lock-free: a collect is repeated only because somebody charged, gave back or moved a
//          grant. The turn is handed to the next wish in slot order, so honest wishers wait at most
//          one round of the slots. Every loop draws on one budget, so a tenant that scribbles in
//          its own region costs its siblings a counted refusal, never a hang.
// Forced A forced charge that is refused adds to its own `used` all the same: memory the driver has
//        taken already (contexts, modules) is booked, never denied, so H may pass the limit by it.
//        The books are then restricted, as after a lowered limit: cap 0 with a new epoch, every
//        slack dropped, the turn in flight finished. From its return on each grant is made with
//        H + n <= limit again, H with the forced bytes in it; while it runs, and if it dies within,
//        others may still use the slack they had.
// Price  one collect of all claimed slots for each new high-water mark, two for a refusal; version
//        wraps after 32,768 fast charges of one slot within one window (a false refusal then, never
//        unsafe); a hopeless request that meets a busy neighbour takes its slack (after
//        kGentleRounds).
// Model  tests/model/quota.pml, with its broken variants. ADR 2 says where this differs from the
//        prototype and why.
//
// Amounts are bytes, rounded up to the device's unit; charge and give_back of one allocation must
// name the same bytes. `slot` is a slot this process owns, `dev` < device_count; neither is checked
// here. All functions are thread-safe, never allocate and never block on another process.
#pragma once
#include <atomic>
#include <cstdint>

#include "base/kill_point.h"
#include "shm/region.h"
#include "shm/words.h"

namespace bulkhead::shm {

// What may be spent in one call on reading cells and repeating steps before it gives up with a
// counted refusal: at 1,024 slots it is 4,096 collects. Honest runs stay far below.
inline constexpr std::uint32_t kBudget = 1u << 22;
inline constexpr int kFastTries = 64;  // then the wait-free or the cold way; honest runs need 1
inline constexpr int kGentleRounds =
    4;  // collects tried before slack that cannot suffice is taken too

[[gnu::noinline]] bool grow(Region& r, unsigned slot, unsigned dev, std::uint64_t units) noexcept;
[[gnu::cold, gnu::noinline]] void give_back_slow(Region& r, unsigned slot, unsigned dev,
                                                 std::uint64_t units) noexcept;

// Slots with something on a device, as surely_full() saw them.
struct Holders {
  unsigned count;
  std::uint16_t slot[kMaxSlots];  // only the first `count` are written
};
// True: there was a moment within the call at which held + units > the limit (4'), so a request of that many units is
// refused. False says nothing. Writes no shared word: two loads of each holder's line, one of the others'.
[[nodiscard, gnu::noinline]] bool surely_full(const Region& r, unsigned dev, std::uint64_t units,
                                              Holders& holders) noexcept;
// Whether it is more than the limit itself: no death and no trimming would make room for it.
[[nodiscard]] bool above_limit(const Region& r, unsigned dev, std::uint64_t units) noexcept;
// Whether the last growth on this device was refused in this process: a hint that surely_full() is worth its loads.
[[nodiscard]] bool lately_refused(unsigned dev) noexcept;

// Charges `n` units to W from its own slack. False: not enough of it, nothing is changed.
[[nodiscard]] inline bool charge_slack(AtomicU64& word, std::uint64_t n) noexcept {
  std::uint64_t w = word.load(std::memory_order_relaxed);  // own slot; the CAS validates it
  for (int i = 0; i < kFastTries && slack_of(w) >= n; ++i) {
    // pairs with collect() in quota.cc: the version tells of a rise between its two reads
    if (word.compare_exchange_weak(w, next_version(w) + n - n * kSlackOne,
                                   std::memory_order_seq_cst, std::memory_order_relaxed)) {
      BH_KILL_POINT("quota.charged");
      return true;
    }
  }
  return false;
}
// Charges `bytes` to the slot. False = refused: they do not fit (exactly, see Claim).
[[nodiscard]] inline bool charge(Region& r, unsigned slot, unsigned dev,
                                 std::uint64_t bytes) noexcept {
  const std::uint64_t n = units_up(bytes, r.devices[dev].unit_shift);
  return charge_slack(r.cells[dev][slot].w, n) || grow(r, slot, dev, n);
}

// Takes `n` units out of W's used; what the cap leaves room for becomes slack. False: to be done by give_back_slow().
[[nodiscard]] inline bool give_back_slack(AtomicU64& word, const AtomicU64& slack_cap,
                                          std::uint64_t n) noexcept {
  std::uint64_t w = word.load(std::memory_order_seq_cst);  // before the cap: pairs with set_limit()
  for (int i = 0; i < kFastTries && used_of(w) >= n; ++i) {
    const std::uint64_t cap = slack_cap.load(std::memory_order_seq_cst) & kSlackMax;
    const std::uint64_t slack = slack_of(w);
    const std::uint64_t room = cap > slack ? cap - slack : 0;
    const std::uint64_t kept = n < room ? n : room;
    if (word.compare_exchange_weak(w, w - n + kept * kSlackOne, std::memory_order_seq_cst,
                                   std::memory_order_seq_cst)) {  // pairs with collect() and sweeps
      BH_KILL_POINT("quota.given_back");
      return true;
    }
  }
  return false;
}
// Gives `bytes` back; a part may stay with the slot as slack. Never fails.
inline void give_back(Region& r, unsigned slot, unsigned dev, std::uint64_t bytes) noexcept {
  const DeviceEntry& d = r.devices[dev];
  const std::uint64_t n = units_up(bytes, d.unit_shift);
  if (!give_back_slack(r.cells[dev][slot].w, d.slack_cap, n)) give_back_slow(r, slot, dev, n);
}

// Books what the driver has taken already: charges, and if that is refused adds the bytes all the
// same. Saturates at the word's 28 bits (counted as a fault).
void charge_forced(Region& r, unsigned slot, unsigned dev, std::uint64_t bytes) noexcept;

// Sets the limit of a device, in bytes (rounded down to units). Caller: the governor, one at a
// time. Once it returned, no grant is made above the new limit. Takes nothing back from holders.
void set_limit(Region& r, unsigned dev, std::uint64_t limit_bytes) noexcept;
// While the books pass the limit (lowered, forced) frees keep no slack, so that growth is refused
// exactly; when they fit again this lets slack be kept. Growth asks it by itself; a daemon may,
// too. True = slack may be kept.
bool settle(Region& r, unsigned dev) noexcept;

// The limit, what is held by all slots (never a torn mix of one slot), and what is left; bytes.
struct QuotaView {
  std::uint64_t limit_bytes = 0;
  std::uint64_t held_bytes = 0;
  std::uint64_t free_bytes = 0;  // 0 if more is held than the limit (forced, or a lowered limit)
};
[[nodiscard]] QuotaView view(const Region& r, unsigned dev) noexcept;
[[nodiscard]] std::uint64_t held_bytes(const Region& r, unsigned dev) noexcept;
[[nodiscard]] std::uint64_t slot_held_bytes(const Region& r, unsigned slot, unsigned dev) noexcept;
[[nodiscard]] inline std::uint64_t limit_bytes(const Region& r, unsigned dev) noexcept {
  return r.devices[dev].limit_bytes.load(std::memory_order_relaxed);  // any recent value will do
}

// Wipes a cell: its owner is dead or leaves. Only for the reaper named in S (slots.cc). Repeatable.
void wipe_cell(Region& r, unsigned slot, unsigned dev) noexcept;
// The same, but for `bytes` of used, which others hold on to (shares.h). Never raises the cell.
void lower_cell(Region& r, unsigned slot, unsigned dev, std::uint64_t bytes) noexcept;
// In a child after fork: frees the process-private locks its parent's other threads may have held.
void forget_private_locks() noexcept;

}  // namespace bulkhead::shm
