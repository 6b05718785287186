// From a graph's nodes to its list of moves.
#include "hook/next.h"
#include "hook/node_list.h"
#include "hook/transfer_graph.h"
#include "hook/transfer_ops.h"
#include "hook/transfer_wide.h"

namespace bulkhead::hook {
namespace {

constexpr int kMostDepth = 16;

void add(GraphList& list, CUgraphNode node, CUgraphNodeType type, const AuditEvent& e) noexcept {
  if (e.op == AuditOp::kNone) return;
  GraphItem item;
  item.node = node;
  item.event = e;
  item.type = type;
  if (!list.items.push(item)) list.unsure = true;
}

void read_nodes(CUgraph graph, GraphList& list, int depth) noexcept;

void read_copy(CUgraphNode node, GraphList& list) noexcept {
  CUDA_MEMCPY3D c{};
  if (next.cuGraphMemcpyNodeGetParams(node, &c) != CUDA_SUCCESS) {
    list.unsure = true;  // between contexts: this form of the record cannot say it
  } else {
    add(list, node, CU_GRAPH_NODE_TYPE_MEMCPY, node_event(c));
  }
}
void read_set(CUgraphNode node, GraphList& list) noexcept {
  CUDA_MEMSET_NODE_PARAMS s{};
  if (next.cuGraphMemsetNodeGetParams(node, &s) != CUDA_SUCCESS) {
    list.unsure = true;
  } else {
    add(list, node, CU_GRAPH_NODE_TYPE_MEMSET,
        node_event(s.dst, s.pitch, s.elementSize, s.width, s.height));
  }
}
void read_ops(CUgraphNode node, GraphList& list) noexcept {
  CUDA_BATCH_MEM_OP_NODE_PARAMS p{};
  if (next.cuGraphBatchMemOpNodeGetParams(node, &p) != CUDA_SUCCESS || p.paramArray == nullptr) {
    list.unsure = true;
    return;
  }
  for (unsigned i = 0; i < p.count; ++i)
    add(list, node, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, node_event(p.paramArray[i]));
}
void read_child(CUgraphNode node, GraphList& list, int depth) noexcept {
  CUgraph child = nullptr;
  if (depth >= kMostDepth || next.cuGraphChildGraphNodeGetGraph(node, &child) != CUDA_SUCCESS) {
    list.unsure = true;
    return;
  }
  const std::size_t at = list.children.size();
  if (!list.children.push({node, list.items.size(), 0})) {
    list.unsure = true;
    return;
  }
  read_nodes(child, list, depth + 1);
  list.children[at].count = list.items.size() - list.children[at].first;
}

void read_node(CUgraphNode node, GraphList& list, int depth) noexcept {
  CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
  if (next.cuGraphNodeGetType(node, &type) != CUDA_SUCCESS) {
    list.unsure = true;
    return;
  }
  switch (type) {
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      return read_copy(node, list);
    case CU_GRAPH_NODE_TYPE_MEMSET:
      return read_set(node, list);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
      return read_ops(node, list);
    case CU_GRAPH_NODE_TYPE_GRAPH:
      return read_child(node, list, depth);
    case CU_GRAPH_NODE_TYPE_CONDITIONAL:  // how often its body runs is decided on the device
      list.unsure = true;
      return;
    default:
      return;
  }
}

void read_nodes(CUgraph graph, GraphList& list, int depth) noexcept {
  std::size_t n = 0;
  if (next.cuGraphGetNodes(graph, nullptr, &n) != CUDA_SUCCESS) {
    list.unsure = true;
    return;
  }
  if (n == 0) return;
  NodeList nodes{n};
  if (nodes.data() == nullptr || next.cuGraphGetNodes(graph, nodes.data(), &n) != CUDA_SUCCESS) {
    list.unsure = true;
    return;
  }
  for (std::size_t i = 0; i < n; ++i) read_node(nodes.data()[i], list, depth);
}

}  // namespace

void read_graph(CUgraph graph, GraphList& list) noexcept { read_nodes(graph, list, 0); }

// A line needs no geometry.
AuditEvent node_event(const CUDA_MEMCPY3D& c) noexcept {
  AuditEvent e = wide_event(AuditOp::k_cuGraphLaunch, c);
  if (c.Height <= 1 && c.Depth <= 1) add_shape(e, 0, 0, 0, 0);
  return e;
}
AuditEvent node_event(CUdeviceptr dst, std::uint64_t pitch, std::uint64_t element,
                      std::uint64_t width, std::uint64_t height) noexcept {
  const std::uint64_t row = move_product(width, element);
  AuditEvent e = set_event(AuditOp::k_cuGraphLaunch, on_device(dst), move_product(row, height));
  if (height > 1) add_shape(e, row, height, 1, pitch);
  return e;
}
AuditEvent node_event(const CUstreamBatchMemOpParams& op) noexcept {
  AuditEvent e = write_event(op);
  if (e.op != AuditOp::kNone) e.op = AuditOp::k_cuGraphLaunch;
  return e;
}

}  // namespace bulkhead::hook
