// The grant table of one tenant: written by the daemon alone, mapped read-only by the tenant's processes from a sealed memfd
// (docs/formats/grant.md, 'Table').
//
// Claim  a check that begins after the store that ends a grant is visible does not accept its handle, whatever the slot is given to
//        meanwhile; no check accepts by fields of two grants. Likewise for what a thread keeps of a grant (GrantKept).
// Proof  the writer makes the version odd before it touches a field and even after (SequenceWord's fences); a check takes its fields
//        between two equal even versions, so they are of one moment. Ending a grant raises the generation in that bracket, and a
//        handle fits one generation only. Around all of it the writer makes `changes` odd before its first store and another even
//        number after its last: what was taken after an even one was seen is kept with that number, and holds while `changes` is it.
//        Model: tests/model/grant.pml, with broken variants that must be caught.
// Price  kept: one load of the header's line. Not kept: a dozen loads of one line and one of the header's; a slot that is being
//        written is asked again, kTries times; then the call is refused. Nothing is kept of a table whose writer died in a change.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "abi/audit_entry.h"
#include "base/status.h"

namespace bulkhead::shm {

inline constexpr std::uint64_t kGrantMagic = 0x0031'544e'5247'4842;  // "BHGRNT1" in memory order
inline constexpr std::uint16_t kGrantMajor = 1;
inline constexpr std::uint16_t kGrantMinor = 1;  // 1: `changes` is odd during a change
inline constexpr std::uint32_t kGrantSlots = 4096;
inline constexpr std::uint32_t kMostLivingGrants = 64;
inline constexpr std::uint32_t kGrantDevices = 16;
inline constexpr std::uint8_t kMapBit = 1;               // of GrantSlot::directions
inline constexpr std::uint8_t kUnknownDirection = 0x80;  // bit 7: abi::Direction::kUnknown

// slot:16 | generation:32 | epoch:16 | secret:64.
struct GrantHandle {
  std::uint64_t high = 0;
  std::uint64_t secret = 0;
  [[nodiscard]] constexpr std::uint32_t slot() const noexcept {
    return static_cast<std::uint32_t>(high >> 48);
  }
  [[nodiscard]] constexpr std::uint32_t generation() const noexcept {
    return static_cast<std::uint32_t>(high >> 16);
  }
  [[nodiscard]] constexpr std::uint16_t epoch() const noexcept {
    return static_cast<std::uint16_t>(high);
  }
  static constexpr GrantHandle of(std::uint32_t slot, std::uint32_t generation, std::uint32_t epoch,
                                  std::uint64_t secret) noexcept {
    return {std::uint64_t{slot} << 48 | std::uint64_t{generation} << 16 | (epoch & 0xffff), secret};
  }
};

struct alignas(64) GrantSlot {
  std::atomic<std::uint64_t> turn;  // version:32, odd while it is written | generation:32, above
  std::atomic<std::uint64_t> secret;
  std::atomic<std::uint64_t> not_before_ns;  // CLOCK_MONOTONIC
  std::atomic<std::uint64_t> not_after_ns;
  std::atomic<std::uint64_t> address;
  std::atomic<std::uint64_t> length;  // 0: any address
  std::atomic<std::uint64_t> bytes;   // 0: any number
  std::atomic<std::uint64_t> scope;   // serial:32 | devices:16 | directions:8 | ended:8, above
};
constexpr std::uint32_t generation_of(std::uint64_t turn) noexcept {
  return static_cast<std::uint32_t>(turn >> 32);
}
constexpr std::uint64_t scope_of(std::uint32_t serial, std::uint16_t devices,
                                 std::uint8_t directions, std::uint8_t ended) noexcept {
  return std::uint64_t{serial} | std::uint64_t{devices} << 32 | std::uint64_t{directions} << 48 |
         std::uint64_t{ended} << 56;
}

struct GrantHeader {
  std::atomic<std::uint64_t> magic;  // stored last
  std::uint16_t major, minor;
  std::uint32_t slots;
  std::atomic<std::uint32_t> epoch;    // 16 bits count
  std::atomic<std::uint32_t> changes;  // odd while a grant comes or goes; then higher than before
  std::uint32_t device_count;
  std::atomic<std::uint32_t> live;
  std::atomic<std::uint16_t> current[kMostLivingGrants];  // the one that ends last first
  std::uint8_t reserved0[32];
  std::uint8_t uuids[kGrantDevices][16];
  char tenant[64];
  std::uint8_t reserved1[3584];
};
struct GrantTable {
  GrantHeader header;
  GrantSlot slots[kGrantSlots];
};
static_assert(std::is_standard_layout_v<GrantTable> &&
              std::is_trivially_destructible_v<GrantTable>);
static_assert(sizeof(GrantSlot) == 64 && sizeof(GrantHeader) == 4096 &&
              sizeof(GrantTable) == 4096 + 64 * 4096);
static_assert(offsetof(GrantHeader, epoch) == 16 && offsetof(GrantHeader, current) == 32 &&
              offsetof(GrantHeader, uuids) == 192 && offsetof(GrantHeader, tenant) == 448);
static_assert(offsetof(GrantSlot, secret) == 8 && offsetof(GrantSlot, not_after_ns) == 24 &&
              offsetof(GrantSlot, bytes) == 48 && offsetof(GrantSlot, scope) == 56);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

// What one transfer needs.
struct GrantNeed {
  std::uint8_t directions = 0;  // all of these bits
  std::uint32_t devices = 0;    // likewise; a bit above 15 is no grant's
  std::uint64_t bytes = 0;      // this call's and what was moved before, for the budget
  // Device addresses, `bytes_here` from each; 0: none.
  std::uint64_t source = 0, destination = 0, bytes_here = 0;
};
inline constexpr std::uint64_t kAnyTime = 0;  // `now_ns`: time is not looked at

namespace detail {
inline constexpr int kGrantTries = 64;

struct GrantFields {
  std::uint64_t turn, secret, not_before_ns, not_after_ns, address, length, bytes, scope;
  [[nodiscard]] std::uint32_t serial() const noexcept { return static_cast<std::uint32_t>(scope); }
  [[nodiscard]] std::uint32_t devices() const noexcept { return scope >> 32 & 0xffff; }
  [[nodiscard]] std::uint32_t directions() const noexcept { return scope >> 48 & 0xff; }
  [[nodiscard]] std::uint8_t ended() const noexcept {
    return static_cast<std::uint8_t>(scope >> 56);
  }
};
// False: it was being written.
[[gnu::always_inline]] inline bool take(const GrantSlot& s, GrantFields& f) noexcept {
  constexpr auto kRelaxed = std::memory_order_relaxed;  // between the two looks at the version
  f.turn = s.turn.load(std::memory_order_acquire);      // pairs with end_write()
  // orders: relaxed lies between the two looks at the version
  f.secret = s.secret.load(kRelaxed);
  f.not_before_ns = s.not_before_ns.load(kRelaxed);
  f.not_after_ns = s.not_after_ns.load(kRelaxed);
  f.address = s.address.load(kRelaxed);
  f.length = s.length.load(kRelaxed);
  f.bytes = s.bytes.load(kRelaxed);
  f.scope = s.scope.load(kRelaxed);
  std::atomic_thread_fence(std::memory_order_acquire);  // pairs with the fence in begin_write()
  return ((f.turn & 1) | (s.turn.load(kRelaxed) ^ f.turn)) == 0;
}
[[gnu::always_inline]] inline bool inside(const GrantFields& f, std::uint64_t at,
                                          std::uint64_t bytes) noexcept {
  return at >= f.address && bytes <= f.length && at - f.address <= f.length - bytes;
}
// Which of them it is, in this order.
[[gnu::cold]] inline abi::DenyReason judge(const GrantFields& f, const GrantNeed& need,
                                           std::uint64_t now_ns) noexcept {
  using abi::DenyReason;
  if (now_ns != kAnyTime) {
    if (now_ns >= f.not_after_ns) [[unlikely]]
      return DenyReason::kExpired;
    if (now_ns < f.not_before_ns) [[unlikely]]
      return DenyReason::kNotYetValid;
  }
  if ((need.directions & ~f.directions()) != 0) [[unlikely]]
    return DenyReason::kDirection;
  if ((need.devices & ~f.devices()) != 0) [[unlikely]]
    return DenyReason::kDevice;
  if (f.length != 0) [[unlikely]] {
    if (need.source != 0 && !inside(f, need.source, need.bytes_here)) return DenyReason::kRange;
    if (need.destination != 0 && !inside(f, need.destination, need.bytes_here))
      return DenyReason::kRange;
  }
  if (f.bytes != 0 && need.bytes > f.bytes) [[unlikely]]
    return DenyReason::kBytes;
  return DenyReason::kNone;
}
}  // namespace detail

// Any process, any thread; no system call, no branch on the secret. `now_ns`: CLOCK_MONOTONIC(_COARSE), or kAnyTime. `serial` is set if
// the handle was good once, whatever the answer.
[[nodiscard, gnu::always_inline]] inline abi::DenyReason check_grant(
    const GrantTable& table, GrantHandle handle, const GrantNeed& need, std::uint64_t now_ns,
    std::uint32_t* serial) noexcept {
  const std::uint32_t index = handle.slot();
  if (index >= kGrantSlots) [[unlikely]]
    return abi::DenyReason::kForeign;
  const GrantSlot& slot = table.slots[index];
  detail::GrantFields f;
  for (int tries = 0; !detail::take(slot, f);) {
    if (++tries == detail::kGrantTries) return abi::DenyReason::kRevoked;  // its writer died in it
  }
  // acquire pairs with raise_epoch(): nothing that was done after the raise is missed
  const std::uint32_t epoch = table.header.epoch.load(std::memory_order_acquire);
  const std::uint64_t other = (generation_of(f.turn) ^ handle.generation()) |
                              ((epoch ^ handle.epoch()) & 0xffff) | (f.secret ^ handle.secret) |
                              f.ended();
  if (other != 0) [[unlikely]]
    return abi::DenyReason::kRevoked;
  *serial = f.serial();
  const std::uint64_t wants =
      scope_of(0, static_cast<std::uint16_t>(need.devices), need.directions, 0);
  const std::uint64_t lacks = (wants & ~f.scope) | need.devices >> 16;
  if ((lacks | f.length | f.bytes) != 0) [[unlikely]]
    return detail::judge(f, need, now_ns);
  const bool now = now_ns == kAnyTime || (now_ns >= f.not_before_ns && now_ns < f.not_after_ns);
  return now ? abi::DenyReason::kNone : detail::judge(f, need, now_ns);
}

// What a thread keeps of the grant it used last, so that most checks read one word of the table.
struct GrantKept {
  std::uint64_t not_before_ns = 0, lasts_ns = 0;
  std::uint64_t changes = 1ull << 32;  // beyond what a table's can be: nothing is kept
  std::uint32_t serial = 0;
  std::uint32_t refused_devices = 0;  // the bits it does not cover
  std::uint8_t refused_directions = 0;
};
// False: nothing can be kept, and `out` is as new: the handle is not good, the table is being changed or is of a format that does not
// say so, or the grant limits addresses or bytes, which are looked at each time.
[[nodiscard]] bool keep_grant(const GrantTable& table, GrantHandle handle, GrantKept& out) noexcept;
// Whether the kept grant lives and covers these. False says no more than: ask check_grant().
[[nodiscard, gnu::always_inline]] inline bool kept_covers(const GrantTable& table,
                                                          const GrantKept& kept,
                                                          std::uint32_t directions,
                                                          std::uint32_t devices) noexcept {
  // acquire pairs with begin_change(): nothing that was done after an end is missed
  const std::uint64_t changes = table.header.changes.load(std::memory_order_acquire);
  return ((changes ^ kept.changes) | (directions & kept.refused_directions) |
          (devices & kept.refused_devices)) == 0;
}
[[nodiscard, gnu::always_inline]] inline bool kept_is_now(const GrantKept& kept,
                                                          std::uint64_t now_ns) noexcept {
  return now_ns - kept.not_before_ns < kept.lasts_ns;  // both ends at once: before it wraps around
}

// ---- the daemon's side: one thread, one daemon
struct GrantValues {
  std::uint64_t not_before_ns = 0, not_after_ns = 0, address = 0, length = 0, bytes = 0;
  std::uint32_t serial = 0;
  std::uint16_t devices = 0;
  std::uint8_t directions = 0;
};
// Memory of zeros becomes a table.
void format_grants(GrantTable& table, const char* tenant, const std::uint8_t (*uuids)[16],
                   unsigned devices) noexcept;
// Gives a free slot away and puts it into `current`. kFull: kMostLivingGrants live.
[[nodiscard]] Result<GrantHandle> put_grant(GrantTable& table, const GrantValues& values,
                                            std::uint64_t secret) noexcept;
// Its handle is told `why` from here on. False: it was not living (any more).
bool end_grant(GrantTable& table, GrantHandle handle, abi::DenyReason why) noexcept;
// Ends all handles of the tenant at once; the slots are freed after it.
void raise_epoch(GrantTable& table) noexcept;

// ---- a process's side
// Whether mapped memory of this size is a table. kBadSize, kBadMagic, kBadVersion.
[[nodiscard]] Status check_grants(const GrantTable& table, std::size_t bytes) noexcept;
// The living grants' handles, in the order of `current`; returns how many.
unsigned living_grants(const GrantTable& table, GrantHandle (&out)[kMostLivingGrants]) noexcept;
// Why the slot's last handle was ended, if it was. kNone: living, or never given.
[[nodiscard]] abi::DenyReason ended_why(const GrantTable& table, GrantHandle handle) noexcept;

}  // namespace bulkhead::shm
