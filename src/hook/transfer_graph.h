// What the copies, sets and writes of an executable graph move at each of its launches: a list an executable, made when it is
// instantiated and kept in step with its updates. docs/compliance/transfers.md, "Graphs".
//
// Claim  a launch emits one event for each node that moves bytes and is enabled, or says that it cannot tell (unsure).
// Price  136 bytes a node that moves bytes; none for other nodes. 4,096 executables that have such nodes at a time; while there are
//        more, launches of executables without a list are unsure too.
// The table is lock-free. A list is changed and read by whoever may change and launch the executable: as the driver asks, not
// by two threads at once.
#pragma once
#include <sys/mman.h>

#include "hook/private_lock.h"
#include "hook/transfer_where.h"

namespace bulkhead::hook {

// An array that grows in pages of its own.
template <class T>
class MappedArray {
 public:
  static constexpr std::size_t kMost = std::size_t{1} << 20;
  [[nodiscard]] bool push(const T& value) noexcept {
    if (count_ == room_ && !grow()) return false;
    at_[count_++] = value;
    return true;
  }
  void clear() noexcept {
    const Undisturbed keep;
    if (at_ != nullptr) ::munmap(at_, room_ * sizeof(T));
    at_ = nullptr;
    count_ = room_ = 0;
  }
  [[nodiscard]] std::size_t size() const noexcept { return count_; }
  T* begin() noexcept { return at_; }
  T* end() noexcept { return at_ + count_; }
  T& operator[](std::size_t i) noexcept { return at_[i]; }

 private:
  [[gnu::cold, gnu::noinline]] bool grow() noexcept {
    const Undisturbed keep;
    const std::size_t room = room_ == 0 ? 32 : room_ * 2;
    if (room > kMost) return false;
    void* const at = at_ == nullptr
                         ? ::mmap(nullptr, room * sizeof(T), PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                         : ::mremap(at_, room_ * sizeof(T), room * sizeof(T), MREMAP_MAYMOVE);
    if (at == MAP_FAILED) return false;
    at_ = static_cast<T*>(at);
    room_ = room;
    return true;
  }

  T* at_ = nullptr;
  std::size_t count_ = 0, room_ = 0;
};

struct GraphItem {
  CUgraphNode node{};  // in the graph that it was instantiated from
  CUgraphNode also{};  // its counterpart in the graph of the last update
  AuditEvent event;
  AuditTicket ticket;  // of the launch under way
  CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
  bool enabled = true;
  bool emitted = false;  // by the launch under way
};
// A child graph: its items lie together.
struct GraphChild {
  CUgraphNode node{};
  std::size_t first = 0, count = 0;
};
struct GraphList {
  std::atomic<std::uintptr_t> exec{0};  // 0: never used, 1: gone, 2: being written
  std::atomic<bool> launching{false};   // its tickets are in use
  bool unsure = false;
  MappedArray<GraphItem> items;
  MappedArray<GraphChild> children;
};

// Reads the nodes of a graph into an empty list (transfer_graph_read.cc).
void read_graph(CUgraph graph, GraphList& list) noexcept;
[[nodiscard]] AuditEvent node_event(const CUDA_MEMCPY3D& c) noexcept;
[[nodiscard]] AuditEvent node_event(CUdeviceptr dst, std::uint64_t pitch, std::uint64_t element,
                                    std::uint64_t width, std::uint64_t height) noexcept;
[[nodiscard]] AuditEvent node_event(const CUstreamBatchMemOpParams& op) noexcept;  // op kNone: none

// After the driver took a change of an executable.
void graph_copy_changed(CUgraphExec exec, CUgraphNode node, const CUDA_MEMCPY3D* c) noexcept;
void graph_set_changed(CUgraphExec exec, CUgraphNode node,
                       const CUDA_MEMSET_NODE_PARAMS* set) noexcept;
void graph_ops_changed(CUgraphExec exec, CUgraphNode node,
                       const CUDA_BATCH_MEM_OP_NODE_PARAMS* ops) noexcept;
void graph_child_changed(CUgraphExec exec, CUgraphNode node, CUgraph child) noexcept;
void graph_node_changed(CUgraphExec exec, CUgraphNode node, const CUgraphNodeParams* p) noexcept;
void graph_node_enabled(CUgraphExec exec, CUgraphNode node, bool enabled) noexcept;
void graph_updated(CUgraphExec exec, CUgraph graph) noexcept;
// A change that the driver refused may have been made in part.
void graph_unsure(CUgraphExec exec) noexcept;

// The list of an executable; null: it moves nothing, or graph_lists_lost().
[[nodiscard]] GraphList* graph_list(CUgraphExec exec) noexcept;
[[nodiscard]] bool graph_lists_lost() noexcept;

}  // namespace bulkhead::hook
