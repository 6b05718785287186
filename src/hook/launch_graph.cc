// What a launch of an executable graph costs is learned by its generation: each update in place begins a new one.
#include "hook/compute.h"
#include "hook/compute_books.h"
#include "hook/compute_quick.h"
#include "hook/next.h"
#include "hook/transfer_graph.h"

namespace bulkhead::hook {

constinit std::atomic<std::uint32_t> graph_generations[kGraphGenerations]{};

namespace {

// A failed update may have changed a part.
template <class Moves>
CUresult changed(CUresult r, CUgraphExec exec, const Moves& moves) noexcept {
  graph_changed(exec);
  if (r == CUDA_SUCCESS) moves();
  return r;
}
CUresult updated(CUresult r, CUgraphExec exec, CUgraph graph) noexcept {
  graph_changed(exec);
  if (r == CUDA_SUCCESS) {
    graph_updated(exec, graph);
  } else {
    graph_unsure(exec);
  }
  return r;
}
CUresult changed(CUresult r, CUgraphExec exec) noexcept {
  return changed(r, exec, [] {});
}

}  // namespace

What graph_what(CUgraphExec exec) noexcept {
  // relaxed: who launches an executable knows of its updates
  const std::uint32_t generation = generation_of(exec).load(std::memory_order_relaxed);
  return {shares::graph_key(reinterpret_cast<std::uintptr_t>(exec), generation),
          shares::prior_ns(0, 0), nullptr, false};
}

void graph_changed(CUgraphExec exec) noexcept {
  generation_of(exec).fetch_add(1, std::memory_order_relaxed);  // as above
}

CUresult cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode* hErrorNode_out,
                           CUgraphExecUpdateResult* updateResult_out) noexcept {
  return updated(next.cuGraphExecUpdate(hGraphExec, hGraph, hErrorNode_out, updateResult_out),
                 hGraphExec, hGraph);
}
CUresult cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph,
                              CUgraphExecUpdateResultInfo* resultInfo) noexcept {
  return updated(next.cuGraphExecUpdate_v2(hGraphExec, hGraph, resultInfo), hGraphExec, hGraph);
}
CUresult cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                        const CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) noexcept {
  return changed(next.cuGraphExecKernelNodeSetParams(hGraphExec, hNode, nodeParams), hGraphExec);
}
CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                           const CUDA_KERNEL_NODE_PARAMS* nodeParams) noexcept {
  return changed(next.cuGraphExecKernelNodeSetParams_v2(hGraphExec, hNode, nodeParams), hGraphExec);
}
CUresult cuGraphExecMemcpyNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                        const CUDA_MEMCPY3D* copyParams, CUcontext ctx) noexcept {
  return changed(next.cuGraphExecMemcpyNodeSetParams(hGraphExec, hNode, copyParams, ctx),
                 hGraphExec, [=] { graph_copy_changed(hGraphExec, hNode, copyParams); });
}
CUresult cuGraphExecMemsetNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                        const CUDA_MEMSET_NODE_PARAMS* memsetParams,
                                        CUcontext ctx) noexcept {
  return changed(next.cuGraphExecMemsetNodeSetParams(hGraphExec, hNode, memsetParams, ctx),
                 hGraphExec, [=] { graph_set_changed(hGraphExec, hNode, memsetParams); });
}
CUresult cuGraphExecChildGraphNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                            CUgraph childGraph) noexcept {
  return changed(next.cuGraphExecChildGraphNodeSetParams(hGraphExec, hNode, childGraph), hGraphExec,
                 [=] { graph_child_changed(hGraphExec, hNode, childGraph); });
}
CUresult cuGraphExecBatchMemOpNodeSetParams(
    CUgraphExec hGraphExec, CUgraphNode hNode,
    const CUDA_BATCH_MEM_OP_NODE_PARAMS* nodeParams) noexcept {
  return changed(next.cuGraphExecBatchMemOpNodeSetParams(hGraphExec, hNode, nodeParams), hGraphExec,
                 [=] { graph_ops_changed(hGraphExec, hNode, nodeParams); });
}
CUresult cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                  CUgraphNodeParams* nodeParams) noexcept {
  return changed(next.cuGraphExecNodeSetParams(hGraphExec, hNode, nodeParams), hGraphExec,
                 [=] { graph_node_changed(hGraphExec, hNode, nodeParams); });
}
CUresult cuGraphNodeSetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode,
                               unsigned int isEnabled) noexcept {
  return changed(next.cuGraphNodeSetEnabled(hGraphExec, hNode, isEnabled), hGraphExec,
                 [=] { graph_node_enabled(hGraphExec, hNode, isEnabled != 0); });
}

}  // namespace bulkhead::hook
