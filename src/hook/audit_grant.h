// What the audit asks of the grants: whether one covers this transfer now. The only thing it knows of them.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "hook/audit.h"
#include "hook/hook.h"
#include "hook/thread_places.h"
#include "shm/grant_table.h"

namespace bulkhead::hook {

struct GrantAnswer {
  abi::DenyReason reason = abi::DenyReason::kNone;  // kNone: covered
  std::uint32_t serial = 0;                         // of the grant in the log; 0 = none
};
// Any grant of the tenant's, and why none if so. No system call, no lock, but when the table is fetched. `now_ns`: CLOCK_MONOTONIC.
[[nodiscard]] GrantAnswer grant_check(const AuditEvent& event, std::uint64_t now_ns) noexcept;

// One mapping of a table (grant.cc).
struct GrantMapping {
  const shm::GrantTable* table;
  std::uint32_t bit_of[kMaxDevices];  // Device::number -> bit of the table's masks
};
[[gnu::visibility("hidden")]] extern constinit std::atomic<const GrantMapping*> grant_mapped;

// The grant that this thread used last: what is kept of it, or, if it is one of limits, its handle and when it was found.
struct alignas(64) GrantCache {
  const GrantMapping* from;  // this line: all that most calls look at. Null: nothing is kept
  const std::atomic<std::uint32_t>* changes;  // of its table
  shm::GrantKept kept;
  // A bit for each Device::number that it does not cover; an address of no device of ours has its bit above them, clear.
  std::uint64_t refused_numbers;
  const GrantMapping* limited_from;
  shm::GrantHandle limited;
  std::uint32_t limited_changes;
};
static_assert(offsetof(GrantCache, limited_from) == 64);
// Each is one thread's own from its first look to its end. Of more threads that ask at once the others keep nothing and look each time.
// The first is nobody's and stays empty.
[[gnu::visibility("hidden")]] extern constinit GrantCache grant_caches[ThreadPlaces::kPlaces + 1];
// The thread's own; 0: none. Two bytes, for static storage of threads is scarce.
[[gnu::visibility("hidden")]] extern thread_local constinit std::uint16_t grant_place
    __attribute__((tls_model("initial-exec")));

// Of a transfer: its Direction's bit; of a map event, or what says none, that of kMap.
[[nodiscard, gnu::always_inline]] inline unsigned grant_direction(const AuditEvent& e) noexcept {
  return e.kind == abi::EntryKind::kMap ? 0 : static_cast<unsigned>(e.direction);
}
static_assert(shm::kMapBit == 1u << static_cast<unsigned>(abi::Direction::kNone));
static_assert(kMaxDevices <= (abi::kRemoteDevice & 63) && kMaxDevices <= (abi::kHostDevice & 63));

// Whether what this thread keeps covers it. Null says no more than: ask grant_check(). Else the grant's cache.
[[nodiscard, gnu::always_inline]] inline const GrantCache* grant_kept(
    const AuditEvent& e, std::uint64_t now_ns) noexcept {
  const GrantCache& c = grant_caches[grant_place];
  // acquire pairs with map_locked()
  if (c.from == nullptr || c.from != grant_mapped.load(std::memory_order_acquire)) [[unlikely]]
    return nullptr;
  // acquire pairs with begin_change(): nothing that was done after an end is missed
  const std::uint64_t changes = c.changes->load(std::memory_order_acquire);
  const std::uint64_t refused =
      c.refused_numbers >> (e.source_device & 63) |
      c.refused_numbers >> (e.destination_device & 63) |
      static_cast<std::uint64_t>(c.kept.refused_directions) >> grant_direction(e);
  if (((changes ^ c.kept.changes) | (refused & 1)) != 0) [[unlikely]]
    return nullptr;
  return shm::kept_is_now(c.kept, now_ns) ? &c : nullptr;
}

}  // namespace bulkhead::hook
