// A call that moves one thing, from its arguments to the driver. Inlined into each hook, where most of an event is constant.
#pragma once
#include "hook/transfer_where.h"

namespace bulkhead::hook {

// Field by field: copied whole, what stands in registers would be written twice, and read in between before it has reached the cache.
[[nodiscard, gnu::always_inline]] inline AuditEvent event_of(const Move& m) noexcept {
  const AuditEvent& from = m.event;
  std::uint16_t stream = from.stream;
  if (m.on.async) stream = is_default_stream(m.on.stream) ? 0 : stream_ordinal(m.on.stream);
  AuditEvent e;
  e.kind = from.kind;
  e.op = from.op;
  e.direction = from.direction;
  e.flags = m.on.async ? static_cast<std::uint8_t>(from.flags | abi::kAsynchronous) : from.flags;
  e.source_device = from.source_device;
  e.destination_device = from.destination_device;
  e.stream = stream;
  e.source = from.source;
  e.destination = from.destination;
  e.bytes = from.bytes;
  e.width_bytes = from.width_bytes;
  e.height = from.height;
  e.depth = from.depth;
  e.pitch = from.pitch;
  return e;
}

template <class Real, class Make, class... A>
[[gnu::noinline]] CUresult watched_move(const Real& real, Make make, A... args) noexcept {
  const Move m = make(args...);
  const Counted as = counted_as(m.event);  // here, where the direction is still a constant
  if (move_captured(m.on)) [[unlikely]]
    return real(args...);
  AuditTicket ticket;
  // relaxed: as audit_on(), which decides while nobody has
  const std::uint8_t audit = audit_state.load(std::memory_order_relaxed);
  if (audit != kAuditOff && (audit != kAuditUndecided || audit_on())) {
    const CUresult refused = audit_before(event_of(m), ticket);
    if (refused != CUDA_SUCCESS) [[unlikely]]
      return refused;
  }
  const bool counts = as.device < kMaxDevices;
  if (counts) static_cast<void>(copy_admit(as.device, m.event.bytes, as.direction));
  const CUresult r = real(args...);
  if (r != CUDA_SUCCESS) [[unlikely]] {
    move_failed(ticket, r);
  } else if (counts) {
    note_copy(as.device, m.event.bytes, as.direction);
  }
  return r;
}

// `make(args...)` is the call's Move; it captures nothing, so that it costs nothing to hand on.
template <class Real, class Make, class... A>
[[gnu::always_inline]] inline CUresult move(const Real& real, Make make, A... args) noexcept {
  if (!moves_watched()) [[likely]]
    return real(args...);
  return watched_move(real, make, args...);
}

}  // namespace bulkhead::hook
