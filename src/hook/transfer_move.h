// A call that moves one thing, from its arguments to the driver. Inlined into each hook, where most of an event is constant.
#pragma once
#include "hook/transfer_where.h"

namespace bulkhead::hook {

// The entry of a call that is about to be made. CUDA_SUCCESS: it stands. Else: refused.
[[nodiscard]] CUresult move_record(const Move& move, AuditTicket& ticket) noexcept;

template <class Real, class Make, class... A>
[[gnu::noinline]] CUresult watched_move(const Real& real, Make make, A... args) noexcept {
  const Move m = make(args...);
  const Counted as = counted_as(m.event);  // here, where the direction is still a constant
  if (move_captured(m.on)) [[unlikely]]
    return real(args...);
  AuditTicket ticket;
  if (audit_on()) {
    const CUresult refused = move_record(m, ticket);
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
