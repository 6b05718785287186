// What the library counts of audited transfers, apart from their lanes (docs/compliance/coverage.md): layout in the region's header;
// audit_totals.h reads it. The tenant's processes write it, by sums that only rise, so it is a tenant's word: a bound, no proof.
//
// An entry is counted after it was published and before the driver is called: whoever is killed between the two leaves one entry more
// than counted, never one less. So `calls` of a class never passes what is logged, missed and refused without an entry together.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace bulkhead::shm {

inline constexpr unsigned kAuditClasses = 9;  // by abi::Direction; the last: map events
inline constexpr unsigned kMapClass = 8;
inline constexpr unsigned kAuditBuckets = 96;
inline constexpr unsigned kUnresolved = 16;
inline constexpr unsigned kUnresolvedWords = 5;  // a name of at most 39 characters, cut beyond

struct alignas(64) AuditClass {
  std::atomic<std::uint64_t> calls;  // all of them, one an event that would be an entry
  std::atomic<std::uint64_t> bytes;
  std::atomic<std::uint64_t> missed_calls;  // went to the driver and have no entry
  std::atomic<std::uint64_t> missed_bytes;
  std::atomic<std::uint64_t> refused;           // answered 800, with an entry or without
  std::atomic<std::uint64_t> unlogged_refused;  // of them, without: no lane, or no room in it
  std::atomic<std::uint64_t> unlogged_refused_bytes;
  std::atomic<std::uint64_t> observed;  // let through though no grant covered it
};
struct alignas(64) AuditSums {
  std::atomic<std::uint64_t> no_lane_calls;  // of the missed: there was no lane
  std::atomic<std::uint64_t> no_lane_bytes;
  std::atomic<std::uint64_t> no_room_calls;  // of the missed: the lane was full
  std::atomic<std::uint64_t> no_room_bytes;
  std::atomic<std::uint64_t>
      unresolved;  // functions that move data, asked for, and not in the table
  std::atomic<std::uint64_t> export_tables;  // times cuGetExportTable was asked for by name
  std::atomic<std::uint64_t> reserved[2];
};
struct AuditCount {
  AuditClass classes[kAuditClasses];
  AuditSums sums;
  // How long a recorded call was held before the driver was called: one in 16 with weight 16, waits and first calls each with weight 1.
  std::atomic<std::uint64_t> held[kAuditBuckets];
  // The first names of `unresolved`, zero padded; the first word is stored last.
  std::atomic<std::uint64_t> names[kUnresolved][kUnresolvedWords];
};
static_assert(std::is_standard_layout_v<AuditCount> && sizeof(AuditCount) == 2048);
static_assert(offsetof(AuditCount, sums) == 576 && offsetof(AuditCount, held) == 640 &&
              offsetof(AuditCount, names) == 1408);

// Bucket 0: below 64 ns; then four an octave. The last holds all above.
[[nodiscard]] constexpr unsigned held_bucket(std::uint64_t ns) noexcept {
  if (ns < 64) return 0;
  const auto e = static_cast<unsigned>(63 - __builtin_clzll(ns));
  const unsigned at = (e - 6) * 4 + static_cast<unsigned>(ns >> (e - 2) & 3) + 1;
  return at < kAuditBuckets ? at : kAuditBuckets - 1;
}
// The least that lies in a bucket, ns.
[[nodiscard]] constexpr std::uint64_t bucket_from_ns(unsigned bucket) noexcept {
  if (bucket == 0) return 0;
  const unsigned k = bucket - 1, e = 6 + k / 4;
  return std::uint64_t{4 + k % 4} << (e - 2);
}

}  // namespace bulkhead::shm
