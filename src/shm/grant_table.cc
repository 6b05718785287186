#include "shm/grant_table.h"

#include <cstring>

namespace bulkhead::shm {
namespace {

constexpr auto kRelaxed =
    std::memory_order_relaxed;  // the daemon's one thread, or inside the bracket

void begin_write(GrantSlot& s) noexcept {
  // orders: relaxed is the daemon's one thread, or lies between begin_write() and end_write()
  s.version.store(s.version.load(kRelaxed) | 1, kRelaxed);  // ordered by the fence
  std::atomic_thread_fence(std::memory_order_release);      // pairs with the fence in take()
}
void end_write(GrantSlot& s) noexcept {
  // orders: relaxed is the daemon's one thread, or lies between begin_write() and end_write()
  s.version.store((s.version.load(kRelaxed) | 1) + 1,
                  std::memory_order_release);  // pairs with take()
}

bool is_current(const GrantHeader& h, std::uint32_t slot) noexcept {
  // orders: relaxed is the daemon's one thread, or lies between begin_write() and end_write(); release as said
  const std::uint32_t live = h.live.load(kRelaxed);
  for (std::uint32_t i = 0; i < live; ++i) {
    if (h.current[i].load(kRelaxed) == slot) return true;
  }
  return false;
}

// A reader may see the list between two stores: it reads each slot for itself, and looks again when `changes` rises.
void put_current(GrantTable& t, std::uint32_t slot) noexcept {
  // orders: relaxed is the daemon's one thread, or lies between begin_write() and end_write(); release as said
  GrantHeader& h = t.header;
  const std::uint32_t live = h.live.load(kRelaxed);
  const std::uint64_t end = t.slots[slot].not_after_ns.load(kRelaxed);
  std::uint32_t at = live;
  while (at > 0 && t.slots[h.current[at - 1].load(kRelaxed)].not_after_ns.load(kRelaxed) <= end) {
    h.current[at].store(h.current[at - 1].load(kRelaxed), kRelaxed);
    --at;
  }
  h.current[at].store(static_cast<std::uint16_t>(slot), kRelaxed);
  h.live.store(live + 1, kRelaxed);                   // ordered by the next
  h.changes.fetch_add(1, std::memory_order_release);  // pairs with living_grants()
}
void drop_current(GrantTable& t, std::uint32_t slot) noexcept {
  // orders: relaxed is the daemon's one thread, or lies between begin_write() and end_write(); release as said
  GrantHeader& h = t.header;
  const std::uint32_t live = h.live.load(kRelaxed);
  std::uint32_t to = 0;
  for (std::uint32_t i = 0; i < live; ++i) {
    const std::uint16_t has = h.current[i].load(kRelaxed);
    if (has != slot) h.current[to++].store(has, kRelaxed);
  }
  h.live.store(to, kRelaxed);                         // ordered by the next
  h.changes.fetch_add(1, std::memory_order_release);  // pairs with living_grants()
}

}  // namespace

void format_grants(GrantTable& t, const char* tenant, const std::uint8_t (*uuids)[16],
                   unsigned devices) noexcept {
  // orders: relaxed, nobody has it yet; the magic's release pairs with check_grants()
  GrantHeader& h = t.header;
  h.major = kGrantMajor;
  h.minor = 0;
  h.slots = kGrantSlots;
  h.device_count = devices < kGrantDevices ? devices : kGrantDevices;
  std::memcpy(h.uuids, uuids, h.device_count * sizeof h.uuids[0]);
  std::strncpy(h.tenant, tenant, sizeof h.tenant - 1);
  h.epoch.store(1, kRelaxed);                             // ordered by the magic
  h.magic.store(kGrantMagic, std::memory_order_release);  // pairs with check_grants()
}

Result<GrantHandle> put_grant(GrantTable& t, const GrantValues& v, std::uint64_t secret) noexcept {
  // orders: relaxed is the daemon's one thread, or lies between begin_write() and end_write(); release as said
  GrantHeader& h = t.header;
  if (h.live.load(kRelaxed) >= kMostLivingGrants) return Status{Errc::kFull, 0, "64 grants live"};
  // the slot that was used least: the ends of old handles stay readable as long as can be
  std::uint32_t best = kGrantSlots;
  for (std::uint32_t i = 0; i < kGrantSlots; ++i) {
    if (is_current(h, i)) continue;
    const std::uint32_t generation = t.slots[i].generation.load(kRelaxed);
    if (best == kGrantSlots || generation < t.slots[best].generation.load(kRelaxed)) best = i;
    if (generation == 0) break;
  }
  GrantSlot& s = t.slots[best];
  const std::uint32_t generation = s.generation.load(kRelaxed) + 1;
  begin_write(s);
  s.generation.store(generation, kRelaxed);
  s.secret.store(secret, kRelaxed);
  s.not_before_ns.store(v.not_before_ns, kRelaxed);
  s.not_after_ns.store(v.not_after_ns, kRelaxed);
  s.address.store(v.address, kRelaxed);
  s.length.store(v.length, kRelaxed);
  s.bytes.store(v.bytes, kRelaxed);
  s.serial.store(v.serial, kRelaxed);
  s.devices.store(v.devices, kRelaxed);
  s.directions.store(v.directions, kRelaxed);
  s.ended.store(0, kRelaxed);
  end_write(s);
  put_current(t, best);
  return GrantHandle::of(best, generation, h.epoch.load(kRelaxed), secret);
}

bool end_grant(GrantTable& t, GrantHandle handle, abi::DenyReason why) noexcept {
  // orders: relaxed is the daemon's one thread, or lies between begin_write() and end_write(); release as said
  if (handle.slot() >= kGrantSlots) return false;
  GrantSlot& s = t.slots[handle.slot()];
  if (s.generation.load(kRelaxed) != handle.generation() || s.ended.load(kRelaxed) != 0)
    return false;
  begin_write(s);
  s.ended.store(static_cast<std::uint8_t>(why), kRelaxed);
  s.generation.store(handle.generation() + 1, kRelaxed);
  s.directions.store(0, kRelaxed);
  end_write(s);
  drop_current(t, handle.slot());
  return true;
}

void raise_epoch(GrantTable& t) noexcept {
  // orders: relaxed is the daemon's one thread, or lies between begin_write() and end_write(); release as said
  GrantHeader& h = t.header;
  h.epoch.fetch_add(1, std::memory_order_release);  // pairs with check_grant()
  while (h.live.load(kRelaxed) != 0) {
    const std::uint32_t slot = h.current[0].load(kRelaxed);
    const std::uint32_t generation = t.slots[slot].generation.load(kRelaxed);
    if (!end_grant(t, GrantHandle::of(slot, generation, 0, 0), abi::DenyReason::kRevoked))
      drop_current(t, slot);
  }
}

Status check_grants(const GrantTable& t, std::size_t bytes) noexcept {
  if (bytes != sizeof(GrantTable)) return Status{Errc::kBadSize, 0, "grant table of another size"};
  const std::uint64_t magic = t.header.magic.load(std::memory_order_acquire);  // pairs with format
  if (magic != kGrantMagic) return Status{Errc::kBadMagic, 0, "not a grant table"};
  if (t.header.major != kGrantMajor || t.header.slots != kGrantSlots)
    return Status{Errc::kBadVersion, 0, "grant table of another version"};
  return {};
}

unsigned living_grants(const GrantTable& t, GrantHandle (&out)[kMostLivingGrants]) noexcept {
  // orders: acquire pairs with put_current(); relaxed is checked by take() and check_grant()
  const GrantHeader& h = t.header;
  std::uint32_t live = h.live.load(std::memory_order_acquire);  // what `changes` ordered, or newer
  if (live > kMostLivingGrants) live = kMostLivingGrants;
  unsigned n = 0;
  for (std::uint32_t i = 0; i < live; ++i) {
    const std::uint32_t slot = h.current[i].load(kRelaxed);  // checked here and by check_grant()
    if (slot >= kGrantSlots) continue;
    detail::GrantFields f;
    if (!detail::take(t.slots[slot], f) || f.ended != 0 || f.generation == 0) continue;
    out[n++] = GrantHandle::of(slot, f.generation, h.epoch.load(kRelaxed), f.secret);
  }
  return n;
}

abi::DenyReason ended_why(const GrantTable& t, GrantHandle handle) noexcept {
  if (handle.slot() >= kGrantSlots) return abi::DenyReason::kForeign;
  detail::GrantFields f;
  if (!detail::take(t.slots[handle.slot()], f)) return abi::DenyReason::kRevoked;
  if (f.generation != handle.generation() + 1) return abi::DenyReason::kNone;
  return static_cast<abi::DenyReason>(f.ended);
}

}  // namespace bulkhead::shm
