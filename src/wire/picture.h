// The picture: what the daemon's unprivileged child may see. One sealed memfd (SHRINK, GROW, SEAL), written by the
// control loop, mapped read-only by the child; a sequence word tells a torn read. docs/formats/picture.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/sequence.h"
#include "wire/audit_view.h"
#include "wire/view.h"

namespace bulkhead::wire {

inline constexpr std::uint64_t kPictureMagic = 0x0031'5443'4950'4842;  // "BHPICT1" in memory order
inline constexpr unsigned kPictureTenants = 1024;
inline constexpr unsigned kPictureEvents = 256;
inline constexpr unsigned kPictureStrays = 64;
inline constexpr unsigned kDelayBuckets =
    24;  // bucket i counts delays below 2^i microseconds; the last one all others

struct DaemonView {
  std::uint32_t pid;
  std::uint32_t uid;
  std::int64_t started_unix_s;
  std::uint64_t cpu_ns;  // of the whole daemon process
  std::uint64_t rss_bytes;
  std::uint64_t reaped_processes, reaped_bytes;
  std::uint64_t reap_delay_sum_ns;  // from the death readable on the pidfd to the slot being free
  std::uint64_t reap_delays[kDelayBuckets];
  std::uint64_t events_total, events_lost;  // lost: could not be written to disk
  std::uint64_t requests_total, requests_refused, requests_malformed;
  std::uint64_t sentinel_rounds, sentinel_failures;
  std::uint64_t waiting;  // front ends in the queue
  std::uint64_t bypasses_found, bypasses_killed;
  // The audit: what the writer took over, and what the tenants' own words say of the wait for room.
  std::uint64_t audit_entries, audit_violations, audit_malformed, audit_high_water;
  std::uint64_t audit_lanes, audit_sessions, audit_sink_stalls;
  std::uint64_t audit_waits, audit_refused, audit_unrecorded;
  char version[32];
  AuditView audit;
  // The SIEM exporter. State: 0 off, 1 starting, 2 connected, 3 receiver away, 4 stuck; behind and unconfirmed are leaves of the log.
  std::uint64_t siem_state, siem_sent, siem_confirmed, siem_bytes, siem_connections;
  std::uint64_t siem_behind, siem_unconfirmed, siem_missed;
};

struct Picture {
  SequenceWord sequence;  // around every change, the first one included
  std::uint64_t magic;
  std::uint64_t bytes;   // sizeof(Picture)
  std::int64_t unix_ns;  // when it was taken
  std::uint64_t
      next_event_id;  // events[] holds ids next - event_count .. next - 1, at id % kPictureEvents
  std::uint32_t devices, tenants, strays, event_count;
  DaemonView daemon;
  NodeDevice device[kMaxDevices];
  StrayView stray[kPictureStrays];
  EventView event[kPictureEvents];
  TenantView tenant[kPictureTenants];
};
static_assert(std::is_standard_layout_v<Picture> && std::is_trivially_destructible_v<Picture>);

}  // namespace bulkhead::wire
