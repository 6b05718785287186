// The table of memory that a tenant's processes share with each other: who may open it, and who pays.
//
// Claim  Memory that a living process of the tenant holds by an import is in the used bytes of some cell at every
//        moment, whoever dies and whenever; when nobody holds it any more, a look of its payer, or of a reaper, takes it out.
// Proof  docs/formats/sharing.md, S1 to S4. An importer sets its bit and then reads the word; who closes an entry writes the
//        word and then reads the bits: sequentially consistent, so one of the two sees the other. A taker charges
//        itself before it moves the payer; a payer gives back after it saw another payer, or closed the entry itself.
// Price  every function scans the used part of the table: cold paths only.
// Shown  shares_test.cc, tests/storm/share_kill_test.cc, each with a broken variant that is caught.
//
// A process serialises its own calls for one entry (the hook has one private lock). All words are hostile: copied once, bounded.
#pragma once
#include <cstdint>

#include "shm/region.h"
#include "shm/slots.h"
#include "shm/world.h"

namespace bulkhead::shm {

enum ShareState : std::uint64_t {
  kShareFree = 0,
  kShareFilling = 1,
  kShareLive = 2,
  kShareReleased = 3,
  kShareClosing = 4
};
enum class ShareKind : std::uint8_t { kIpc = 1, kDescriptor, kFabric, kPool, kPoolPointer };

// word: state 4 | kind 4 | device 4 | slot 12 | gen 24 | serial 16, from the low bits.
inline constexpr std::uint64_t share_state(std::uint64_t w) { return w & 15; }
inline constexpr unsigned share_device(std::uint64_t w) { return (w >> 8) & 15; }
inline constexpr ShareKind share_kind(std::uint64_t w) {
  return static_cast<ShareKind>(w >> 4 & 15);
}
inline constexpr std::uint64_t share_maker(std::uint64_t w) { return (w >> 12) & 0xf'ffff'ffff; }
inline constexpr std::uint64_t share_seat(Seat s) {  // as share_maker(): slot 12 | gen 24
  return (s.slot & 0xfff) | static_cast<std::uint64_t>(s.gen & kGenMask) << 12;
}

struct ShareKey {
  std::uint64_t a = 0, b = 0;
  friend bool operator==(const ShareKey&, const ShareKey&) = default;
};
// The identity of 64 opaque bytes.
[[nodiscard]] ShareKey share_key_of(const void* bytes64) noexcept;

// An entry and what was in it: everything of the word but its state.
struct ShareRef {
  unsigned index = kMaxShares;
  std::uint64_t id = 0;
  explicit operator bool() const noexcept { return index < kMaxShares; }
};
struct ShareFacts {
  ShareKind kind;
  unsigned device;
  std::uint64_t bytes;
  std::uint64_t block;
  bool released;        // the payer has no use for it itself
  std::uint64_t payer;  // as share_seat()
  std::uint64_t maker;  // as share_seat()
};

// Enters an export of `owner`, which pays. Empty: the table is full; counted in exports_lost.
[[nodiscard]] ShareRef publish_share(Region& r, Seat owner, ShareKind kind, unsigned dev,
                                     std::uint64_t bytes, std::uint64_t block,
                                     ShareKey key) noexcept;
// The entry of a key, if it can be opened. Of `kind` only. The region may be a copy.
[[nodiscard]] ShareRef find_share(const Region& r, ShareKind kind, ShareKey key) noexcept;
// False: it is not that entry any more.
[[nodiscard]] bool read_share(const Region& r, ShareRef ref, ShareFacts& out) noexcept;
// Sets the slot's bit. False: the entry was closed meanwhile; the bit is as it was.
[[nodiscard]] bool hold_share(Region& r, unsigned slot, ShareRef ref) noexcept;
void unhold_share(Region& r, unsigned slot, ShareRef ref) noexcept;

// The payer, or nobody else: has no use for it itself any more.
enum class Closed : std::uint8_t { kClosed, kHeld, kGone };  // kGone: another pays, or pays no more
[[nodiscard]] Closed close_share(Region& r, const World& world, Seat payer, ShareRef ref) noexcept;

// Whether `me` holds the entry and may take its payment over: released, or the payer is gone.
[[nodiscard]] bool takeable(const Region& r, ShareRef ref, Seat me) noexcept;
// Moves the payment to `me`, which has charged itself already. False: give that back.
[[nodiscard]] bool take_share(Region& r, ShareRef ref, Seat me) noexcept;
// The payer holds the entry itself: nobody else may take it over. take_share() does it; again when in doubt.
void use_share(Region& r, ShareRef ref, Seat me) noexcept;

// The reaper's half (slots.cc). What a dead slot still owes, in bytes a device; without any change.
struct Owed {
  std::uint64_t bytes[kMaxDevices] = {};
  bool any = false;
};
void owed_by(const Region& r, const World& world, Seat dead, Owed& out) noexcept;
// Clears the slot's bits and the entries it was filling, closes what nobody holds, releases the rest; then what is owed.
void settle_shares(Region& r, const World& world, Seat dead, Owed& out) noexcept;
[[nodiscard]] bool holds_shares(const Region& r, unsigned slot) noexcept;
// Whether the tenant ever shared anything.
[[nodiscard]] inline bool any_shares(const Region& r) noexcept {
  return r.header.shares_high.load(std::memory_order_acquire) != 0;  // pairs with raise_high()
}

// Marks on open file descriptions (docs/formats/sharing.md, Identity).
[[nodiscard]] bool new_mark(ShareKey& out) noexcept;  // random; false: none to be had
[[nodiscard]] bool put_mark(int fd, ShareKey mark) noexcept;
[[nodiscard]] bool read_mark(int fd, ShareKey& out) noexcept;  // false: it has none
[[nodiscard]] bool mark_exists(ShareKey mark) noexcept;        // anywhere; unreadable /proc: false

}  // namespace bulkhead::shm
