// Executable graphs: instantiation, launch, update.
#include <new>

#include "sim/api.h"
#include "sim/graph.h"
#include "sim/timed_work.h"

namespace bulkhead::sim {
namespace {

std::unordered_set<GraphExec*>& execs() noexcept {
  static auto* set = new std::unordered_set<GraphExec*>;
  return *set;
}

CUresult instantiate(CUgraphExec* out, CUgraph hGraph, std::uint64_t flags) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Graph* g = to_graph(hGraph);
  if (g == nullptr || out == nullptr || flags > 15) return CUDA_ERROR_INVALID_VALUE;
  auto* e = new (std::nothrow) GraphExec;
  if (e == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  e->graph = clone_graph(*g);
  e->flags = flags;
  if (!order_of(*e->graph, e->order)) {
    delete_graph(e->graph);
    delete e;
    return CUDA_ERROR_INVALID_VALUE;
  }
  execs().insert(e);
  *out = reinterpret_cast<CUgraphExec>(e);
  return CUDA_SUCCESS;
}

// The node of the copy that stands for a node of the graph it was made from.
Node* twin_of(const GraphExec& e, CUgraphNode h) noexcept {
  const Node* original = to_node(h);
  for (Node* n : e.graph->nodes) {
    if (original != nullptr && n->original == original) return n;
  }
  return nullptr;
}

template <class Use>
CUresult change(CUgraphExec hExec, CUgraphNode hNode, CUgraphNodeType type, const void* p,
                Use use) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const GraphExec* e = to_exec(hExec);
  if (e == nullptr || p == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Node* n = twin_of(*e, hNode);
  if (n == nullptr || n->work.type != type) return CUDA_ERROR_INVALID_VALUE;
  return use(n->work);
}

template <class K>
CUresult change_kernel(CUgraphExec e, CUgraphNode n, const K* k, CUfunction f) noexcept {
  return change(e, n, CU_GRAPH_NODE_TYPE_KERNEL, k, [&](Work& w) {
    return make_launch(w, f, {k->gridDimX, k->gridDimY, k->gridDimZ},
                       {k->blockDimX, k->blockDimY, k->blockDimZ}, k->sharedMemBytes,
                       k->kernelParams, k->extra);
  });
}

// Same shape, node by node in the order they were added: takes over what each does.
CUgraphExecUpdateResult update(GraphExec& e, Graph& g, Node*& at) noexcept {
  if (e.graph->nodes.size() != g.nodes.size()) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
  for (std::size_t i = 0; i < g.nodes.size(); ++i) {
    at = g.nodes[i];
    const Node& mine = *e.graph->nodes[i];
    if (mine.work.type != at->work.type) return CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
    if (mine.after.size() != at->after.size()) return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    const bool memory = mine.work.type == CU_GRAPH_NODE_TYPE_MEM_ALLOC ||
                        mine.work.type == CU_GRAPH_NODE_TYPE_MEM_FREE ||
                        mine.work.type == CU_GRAPH_NODE_TYPE_GRAPH;
    if (memory) return CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED;
  }
  at = nullptr;
  for (std::size_t i = 0; i < g.nodes.size(); ++i) {
    e.graph->nodes[i]->work = g.nodes[i]->work;
    e.graph->nodes[i]->original = g.nodes[i];
  }
  return CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

std::size_t largest_need(const GraphExec& e, int& ordinal) noexcept {
  std::size_t live = 0, most = 0;
  for (const Node* n : e.order) {
    if (n->work.type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) {
      live += graph_block_bytes(n->work.alloc.dptr);
      ordinal = n->work.alloc.poolProps.location.id;
    } else if (n->work.type == CU_GRAPH_NODE_TYPE_MEM_FREE) {
      const std::size_t bytes = graph_block_bytes(n->work.address);
      live -= bytes < live ? bytes : live;
    }
    most = live > most ? live : most;
  }
  return most;
}

}  // namespace

GraphExec* to_exec(CUgraphExec h) noexcept {
  auto* e = reinterpret_cast<GraphExec*>(h);
  return execs().contains(e) ? e : nullptr;
}

CUresult perform_graph(Stream& s, const Graph& g) noexcept {
  std::vector<Node*> order;
  if (!order_of(g, order)) return CUDA_ERROR_INVALID_VALUE;
  for (const Node* n : order) {
    if (!n->enabled) continue;
    if (const CUresult r = perform(s, n->work); r != CUDA_SUCCESS) return r;
  }
  return CUDA_SUCCESS;
}

namespace api {

CUresult cuGraphInstantiate(CUgraphExec* out, CUgraph g, CUgraphNode* errorNode, char* log,
                            size_t n) noexcept {
  if (errorNode != nullptr) *errorNode = nullptr;
  if (log != nullptr && n != 0) *log = 0;
  return instantiate(out, g, 0);
}
CUresult cuGraphInstantiate_v2(CUgraphExec* out, CUgraph g, CUgraphNode* errorNode, char* log,
                               size_t n) noexcept {
  return cuGraphInstantiate(out, g, errorNode, log, n);
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph g,
                                     unsigned long long flags) noexcept {
  return instantiate(out, g, flags);
}
CUresult cuGraphInstantiateWithParams(CUgraphExec* out, CUgraph g,
                                      CUDA_GRAPH_INSTANTIATE_PARAMS* p) noexcept {
  if (p == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUresult r = instantiate(out, g, p->flags);
  p->hErrNode_out = nullptr;
  p->result_out = r == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
  if (r == CUDA_SUCCESS && (p->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD) != 0) {
    r = cuGraphUpload(*out, p->hUploadStream);
  }
  return r;
}

CUresult cuGraphExecDestroy(CUgraphExec hGraphExec) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  GraphExec* e = to_exec(hGraphExec);
  if (e == nullptr) return CUDA_ERROR_INVALID_VALUE;
  execs().erase(e);
  delete_graph(e->graph);
  delete e;
  return CUDA_SUCCESS;
}

CUresult cuGraphUpload(CUgraphExec hGraph, CUstream hStream) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const GraphExec* e = to_exec(hGraph);
  if (e == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (to_stream(hStream, call.context) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  int ordinal = 0;
  const std::size_t bytes = largest_need(*e, ordinal);
  return bytes == 0 ? CUDA_SUCCESS : prepare_graph_memory(ordinal, bytes);
}

CUresult cuGraphLaunch(CUgraphExec hGraph, CUstream hStream) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  GraphExec* e = to_exec(hGraph);
  if (e == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Stream* s = to_stream(hStream, call.context);
  if (s == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (s->capture.status == CU_STREAM_CAPTURE_STATUS_ACTIVE) {
    Work w;
    w.type = CU_GRAPH_NODE_TYPE_GRAPH;
    w.child = clone_graph(*e->graph);
    w.child->is_child = true;
    return capture(*s, w);
  }
  const bool auto_free = (e->flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) != 0;
  int ordinal = 0;
  for (const Node* n : e->order) {
    if (n->work.type != CU_GRAPH_NODE_TYPE_MEM_ALLOC) continue;
    if (find_range(n->work.alloc.dptr) == nullptr) continue;
    if (!auto_free) return CUDA_ERROR_INVALID_VALUE;  // still allocated by the launch before
    free_graph_memory(n->work.alloc.dptr);
  }
  // All or nothing: room for the whole graph before its first node runs.
  if (const std::size_t bytes = largest_need(*e, ordinal); bytes != 0) {
    if (const CUresult r = prepare_graph_memory(ordinal, bytes); r != CUDA_SUCCESS) return r;
  }
  e->launched = true;
  if (driver().timed) timed_batch(*s, true);
  CUresult r = CUDA_SUCCESS;
  for (const Node* n : e->order) {
    if (n->enabled && r == CUDA_SUCCESS) r = perform(*s, n->work);
  }
  if (driver().timed) timed_batch(*s, false);
  return r;
}

CUresult cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph,
                              CUgraphExecUpdateResultInfo* info) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  GraphExec* e = to_exec(hGraphExec);
  Graph* g = to_graph(hGraph);
  if (e == nullptr || g == nullptr || info == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Node* at = nullptr;
  info->result = update(*e, *g, at);
  info->errorNode = reinterpret_cast<CUgraphNode>(at);
  info->errorFromNode = nullptr;
  return info->result == CU_GRAPH_EXEC_UPDATE_SUCCESS ? CUDA_SUCCESS
                                                      : CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
}
CUresult cuGraphExecUpdate(CUgraphExec e, CUgraph g, CUgraphNode* errorNode,
                           CUgraphExecUpdateResult* result) noexcept {
  CUgraphExecUpdateResultInfo info{};
  const CUresult r = cuGraphExecUpdate_v2(e, g, &info);
  if (errorNode != nullptr) *errorNode = info.errorNode;
  if (result != nullptr) *result = info.result;
  return r;
}

CUresult cuGraphExecKernelNodeSetParams(CUgraphExec e, CUgraphNode n,
                                        const CUDA_KERNEL_NODE_PARAMS_v1* p) noexcept {
  return change_kernel(e, n, p, p != nullptr ? p->func : nullptr);
}
CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec e, CUgraphNode n,
                                           const CUDA_KERNEL_NODE_PARAMS* p) noexcept {
  if (p == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return change_kernel(e, n, p,
                       p->func != nullptr ? p->func : reinterpret_cast<CUfunction>(p->kern));
}
CUresult cuGraphExecMemcpyNodeSetParams(CUgraphExec e, CUgraphNode n, const CUDA_MEMCPY3D* p,
                                        CUcontext) noexcept {
  return change(e, n, CU_GRAPH_NODE_TYPE_MEMCPY, p, [&](Work& w) {
    w.copy = *p;
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphExecMemsetNodeSetParams(CUgraphExec e, CUgraphNode n,
                                        const CUDA_MEMSET_NODE_PARAMS* p, CUcontext) noexcept {
  return change(e, n, CU_GRAPH_NODE_TYPE_MEMSET, p, [&](Work& w) {
    w.set = {p->dst, p->pitch, p->value, p->elementSize, p->width, p->height, nullptr};
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphExecHostNodeSetParams(CUgraphExec e, CUgraphNode n,
                                      const CUDA_HOST_NODE_PARAMS* p) noexcept {
  return change(e, n, CU_GRAPH_NODE_TYPE_HOST, p, [&](Work& w) {
    w.fn = p->fn;
    w.data = p->userData;
    return w.fn != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}
// Addresses and values may change, as the driver says; the number of operations may not.
CUresult cuGraphExecBatchMemOpNodeSetParams(CUgraphExec e, CUgraphNode n,
                                            const CUDA_BATCH_MEM_OP_NODE_PARAMS* p) noexcept {
  return change(e, n, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, p, [&](Work& w) {
    if (p->paramArray == nullptr || p->count != w.ops.size()) return CUDA_ERROR_INVALID_VALUE;
    w.ops.assign(p->paramArray, p->paramArray + p->count);
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphExecChildGraphNodeSetParams(CUgraphExec e, CUgraphNode n,
                                            CUgraph childGraph) noexcept {
  return change(e, n, CU_GRAPH_NODE_TYPE_GRAPH, childGraph, [&](Work& w) {
    const Graph* g = to_graph(childGraph);
    if (g == nullptr || g->nodes.size() != w.child->nodes.size()) return CUDA_ERROR_INVALID_VALUE;
    delete_graph(w.child);
    w.child = clone_graph(*g);
    w.child->is_child = true;
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphExecNodeSetParams(CUgraphExec e, CUgraphNode n, CUgraphNodeParams* p) noexcept {
  if (p == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return change(e, n, p->type, p, [&](Work& w) { return work_from(*p, w); });
}

CUresult cuGraphExecGetFlags(CUgraphExec hGraphExec, cuuint64_t* flags) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const GraphExec* e = to_exec(hGraphExec);
  if (e == nullptr || flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *flags = e->flags;
  return CUDA_SUCCESS;
}
CUresult cuGraphNodeSetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode,
                               unsigned int isEnabled) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const GraphExec* e = to_exec(hGraphExec);
  Node* n = e != nullptr ? twin_of(*e, hNode) : nullptr;
  if (n == nullptr) return CUDA_ERROR_INVALID_VALUE;
  n->enabled = isEnabled != 0;
  return CUDA_SUCCESS;
}
CUresult cuGraphNodeGetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode,
                               unsigned int* isEnabled) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const GraphExec* e = to_exec(hGraphExec);
  const Node* n = e != nullptr ? twin_of(*e, hNode) : nullptr;
  if (n == nullptr || isEnabled == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *isEnabled = n->enabled ? 1 : 0;
  return CUDA_SUCCESS;
}

}  // namespace api
}  // namespace bulkhead::sim
