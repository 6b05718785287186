// The library's own counts of audited transfers, apart from the lanes (src/shm/audit_count.h): in the tenant's region, so that they are
// there where no lane is, and outlive the process.
#pragma once
#include <cstdint>

#include "hook/audit.h"
#include "hook/own_counts.h"
#include "shm/audit_count.h"

namespace bulkhead::hook {

inline constexpr std::uint32_t kTimedEvery = 16;  // recorded calls of a thread

// Null: the process has no region.
[[nodiscard]] inline shm::AuditCount* audit_books() noexcept {
  // acquire pairs with bind_locked(): the region is mapped
  return process.mode.load(std::memory_order_acquire) == Mode::kOn ? &process.region->header.audit
                                                                   : nullptr;
}
// What became of an event that has an entry.
void count_logged(const AuditEvent& event, abi::Decision decision) noexcept;
// The same of one that was allowed; hot.
[[gnu::always_inline]] inline void count_allowed(const AuditEvent& event) noexcept {
  const unsigned own = shm::own_audited(static_cast<unsigned>(event.direction));
  if (own >= shm::kOwnAudited || !counts_own()) [[unlikely]]
    return count_logged(event, abi::Decision::kAllowed);
  shm::ProcSlot& slot = *place_now().slot;
  shm::add_alone(slot.own_audited_bytes[own], event.bytes);
  std::atomic<std::uint64_t>& calls = slot.own_audited_calls[own];
  // relaxed: own; release pairs with read_audit_counts()
  calls.store(calls.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}
// Of one that has none: let through (`result` CUDA_SUCCESS), or refused.
void count_unlogged(const AuditEvent& event, CUresult result, bool has_lane) noexcept;
// A recorded call was held for so long; `weight` calls are represented by it.
void count_held(std::uint64_t ns, std::uint32_t weight) noexcept;

// A name the program asked for whose answer is the driver's own and which moves data, or cuGetExportTable. Before the process is bound
// it is kept; audit_names_bound() hands it on. Any thread; no heap, no lock.
void note_unresolved(const char* name) noexcept;
void note_export_table() noexcept;
void audit_names_bound() noexcept;

}  // namespace bulkhead::hook
