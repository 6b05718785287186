// What the library counts of audited transfers, apart from their lanes (docs/compliance/coverage.md): layout in the region's header, and
// how the counts are read. The tenant's processes write it, by sums that only rise, so it is a tenant's word: a bound, no proof.
//
// An entry is counted after it was published and before the driver is called: whoever is killed between the two leaves one entry more
// than counted, never one less. So `calls` of a class never passes what is logged, missed and refused without an entry together.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
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
  std::atomic<std::uint64_t> unresolved;     // functions that move data, asked for, and not in the table
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

// A copy, at one moment for each word.
struct AuditTotals {
  struct Class {
    std::uint64_t calls = 0, bytes = 0, missed_calls = 0, missed_bytes = 0, refused = 0,
                  unlogged_refused = 0, unlogged_refused_bytes = 0, observed = 0;
  };
  Class classes[kAuditClasses];
  std::uint64_t no_lane_calls = 0, no_lane_bytes = 0, no_room_calls = 0, no_room_bytes = 0,
                unresolved = 0, export_tables = 0;
  std::uint64_t held[kAuditBuckets] = {};
  char names[kUnresolved][8 * kUnresolvedWords + 1] = {};

  [[nodiscard]] Class sum() const noexcept {
    Class all;
    for (const Class& c : classes) {
      all.calls += c.calls, all.bytes += c.bytes;
      all.missed_calls += c.missed_calls, all.missed_bytes += c.missed_bytes;
      all.refused += c.refused, all.observed += c.observed;
      all.unlogged_refused += c.unlogged_refused;
      all.unlogged_refused_bytes += c.unlogged_refused_bytes;
    }
    return all;
  }
};
inline void read_audit_count(const AuditCount& from, AuditTotals& to) noexcept {
  constexpr auto kRelaxed = std::memory_order_relaxed;  // sums of one word each; nothing is ordered
  for (unsigned i = 0; i < kAuditClasses; ++i) {
    const AuditClass& c = from.classes[i];
    AuditTotals::Class& out = to.classes[i];
    // calls first: what is counted beside it is counted before it
    out.calls = c.calls.load(std::memory_order_acquire);  // pairs with count_audited()
    out.bytes = c.bytes.load(kRelaxed);
    out.missed_calls = c.missed_calls.load(kRelaxed);
    out.missed_bytes = c.missed_bytes.load(kRelaxed);
    out.refused = c.refused.load(kRelaxed);
    out.unlogged_refused = c.unlogged_refused.load(kRelaxed);
    out.unlogged_refused_bytes = c.unlogged_refused_bytes.load(kRelaxed);
    out.observed = c.observed.load(kRelaxed);
  }
  to.no_lane_calls = from.sums.no_lane_calls.load(kRelaxed);
  to.no_lane_bytes = from.sums.no_lane_bytes.load(kRelaxed);
  to.no_room_calls = from.sums.no_room_calls.load(kRelaxed);
  to.no_room_bytes = from.sums.no_room_bytes.load(kRelaxed);
  to.unresolved = from.sums.unresolved.load(kRelaxed);
  to.export_tables = from.sums.export_tables.load(kRelaxed);
  for (unsigned i = 0; i < kAuditBuckets; ++i) to.held[i] = from.held[i].load(kRelaxed);
  for (unsigned i = 0; i < kUnresolved; ++i) {
    std::uint64_t words[kUnresolvedWords];
    for (unsigned w = 0; w < kUnresolvedWords; ++w) {
      // acquire pairs with note_unresolved(): the first word is stored last
      words[w] = from.names[i][w].load(std::memory_order_acquire);
    }
    std::memcpy(to.names[i], words, sizeof words);
    to.names[i][sizeof words] = '\0';
  }
}
// The bucket of the 99th of a hundred, of what `now` has more than `before`. False: nothing came.
[[nodiscard]] inline bool p99_bucket(const std::uint64_t (&now)[kAuditBuckets],
                                     const std::uint64_t (&before)[kAuditBuckets],
                                     unsigned& bucket) noexcept {
  std::uint64_t all = 0, above = 0;
  for (unsigned i = 0; i < kAuditBuckets; ++i) all += now[i] - before[i];
  if (all == 0) return false;
  for (bucket = kAuditBuckets - 1; bucket > 0; --bucket) {
    above += now[bucket] - before[bucket];
    if (above * 100 > all) break;
  }
  return true;
}

}  // namespace bulkhead::shm
