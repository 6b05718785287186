#include "shm/grant_table.h"

#include <cstring>

namespace bulkhead::shm {
namespace {

constexpr auto kRelaxed =
    std::memory_order_relaxed;  // the daemon's one thread, or inside the bracket

void begin_write(GrantSlot& s) noexcept {
  // orders: relaxed is the daemon's one thread, or lies between begin_write() and end_write()
  s.turn.store(s.turn.load(kRelaxed) | 1, kRelaxed);    // ordered by the fence
  std::atomic_thread_fence(std::memory_order_release);  // pairs with the fence in take()
}
void end_write(GrantSlot& s, std::uint32_t generation) noexcept {
  // orders: relaxed is the daemon's one thread, or lies between begin_write() and end_write()
  const std::uint32_t version = (static_cast<std::uint32_t>(s.turn.load(kRelaxed)) | 1) + 1;
  s.turn.store(std::uint64_t{generation} << 32 | version,
               std::memory_order_release);  // pairs with take()
}

// Around everything that a grant's coming or going stores.
void begin_change(GrantTable& t) noexcept {
  // orders: relaxed is the daemon's one thread
  t.header.changes.store(t.header.changes.load(kRelaxed) | 1, kRelaxed);  // ordered by the fence
  std::atomic_thread_fence(std::memory_order_release);  // pairs with kept_covers() and keep_grant()
}
void end_change(GrantTable& t) noexcept {
  // orders: relaxed is the daemon's one thread
  t.header.changes.store((t.header.changes.load(kRelaxed) | 1) + 1,
                         std::memory_order_release);  // pairs with keep_grant(), living_grants()
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
  h.live.store(live + 1, kRelaxed);  // ordered by end_change()
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
  h.live.store(to, kRelaxed);  // ordered by end_change()
}

}  // namespace

void format_grants(GrantTable& t, const char* tenant, const std::uint8_t (*uuids)[16],
                   unsigned devices) noexcept {
  // orders: relaxed, nobody has it yet; the magic's release pairs with check_grants()
  GrantHeader& h = t.header;
  h.major = kGrantMajor;
  h.minor = kGrantMinor;
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
    const std::uint32_t generation = generation_of(t.slots[i].turn.load(kRelaxed));
    if (best == kGrantSlots || generation < generation_of(t.slots[best].turn.load(kRelaxed)))
      best = i;
    if (generation == 0) break;
  }
  GrantSlot& s = t.slots[best];
  const std::uint32_t generation = generation_of(s.turn.load(kRelaxed)) + 1;
  begin_change(t);
  begin_write(s);
  s.secret.store(secret, kRelaxed);
  s.not_before_ns.store(v.not_before_ns, kRelaxed);
  s.not_after_ns.store(v.not_after_ns, kRelaxed);
  s.address.store(v.address, kRelaxed);
  s.length.store(v.length, kRelaxed);
  s.bytes.store(v.bytes, kRelaxed);
  s.scope.store(scope_of(v.serial, v.devices, v.directions, 0), kRelaxed);
  end_write(s, generation);
  put_current(t, best);
  end_change(t);
  return GrantHandle::of(best, generation, h.epoch.load(kRelaxed), secret);
}

namespace {

bool has_ended(const GrantSlot& s) noexcept {
  return s.scope.load(kRelaxed) >> 56 != 0;  // the daemon's one thread
}
void end_slot(GrantSlot& s, abi::DenyReason why) noexcept {
  // orders: relaxed is the daemon's one thread, or lies between begin_write() and end_write(); release as said
  const std::uint64_t was = s.scope.load(kRelaxed);
  begin_write(s);
  s.scope.store(scope_of(static_cast<std::uint32_t>(was), static_cast<std::uint16_t>(was >> 32), 0,
                         static_cast<std::uint8_t>(why)),
                kRelaxed);
  end_write(s, generation_of(s.turn.load(kRelaxed)) + 1);
}

}  // namespace

bool end_grant(GrantTable& t, GrantHandle handle, abi::DenyReason why) noexcept {
  // orders: relaxed is the daemon's one thread
  if (handle.slot() >= kGrantSlots) return false;
  GrantSlot& s = t.slots[handle.slot()];
  if (generation_of(s.turn.load(kRelaxed)) != handle.generation() || has_ended(s)) return false;
  begin_change(t);
  end_slot(s, why);
  drop_current(t, handle.slot());
  end_change(t);
  return true;
}

// The list is empty before the epoch is raised: who sees the new epoch finds no slot to make a handle of it with.
void raise_epoch(GrantTable& t) noexcept {
  // orders: relaxed is the daemon's one thread; release as said
  GrantHeader& h = t.header;
  begin_change(t);
  const std::uint32_t live = h.live.load(kRelaxed);
  h.live.store(0, kRelaxed);                        // ordered by the next
  h.epoch.fetch_add(1, std::memory_order_release);  // pairs with check_grant(), living_grants()
  for (std::uint32_t i = 0; i < live; ++i) {
    GrantSlot& s = t.slots[h.current[i].load(kRelaxed)];
    if (!has_ended(s)) end_slot(s, abi::DenyReason::kRevoked);
  }
  end_change(t);
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
  // orders: the epoch's acquire pairs with raise_epoch(); relaxed is checked by take() and check_grant()
  const GrantHeader& h = t.header;
  // before the list: a handle of the new epoch is made of the new list only
  const std::uint32_t epoch = h.epoch.load(std::memory_order_acquire);
  std::uint32_t live = h.live.load(std::memory_order_acquire);
  if (live > kMostLivingGrants) live = kMostLivingGrants;
  unsigned n = 0;
  for (std::uint32_t i = 0; i < live; ++i) {
    const std::uint32_t slot = h.current[i].load(kRelaxed);  // checked here and by check_grant()
    if (slot >= kGrantSlots) continue;
    detail::GrantFields f;
    if (!detail::take(t.slots[slot], f) || f.ended() != 0 || generation_of(f.turn) == 0) continue;
    out[n++] = GrantHandle::of(slot, generation_of(f.turn), epoch, f.secret);
  }
  return n;
}

bool keep_grant(const GrantTable& t, GrantHandle handle, GrantKept& out) noexcept {
  // orders: relaxed is as said
  out = GrantKept{};
  // Before the fields: whatever changes from here on makes it another number. Acquire pairs with end_change().
  const std::uint32_t changes = t.header.changes.load(std::memory_order_acquire);
  if (t.header.minor < 1 || (changes & 1) != 0 || handle.slot() >= kGrantSlots) return false;
  detail::GrantFields f;
  if (!detail::take(t.slots[handle.slot()], f)) return false;
  const bool same = generation_of(f.turn) == handle.generation() && f.secret == handle.secret &&
                    f.ended() == 0 &&
                    ((t.header.epoch.load(kRelaxed) ^ handle.epoch()) & 0xffff) == 0;  // likewise
  if (!same) return false;
  if (f.length != 0 || f.bytes != 0 || f.not_after_ns <= f.not_before_ns) return false;
  out.not_before_ns = f.not_before_ns;
  out.lasts_ns = f.not_after_ns - f.not_before_ns;
  out.serial = f.serial();
  out.refused_devices = ~f.devices();
  out.refused_directions = static_cast<std::uint8_t>(~f.directions());
  out.changes = changes;
  return true;
}

abi::DenyReason ended_why(const GrantTable& t, GrantHandle handle) noexcept {
  if (handle.slot() >= kGrantSlots) return abi::DenyReason::kForeign;
  detail::GrantFields f;
  if (!detail::take(t.slots[handle.slot()], f)) return abi::DenyReason::kRevoked;
  if (generation_of(f.turn) != handle.generation() + 1) return abi::DenyReason::kNone;
  return static_cast<abi::DenyReason>(f.ended());
}

}  // namespace bulkhead::shm
