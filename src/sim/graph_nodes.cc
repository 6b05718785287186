// Adding nodes, and reading and changing what they do.
#include <cstring>

#include "sim/api.h"
#include "sim/graph.h"

namespace bulkhead::sim {
namespace {

template <class K>
CUresult kernel_work(const K& k, CUfunction f, Work& w) noexcept {
  return make_launch(w, f, {k.gridDimX, k.gridDimY, k.gridDimZ},
                     {k.blockDimX, k.blockDimY, k.blockDimZ}, k.sharedMemBytes, k.kernelParams,
                     k.extra);
}
// A kernel handle and a function handle are the same object here.
CUfunction function_of(const CUDA_KERNEL_NODE_PARAMS_v3& k) noexcept {
  return k.func != nullptr ? k.func : reinterpret_cast<CUfunction>(k.kern);
}

CUresult event_work(CUevent h, CUgraphNodeType type, Work& w) noexcept {
  auto* e = reinterpret_cast<Event*>(h);
  if (!driver().events.contains(e)) return CUDA_ERROR_INVALID_HANDLE;
  w.type = type;
  w.event = e;
  return CUDA_SUCCESS;
}

CUresult allocation_work(CUDA_MEM_ALLOC_NODE_PARAMS_v2 a, Work& w) noexcept {
  const bool device = a.poolProps.location.type == CU_MEM_LOCATION_TYPE_DEVICE;
  if (a.bytesize == 0 || !device || a.poolProps.allocType != CU_MEM_ALLOCATION_TYPE_PINNED) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (!valid_device(a.poolProps.location.id)) return CUDA_ERROR_INVALID_DEVICE;
  a.dptr = reserve_graph_memory(a.poolProps.location.id, a.bytesize);
  if (a.dptr == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  w.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC;
  w.alloc = a;
  return CUDA_SUCCESS;
}

// `fill` makes the Work; then the node is added.
template <class Fill>
CUresult add(CUgraphNode* out, CUgraph hGraph, const CUgraphNode* deps, std::size_t n,
             Fill fill) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Graph* g = to_graph(hGraph);
  if (g == nullptr || out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Work w;
  const CUresult r = fill(w);
  return r == CUDA_SUCCESS ? add_node(*g, deps, n, w, out) : r;
}

// Runs `use` on the node's Work if it is of that type.
template <class Use>
CUresult with(CUgraphNode hNode, CUgraphNodeType type, const void* p, Use use) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Node* n = to_node(hNode);
  if (n == nullptr || p == nullptr || n->work.type != type) return CUDA_ERROR_INVALID_VALUE;
  return use(n->work);
}

CUresult add_any(CUgraphNode* out, CUgraph hGraph, const CUgraphNode* deps, std::size_t n,
                 CUgraphNodeParams* p) noexcept {
  if (p == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add(out, hGraph, deps, n, [&](Work& w) {
    const CUresult r = work_from(*p, w);
    if (r == CUDA_SUCCESS && p->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) p->alloc.dptr = w.alloc.dptr;
    return r;
  });
}

CUDA_MEMSET_NODE_PARAMS_v2 widen(const CUDA_MEMSET_NODE_PARAMS& m) noexcept {
  return {m.dst, m.pitch, m.value, m.elementSize, m.width, m.height, nullptr};
}

}  // namespace

CUresult work_from(const CUgraphNodeParams& p, Work& w) noexcept {
  w.type = p.type;
  switch (p.type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
      return kernel_work(p.kernel, function_of(p.kernel), w);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      w.copy = p.memcpy.copyParams;
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_MEMSET:
      w.set = p.memset;
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_HOST:
      w.fn = p.host.fn;
      w.data = p.host.userData;
      return w.fn != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    case CU_GRAPH_NODE_TYPE_GRAPH: {
      const Graph* child = to_graph(p.graph.graph);
      if (child == nullptr) return CUDA_ERROR_INVALID_VALUE;
      w.child = clone_graph(*child);
      w.child->is_child = true;
      return CUDA_SUCCESS;
    }
    case CU_GRAPH_NODE_TYPE_EMPTY:
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
      return event_work(p.eventWait.event, p.type, w);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
      return event_work(p.eventRecord.event, p.type, w);
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
      return allocation_work(p.alloc, w);
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
      w.address = p.free.dptr;
      return graph_block_bytes(w.address) != 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
      if (p.memOp.paramArray == nullptr || p.memOp.count > 256) return CUDA_ERROR_INVALID_VALUE;
      w.ops.assign(p.memOp.paramArray, p.memOp.paramArray + p.memOp.count);
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_NOT_SUPPORTED;  // external semaphores, conditional nodes
  }
}

namespace api {

CUresult cuGraphAddNode(CUgraphNode* out, CUgraph g, const CUgraphNode* deps, size_t n,
                        CUgraphNodeParams* p) noexcept {
  return add_any(out, g, deps, n, p);
}
CUresult cuGraphAddNode_v2(CUgraphNode* out, CUgraph g, const CUgraphNode* deps,
                           const CUgraphEdgeData*, size_t n, CUgraphNodeParams* p) noexcept {
  return add_any(out, g, deps, n, p);
}
CUresult cuGraphAddKernelNode(CUgraphNode* out, CUgraph g, const CUgraphNode* deps, size_t n,
                              const CUDA_KERNEL_NODE_PARAMS_v1* p) noexcept {
  if (p == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add(out, g, deps, n, [&](Work& w) { return kernel_work(*p, p->func, w); });
}
CUresult cuGraphAddKernelNode_v2(CUgraphNode* out, CUgraph g, const CUgraphNode* deps, size_t n,
                                 const CUDA_KERNEL_NODE_PARAMS* p) noexcept {
  if (p == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const CUfunction f = p->func != nullptr ? p->func : reinterpret_cast<CUfunction>(p->kern);
  return add(out, g, deps, n, [&](Work& w) { return kernel_work(*p, f, w); });
}
CUresult cuGraphAddMemcpyNode(CUgraphNode* out, CUgraph g, const CUgraphNode* deps, size_t n,
                              const CUDA_MEMCPY3D* p, CUcontext) noexcept {
  if (p == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add(out, g, deps, n, [&](Work& w) {
    w.type = CU_GRAPH_NODE_TYPE_MEMCPY;
    w.copy = *p;
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphAddMemsetNode(CUgraphNode* out, CUgraph g, const CUgraphNode* deps, size_t n,
                              const CUDA_MEMSET_NODE_PARAMS* p, CUcontext) noexcept {
  if (p == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add(out, g, deps, n, [&](Work& w) {
    w.type = CU_GRAPH_NODE_TYPE_MEMSET;
    w.set = widen(*p);
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphAddHostNode(CUgraphNode* out, CUgraph g, const CUgraphNode* deps, size_t n,
                            const CUDA_HOST_NODE_PARAMS* p) noexcept {
  if (p == nullptr || p->fn == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add(out, g, deps, n, [&](Work& w) {
    w.type = CU_GRAPH_NODE_TYPE_HOST;
    w.fn = p->fn;
    w.data = p->userData;
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphAddChildGraphNode(CUgraphNode* out, CUgraph g, const CUgraphNode* deps, size_t n,
                                  CUgraph childGraph) noexcept {
  return add(out, g, deps, n, [&](Work& w) {
    CUgraphNodeParams p{};
    p.type = CU_GRAPH_NODE_TYPE_GRAPH;
    p.graph.graph = childGraph;
    return work_from(p, w);
  });
}
CUresult cuGraphAddEmptyNode(CUgraphNode* out, CUgraph g, const CUgraphNode* deps,
                             size_t n) noexcept {
  return add(out, g, deps, n, [](Work&) { return CUDA_SUCCESS; });
}
CUresult cuGraphAddEventRecordNode(CUgraphNode* out, CUgraph g, const CUgraphNode* deps, size_t n,
                                   CUevent e) noexcept {
  return add(out, g, deps, n,
             [&](Work& w) { return event_work(e, CU_GRAPH_NODE_TYPE_EVENT_RECORD, w); });
}
CUresult cuGraphAddEventWaitNode(CUgraphNode* out, CUgraph g, const CUgraphNode* deps, size_t n,
                                 CUevent e) noexcept {
  return add(out, g, deps, n,
             [&](Work& w) { return event_work(e, CU_GRAPH_NODE_TYPE_WAIT_EVENT, w); });
}
CUresult cuGraphAddBatchMemOpNode(CUgraphNode* out, CUgraph g, const CUgraphNode* deps, size_t n,
                                  const CUDA_BATCH_MEM_OP_NODE_PARAMS* b) noexcept {
  if (b == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add(out, g, deps, n, [&](Work& w) {
    CUgraphNodeParams p{};
    p.type = CU_GRAPH_NODE_TYPE_BATCH_MEM_OP;
    p.memOp = {b->ctx, b->count, b->paramArray, b->flags};
    return work_from(p, w);
  });
}
CUresult cuGraphAddMemAllocNode(CUgraphNode* out, CUgraph g, const CUgraphNode* deps, size_t n,
                                CUDA_MEM_ALLOC_NODE_PARAMS* p) noexcept {
  if (p == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add(out, g, deps, n, [&](Work& w) {
    const CUresult r =
        allocation_work({p->poolProps, p->accessDescs, p->accessDescCount, p->bytesize, 0}, w);
    if (r == CUDA_SUCCESS) p->dptr = w.alloc.dptr;
    return r;
  });
}
CUresult cuGraphAddMemFreeNode(CUgraphNode* out, CUgraph g, const CUgraphNode* deps, size_t n,
                               CUdeviceptr dptr) noexcept {
  return add(out, g, deps, n, [&](Work& w) {
    CUgraphNodeParams p{};
    p.type = CU_GRAPH_NODE_TYPE_MEM_FREE;
    p.free.dptr = dptr;
    return work_from(p, w);
  });
}

CUresult cuGraphKernelNodeSetParams(CUgraphNode n, const CUDA_KERNEL_NODE_PARAMS_v1* p) noexcept {
  return with(n, CU_GRAPH_NODE_TYPE_KERNEL, p,
              [&](Work& w) { return kernel_work(*p, p->func, w); });
}
CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode n, const CUDA_KERNEL_NODE_PARAMS* p) noexcept {
  return with(n, CU_GRAPH_NODE_TYPE_KERNEL, p, [&](Work& w) {
    return kernel_work(*p, p->func != nullptr ? p->func : reinterpret_cast<CUfunction>(p->kern), w);
  });
}
CUresult cuGraphMemcpyNodeSetParams(CUgraphNode n, const CUDA_MEMCPY3D* p) noexcept {
  return with(n, CU_GRAPH_NODE_TYPE_MEMCPY, p, [&](Work& w) {
    w.copy = *p;
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphMemcpyNodeGetParams(CUgraphNode n, CUDA_MEMCPY3D* p) noexcept {
  return with(n, CU_GRAPH_NODE_TYPE_MEMCPY, p, [&](const Work& w) {
    *p = w.copy;
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphMemsetNodeSetParams(CUgraphNode n, const CUDA_MEMSET_NODE_PARAMS* p) noexcept {
  return with(n, CU_GRAPH_NODE_TYPE_MEMSET, p, [&](Work& w) {
    w.set = widen(*p);
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphMemsetNodeGetParams(CUgraphNode n, CUDA_MEMSET_NODE_PARAMS* p) noexcept {
  return with(n, CU_GRAPH_NODE_TYPE_MEMSET, p, [&](const Work& w) {
    *p = {w.set.dst, w.set.pitch, w.set.value, w.set.elementSize, w.set.width, w.set.height};
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphHostNodeGetParams(CUgraphNode n, CUDA_HOST_NODE_PARAMS* p) noexcept {
  return with(n, CU_GRAPH_NODE_TYPE_HOST, p, [&](const Work& w) {
    *p = {w.fn, w.data};
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphMemAllocNodeGetParams(CUgraphNode n, CUDA_MEM_ALLOC_NODE_PARAMS* p) noexcept {
  return with(n, CU_GRAPH_NODE_TYPE_MEM_ALLOC, p, [&](const Work& w) {
    *p = {w.alloc.poolProps, nullptr, 0, w.alloc.bytesize, w.alloc.dptr};
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphMemFreeNodeGetParams(CUgraphNode n, CUdeviceptr* p) noexcept {
  return with(n, CU_GRAPH_NODE_TYPE_MEM_FREE, p, [&](const Work& w) {
    *p = w.address;
    return CUDA_SUCCESS;
  });
}
// The operations stay the node's own, as the driver says.
CUresult cuGraphBatchMemOpNodeGetParams(CUgraphNode n, CUDA_BATCH_MEM_OP_NODE_PARAMS* p) noexcept {
  return with(n, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, p, [&](Work& w) {
    *p = {nullptr, static_cast<unsigned>(w.ops.size()), w.ops.data(), 0};
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphBatchMemOpNodeSetParams(CUgraphNode n,
                                        const CUDA_BATCH_MEM_OP_NODE_PARAMS* p) noexcept {
  return with(n, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, p, [&](Work& w) {
    if (p->paramArray == nullptr || p->count > 256) return CUDA_ERROR_INVALID_VALUE;
    w.ops.assign(p->paramArray, p->paramArray + p->count);
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode n, CUgraph* p) noexcept {
  return with(n, CU_GRAPH_NODE_TYPE_GRAPH, p, [&](const Work& w) {
    *p = reinterpret_cast<CUgraph>(w.child);
    return CUDA_SUCCESS;
  });
}
CUresult cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams* p) noexcept {
  if (p == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return with(hNode, p->type, p, [&](Work& w) { return work_from(*p, w); });
}

}  // namespace api
}  // namespace bulkhead::sim
