// A map event's fields, for the functions that open a way. docs/compliance/transfers.md, "Map events".
#pragma once
#include <cstring>

#include "hook/transfer.h"
#if !defined(BH_HOOK_FAKE)
#include "hook/transfer_where.h"
#endif

namespace bulkhead::hook {

#if defined(BH_HOOK_FAKE)
inline std::uint8_t current_device() noexcept { return 0; }
#endif

// Both devices not known; for the caller to better.
[[nodiscard]] inline AuditEvent map_of(AuditOp op, std::uint64_t source,
                                       std::uint64_t bytes) noexcept {
  constexpr std::uint64_t kMost = (std::uint64_t{1} << 48) - 1;
  AuditEvent e;
  e.kind = abi::EntryKind::kMap;
  e.direction = Direction::kNone;
  e.op = op;
  e.source_device = e.destination_device = abi::kRemoteDevice;
  e.source = source;
  e.bytes = bytes < kMost ? bytes : kMost;
  return e;
}
template <class Handle>
[[nodiscard]] inline AuditEvent map_of_handle(AuditOp op, Handle* handle) noexcept {
  return map_of(op, reinterpret_cast<std::uintptr_t>(handle), 0);
}
// The first eight bytes of an opaque handle; null: 0.
[[nodiscard]] inline std::uint64_t first_word(const void* handle) noexcept {
  std::uint64_t word = 0;
  if (handle != nullptr) std::memcpy(&word, handle, sizeof word);
  return word;
}

}  // namespace bulkhead::hook
