#include "hook/transfer_graph.h"

#include "hook/hook.h"
#include "hook/transfer_map.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr unsigned kLists = 4096, kProbes = 64;
constexpr std::uintptr_t kNone = 0, kGone = 1, kBusy = 2;  // never addresses
constinit GraphList lists[kLists]{};
constinit std::atomic<bool> lost{false};  // only rises: an executable has no list for want of room

unsigned first_place(std::uintptr_t exec) noexcept {
  return static_cast<unsigned>(exec * 0x9E37'79B9'7F4A'7C15ull >> 52);
}
static_assert(kLists == 1u << (64 - 52));

std::uintptr_t key_of(CUgraphExec exec) noexcept { return reinterpret_cast<std::uintptr_t>(exec); }

GraphList* take_place(std::uintptr_t exec) noexcept {
  for (unsigned i = 0; i < kProbes; ++i) {
    GraphList& l = lists[(first_place(exec) + i) % kLists];
    std::uintptr_t seen = l.exec.load(kRelaxed);  // the CAS decides
    // acquire pairs with drop(): its last owner is done with it
    if (seen <= kGone &&
        l.exec.compare_exchange_strong(seen, kBusy, std::memory_order_acquire, kRelaxed))
      return &l;
  }
  return nullptr;
}

void empty(GraphList& l) noexcept {
  l.items.clear();
  l.children.clear();
  l.unsure = false;
}

void drop(GraphList& l) noexcept {
  empty(l);
  l.exec.store(kGone, std::memory_order_release);  // pairs with take_place()
}

// Says that bytes may move which no entry tells of.
CUresult emit_unsure(CUgraphExec exec, AuditTicket& ticket) noexcept {
  return audit_before(map_of(AuditOp::k_cuGraphLaunch, key_of(exec), 0), ticket);
}

CUresult emit(GraphList& l, const On& on, bool may_fail) noexcept {
  const std::uint16_t stream = stream_ordinal(on.stream);
  for (GraphItem& item : l.items) {
    if (!item.enabled) continue;
    AuditEvent e = item.event;
    e.flags |= abi::kAsynchronous | abi::kGraphReplay;
    e.stream = stream;
    AuditTicket ticket;
    const CUresult refused = audit_before(e, ticket);
    if (refused != CUDA_SUCCESS) return refused;
    if (!may_fail) continue;
    item.ticket = ticket;
    item.emitted = true;
  }
  return CUDA_SUCCESS;
}

// One sum a device and direction, so that a graph of thousands of copies writes few lines.
void count_moves(GraphList& l) noexcept {
  constexpr unsigned kDirections = static_cast<unsigned>(CopyDirection::kSet) + 1;
  std::uint64_t sums[kMaxDevices][kDirections] = {};
  for (const GraphItem& item : l.items) {
    const Counted as = item.enabled ? counted_as(item.event) : Counted{abi::kHostDevice, {}};
    if (as.device < kMaxDevices)
      sums[as.device][static_cast<unsigned>(as.direction)] += item.event.bytes;
  }
  for (unsigned d = 0; d < kMaxDevices; ++d) {
    for (unsigned n = 0; n < kDirections; ++n) {
      if (sums[d][n] != 0) note_copy(d, sums[d][n], static_cast<CopyDirection>(n));
    }
  }
}

}  // namespace

constinit std::atomic<bool> any_graph_moves{false};

GraphList* graph_list(CUgraphExec exec) noexcept {
  for (unsigned i = 0; i < kProbes; ++i) {
    GraphList& l = lists[(first_place(key_of(exec)) + i) % kLists];
    // acquire pairs with graph_moves_made()
    const std::uintptr_t seen = l.exec.load(std::memory_order_acquire);
    if (seen == key_of(exec)) return &l;
    if (seen == kNone) return nullptr;
  }
  return nullptr;
}
bool graph_lists_lost() noexcept { return lost.load(kRelaxed); }  // a flag that only rises

void graph_moves_made(CUgraphExec exec, CUgraph graph) noexcept {
  graph_moves_gone(exec);  // one that went with its context
  GraphList* const l = take_place(key_of(exec));
  if (l == nullptr) {
    count(Count::kFault);
    any_graph_moves.store(true, kRelaxed);  // only rises
    return lost.store(true, kRelaxed);      // likewise
  }
  read_graph(graph, *l);
  if (l->items.size() == 0 && l->children.size() == 0 && !l->unsure) return drop(*l);
  if (l->unsure) count(Count::kFault);
  l->launching.store(false, kRelaxed);                     // published below
  any_graph_moves.store(true, kRelaxed);                   // rises before anybody knows the exec
  l->exec.store(key_of(exec), std::memory_order_release);  // pairs with graph_list()
}

void graph_moves_gone(CUgraphExec exec) noexcept {
  if (GraphList* const l = graph_list(exec)) drop(*l);
}

namespace {

CUresult record(CUgraphExec exec, const On& on, GraphTickets& tickets) noexcept {
  GraphList* const l = tickets.counted;
  if (l == nullptr ? graph_lists_lost() : l->unsure) {
    if (const CUresult r = emit_unsure(exec, tickets.unsure); r != CUDA_SUCCESS) return r;
  }
  if (l == nullptr) return CUDA_SUCCESS;
  // acquire pairs with graph_moves_end(): the tickets of the launch before are done with. Two launches of one executable at
  // once are against the driver's rules; the second would lose its failure entries, no more.
  const bool ours = !l->launching.exchange(true, std::memory_order_acquire);
  if (ours) {
    tickets.list = l;
  } else {
    count(Count::kFault);
  }
  return emit(*l, on, ours);
}

}  // namespace

CUresult graph_moves_begin(CUgraphExec exec, const On& on, GraphTickets& tickets) noexcept {
  tickets.counted = graph_list(exec);
  if (audit_on()) {
    if (const CUresult refused = record(exec, on, tickets); refused != CUDA_SUCCESS) return refused;
  }
  if (tickets.counted != nullptr && tickets.counted->items.size() != 0)
    move_admit(tickets.counted->items[0].event);
  return CUDA_SUCCESS;
}

CUresult graph_moves_end(const GraphTickets& tickets, CUresult result) noexcept {
  if (result == CUDA_SUCCESS && tickets.counted != nullptr) count_moves(*tickets.counted);
  if (result != CUDA_SUCCESS) move_failed(tickets.unsure, result);
  if (tickets.list == nullptr) return result;
  for (GraphItem& item : tickets.list->items) {
    if (item.emitted && result != CUDA_SUCCESS) move_failed(item.ticket, result);
    item.emitted = false;
  }
  tickets.list->launching.store(false, std::memory_order_release);  // pairs with record()
  return result;
}

}  // namespace bulkhead::hook
