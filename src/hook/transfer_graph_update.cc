// Changes of executable graphs: what each of their nodes moves from now on.
#include "hook/hook.h"
#include "hook/transfer_graph.h"

namespace bulkhead::hook {
namespace {

// A program may name a node by the graph of the instantiation or of the update.
bool names(const GraphItem& item, CUgraphNode node) noexcept {
  return node != nullptr && (item.node == node || item.also == node);
}

// The event of the n-th item of a node becomes `event(n)`; false: the node has no such items.
template <class Event>
bool change(GraphList& l, CUgraphNode node, CUgraphNodeType type, const Event& event) noexcept {
  std::size_t n = 0;
  for (GraphItem& item : l.items) {
    if (names(item, node) && item.type == type) item.event = event(n++);
  }
  return n != 0;
}

// The items of a graph read anew take the places [first, first + count) if they are as many and of the same kinds.
bool replace(GraphList& l, std::size_t first, std::size_t count, GraphList& fresh) noexcept {
  if (fresh.unsure || fresh.items.size() != count) return false;
  for (std::size_t i = 0; i < count; ++i) {
    if (fresh.items[i].type != l.items[first + i].type) return false;
  }
  for (std::size_t i = 0; i < count; ++i) {
    l.items[first + i].event = fresh.items[i].event;
    l.items[first + i].also = fresh.items[i].node;
  }
  return true;
}

}  // namespace

void graph_unsure(CUgraphExec exec) noexcept {
  GraphList* const l = graph_list(exec);
  if (l == nullptr || l->unsure) return;
  l->unsure = true;
  count(Count::kFault);
}

void graph_copy_changed(CUgraphExec exec, CUgraphNode node, const CUDA_MEMCPY3D* c) noexcept {
  GraphList* const l = graph_list(exec);
  if (l == nullptr || c == nullptr) return;
  const AuditEvent e = node_event(*c);
  if (!change(*l, node, CU_GRAPH_NODE_TYPE_MEMCPY, [&](std::size_t) { return e; }))
    graph_unsure(exec);
}

void graph_set_changed(CUgraphExec exec, CUgraphNode node,
                       const CUDA_MEMSET_NODE_PARAMS* set) noexcept {
  GraphList* const l = graph_list(exec);
  if (l == nullptr || set == nullptr) return;
  const AuditEvent e = node_event(set->dst, set->pitch, set->elementSize, set->width, set->height);
  if (!change(*l, node, CU_GRAPH_NODE_TYPE_MEMSET, [&](std::size_t) { return e; }))
    graph_unsure(exec);
}

// The driver lets values and addresses change, not the number and kinds of the operations.
void graph_ops_changed(CUgraphExec exec, CUgraphNode node,
                       const CUDA_BATCH_MEM_OP_NODE_PARAMS* ops) noexcept {
  GraphList* const l = graph_list(exec);
  if (l == nullptr || ops == nullptr || ops->paramArray == nullptr) return;
  unsigned at = 0;
  const auto next_write = [&](std::size_t) {
    while (at < ops->count) {
      const AuditEvent e = node_event(ops->paramArray[at++]);
      if (e.op != AuditOp::kNone) return e;
    }
    l->unsure = true;
    return AuditEvent{};
  };
  const bool known = change(*l, node, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, next_write);
  bool more = false;
  for (; at < ops->count; ++at) more = more || node_event(ops->paramArray[at]).op != AuditOp::kNone;
  if (known ? more : at != 0 || more) graph_unsure(exec);
}

void graph_child_changed(CUgraphExec exec, CUgraphNode node, CUgraph child) noexcept {
  GraphList* const l = graph_list(exec);
  if (l == nullptr) return;
  for (const GraphChild& c : l->children) {
    if (c.node != node) continue;
    GraphList fresh;
    read_graph(child, fresh);
    if (!replace(*l, c.first, c.count, fresh)) graph_unsure(exec);
    fresh.items.clear();
    fresh.children.clear();
    return;
  }
  graph_unsure(exec);
}

void graph_node_changed(CUgraphExec exec, CUgraphNode node, const CUgraphNodeParams* p) noexcept {
  if (p == nullptr) return;
  if (p->type == CU_GRAPH_NODE_TYPE_MEMCPY) {
    graph_copy_changed(exec, node, &p->memcpy.copyParams);
  } else if (p->type == CU_GRAPH_NODE_TYPE_MEMSET) {
    const CUDA_MEMSET_NODE_PARAMS_v2& s = p->memset;
    const CUDA_MEMSET_NODE_PARAMS set{s.dst, s.pitch, s.value, s.elementSize, s.width, s.height};
    graph_set_changed(exec, node, &set);
  } else if (p->type == CU_GRAPH_NODE_TYPE_BATCH_MEM_OP) {
    const CUDA_BATCH_MEM_OP_NODE_PARAMS_v2& b = p->memOp;
    const CUDA_BATCH_MEM_OP_NODE_PARAMS ops{b.ctx, b.count, b.paramArray, b.flags};
    graph_ops_changed(exec, node, &ops);
  } else if (p->type == CU_GRAPH_NODE_TYPE_GRAPH) {
    graph_child_changed(exec, node, p->graph.graph);
  }
}

// Kernels may be disabled too: those have no items.
void graph_node_enabled(CUgraphExec exec, CUgraphNode node, bool enabled) noexcept {
  GraphList* const l = graph_list(exec);
  if (l == nullptr) return;
  for (GraphItem& item : l->items) {
    if (names(item, node)) item.enabled = enabled;
  }
}

void graph_updated(CUgraphExec exec, CUgraph graph) noexcept {
  GraphList* const l = graph_list(exec);
  if (l == nullptr) return;  // as many nodes of each kind as before: none of ours
  GraphList fresh;
  read_graph(graph, fresh);
  if (!replace(*l, 0, l->items.size(), fresh)) graph_unsure(exec);
  fresh.items.clear();
  fresh.children.clear();
}

}  // namespace bulkhead::hook
