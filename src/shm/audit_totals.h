// A copy of what a tenant's library counted (audit_count.h), and what is made of it.
#pragma once
#include <cstdint>
#include <cstring>

#include "shm/audit_count.h"
#include "shm/own.h"

namespace bulkhead::shm {

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
    const auto add = [](std::uint64_t& to, std::uint64_t n) { to += n; };
    for (const Class& c : classes) {
      add(all.calls, c.calls);
      add(all.bytes, c.bytes);
      add(all.missed_calls, c.missed_calls);
      add(all.missed_bytes, c.missed_bytes);
      add(all.refused, c.refused);
      add(all.observed, c.observed);
      add(all.unlogged_refused, c.unlogged_refused);
      add(all.unlogged_refused_bytes, c.unlogged_refused_bytes);
    }
    return all;
  }
};
inline void read_audit_count(const AuditCount& from, AuditTotals& to) noexcept {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  // relaxed: sums of one word each, ordered by nothing but `calls`
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
// The same of a region: with what its processes count in their own slots.
inline void read_audit_counts(const Region& r, AuditTotals& to) noexcept {
  const std::uint32_t high = r.header.slots_high.load(std::memory_order_relaxed);  // only rises
  const unsigned end = high < kMaxSlots ? high : kMaxSlots;
  std::uint64_t calls[kOwnAudited] = {};
  for (unsigned s = 0; s < end; ++s) {
    // calls first, as above; acquire pairs with count_allowed()
    for (unsigned i = 0; i < kOwnAudited; ++i)
      calls[i] += r.slots[s].own_audited_calls[i].load(std::memory_order_acquire);
  }
  read_audit_count(r.header.audit, to);
  for (unsigned i = 0; i < kOwnAudited; ++i) {
    AuditTotals::Class& out = to.classes[kClassOfOwn[i]];
    out.calls += calls[i];
    for (unsigned s = 0; s < end; ++s)
      // relaxed: as above
      out.bytes += r.slots[s].own_audited_bytes[i].load(std::memory_order_relaxed);
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
