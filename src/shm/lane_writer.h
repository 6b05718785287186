// The daemon's words in pages and bell, and the writer's sleep (docs/formats/lane.md, "Sleeping"). One writer thread.
#pragma once
#include <errno.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shm/lane.h"

namespace bulkhead::shm {

// Everything below `tail` was taken over; what the lane held there may be overwritten.
inline void set_tail(LaneCell& cell, std::uint64_t tail) noexcept {
  cell.tail.store(tail, std::memory_order_release);  // pairs with lane_has_room()
}
inline void add_gaps(LaneCell& cell, std::uint64_t entries) noexcept {
  cell.gaps.fetch_add(entries, std::memory_order_relaxed);  // before the tail; read after a death
}
inline void set_lane_state(LaneCell& cell, LaneState state) noexcept {
  cell.state.store(state, std::memory_order_relaxed);  // one word
}
inline void set_page_flag(LanePage& page, PageFlag flag) noexcept {
  page.flags.fetch_or(
      flag,
      std::memory_order_release);  // pairs with the next daemon's look: after what it says was done
}
inline void publish_page(LanePage& page) noexcept {
  page.major = kLaneMajor;
  page.magic.store(kLanePageMagic, std::memory_order_release);  // pairs with whoever maps it
}

// The writer: from here on producers ring. Then all lanes are looked at once more, then sleep_on().
inline void fall_asleep(Bell& bell) noexcept {
  bell.asleep.store(1, std::memory_order_seq_cst);  // before the barrier and the second look
  ::syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
}
// Until somebody rings or the time is up; `ms` 0: without a bound.
inline void sleep_on(Bell& bell, std::uint64_t ms) noexcept {
  const timespec bound{static_cast<time_t>(ms / 1000), static_cast<long>(ms % 1000 * 1'000'000)};
  ::syscall(SYS_futex, &bell.asleep, FUTEX_WAIT, 1, ms == 0 ? nullptr : &bound, nullptr, 0);
}
inline void awake(Bell& bell) noexcept {
  bell.asleep.store(0, std::memory_order_relaxed);  // a hint: one call too many does no harm
}
// The control loop has something for the writer: also when it is between its second look and its sleep.
inline void ring_bell(Bell& bell) noexcept {
  bell.asleep.store(0, std::memory_order_seq_cst);  // the futex compares: no sleep begins after it
  ::syscall(SYS_futex, &bell.asleep, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

// What the writer is about to hand to the sink, so that a later daemon knows (lane.md, "Exactly once"). Private memory,
// kept like the lanes; written by the writer thread alone.
enum class IntentKind : std::uint32_t { kNone = 0, kEntries, kSession, kSessionEnd, kFinding };
struct Intent {
  AtomicU64 magic;  // kBellMagic
  AtomicU32 kind;   // IntentKind, stored last
  std::uint32_t session;
  std::uint32_t lane;
  std::uint32_t count;
  std::uint64_t from;         // sequence
  std::uint64_t size_before;  // leaves in the sink
  std::uint8_t reserved[4056];
};
static_assert(std::is_standard_layout_v<Intent> && sizeof(Intent) == 4096);

inline void intend(Intent& to, IntentKind kind, std::uint32_t session, std::uint32_t lane,
                   std::uint64_t from, std::uint32_t count, std::uint64_t size_before) noexcept {
  to.session = session;
  to.lane = lane;
  to.from = from;
  to.count = count;
  to.size_before = size_before;
  // release: whoever finds the kind after our death finds the rest
  to.kind.store(static_cast<std::uint32_t>(kind), std::memory_order_release);
}
inline void intent_done(Intent& to) noexcept {
  // release: after the tail or flag that it was about
  to.kind.store(static_cast<std::uint32_t>(IntentKind::kNone), std::memory_order_release);
}

}  // namespace bulkhead::shm
