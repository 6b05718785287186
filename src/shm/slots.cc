#include "shm/slots.h"

#include <linux/futex.h>
#include <time.h>

#include "base/clock.h"
#include "base/kill_point.h"
#include "shm/quota.h"
#include "shm/shares.h"

namespace bulkhead::shm {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAcquire = std::memory_order_acquire;
constexpr auto kRelease = std::memory_order_release;
constexpr auto kAcqRel = std::memory_order_acq_rel;
constexpr auto kSeqCst = std::memory_order_seq_cst;
constexpr std::uint64_t kBlindAsk_ns = 100'000'000;

unsigned slots_end(const Region& r) noexcept {
  const std::uint32_t high = r.header.slots_high.load(kAcquire);  // pairs with raise_high()
  return high < kMaxSlots ? high : kMaxSlots;
}

// Before the slot's first wish (R7), so that every collect that can meet the wish reads its cell.
void raise_high(Region& r, unsigned slot) noexcept {
  std::uint32_t high = r.header.slots_high.load(kRelaxed);  // the CAS validates it
  // the word only rises, and only to 1,024; bounded for the case that somebody scribbles in it
  for (std::uint32_t i = 0; i < kBudget && high <= slot; ++i) {
    // pairs with the loads in scan_end() and slots_end()
    if (r.header.slots_high.compare_exchange_weak(high, slot + 1, kSeqCst, kRelaxed)) return;
  }
}

void write_identity(ProcSlot& slot, const World& world, const Identity& me) noexcept {
  // relaxed: published by the CAS to live in claim_at()
  slot.pid.store(me.pid, kRelaxed);
  slot.uid.store(me.uid, kRelaxed);
  slot.start_ticks.store(me.start_ticks, kRelaxed);
  slot.pid_namespace.store(me.pid_namespace, kRelaxed);
  slot.image.store(me.image, kRelaxed);
  slot.heartbeat_s.store(world.boottime_s(world.self), kRelaxed);
  slot.witness.store(0, kRelaxed);
  for (AtomicU64* s : {&slot.allocs, &slot.frees, &slot.refused, &slot.faults, &slot.uncovered,
                       &slot.first_allocs, &slot.first_frees}) {
    s->store(0, kRelaxed);
  }
}

// free -> claiming -> live. False: somebody else was faster.
bool claim_at(Region& r, const World& world, const Identity& me, unsigned j, Seat& seat) noexcept {
  ProcSlot& slot = r.slots[j];
  std::uint64_t s = slot.state.load(kAcquire);  // pairs with reap's last store: W is 0, P idle (R3)
  if (state_of(s) != kFree || !world.take_lock(world.self, j)) return false;
  BH_KILL_POINT("claim.locked");
  const std::uint64_t gen = (gen_of(s) + 1) & kGenMask;
  std::uint64_t claiming = make_s(kClaiming, gen);
  if (!slot.state.compare_exchange_strong(s, claiming, kAcqRel, kRelaxed)) {  // as above
    world.drop_lock(world.self, j);
    return false;
  }
  BH_KILL_POINT("claim.claiming");
  raise_high(r, j);
  write_identity(slot, world, me);
  BH_KILL_POINT("claim.identified");
  // release pairs with the acquire of S in owner_dead(): who sees live sees the identity
  if (!slot.state.compare_exchange_strong(claiming, make_s(kLive, gen), kAcqRel, kRelaxed)) {
    world.drop_lock(world.self, j);  // overtaken: our lock was free for a moment
    return false;
  }
  BH_KILL_POINT("claim.live");
  seat = {j, static_cast<std::uint32_t>(gen)};
  return true;
}

// The rule for an identity that is complete (live, or a reaper's own slot).
bool identity_dead(const ProcSlot& slot, const World& world, unsigned byte) noexcept {
  if (world.lock_state(world.self, byte) != Lock::kFree) return false;
  const std::uint64_t ns = slot.pid_namespace.load(kRelaxed);  // published by S (claim_at)
  if (ns != 0 && ns == world.pid_namespace) {
    return world.presence(world.self, slot.pid.load(kRelaxed), slot.start_ticks.load(kRelaxed)) ==
           Presence::kGone;
  }
  const std::uint64_t beat_s = slot.heartbeat_s.load(kRelaxed);  // age alone matters
  const std::uint64_t now_s = world.boottime_s(world.self);
  return now_s > beat_s && now_s - beat_s > kHeartbeatStale_s;
}

// Whether the reaper named in `s` is known to be dead.
bool reaper_dead(const Region& r, const World& world, std::uint64_t s, Seat self) noexcept {
  const unsigned by = by_slot_of(s);
  if (by == kGuest) return world.lock_state(world.self, kGuestByte) == Lock::kFree;
  if (by >= kMaxSlots) return true;  // scribbled over: no such reaper exists
  const std::uint64_t rs = r.slots[by].state.load(kAcquire);  // pairs with claim_at()
  if (gen_of(rs) != by_gen_of(s)) return true;  // it left its slot or was wiped: it reaps no more
  if (by == self.slot && by_gen_of(s) == self.gen) return false;  // a thread of our own
  return identity_dead(r.slots[by], world, by);
}

bool holds_nothing(const Region& r, unsigned slot, unsigned dev) noexcept {
  const MemCell& cell = r.cells[dev][slot];
  // relaxed: a cell that fills just now belongs to a living process
  return cell.w.load(kRelaxed) << 16 == 0 && phase_of(cell.p.load(kRelaxed)) == kIdle;
}

// Whether a slot that only owes can be lowered.
bool owes_less(const Region& r, const World& world, unsigned slot, std::uint64_t s) noexcept {
  Owed owed;
  owed_by(r, world, Seat{slot, static_cast<std::uint32_t>(gen_of(s))}, owed);
  if (!owed.any) return true;
  for (unsigned d = 0; d < kMaxDevices; ++d) {
    // relaxed: the cell changes only by a reaper, whose mark on S excludes this state
    const std::uint64_t used = used_of(r.cells[d][slot].w.load(kRelaxed));
    if (used > units_up(owed.bytes[d], r.devices[d].unit_shift)) return true;
  }
  return false;
}

// Of the slots that hold something on `dev`: whether an owner's end was witnessed.
enum class Ends : std::uint8_t { kNone, kSome, kUnknown };
Ends end_of(const Region& r, unsigned j) noexcept {
  const ProcSlot& slot = r.slots[j];
  // acquire: the kernel's mark (a locked instruction) is older than the death that others see
  const std::uint32_t witness = slot.witness.load(kAcquire);
  const std::uint64_t state = state_of(slot.state.load(kAcquire));  // pairs with a reaper's marks
  // asking costs system calls, and the end of who holds what it owes is witnessed itself
  if (state == kOwing) return Ends::kUnknown;
  // not live: a reaper is or was at it
  if (state != kLive || (witness & FUTEX_OWNER_DIED) != 0) return Ends::kSome;
  return witness == 0 ? Ends::kUnknown : Ends::kNone;
}

// `holders`: those that a refusal counted; null: whoever holds something now.
Ends look_for_ends(const Region& r, unsigned dev, unsigned self, const Holders* holders) noexcept {
  Ends ends = Ends::kNone;
  // A dead importer may keep a charge up that is another's: with shares it is not enough to look at who holds.
  if (holders != nullptr && any_shares(r)) holders = nullptr;
  const unsigned end = holders != nullptr ? holders->count : slots_end(r);
  for (unsigned i = 0; i < end; ++i) {
    const unsigned j = holders != nullptr ? holders->slot[i] : i;
    if (j == self) continue;
    if (holders == nullptr && holds_nothing(r, j, dev) && !holds_shares(r, j)) continue;
    const Ends one = end_of(r, j);
    if (one == Ends::kSome) return one;
    if (one == Ends::kUnknown) ends = one;
  }
  return ends;
}

// Marks the slot as ours to wipe, wipes it, frees it. `s` = the state that was judged.
bool reap_at(Region& r, const World& world, unsigned j, std::uint64_t s, Seat self) noexcept {
  ProcSlot& slot = r.slots[j];
  std::uint64_t mine = make_s(kReaping, gen_of(s), self.slot, self.gen);
  if (!slot.state.compare_exchange_strong(s, mine, kAcqRel, kRelaxed)) return false;
  BH_KILL_POINT("reap.marked");  // acq_rel: pairs with claim_at() before and a successor after
  const unsigned devices =
      r.header.device_count < kMaxDevices ? r.header.device_count : kMaxDevices;
  Owed owed;
  settle_shares(r, world, Seat{j, static_cast<std::uint32_t>(gen_of(s))}, owed);
  for (unsigned d = 0; d < devices; ++d) lower_cell(r, j, d, owed.bytes[d]);
  BH_KILL_POINT("reap.wiped");
  const std::uint64_t after = make_s(owed.any ? kOwing : kFree, gen_of(s));
  // a CAS, so that a reaper that was replaced (it was known dead, so it is not us) changes nothing
  const bool freed = slot.state.compare_exchange_strong(mine, after, kRelease,
                                                        kRelaxed);  // pairs with claim_at()
  BH_KILL_POINT("reap.freed");
  return freed;
}

bool is_former_image(const ProcSlot& slot, std::uint64_t s, const Identity& me) noexcept {
  // relaxed: published by S. exec keeps pid and start time, and drops what the old image held.
  return state_of(s) == kLive && me.pid_namespace != 0 && slot.pid.load(kRelaxed) == me.pid &&
         slot.start_ticks.load(kRelaxed) == me.start_ticks &&
         slot.pid_namespace.load(kRelaxed) == me.pid_namespace &&
         slot.image.load(kRelaxed) != me.image;
}

}  // namespace

Result<Seat> claim_slot(Region& r, const World& world, const Identity& me) noexcept {
  Seat seat;
  for (int pass = 0; pass < 2 && seat.slot == kGuest; ++pass) {
    if (pass == 1 && reap_dead(r, world, Seat{}) == 0) break;
    for (unsigned j = 0; j < kMaxSlots && seat.slot == kGuest; ++j) claim_at(r, world, me, j, seat);
  }
  if (seat.slot == kGuest) return Status{Errc::kFull, 0, "all 1,024 process slots are in use"};
  for (unsigned j = 0, end = slots_end(r); j < end; ++j) {
    const std::uint64_t s = r.slots[j].state.load(kAcquire);  // pairs with claim_at()
    if (j != seat.slot && is_former_image(r.slots[j], s, me)) reap_at(r, world, j, s, seat);
  }
  return seat;
}

void leave_slot(Region& r, const World& world, Seat seat) noexcept {
  if (!still_mine(r, seat)) return;
  reap_at(r, world, seat.slot, make_s(kLive, seat.gen), seat);
  world.drop_lock(world.self, seat.slot);
}

void beat(Region& r, const World& world, Seat seat) noexcept {
  if (!still_mine(r, seat)) return;
  r.slots[seat.slot].heartbeat_s.store(world.boottime_s(world.self),
                                       kRelaxed);  // age alone matters
  static_cast<void>(
      world.take_lock(world.self, seat.slot));  // again: an application may have dropped it
}

bool owner_dead(const Region& r, const World& world, unsigned slot, Seat self) noexcept {
  const ProcSlot& p = r.slots[slot];
  const std::uint64_t s = p.state.load(kAcquire);  // pairs with claim_at()
  if (slot == self.slot && gen_of(s) == self.gen) return false;
  switch (state_of(s)) {
    case kFree:
      return false;
    case kClaiming:
      return world.lock_state(world.self, slot) == Lock::kFree;
    case kLive:
      return identity_dead(p, world, slot);
    case kReaping:
      return reaper_dead(r, world, s, self);
    case kOwing:
      return owes_less(r, world, slot, s);
    default:
      return true;  // no such state: scribbled over, belongs to nobody
  }
}

unsigned reap_dead(Region& r, const World& world, Seat self, Scope scope, unsigned dev) noexcept {
  const bool guest = self.slot == kGuest;
  if (guest && !world.take_lock(world.self, kGuestByte)) return 0;
  unsigned reaped = 0;
  const unsigned end = slots_end(r);
  // twice: what a slot owes falls when those who hold it are reaped
  for (unsigned at = 0; at < 2 * end; ++at) {
    const unsigned j = at < end ? at : at - end;
    const std::uint64_t s = r.slots[j].state.load(kAcquire);  // pairs with claim_at(); judged below
    if (state_of(s) == kFree || (state_of(s) == kOwing) != (at >= end)) continue;
    if (scope == Scope::kHoldingOnly && holds_nothing(r, j, dev) && !holds_shares(r, j)) continue;
    // the CAS in reap_at() fails unless S is still the one that was judged or became so before
    if (owner_dead(r, world, j, self) && reap_at(r, world, j, s, self)) ++reaped;
  }
  if (guest) world.drop_lock(world.self, kGuestByte);
  return reaped;
}

Reaped reap_slot(Region& r, const World& world, unsigned slot, std::uint32_t gen) noexcept {
  if (slot >= kMaxSlots) return Reaped::kGone;
  const std::uint64_t live = make_s(kLive, gen);
  const std::uint64_t s = r.slots[slot].state.load(kAcquire);  // pairs with claim_at()
  if (s != live) {
    const bool wiping = state_of(s) == kReaping && gen_of(s) == gen;
    return wiping ? Reaped::kBusy : Reaped::kGone;
  }
  if (!world.take_lock(world.self, kGuestByte)) return Reaped::kBusy;
  const bool freed = reap_at(r, world, slot, live, Seat{});
  world.drop_lock(world.self, kGuestByte);
  return freed ? Reaped::kFreed : Reaped::kBusy;
}

unsigned count_live(const Region& r, const World& world) noexcept {
  unsigned live = 0;
  for (unsigned j = 0, end = slots_end(r); j < end; ++j) {
    const std::uint64_t s = r.slots[j].state.load(kAcquire);  // pairs with claim_at()
    if (state_of(s) == kFree || state_of(s) == kOwing) continue;
    if (!owner_dead(r, world, j, Seat{})) ++live;
  }
  return live;
}

bool worth_reaping(Member& m, unsigned dev, const Holders* holders) noexcept {
  const Ends ends = look_for_ends(*m.region, dev, m.seat.slot, holders);
  if (ends == Ends::kSome) return true;
  Member::Asked& asked = m.asked[dev];
  const std::uint64_t tick = clock_ns(CLOCK_MONOTONIC_COARSE);
  // relaxed: private
  if (ends == Ends::kNone && tick - asked.tick.load(kRelaxed) < kBlindAsk_ns) return false;
  const std::uint64_t word = m.region->cells[dev][m.seat.slot].w.load(kRelaxed);  // own slot
  // relaxed: private, and a lost update costs one more question
  if (asked.tick.load(kRelaxed) == tick && asked.word.load(kRelaxed) == word) return false;
  asked.tick.store(tick, kRelaxed);
  asked.word.store(word, kRelaxed);
  return true;
}

bool reap_and_charge(Member& m, unsigned dev, std::uint64_t bytes) noexcept {
  if (reap_dead(*m.region, m.world, m.seat, Scope::kHoldingOnly, dev) == 0) return false;
  return charge(*m.region, m.seat.slot, dev, bytes);
}

bool charge_or_reap(Member& m, unsigned dev, std::uint64_t bytes) noexcept {
  if (charge(*m.region, m.seat.slot, dev, bytes)) return true;
  return worth_reaping(m, dev) && reap_and_charge(m, dev, bytes);
}

}  // namespace bulkhead::shm
