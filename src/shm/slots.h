// Process slots of a region: claim, release, liveness, reaping. The only place that asks who is dead.
//
// Claim  A slot is wiped only after its owner is known to be dead, or by its owner. A reaper that
//        dies is replaced, one that is merely slow never is. Wiping is repeatable.
// Dead   the record lock on the slot's byte is free, AND
//        (same pid namespace: the pid with that start time is gone) OR
//        (other namespace: its heartbeat is older than kHeartbeatStale_s).
//        Never the heartbeat alone (a stopped process keeps its lock), never the pid alone (reuse),
//        never the lock alone: closing any descriptor of the file drops a process's POSIX locks,
//        which closefrom(3) in an application does. A slot in `claiming` holds nothing yet and its
//        claimer holds the lock throughout: there a free lock is enough, and a claimer that was
//        overtaken notices by its last CAS.
// Price  a death that the kernel does not show yet still counts; a process in another namespace
//        that lost its lock counts for up to five seconds more.
// Model  tests/model/quota.pml (reapers, takeover, newcomers).
#pragma once
#include <atomic>
#include <cstdint>

#include "base/status.h"
#include "shm/region.h"
#include "shm/world.h"

namespace bulkhead::shm {

inline constexpr std::uint64_t kHeartbeatStale_s = 5;
inline constexpr unsigned kGuestByte = kMaxSlots;  // record lock of a reaper without a slot
inline constexpr unsigned kGuest = 0xfff;          // its name in by_slot

// S: state 4 | gen 24 | by_slot 12 | by_gen 24, from the low bits.
// kOwing: its owner is dead or left, and others hold memory that the slot pays for (shares.h).
enum SlotState : std::uint64_t { kFree = 0, kClaiming = 1, kLive = 2, kReaping = 3, kOwing = 4 };
inline constexpr std::uint64_t kGenMask = (1u << 24) - 1;
inline constexpr std::uint64_t state_of(std::uint64_t s) { return s & 15; }
inline constexpr std::uint64_t gen_of(std::uint64_t s) { return (s >> 4) & kGenMask; }
inline constexpr unsigned by_slot_of(std::uint64_t s) {
  return static_cast<unsigned>(s >> 28) & 0xfff;
}
inline constexpr std::uint64_t by_gen_of(std::uint64_t s) { return s >> 40; }
inline constexpr std::uint64_t make_s(SlotState state, std::uint64_t gen, unsigned by_slot = 0,
                                      std::uint64_t by_gen = 0) {
  return state | ((gen & kGenMask) << 4) | (static_cast<std::uint64_t>(by_slot & 0xfff) << 28) |
         (by_gen << 40);
}

// A slot as its owner knows it.
struct Seat {
  unsigned slot = kGuest;
  std::uint32_t gen = 0;
};

// Claims a slot for `me`, takes its lock, reaps a former image of this very process (exec) and, if
// no slot is free, the dead. kFull: 1,024 live processes.
[[nodiscard]] Result<Seat> claim_slot(Region& r, const World& world, const Identity& me) noexcept;
// Gives the slot up in good order: books wiped, lock dropped. Harmless if it is no longer ours.
void leave_slot(Region& r, const World& world, Seat seat) noexcept;
// Whether the slot is still ours. Once false it is false for ever: stop using it and claim anew.
[[nodiscard]] inline bool still_mine(const Region& r, Seat seat) noexcept {
  // acquire pairs with the CAS of a reaper: who sees the slot lost sees why
  return seat.slot < kMaxSlots &&
         r.slots[seat.slot].state.load(std::memory_order_acquire) == make_s(kLive, seat.gen);
}
// Once a second from the process's own thread: heartbeat, and the lock again in case it was
// dropped.
void beat(Region& r, const World& world, Seat seat) noexcept;

// Whether the owner of a slot is dead by the rule above. Free slots and our own are not; of one that only owes, whether
// it holds more than it still owes.
[[nodiscard]] bool owner_dead(const Region& r, const World& world, unsigned slot,
                              Seat self) noexcept;
enum class Scope : std::uint8_t { kAll, kHoldingOnly };
// Wipes the slots of the dead; `self` = our own seat or Seat{} (then the guest lock is needed, and
// without it nothing is done). kHoldingOnly skips slots whose books on `dev` are empty. Returns how
// many.
unsigned reap_dead(Region& r, const World& world, Seat self, Scope scope = Scope::kAll,
                   unsigned dev = 0) noexcept;
// Wipes one slot whose owner of generation `gen` is known to have ended, for a reaper without a seat. The caller's
// proof is its own: a pidfd that was opened while the slot named that process (daemon.md, D2). kFreed: it was wiped
// by this call. kGone: it is no longer that owner's. kBusy: somebody else is reaping it, or has the guest lock: what
// is left of a dead reaper is reap_dead()'s to finish. Bounded whatever the region holds.
enum class Reaped : std::uint8_t { kFreed, kGone, kBusy };
[[nodiscard]] Reaped reap_slot(Region& r, const World& world, unsigned slot,
                               std::uint32_t gen) noexcept;
// Slots whose owners are claiming, live or being reaped and not known to be dead.
[[nodiscard]] unsigned count_live(const Region& r, const World& world) noexcept;

// One process's membership: what charge_or_reap() keeps between calls. Process-private memory.
struct Member {
  Region* region = nullptr;
  World world{};
  Seat seat{};
  struct Asked {  // relaxed throughout: a lost update costs one more question
    std::atomic<std::uint64_t> tick{0};
    std::atomic<std::uint64_t> word{~0ull};
  } asked[kMaxDevices];
};
// charge(); if it refuses, the dead are reaped and it is asked once more.
//
// Liveness costs system calls, so it is asked only when somebody who holds memory may have died:
// the kernel marks a slot's witness word (witness.h) before the process is seen dead, so a refusal
// without a mark is exact and pays a few loads. If a holder has no witness (its thread could not be
// made, or not yet) it is asked at the first refusal after our own books moved, and in a run of
// refusals once per tick of the coarse clock (1-10 ms). With witnesses it is still asked each 100
// ms, should a kernel not do its part.
[[nodiscard]] bool charge_or_reap(Member& m, unsigned dev, std::uint64_t bytes) noexcept;
// Its two halves after a refusal, for a caller that must prepare for system calls: whether liveness has to be asked
// (no system call but a clock's reading), and the asking, with the second charge.
// `holders`: whom the refusal counted (quota.h); null: all are looked at.
struct Holders;
[[nodiscard]] bool worth_reaping(Member& m, unsigned dev,
                                 const Holders* holders = nullptr) noexcept;
[[nodiscard]] bool reap_and_charge(Member& m, unsigned dev, std::uint64_t bytes) noexcept;

}  // namespace bulkhead::shm
