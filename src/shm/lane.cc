#include "shm/lane.h"

namespace bulkhead::shm {
namespace {

using abi::AuditEntry;
using abi::EntryKind;

bool known_operation(const AuditEntry& e) noexcept {
  return abi::name_of(static_cast<abi::AuditOp>(e.operation)) != nullptr;
}

// Kinds that speak of what came before them name an earlier sequence.
bool shape_fits(const AuditEntry& e, std::uint64_t expected) noexcept {
  switch (abi::kind_of(e)) {
    case EntryKind::kTransfer:
    case EntryKind::kMap:
      return known_operation(e);
    case EntryKind::kGeometry:
      return expected > 0;
    case EntryKind::kFailure:
    case EntryKind::kMark:
      return e.source < expected;
    case EntryKind::kGap:
      return e.source <= e.destination && e.destination <= expected && abi::bytes_of(e) > 0;
    case EntryKind::kRecord:
      return false;  // only the daemon writes records
  }
  return false;
}

}  // namespace

bool well_formed(const AuditEntry& e, std::uint64_t expected) noexcept {
  return e.version_kind >> 4 == abi::kEntryVersion && abi::sequence_of(e) == expected &&
         abi::decision_of(e) != abi::Decision::kViolation &&
         e.reason <= static_cast<std::uint8_t>(abi::DenyReason::kMalformed) &&
         shape_fits(e, expected);
}

AuditEntry malformed_entry(std::uint64_t expected, std::uint64_t utc_ns) noexcept {
  AuditEntry e{};
  e.version_kind = abi::version_kind(EntryKind::kTransfer);
  e.direction_decision_flags =
      abi::pack_verdict(abi::Direction::kUnknown, abi::Decision::kViolation, 0);
  e.reason = static_cast<std::uint8_t>(abi::DenyReason::kMalformed);
  e.source_device = e.destination_device = abi::kRemoteDevice;
  e.utc_ns = utc_ns;
  abi::set_sequence(e, expected);
  return e;
}

}  // namespace bulkhead::shm
