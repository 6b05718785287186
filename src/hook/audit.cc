// The audit's hot path: the grant, one entry in the thread's lane, and the answer. Measured: bench suite `audit`.
#include "hook/audit.h"

#include <time.h>

#include <atomic>

#include "base/clock.h"
#include "hook/audit_count.h"
#include "hook/audit_grant.h"
#include "hook/audit_lanes.h"
#include "hook/audit_mode.h"
#include "hook/process.h"
#include "hook/resolve.h"
#include "shm/dir.h"
#include "shm/node.h"

namespace bulkhead::hook {

constinit std::atomic<std::uint8_t> audit_state{kAuditUndecided};

namespace {

using abi::Decision;
using abi::DenyReason;
using abi::EntryKind;

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr std::uint8_t kUndecided = kAuditUndecided, kOff = kAuditOff, kEnforce = kAuditEnforce;
constexpr std::uint64_t kMostOfOne = 4;  // gap, mark, entry, geometry
constexpr std::uint64_t kSpin_ns = 2'000;
constexpr timespec kLook{0, 100'000};

// Of the two words the stricter one binds.
std::uint8_t state_of(std::uint32_t page) noexcept {
  const std::uint32_t own = settings().audit;
  return static_cast<std::uint8_t>(kOff + (own > page ? own : page));
}

// relaxed: a word of its own; what it decides about is asked for separately
void set_state(std::uint8_t to) noexcept { audit_state.store(to, kRelaxed); }

std::uint32_t page_audit() noexcept {
  const Undisturbed keep;
  Result<shm::Dir> dir = shm::open_dir(shm::dir_options(on_simulator(), false));
  if (!dir.ok()) return 0;
  const Result<Mapping> map = shm::map_node(*dir);
  return map.ok() ? shm::node_audit(*map->as<const shm::NodePage>(), settings().tenant) : 0;
}

[[gnu::cold, gnu::noinline]] bool decide() noexcept {
  if (!wanted()) {
    set_state(kOff);
    return false;
  }
  if (mode() == Mode::kUndecided) return false;  // the driver is not initialised: nothing moves
  set_state(state_of(page_audit()));
  return audit_state.load(kRelaxed) > kOff;  // as set_state()
}

// Nothing was recorded. Enforced: the transfer does not happen.
[[gnu::cold, gnu::noinline]] CUresult without_lane(std::uint8_t now,
                                                   const AuditEvent& event) noexcept {
  const CUresult r = now == kEnforce ? CUDA_ERROR_NOT_PERMITTED : CUDA_SUCCESS;
  count_unlogged(event, r, false);
  return r;
}

// What the first call of a thread is held for.
[[gnu::cold, gnu::noinline]] ThreadLane* claim_timed(bool patient) noexcept {
  const std::uint64_t began = monotonic_ns();
  ThreadLane* const lane = claim_lane(patient);
  count_held(monotonic_ns() - began, 1);
  return lane;
}

shm::OnFull on_full() noexcept {
  return static_cast<shm::OnFull>(bell->full.load(kRelaxed));  // one word, the daemon's
}

// Until there is room, the deadline has passed, or waiting is not asked for.
[[gnu::cold, gnu::noinline]] bool wait_for_room(ThreadLane& lane, std::uint64_t entries) noexcept {
  const Undisturbed keep;
  lane.end.lane->header.stalls.fetch_add(1, kRelaxed);  // a statistic
  if (lane.choked || on_full() == shm::OnFull::kDeny) return false;
  const std::uint64_t began = monotonic_ns();
  const std::uint64_t deadline_ns =
      std::uint64_t{bell->deadline_ms.load(kRelaxed)} * 1'000'000;  // as on_full()
  for (;;) {
    const bool room = shm::lane_has_room(lane.end, entries);
    const std::uint64_t waited = monotonic_ns() - began;
    if (room || waited >= deadline_ns) {
      count_held(waited, 1);
      lane.waited = true;
      return room;
    }
    if (waited < kSpin_ns) continue;
    wake_writer();
    ::nanosleep(&kLook, nullptr);
  }
}

bool make_room(ThreadLane& lane) noexcept {
  if (shm::lane_has_room(lane.end, kMostOfOne)) [[likely]]
    return true;
  const bool room = wait_for_room(lane, kMostOfOne);
  lane.choked = !room;
  return room;
}

[[gnu::cold, gnu::noinline]] CUresult no_room(ThreadLane& lane, std::uint8_t now,
                                              DenyReason reason) noexcept {
  shm::LaneHeader& header = lane.end.lane->header;
  if (now == kEnforce && (reason != DenyReason::kNone || on_full() != shm::OnFull::kCount)) {
    if (on_full() == shm::OnFull::kBlock) lane.choked = false;  // the next one waits again
    header.refused.fetch_add(1, kRelaxed);                      // a statistic
    return CUDA_ERROR_NOT_PERMITTED;
  }
  ++lane.lost;
  header.unrecorded.fetch_add(1, kRelaxed);  // a statistic
  return CUDA_SUCCESS;
}

abi::AuditEntry plain(EntryKind kind, std::uint64_t utc_ns) noexcept {
  abi::AuditEntry e{};
  e.version_kind = abi::version_kind(kind);
  e.utc_ns = utc_ns;
  return e;
}

[[gnu::cold, gnu::noinline]] void publish_gap(ThreadLane& lane, std::uint64_t utc_ns) noexcept {
  abi::AuditEntry e = plain(EntryKind::kGap, utc_ns);
  e.source = lane.end.next - 1;  // a lane without room has entries
  e.destination = lane.end.next;
  abi::set_bytes(e, lane.lost);
  lane.lost = 0;
  shm::lane_publish(lane.end, e);
}

[[gnu::cold, gnu::noinline]] void publish_mark(ThreadLane& lane, std::uint64_t utc_ns) noexcept {
  abi::AuditEntry e = plain(EntryKind::kMark, utc_ns);
  e.source = lane.end.next - 1;  // kMarkEvery entries lie before it
  lane.marked = shm::lane_publish(lane.end, e);
}

[[gnu::cold, gnu::noinline]] void publish_geometry(ThreadLane& lane, const AuditEvent& event,
                                                   std::uint64_t utc_ns) noexcept {
  abi::AuditEntry e = plain(EntryKind::kGeometry, utc_ns);
  e.source = std::uint64_t{event.height} << 32 | event.width_bytes;
  e.destination = event.depth;
  abi::set_bytes(e, event.pitch);
  shm::lane_publish(lane.end, e);
}

// The calls that have no more to do than write an entry.
void look_ahead(ThreadLane& lane) noexcept {
  if (lane.shared || lane.lost != 0) {
    lane.plain_until = 0;
    return;
  }
  const std::uint64_t mark = lane.marked + shm::kMarkEvery;
  const std::uint64_t full = lane.end.seen_tail + shm::kLaneSlots + 1 - kMostOfOne;
  const std::uint64_t sooner = mark < full ? mark : full;
  lane.plain_until = sooner < lane.timed_at ? sooner : lane.timed_at;
}

// What CLOCK_REALTIME has more than CLOCK_MONOTONIC: one number from step to step of the former, for both are slewed alike. The coarse
// clocks are both set at the timer's tick, so what is read of them between two equal readings is of one moment, to the nanosecond.
[[gnu::cold, gnu::noinline]] void renew_offset(ThreadLane& lane, std::uint64_t now_ns) noexcept {
  constexpr std::uint64_t kOffset_ns = 1'000'000;
  lane.offset_until_ns = now_ns + kOffset_ns;
  for (int tries = 0; tries < 8; ++tries) {
    const std::uint64_t before = clock_ns(CLOCK_MONOTONIC_COARSE);
    lane.utc_offset_ns = clock_ns(CLOCK_REALTIME_COARSE) - before;
    if (clock_ns(CLOCK_MONOTONIC_COARSE) == before) return;
  }
  const std::uint64_t between = monotonic_ns();  // to some ten nanoseconds
  lane.utc_offset_ns = clock_ns(CLOCK_REALTIME) - between;
}
[[gnu::always_inline]] inline std::uint64_t utc_now(ThreadLane& lane,
                                                    std::uint64_t now_ns) noexcept {
  if (now_ns >= lane.offset_until_ns) [[unlikely]]
    renew_offset(lane, now_ns);
  return now_ns + lane.utc_offset_ns;
}

// After the commit: wakes the writer if it says that it sleeps (lane.md, "Sleeping").
inline void ring() noexcept {
  // the compiler keeps the order; between the cores the writer's barrier does
  std::atomic_signal_fence(std::memory_order_seq_cst);
  if (bell->asleep.load(kRelaxed) != 0) [[unlikely]]
    wake_writer();
}

abi::EntryWords words_of(const AuditEvent& event, Decision decision, const GrantAnswer& grant,
                         std::uint64_t utc_ns) noexcept {
  return {
      abi::entry_head(event.kind, event.op, event.direction, decision, event.flags, grant.reason),
      grant.serial,
      utc_ns,
      event.source,
      event.destination,
      abi::entry_where(event.bytes, event.source_device, event.destination_device),
      event.stream};
}
// entry_head() of an event that is allowed: its first four bytes, but for the version and where the flags lie.
[[gnu::always_inline]] inline std::uint32_t allowed_head(const AuditEvent& event) noexcept {
  std::uint32_t four = 0;
  __builtin_memcpy(&four, &event, sizeof four);
  return (four & 0xff'ffff) | four >> 24 << 21 | abi::kEntryVersion << 4;
}
static_assert(abi::entry_head(EntryKind::kTransfer, abi::AuditOp::k_cuMemcpy, abi::Direction::kSet,
                              Decision::kAllowed, abi::kAsynchronous, DenyReason::kNone) ==
              (1u | static_cast<unsigned>(abi::AuditOp::k_cuMemcpy) << 8 | 5u << 16 | 1u << 21 |
               abi::kEntryVersion << 4));
[[gnu::always_inline]] inline bool has_shape(const AuditEvent& event) noexcept {
  return ((event.width_bytes | event.height) | (event.depth | event.pitch)) != 0;
}

CUresult record(ThreadLane& lane, std::uint8_t now, const AuditEvent& event,
                const GrantAnswer& grant, AuditTicket& ticket) noexcept {
  if (!make_room(lane)) [[unlikely]] {
    const CUresult r = no_room(lane, now, grant.reason);
    count_unlogged(event, r, true);
    return r;
  }
  const std::uint64_t utc_ns = utc_now(lane, monotonic_ns());
  if (lane.lost != 0) [[unlikely]]
    publish_gap(lane, utc_ns);
  constexpr std::uint8_t kOneOfMany = abi::kBatchMember | abi::kGraphReplay;
  if (lane.end.next - lane.marked >= shm::kMarkEvery && !lane.shared &&
      (event.flags & kOneOfMany) == 0) [[unlikely]] {
    publish_mark(lane, utc_ns);
  }
  const bool denied = grant.reason != DenyReason::kNone && now == kEnforce;
  const Decision decision = grant.reason == DenyReason::kNone ? Decision::kAllowed
                            : denied                          ? Decision::kDenied
                                                              : Decision::kObserved;
  ticket.sequence = shm::lane_publish(lane.end, words_of(event, decision, grant, utc_ns));
  ticket.lane = &lane;
  if (has_shape(event)) [[unlikely]]
    publish_geometry(lane, event, utc_ns);
  shm::lane_note_head(lane.end);
  shm::lane_ahead(lane.end);
  count_logged(event, decision);
  ring();
  return denied ? CUDA_ERROR_NOT_PERMITTED : CUDA_SUCCESS;
}

// As record(); one call in kTimedEvery is timed, one that waits times itself.
CUresult record_timed(ThreadLane& lane, std::uint8_t now, const AuditEvent& event,
                      const GrantAnswer& grant, AuditTicket& ticket) noexcept {
  const std::uint64_t before = lane.end.next;
  const bool timed = before >= lane.timed_at;
  lane.waited = false;
  const std::uint64_t began = timed ? monotonic_ns() : 0;
  const CUresult r = record(lane, now, event, grant, ticket);
  if (timed) {
    if (!lane.waited) count_held(monotonic_ns() - began, kTimedEvery);
    lane.timed_at = lane.end.next + kTimedEvery - 1;
  } else if (lane.end.next != before) {
    lane.timed_at += lane.end.next - before - 1;  // of several entries of one call
  } else {
    lane.timed_at -= 1;  // one without
  }
  look_ahead(lane);
  return r;
}

[[gnu::cold, gnu::noinline]] CUresult record_shared(ThreadLane& lane, std::uint8_t now,
                                                    const AuditEvent& event,
                                                    const GrantAnswer& grant,
                                                    AuditTicket& ticket) noexcept {
  const Held held{lane.lock};
  return record_timed(lane, now, event, grant, ticket);
}

void record_failure(ThreadLane& lane, std::uint64_t sequence, CUresult result) noexcept {
  if (!make_room(lane)) [[unlikely]] {
    ++lane.lost;
    lane.plain_until = 0;
    lane.end.lane->header.unrecorded.fetch_add(1, kRelaxed);  // a statistic
    return;
  }
  abi::AuditEntry e = plain(EntryKind::kFailure, utc_now(lane, monotonic_ns()));
  e.source = sequence;
  abi::set_bytes(e, static_cast<std::uint32_t>(result));
  shm::lane_publish(lane.end, e);
  lane.timed_at += 1;  // no call of its own
  look_ahead(lane);
  ring();
}

}  // namespace

bool audit_on() noexcept {
  const std::uint8_t now = audit_state.load(kRelaxed);  // a word of its own
  if (now == kUndecided) [[unlikely]]
    return decide();
  return now != kOff;
}

namespace {

[[gnu::noinline]] CUresult before_at_length(const AuditEvent& event, AuditTicket& ticket) noexcept {
  ticket = AuditTicket{};
  if (!audit_on()) return CUDA_SUCCESS;
  const std::uint8_t now = audit_state.load(kRelaxed);  // as audit_on()
  const GrantAnswer grant = grant_check(event, monotonic_ns());
  ThreadLane* lane = my_lane;
  if (lane == nullptr || lane->end.lane == nullptr) [[unlikely]] {
    lane = claim_timed(now == kEnforce);
    if (lane == nullptr) return without_lane(now, event);
  }
  if (lane->shared) [[unlikely]]
    return record_shared(*lane, now, event, grant, ticket);
  return record_timed(*lane, now, event, grant, ticket);
}

}  // namespace

// Here what most calls are: one entry, and a grant that was found before. One clock is read, and nothing is changed by a locked
// instruction.
CUresult audit_before(const AuditEvent& event, AuditTicket& ticket) noexcept {
  ThreadLane* const lane = my_lane;
  // relaxed: as audit_on()
  if (lane == nullptr || audit_state.load(kRelaxed) <= kOff || lane->shared ||
      lane->end.next >= lane->plain_until || has_shape(event)) [[unlikely]]
    return before_at_length(event, ticket);
  const std::uint64_t now_ns = monotonic_ns();
  const GrantCache* const kept = grant_kept(event, now_ns);
  if (kept == nullptr) [[unlikely]]
    return before_at_length(event, ticket);
  ticket.lane = lane;
  ticket.sequence = shm::lane_publish(
      lane->end,
      abi::EntryWords{allowed_head(event), kept->kept.serial, utc_now(*lane, now_ns), event.source,
                      event.destination,
                      abi::entry_where(event.bytes, event.source_device, event.destination_device),
                      event.stream});
  shm::lane_ahead(lane->end);
  count_allowed(event);
  ring();
  return CUDA_SUCCESS;
}

[[gnu::cold]] void audit_failed(const AuditTicket& ticket, CUresult result) noexcept {
  auto* lane = static_cast<ThreadLane*>(ticket.lane);
  if (lane == nullptr || lane->end.lane == nullptr) return;
  if (!lane->shared) return record_failure(*lane, ticket.sequence, result);
  const Held held{lane->lock};
  record_failure(*lane, ticket.sequence, result);
}

void audit_page(const shm::NodePage& page) noexcept {
  // before decide() there is nothing to change: it looks at the page itself
  if (audit_state.load(kRelaxed) == kUndecided) return;  // as audit_on()
  set_state(state_of(shm::node_audit(page, settings().tenant)));
}

Status audit_may_start() noexcept {
  if (settings().audit != 2 && page_audit() != 2) return Status{};
  return lanes_answer();
}

void audit_forked_child() noexcept {
  lanes_forked_child();
  set_state(kUndecided);
}

}  // namespace bulkhead::hook
