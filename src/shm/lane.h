// Lanes, format 1.0 (docs/formats/lane.md): layout, the producer's end, and what the consumer reads of a slot.
//
// Claim  the committed entries of a lane are contiguous from 0 and whole, whoever dies and whenever; the consumer
//        takes each of them once, in order, and nothing a hostile producer writes hurts anybody else.
// Proof  the entry's bytes precede its commit (release), the consumer reads them after it (acquire). A slot is
//        filled again only when the tail, stored by the consumer after its copy, has passed it. The tail lies in
//        memory the producer cannot write. What the consumer uses is its own copy.
// Price  a full lane makes its thread wait; the two bytes beside the entry are unused.
// Model  tests/model/lane.pml
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "abi/audit_entry.h"
#include "base/kill_point.h"
#include "shm/region.h"

namespace bulkhead::shm {

inline constexpr std::uint64_t kLaneMagic = 0x0031'454e'414c'4842;      // "BHLANE1" in memory order
inline constexpr std::uint64_t kLanePageMagic = 0x0031'4741'504c'4842;  // "BHLPAG1"
inline constexpr std::uint64_t kBellMagic = 0x0031'4c4c'4542'4842;      // "BHBELL1"
inline constexpr std::uint16_t kLaneMajor = 1;
inline constexpr std::uint64_t kLaneSlots = 131'072;
inline constexpr unsigned kOwnLanes = 16;            // of one process's threads
inline constexpr unsigned kSharedLane = kOwnLanes;   // under a lock of the process
inline constexpr unsigned kLanes = kOwnLanes + 1;    // of one process
inline constexpr std::uint64_t kWriterNap_ms = 100;  // the writer sleeps no longer than this
inline constexpr std::uint32_t kMarkEvery = 1024;    // entries

struct alignas(64) LaneSlot {
  AtomicU64 commit;  // producer: sequence + 1, after the entry
  abi::AuditEntry entry;
  std::uint8_t spare[2];
};
struct LaneHeader {
  AtomicU64 magic;  // stored last by format_lane()
  std::uint16_t major;
  std::uint16_t minor;
  std::uint32_t lane;
  std::uint32_t session;
  std::uint8_t reserved0[44];
  AtomicU64 head;  // this line: the producer
  AtomicU64 stalls;
  AtomicU64 refused;
  AtomicU64 unrecorded;
  std::uint8_t reserved1[4000];
};
struct Lane {
  LaneHeader header;
  LaneSlot slots[kLaneSlots];
};

struct alignas(64) LaneCell {
  AtomicU64 tail;  // writer: everything below it was taken over by the sink
  AtomicU32 state;
  std::uint32_t reserved0;
  AtomicU64 gaps;  // writer: entries that its gap entries have named so far
  std::uint8_t reserved1[40];
};
enum LaneState : std::uint32_t { kLaneNone = 0, kLaneOpen = 1, kLaneFaulty = 2 };
enum PageFlag : std::uint32_t { kSessionRecorded = 1, kSessionDead = 2, kSessionEnded = 4 };
struct LanePage {
  AtomicU64 magic;  // stored last
  std::uint16_t major;
  std::uint16_t minor;
  std::uint32_t session;
  std::uint32_t pid;  // as the daemon's namespace numbers it
  std::uint32_t uid;
  std::uint64_t start_ticks;
  AtomicU32 flags;     // PageFlag: the daemon
  std::uint32_t mode;  // when it began: 1 observe, 2 enforce
  std::uint8_t reserved0[24];
  char tenant[kNameBytes];
  std::uint32_t device_count;
  std::uint8_t reserved1[12];
  std::uint8_t devices[kMaxDevices][kUuidBytes];
  std::uint8_t reserved2[624];
  LaneCell cells[kLanes];
  std::uint8_t reserved3[1984];
};

enum class OnFull : std::uint32_t { kBlock = 0, kDeny = 1, kCount = 2 };
struct Bell {
  AtomicU64 magic;  // stored last
  std::uint16_t major;
  std::uint16_t minor;
  std::uint8_t reserved0[52];
  AtomicU32 asleep;  // writer; futex: 1 = wake me
  std::uint8_t reserved1[60];
  AtomicU32 full;  // OnFull: the daemon
  AtomicU32 deadline_ms;
  std::uint8_t reserved2[3960];
};
static_assert(std::is_standard_layout_v<Lane> && std::is_standard_layout_v<LanePage>);
static_assert(sizeof(LaneSlot) == 64 && offsetof(LaneSlot, entry) == 8);
static_assert(offsetof(LaneHeader, head) == 64 && sizeof(LaneHeader) == 4096);
static_assert(sizeof(Lane) == 4096 + (8u << 20));
static_assert(offsetof(LanePage, tenant) == 64 && offsetof(LanePage, devices) == 144);
static_assert(offsetof(LanePage, cells) == 1024 && sizeof(LanePage) == 4096);
static_assert(offsetof(Bell, asleep) == 64 && offsetof(Bell, full) == 128 && sizeof(Bell) == 4096);
static_assert((kLaneSlots & (kLaneSlots - 1)) == 0);

// Into zeroed memory, before anybody else has it: the daemon.
inline void format_lane(Lane& l, std::uint32_t session, unsigned lane) noexcept {
  l.header.major = kLaneMajor;
  l.header.session = session;
  l.header.lane = lane;
  l.header.magic.store(kLaneMagic, std::memory_order_release);  // pairs with whoever maps it
}
inline void format_bell(Bell& b, OnFull full, std::uint32_t deadline_ms) noexcept {
  b.major = kLaneMajor;
  // relaxed: ordered by the magic, and one word each later
  b.full.store(static_cast<std::uint32_t>(full), std::memory_order_relaxed);
  b.deadline_ms.store(deadline_ms, std::memory_order_relaxed);  // as above
  b.magic.store(kBellMagic, std::memory_order_release);         // pairs with whoever maps it
}

// ---- the producer's end: one thread at a time, no heap, no system call

struct LaneEnd {  // process-private
  Lane* lane = nullptr;
  const LaneCell* cell = nullptr;
  std::uint64_t next = 0;       // sequence of the next entry
  std::uint64_t seen_tail = 0;  // entries below it were taken
};

// A thread takes over a lane of its own process that another has left, wherever that one was.
inline LaneEnd adopt_lane(Lane& lane, const LaneCell& cell) noexcept {
  LaneEnd end{&lane, &cell, 0, 0};
  // relaxed, both: own process, under its lock. Entries behind the head stand by their commits
  end.next = lane.header.head.load(std::memory_order_relaxed);
  for (std::uint64_t n = 0; n < kLaneSlots; ++n) {
    const LaneSlot& slot = lane.slots[end.next & (kLaneSlots - 1)];
    if (slot.commit.load(std::memory_order_relaxed) != end.next + 1) break;  // as above
    ++end.next;
  }
  end.seen_tail = cell.tail.load(std::memory_order_acquire);  // pairs with LaneTail::take()
  return end;
}
// Whether `entries` more fit now.
[[nodiscard]] inline bool lane_has_room(LaneEnd& end, std::uint64_t entries) noexcept {
  if (end.next + entries - end.seen_tail <= kLaneSlots) [[likely]]
    return true;
  // acquire pairs with the consumer's store of the tail: its copy of what we overwrite is made
  end.seen_tail = end.cell->tail.load(std::memory_order_acquire);
  return end.next + entries - end.seen_tail <= kLaneSlots;
}
// From where the next thread that gets the lane looks for its end.
inline void lane_note_head(LaneEnd& end) noexcept {
  // relaxed: read by the next thread of this process that gets the lane, under a lock
  end.lane->header.head.store(end.next, std::memory_order_relaxed);
}
namespace detail {
inline std::uint64_t commit(LaneEnd& end, LaneSlot& slot) noexcept {
  const std::uint64_t sequence = end.next;
  BH_KILL_POINT("lane.filled");
  slot.commit.store(sequence + 1, std::memory_order_release);  // pairs with read_slot()
  BH_KILL_POINT("lane.committed");
  end.next = sequence + 1;
  return sequence;
}
}  // namespace detail
// Publishes `entry` with the next sequence, which is returned. There must be room.
inline std::uint64_t lane_publish(LaneEnd& end, const abi::AuditEntry& entry) noexcept {
  LaneSlot& slot = end.lane->slots[end.next & (kLaneSlots - 1)];
  slot.entry = entry;
  abi::set_sequence(slot.entry, end.next);
  const std::uint64_t sequence = detail::commit(end, slot);
  lane_note_head(end);
  return sequence;
}
// The same by words, each stored once: an entry put together from bytes would be read back before they have reached the cache. The head
// stays behind: lane_note_head() now and then.
[[gnu::always_inline]] inline std::uint64_t lane_publish(LaneEnd& end,
                                                         const abi::EntryWords& words) noexcept {
  LaneSlot& slot = end.lane->slots[end.next & (kLaneSlots - 1)];
  abi::put_entry(slot.entry, words, end.next);
  return detail::commit(end, slot);
}
// The slot after the next one is asked for, to be written: the writer's core had it last.
[[gnu::always_inline]] inline void lane_ahead(const LaneEnd& end) noexcept {
  const LaneSlot* const slot = &end.lane->slots[end.next & (kLaneSlots - 1)];
#if defined(__x86_64__)
  __asm__ volatile("prefetchw %0" : : "m"(*slot));  // nothing where a processor does not know it
#else
  __builtin_prefetch(slot, 1, 3);
#endif
}

// ---- the consumer's end: everything it reads may be hostile

enum class LaneRead : std::uint8_t { kNothing, kEntry, kFaulty };
// The entry of sequence `expected`, copied once. kFaulty: the slot holds what no producer writes there.
[[nodiscard]] inline LaneRead read_slot(const LaneSlot& slot, std::uint64_t expected,
                                        abi::AuditEntry& out) noexcept {
  const std::uint64_t commit = slot.commit.load(std::memory_order_acquire);  // pairs with publish
  if (commit != expected + 1) {
    const std::uint64_t before = expected < kLaneSlots ? 0 : expected + 1 - kLaneSlots;
    return commit == before ? LaneRead::kNothing : LaneRead::kFaulty;
  }
  // by words, each read once: the compiler must not look a second time
  std::uint64_t words[7];
  const auto* from = reinterpret_cast<const std::uint64_t*>(&slot) + 1;
  // relaxed: ordered by the commit; an honest producer does not write here now
  for (int i = 0; i < 7; ++i) words[i] = __atomic_load_n(from + i, __ATOMIC_RELAXED);
  std::memcpy(&out, words, sizeof out);
  return LaneRead::kEntry;
}
// Whether a copied entry is one that a library may write at this place of its lane.
[[nodiscard]] bool well_formed(const abi::AuditEntry& entry, std::uint64_t expected) noexcept;
// What stands in the log for one that is not: the sequence, the time it was read, and nothing the tenant wrote.
[[nodiscard]] abi::AuditEntry malformed_entry(std::uint64_t expected,
                                              std::uint64_t utc_ns) noexcept;

}  // namespace bulkhead::shm
