// What the transfer hooks ask before they call the driver: whether a grant covers the transfer, and that its entry stands
// in a lane. docs/compliance/transfers.md is the protocol.
//
// Any thread; never allocates, logs or changes errno where it does not refuse. With auditing off it is one load.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "abi/audit_entry.h"
#include "abi/cuda_types.h"

namespace bulkhead::hook {

struct AuditEvent {
  abi::EntryKind kind = abi::EntryKind::kTransfer;  // kTransfer or kMap
  abi::AuditOp op = abi::AuditOp::kNone;
  abi::Direction direction = abi::Direction::kUnknown;
  std::uint8_t flags = 0;                              // abi::EntryFlag
  std::uint8_t source_device = abi::kHostDevice;       // Device::number, or one of abi's two
  std::uint8_t destination_device = abi::kHostDevice;  // likewise
  std::uint16_t stream = 0;                            // ordinal, or index in the batch
  std::uint64_t source = 0;
  std::uint64_t destination = 0;
  std::uint64_t bytes = 0;  // < 2^48
  // Set for copies of two and three dimensions: a geometry entry follows.
  std::uint32_t width_bytes = 0, height = 0;
  std::uint64_t depth = 0, pitch = 0;
};
static_assert(offsetof(AuditEvent, op) == 1 && offsetof(AuditEvent, direction) == 2 &&
              offsetof(AuditEvent, flags) == 3);
// Which entry it was, for audit_failed().
struct AuditTicket {
  std::uint64_t sequence = 0;
  void* lane = nullptr;  // null: nothing was recorded
};

enum AuditState : std::uint8_t {
  kAuditUndecided = 0,
  kAuditOff = 1,
  kAuditObserve = 2,
  kAuditEnforce = 3
};
[[gnu::visibility("hidden")]] extern constinit std::atomic<std::uint8_t> audit_state;
// Whether this process's transfers are recorded at all (observe or enforce). One load.
[[nodiscard]] bool audit_on() noexcept;
// Checks the grant and publishes the entry (also of a refusal). CUDA_SUCCESS: call the driver.
// CUDA_ERROR_NOT_PERMITTED: do not; no grant covers it (mode enforce), or its entry could not be recorded in time.
[[nodiscard]] CUresult audit_before(const AuditEvent& event, AuditTicket& ticket) noexcept;
// The driver refused what audit_before() had let through: publishes a failure entry.
void audit_failed(const AuditTicket& ticket, CUresult result) noexcept;

}  // namespace bulkhead::hook
