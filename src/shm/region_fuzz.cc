// Hostile bytes in a region (its own tenant can write all of it): every reader and every protocol step ends,
// within bounds. The input is a list of patches {offset: 3 bytes, value: 8 bytes} over a fresh region.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "shm/node.h"
#include "shm/quota.h"
#include "shm/shares.h"
#include "shm/slots.h"
#include "shm/tenant.h"

namespace bulkhead::shm {
namespace {

World any_world() {
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

void use_shares(Region& r, const World& world, Seat me) {
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

void use(Region& r) {
  const World world = any_world();
  Identity me;
  me.pid = 5;
  me.pid_namespace = 1;
  Result<Seat> seat = claim_slot(r, world, me);
  const unsigned slot = seat.ok() ? seat->slot : 0;
  if (slot >= kMaxSlots) std::abort();
  static_cast<void>(view(r, 0));
  static_cast<void>(count_live(r, world));
  if (charge(r, slot, 0, 1 << 20)) give_back(r, slot, 0, 1 << 20);
  charge_forced(r, slot, 0, 1 << 20);
  set_limit(r, 0, 1 << 20);
  static_cast<void>(settle(r, 0));
  use_shares(r, world, seat.ok() ? *seat : Seat{});
  if (seat.ok()) {
    reap_dead(r, world, *seat);
    static_cast<void>(still_mine(r, *seat));
    leave_slot(r, world, *seat);
  }
}

void fuzz_node(const std::uint8_t* data, std::size_t size) {
  static NodePage page;
  std::memset(static_cast<void*>(&page), 0, sizeof page);
  std::memcpy(static_cast<void*>(&page), data, size < sizeof page ? size : sizeof page);
  static_cast<void>(check_node(page));
  const std::uint8_t uuid[kUuidBytes] = {};
  static_cast<void>(node_limit(page, "a", uuid));
}

}  // namespace
}  // namespace bulkhead::shm

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::shm;
  static Region region;
  constexpr std::size_t kFirst = offsetof(Region, cells[1]);
  constexpr std::size_t kSharesBytes = 64 * sizeof(ShareEntry);
  std::memset(static_cast<void*>(&region.header), 0, kFirst);
  std::memset(static_cast<void*>(&region.shares), 0, sizeof region.shares);
  TenantSpec spec;
  spec.device_count = 1;
  spec.devices[0].limit_bytes = spec.devices[0].total_bytes = 1ull << 30;
  format_region(region, spec, "fuzz", Identity{});
  auto* bytes = reinterpret_cast<std::uint8_t*>(&region);
  for (std::size_t at = 0; at + 11 <= size; at += 11) {
    const std::size_t offset =
        (data[at] | std::size_t{data[at + 1]} << 8 | std::size_t{data[at + 2]} << 16) %
        (kFirst + kSharesBytes - 8);
    if (offset > kFirst - 8 && offset < kFirst) continue;
    const std::size_t there = offset < kFirst ? offset : offsetof(Region, shares) + offset - kFirst;
    std::memcpy(bytes + there, data + at + 3, 8);
  }
  static_cast<void>(check_region(region));
  use(region);  // even after a good attach the bytes may change to anything
  fuzz_node(data, size);
  return 0;
}
