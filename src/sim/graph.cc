#include "sim/graph.h"

#include <algorithm>
#include <new>

#include "sim/api.h"

namespace bulkhead::sim {
namespace {

std::unordered_set<Graph*>& graphs() noexcept {
  static auto* set = new std::unordered_set<Graph*>;
  return *set;
}
std::unordered_set<Node*>& nodes() noexcept {
  static auto* set = new std::unordered_set<Node*>;
  return *set;
}

// Writes up to *count handles (all that fit) and the true number; the list may be null to ask for it.
CUresult list(const std::vector<Node*>& from, CUgraphNode* out, std::size_t* count) noexcept {
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (out == nullptr) {
    *count = from.size();
    return CUDA_SUCCESS;
  }
  for (std::size_t i = 0; i < *count; ++i) {
    out[i] = i < from.size() ? reinterpret_cast<CUgraphNode>(from[i]) : nullptr;
  }
  *count = std::min(*count, from.size());
  return CUDA_SUCCESS;
}

CUresult change_edges(CUgraph hGraph, const CUgraphNode* from, const CUgraphNode* to, std::size_t n,
                      bool add) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Graph* g = to_graph(hGraph);
  if (g == nullptr || (n != 0 && (from == nullptr || to == nullptr))) return CUDA_ERROR_INVALID_VALUE;
  for (std::size_t i = 0; i < n; ++i) {
    Node *a = to_node(from[i]), *b = to_node(to[i]);
    if (a == nullptr || b == nullptr || a->graph != g || b->graph != g || a == b) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    const bool has = std::count(b->after.begin(), b->after.end(), a) != 0;
    if (has == add) return CUDA_ERROR_INVALID_VALUE;
    if (add) {
      b->after.push_back(a);
    } else {
      std::erase(b->after, a);
    }
  }
  return CUDA_SUCCESS;
}

CUresult edges(CUgraph hGraph, CUgraphNode* from, CUgraphNode* to, std::size_t* count) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Graph* g = to_graph(hGraph);
  if (g == nullptr || count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::vector<Node*> a, b;
  for (Node* n : g->nodes) {
    for (Node* before : n->after) {
      a.push_back(before);
      b.push_back(n);
    }
  }
  if (from == nullptr || to == nullptr) {
    *count = a.size();
    return CUDA_SUCCESS;
  }
  std::size_t n = *count;
  static_cast<void>(list(a, from, &n));
  return list(b, to, count);
}

CUresult dependencies(CUgraphNode hNode, CUgraphNode* out, std::size_t* count, bool dependents) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Node* n = to_node(hNode);
  if (n == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!dependents) return list(n->after, out, count);
  std::vector<Node*> found;
  for (Node* other : n->graph->nodes) {
    if (std::count(other->after.begin(), other->after.end(), n) != 0) found.push_back(other);
  }
  return list(found, out, count);
}

}  // namespace

Graph::~Graph() {
  for (Node* n : nodes) {
    bulkhead::sim::nodes().erase(n);
    if (n->work.child != nullptr) delete_graph(n->work.child);
    delete n;
  }
}

Graph* to_graph(CUgraph h) noexcept {
  auto* g = reinterpret_cast<Graph*>(h);
  return graphs().contains(g) ? g : nullptr;
}
Node* to_node(CUgraphNode h) noexcept {
  auto* n = reinterpret_cast<Node*>(h);
  return nodes().contains(n) ? n : nullptr;
}

Graph* new_graph() noexcept {
  auto* g = new (std::nothrow) Graph;
  if (g != nullptr) graphs().insert(g);
  return g;
}

void delete_graph(Graph* g) noexcept {
  graphs().erase(g);
  delete g;
}

Graph* clone_graph(const Graph& g) noexcept {
  Graph* copy = new_graph();
  std::unordered_map<const Node*, Node*> twins;
  for (Node* n : g.nodes) {
    auto* twin = new Node(*n);
    twin->graph = copy;
    twin->original = n;
    if (n->work.child != nullptr) {
      twin->work.child = clone_graph(*n->work.child);
      twin->work.child->is_child = true;
    }
    twins.emplace(n, twin);
    nodes().insert(twin);
    copy->nodes.push_back(twin);
  }
  for (Node* n : copy->nodes) {
    for (Node*& before : n->after) before = twins[before];
  }
  return copy;
}

// Kahn's algorithm; among nodes that are ready, the one added first.
bool order_of(const Graph& g, std::vector<Node*>& order) noexcept {
  std::unordered_set<const Node*> done;
  order.clear();
  while (order.size() < g.nodes.size()) {
    const std::size_t before = order.size();
    for (Node* n : g.nodes) {
      if (done.contains(n)) continue;
      const bool ready = std::all_of(n->after.begin(), n->after.end(),
                                     [&](const Node* a) { return done.contains(a); });
      if (!ready) continue;
      done.insert(n);
      order.push_back(n);
    }
    if (order.size() == before) return false;
  }
  return true;
}

CUresult add_node(Graph& g, const CUgraphNode* deps, std::size_t n, Work& w, CUgraphNode* out) noexcept {
  if (out == nullptr || (n != 0 && deps == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  std::vector<Node*> after;
  for (std::size_t i = 0; i < n; ++i) {
    Node* d = to_node(deps[i]);
    if (d == nullptr || d->graph != &g) return CUDA_ERROR_INVALID_VALUE;
    after.push_back(d);
  }
  auto* node = new (std::nothrow) Node;
  if (node == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  node->graph = &g;
  node->work = w;
  node->after = std::move(after);
  nodes().insert(node);
  g.nodes.push_back(node);
  *out = reinterpret_cast<CUgraphNode>(node);
  return CUDA_SUCCESS;
}

namespace api {

CUresult cuGraphCreate(CUgraph* phGraph, unsigned int flags) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (phGraph == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  *phGraph = reinterpret_cast<CUgraph>(new_graph());
  return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph hGraph) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Graph* g = to_graph(hGraph);
  if (g == nullptr || g->is_child) return CUDA_ERROR_INVALID_VALUE;
  delete_graph(g);
  return CUDA_SUCCESS;
}

CUresult cuGraphClone(CUgraph* phGraphClone, CUgraph originalGraph) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Graph* g = to_graph(originalGraph);
  if (g == nullptr || phGraphClone == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *phGraphClone = reinterpret_cast<CUgraph>(clone_graph(*g));
  return CUDA_SUCCESS;
}

CUresult cuGraphNodeFindInClone(CUgraphNode* phNode, CUgraphNode hOriginalNode, CUgraph hClonedGraph) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Graph* g = to_graph(hClonedGraph);
  const Node* original = to_node(hOriginalNode);
  if (g == nullptr || original == nullptr || phNode == nullptr) return CUDA_ERROR_INVALID_VALUE;
  for (Node* n : g->nodes) {
    if (n->original != original) continue;
    *phNode = reinterpret_cast<CUgraphNode>(n);
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGraphDestroyNode(CUgraphNode hNode) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Node* n = to_node(hNode);
  if (n == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (n->work.type == CU_GRAPH_NODE_TYPE_MEM_ALLOC || n->work.type == CU_GRAPH_NODE_TYPE_MEM_FREE) {
    return CUDA_ERROR_NOT_SUPPORTED;
  }
  for (Node* other : n->graph->nodes) std::erase(other->after, n);
  std::erase(n->graph->nodes, n);
  nodes().erase(n);
  if (n->work.child != nullptr) delete_graph(n->work.child);
  delete n;
  return CUDA_SUCCESS;
}

CUresult cuGraphAddDependencies(CUgraph g, const CUgraphNode* from, const CUgraphNode* to, size_t n) noexcept {
  return change_edges(g, from, to, n, true);
}
CUresult cuGraphAddDependencies_v2(CUgraph g, const CUgraphNode* from, const CUgraphNode* to,
                                   const CUgraphEdgeData*, size_t n) noexcept {
  return change_edges(g, from, to, n, true);
}
CUresult cuGraphRemoveDependencies(CUgraph g, const CUgraphNode* from, const CUgraphNode* to, size_t n) noexcept {
  return change_edges(g, from, to, n, false);
}
CUresult cuGraphRemoveDependencies_v2(CUgraph g, const CUgraphNode* from, const CUgraphNode* to,
                                      const CUgraphEdgeData*, size_t n) noexcept {
  return change_edges(g, from, to, n, false);
}

CUresult cuGraphGetNodes(CUgraph hGraph, CUgraphNode* out, size_t* numNodes) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Graph* g = to_graph(hGraph);
  return g == nullptr ? CUDA_ERROR_INVALID_VALUE : list(g->nodes, out, numNodes);
}

CUresult cuGraphGetRootNodes(CUgraph hGraph, CUgraphNode* rootNodes, size_t* numRootNodes) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Graph* g = to_graph(hGraph);
  if (g == nullptr) return CUDA_ERROR_INVALID_VALUE;
  std::vector<Node*> roots;
  std::copy_if(g->nodes.begin(), g->nodes.end(), std::back_inserter(roots),
               [](const Node* n) { return n->after.empty(); });
  return list(roots, rootNodes, numRootNodes);
}

CUresult cuGraphGetEdges(CUgraph g, CUgraphNode* from, CUgraphNode* to, size_t* n) noexcept {
  return edges(g, from, to, n);
}
CUresult cuGraphGetEdges_v2(CUgraph g, CUgraphNode* from, CUgraphNode* to, CUgraphEdgeData* data,
                            size_t* n) noexcept {
  const CUresult r = edges(g, from, to, n);
  if (r == CUDA_SUCCESS && data != nullptr && from != nullptr) std::fill_n(data, *n, CUgraphEdgeData{});
  return r;
}

CUresult cuGraphNodeGetDependencies(CUgraphNode n, CUgraphNode* out, size_t* count) noexcept {
  return dependencies(n, out, count, false);
}
CUresult cuGraphNodeGetDependencies_v2(CUgraphNode n, CUgraphNode* out, CUgraphEdgeData* data,
                                       size_t* count) noexcept {
  const CUresult r = dependencies(n, out, count, false);
  if (r == CUDA_SUCCESS && data != nullptr && out != nullptr) std::fill_n(data, *count, CUgraphEdgeData{});
  return r;
}
CUresult cuGraphNodeGetDependentNodes(CUgraphNode n, CUgraphNode* out, size_t* count) noexcept {
  return dependencies(n, out, count, true);
}
CUresult cuGraphNodeGetDependentNodes_v2(CUgraphNode n, CUgraphNode* out, CUgraphEdgeData* data,
                                         size_t* count) noexcept {
  const CUresult r = dependencies(n, out, count, true);
  if (r == CUDA_SUCCESS && data != nullptr && out != nullptr) std::fill_n(data, *count, CUgraphEdgeData{});
  return r;
}

CUresult cuGraphNodeGetType(CUgraphNode hNode, CUgraphNodeType* type) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Node* n = to_node(hNode);
  if (n == nullptr || type == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *type = n->work.type;
  return CUDA_SUCCESS;
}

}  // namespace api
}  // namespace bulkhead::sim
