// The one path of a transfer: from a hook's arguments to an audit event, before the driver is called.
// docs/compliance/transfers.md is the protocol.
//
// A hook is one line: which function goes on to the driver, what the event is, the arguments. Any thread; in a process without a
// tenant it is a load and a branch. The event is made out of line.
#pragma once
#include <atomic>
#include <cstdint>

#include "hook/audit.h"
#include "hook/compute.h"
#if !defined(BH_HOOK_FAKE)
#include "hook/process.h"
#endif

namespace bulkhead::hook {

using abi::AuditOp;
using abi::Direction;

// Where a call is queued: what tells a capture from a transfer.
struct On {
  CUstream stream = nullptr;
  Twin twin = Twin::kPlain;
  bool async = false;
};
struct Move {
  AuditEvent event;
  On on;
};
inline constexpr CUresult kMoveRefused = CUDA_ERROR_NOT_PERMITTED;

#if defined(BH_HOOK_FAKE)

// A unit test of the memory families: nothing is recorded.
template <class Make, class Call>
inline CUresult map_event(const Make&, const Call& call) noexcept {
  return call();
}
inline void graph_moves_made(CUgraphExec, CUgraph) noexcept {}
inline void graph_moves_gone(CUgraphExec) noexcept {}
constexpr bool graphs_move() noexcept { return false; }
template <class Call>
inline CUresult graph_moves(CUgraphExec, const On&, const Call& call) noexcept {
  return call();
}
inline void places_changed(std::uint64_t, std::uint64_t) noexcept {}
inline void places_changed() noexcept {}

#else

// Whether anybody looks at transfers: the tenant's books count their bytes, and an auditor may want entries. Not of a process
// that no tenant was asked for.
[[gnu::always_inline]] inline bool moves_watched() noexcept {
  // acquire pairs with bind_locked(): what stands behind a bound process is there
  return process.mode.load(std::memory_order_acquire) != Mode::kOff;
}

void move_failed(const AuditTicket& ticket, CUresult result) noexcept;
// The stream is being captured.
[[nodiscard]] bool captured_now(CUstream stream, Twin twin) noexcept;
// The stream of such a call is being captured: nothing moves.
[[nodiscard, gnu::always_inline]] inline bool move_captured(const On& on) noexcept {
  // acquire pairs with a capture's beginning in this thread or one that told it
  return on.async && captures.load(std::memory_order_acquire) != 0 &&
         captured_now(on.stream, on.twin);
}

template <class Make, class Call>
[[gnu::noinline]] CUresult watched_map(const Make& make, const Call& call) noexcept {
  AuditEvent event = make();
  event.kind = abi::EntryKind::kMap;
  event.direction = Direction::kNone;
  AuditTicket ticket;
  if (const CUresult refused = audit_before(event, ticket); refused != CUDA_SUCCESS) return refused;
  const CUresult r = call();
  if (r != CUDA_SUCCESS) audit_failed(ticket, r);
  return r;
}
// A call that opens a way: `make()` is its event, kind and direction apart.
template <class Make, class Call>
[[gnu::always_inline]] inline CUresult map_event(const Make& make, const Call& call) noexcept {
  if (!audit_on()) [[likely]]
    return call();
  return watched_map(make, call);
}

// transfer_graph.cc: an executable was made from a graph; is gone; and around its launch.
void graph_moves_made(CUgraphExec exec, CUgraph graph) noexcept;
void graph_moves_gone(CUgraphExec exec) noexcept;
// Some executable of this process moves bytes. Only rises.
[[gnu::visibility("hidden")]] extern constinit std::atomic<bool> any_graph_moves;

struct GraphList;
struct GraphTickets {
  GraphList* list = nullptr;  // whose tickets are ours until graph_moves_end()
  GraphList* counted = nullptr;
  AuditTicket unsure;  // of the map event
};
[[nodiscard]] CUresult graph_moves_begin(CUgraphExec exec, const On& on,
                                         GraphTickets& tickets) noexcept;
CUresult graph_moves_end(const GraphTickets& tickets, CUresult result) noexcept;

[[gnu::always_inline]] inline bool graphs_move() noexcept {
  // relaxed: who launches an executable knows of its instantiation
  return any_graph_moves.load(std::memory_order_relaxed);
}
// Only if graphs_move().
template <class Call>
inline CUresult graph_moves(CUgraphExec exec, const On& on, const Call& call) noexcept {
  if (move_captured(on)) return call();
  GraphTickets tickets;
  const CUresult refused = graph_moves_begin(exec, on, tickets);
  return graph_moves_end(tickets, refused != CUDA_SUCCESS ? refused : call());
}

// transfer_where.cc: memory at this address went (`bytes` of it), or something did and nobody knows how much.
[[gnu::visibility("hidden")]] extern constinit std::atomic<std::atomic<std::uint8_t>*> places;
void places_forget(std::uint64_t address, std::uint64_t bytes) noexcept;
void places_forget_all() noexcept;
[[gnu::always_inline]] inline void places_changed(std::uint64_t at, std::uint64_t bytes) noexcept {
  // relaxed: whether there is a table; who frees an address has seen it used
  if (places.load(std::memory_order_relaxed) != nullptr) [[unlikely]]
    places_forget(at, bytes);
}
inline void places_changed() noexcept {
  if (places.load(std::memory_order_relaxed) != nullptr) places_forget_all();  // as above
}

#endif

}  // namespace bulkhead::hook
