// For tests and the fuzzer: everything a process, a reaper, a supervisor and a governor do with a
// region, on a region that holds anything. Nothing is expected of the answers but that they come, and
// that no index leaves the region.
#pragma once
#include <cstdlib>

#include "shm/quota.h"
#include "shm/shares.h"
#include "shm/slots.h"
#include "shm/supervise.h"
#include "shm/tenant.h"

namespace bulkhead::shm {

// Who lives and who holds which lock follows from the numbers alone.
inline World any_world() {
  World w;
  w.presence = [](void*, std::uint32_t pid, std::uint64_t) {
    return pid % 2 == 0 ? Presence::kGone : Presence::kThere;
  };
  w.lock_state = [](void*, unsigned byte) { return byte % 3 == 0 ? Lock::kHeld : Lock::kFree; };
  w.take_lock = [](void*, unsigned) { return true; };
  w.drop_lock = [](void*, unsigned) {};
  w.boottime_s = [](void*) -> std::uint64_t { return 1000; };
  w.pid_namespace = 1;
  return w;
}

inline void use_books(Region& r, unsigned slot, unsigned dev) {
  for (const std::uint64_t bytes :
       {std::uint64_t{1} << 20, std::uint64_t{1}, std::uint64_t{0}, ~std::uint64_t{0} >> 2}) {
    if (charge(r, slot, dev, bytes)) give_back(r, slot, dev, bytes);
    give_back(r, slot, dev, bytes);  // what was never taken
    charge_forced(r, slot, dev, bytes);
    static_cast<void>(settle(r, dev));
  }
  set_limit(r, dev, ~std::uint64_t{0});
  set_limit(r, dev, 1 << 20);
  static_cast<void>(view(r, dev));
  static_cast<void>(slot_held_bytes(r, slot, dev));
}

inline void use_shares(Region& r, const World& world, Seat me) {
  const unsigned slot = me.slot < kMaxSlots ? me.slot : 0;
  const ShareRef mine = publish_share(r, me, ShareKind::kIpc, 0, 1 << 20, 1, {1, 2});
  const ShareRef found = find_share(r, ShareKind::kDescriptor, {0, 0});
  for (const ShareRef ref : {mine, found}) {
    if (!ref) continue;
    if (ref.index >= kMaxShares) std::abort();
    ShareFacts facts;
    if (read_share(r, ref, facts) && facts.device >= kMaxDevices) std::abort();
    const bool held = hold_share(r, slot, ref);
    if (takeable(r, ref, me)) static_cast<void>(take_share(r, ref, me));
    if (held) unhold_share(r, slot, ref);
    static_cast<void>(close_share(r, world, me, ref));
  }
}

// `devices`: as it was checked at attach. `other`: any slot.
inline void use_rubbish(Region& r, unsigned devices, unsigned other) {
  const World world = any_world();
  Identity me;
  me.pid = 5;
  me.pid_namespace = 1;
  Member member;
  member.region = &r;
  member.world = world;
  Result<Seat> seat = claim_slot(r, world, me);
  member.seat = seat.ok() ? *seat : Seat{other, 0};
  if (member.seat.slot >= kMaxSlots) std::abort();
  static_cast<void>(count_live(r, world));
  beat(r, world, member.seat);
  for (unsigned d = 0; d < devices; ++d) {
    use_books(r, member.seat.slot, d);
    use_books(r, other, d);
    static_cast<void>(worth_reaping(member, d));
    static_cast<void>(reap_and_charge(member, d, 1 << 20));
    if (charge_or_reap(member, d, 4096)) give_back(r, member.seat.slot, d, 4096);
    publish_observed(r, other, d, {77, 4096});
  }
  use_shares(r, world, member.seat);
  publish_round(r, 1);
  static_cast<void>(owner_dead(r, world, other, member.seat));
  reap_dead(r, world, Seat{});
  reap_dead(r, world, member.seat);
  static_cast<void>(still_mine(r, member.seat));
  leave_slot(r, world, member.seat);
  static_cast<void>(check_region(r));
}

}  // namespace bulkhead::shm
