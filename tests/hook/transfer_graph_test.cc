// Graphs: what their nodes move is recorded at each launch, and follows each change of the executable.
#include "hook/transfer_graph.h"

#include "tests/hook/transfer_world.h"

namespace bulkhead::hook::test {
namespace {

class TransferGraph : public TransferTest {
 protected:
  static CUgraph new_graph() {
    CUgraph g = nullptr;
    EXPECT_EQ(DRIVER(cuGraphCreate)(&g, 0), CUDA_SUCCESS);
    return g;
  }
  [[nodiscard]] CUDA_MEMCPY3D line(std::size_t bytes, std::size_t rows = 1) const {
    CUDA_MEMCPY3D c{};
    c.srcMemoryType = CU_MEMORYTYPE_HOST;
    c.srcHost = pinned_;
    c.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    c.dstDevice = device_[0];
    c.WidthInBytes = bytes;
    c.srcPitch = c.dstPitch = rows > 1 ? bytes * 2 : 0;
    c.Height = rows;
    c.Depth = 1;
    return c;
  }
  CUgraphNode add_copy(CUgraph g, std::size_t bytes, std::size_t rows = 1) const {
    const CUDA_MEMCPY3D c = line(bytes, rows);
    CUgraphNode n = nullptr;
    EXPECT_EQ(DRIVER(cuGraphAddMemcpyNode)(&n, g, nullptr, 0, &c, context_[0]), CUDA_SUCCESS);
    return n;
  }
  [[nodiscard]] CUDA_MEMSET_NODE_PARAMS words(std::size_t count) const {
    return {device_[0], 0, 0, 4, count, 1};
  }
  CUgraphNode add_set(CUgraph g, std::size_t count) const {
    const CUDA_MEMSET_NODE_PARAMS s = words(count);
    CUgraphNode n = nullptr;
    EXPECT_EQ(DRIVER(cuGraphAddMemsetNode)(&n, g, nullptr, 0, &s, context_[0]), CUDA_SUCCESS);
    return n;
  }
  static CUgraphNode add_child(CUgraph g, CUgraph child) {
    CUgraphNode n = nullptr;
    EXPECT_EQ(DRIVER(cuGraphAddChildGraphNode)(&n, g, nullptr, 0, child), CUDA_SUCCESS);
    return n;
  }
  static CUgraphExec instantiate(CUgraph g) {
    CUgraphExec e = nullptr;
    EXPECT_EQ(::cuGraphInstantiateWithFlags(&e, g, 0), CUDA_SUCCESS);
    return e;
  }
  // Bytes of one launch: recorded, counted and moved must be the same.
  std::uint64_t launch(CUgraphExec e) {
    auditor.clear();
    const std::uint64_t before = moved();
    EXPECT_EQ(::cuGraphLaunch(e, stream_), CUDA_SUCCESS);
    EXPECT_EQ(auditor.bytes(), moved() - before);
    EXPECT_EQ(auditor.counted, moved() - before);
    for (const Recorded& r : auditor.log) {
      EXPECT_EQ(r.event.op, AuditOp::k_cuGraphLaunch);
      if (r.event.kind == EntryKind::kMap) continue;
      EXPECT_EQ(r.event.flags, abi::kAsynchronous | abi::kGraphReplay);
    }
    return auditor.bytes();
  }
};

TEST_F(TransferGraph, ALaunchIsOneEntryANode) {
  in_child([&] {
    CUgraph g = new_graph();
    add_copy(g, 1000);
    add_copy(g, 100, 4);
    add_set(g, 25);
    CUgraphNode nothing = nullptr;
    ASSERT_EQ(DRIVER(cuGraphAddEmptyNode)(&nothing, g, nullptr, 0), CUDA_SUCCESS);
    CUgraphExec e = instantiate(g);
    EXPECT_TRUE(auditor.log.empty()) << "nothing moves yet";
    for (int i = 0; i < 3; ++i) EXPECT_EQ(launch(e), 1500u);
    ASSERT_EQ(auditor.log.size(), 3u);
    EXPECT_EQ(auditor.log[0].event.direction, Direction::kHostToDevice);
    EXPECT_EQ(auditor.log[0].event.height, 0u) << "a line needs no geometry";
    EXPECT_EQ(auditor.log[1].event.height, 4u);
    EXPECT_EQ(auditor.log[1].event.pitch, 200u);
    EXPECT_EQ(auditor.log[2].event.direction, Direction::kSet);
    ASSERT_EQ(::cuGraphExecDestroy(e), CUDA_SUCCESS);
    EXPECT_EQ(graph_list(e), nullptr);
    // a graph without moves keeps no list
    CUgraph empty = new_graph();
    CUgraphExec none = instantiate(empty);
    EXPECT_EQ(graph_list(none), nullptr);
    EXPECT_EQ(launch(none), 0u);
    EXPECT_TRUE(auditor.log.empty());
  });
}

TEST_F(TransferGraph, ACaptureIsRecordedWhenItIsLaunched) {
  in_child([&] {
    ASSERT_EQ(::cuStreamBeginCapture_v2(stream_, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
    EXPECT_EQ(::cuMemcpyHtoDAsync_v2(device_[0], pinned_, 4096, stream_), CUDA_SUCCESS);
    EXPECT_EQ(::cuMemcpyAsync(device_[0] + 8192, device_[0], 64, stream_), CUDA_SUCCESS);
    EXPECT_EQ(::cuMemsetD16Async(device_[0], 1, 50, stream_), CUDA_SUCCESS);
    EXPECT_EQ(::cuStreamWriteValue32_v2(stream_, device_[0], 1, 0), CUDA_SUCCESS);
    CUgraph g = nullptr;
    ASSERT_EQ(::cuStreamEndCapture(stream_, &g), CUDA_SUCCESS);
    CUgraphExec e = instantiate(g);
    EXPECT_TRUE(auditor.log.empty());
    EXPECT_EQ(launch(e), 4096u + 64 + 100 + 4);
    // a launch that is captured moves nothing either; as a child graph it does
    auditor.clear();
    ASSERT_EQ(::cuStreamBeginCapture_v2(stream_, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
    EXPECT_EQ(::cuGraphLaunch(e, stream_), CUDA_SUCCESS);
    CUgraph outer = nullptr;
    ASSERT_EQ(::cuStreamEndCapture(stream_, &outer), CUDA_SUCCESS);
    EXPECT_TRUE(auditor.log.empty());
    EXPECT_EQ(auditor.counted, 0u);
    EXPECT_EQ(launch(instantiate(outer)), 4096u + 64 + 100 + 4);
  });
}

TEST_F(TransferGraph, ChangesOfNodesAreFollowed) {
  in_child([&] {
    CUgraph g = new_graph();
    CUgraphNode copy = add_copy(g, 1000), set = add_set(g, 25), other = add_copy(g, 10);
    CUgraphExec e = instantiate(g);
    const CUDA_MEMCPY3D longer = line(2000);
    EXPECT_EQ(::cuGraphExecMemcpyNodeSetParams(e, copy, &longer, context_[0]), CUDA_SUCCESS);
    EXPECT_EQ(launch(e), 2110u);
    const CUDA_MEMSET_NODE_PARAMS more = words(50);
    EXPECT_EQ(::cuGraphExecMemsetNodeSetParams(e, set, &more, context_[0]), CUDA_SUCCESS);
    EXPECT_EQ(launch(e), 2210u);
    EXPECT_EQ(::cuGraphNodeSetEnabled(e, copy, 0), CUDA_SUCCESS);
    EXPECT_EQ(launch(e), 210u);
    EXPECT_EQ(auditor.log.size(), 2u);
    CUgraphNodeParams p{};
    p.type = CU_GRAPH_NODE_TYPE_MEMCPY;
    p.memcpy.copyParams = line(30);
    p.memcpy.copyCtx = context_[0];
    EXPECT_EQ(::cuGraphExecNodeSetParams(e, other, &p), CUDA_SUCCESS);
    EXPECT_EQ(launch(e), 230u);
    EXPECT_EQ(::cuGraphNodeSetEnabled(e, copy, 1), CUDA_SUCCESS);
    EXPECT_EQ(launch(e), 2230u);
    // a change that the driver refuses changes nothing
    EXPECT_NE(::cuGraphExecMemcpyNodeSetParams(e, set, &longer, context_[0]), CUDA_SUCCESS);
    EXPECT_EQ(launch(e), 2230u);
    // the broken variant: a change that nobody tells us of is caught by the comparison above
    EXPECT_EQ(next.cuGraphExecMemsetNodeSetParams(e, set, &more, context_[0]), CUDA_SUCCESS);
    const CUDA_MEMSET_NODE_PARAMS less = words(1);
    EXPECT_EQ(next.cuGraphExecMemsetNodeSetParams(e, set, &less, context_[0]), CUDA_SUCCESS);
    auditor.clear();
    const std::uint64_t before = moved();
    EXPECT_EQ(::cuGraphLaunch(e, stream_), CUDA_SUCCESS);
    EXPECT_NE(auditor.bytes(), moved() - before);
  });
}

TEST_F(TransferGraph, AnUpdateTakesOverTheOtherGraphsMoves) {
  in_child([&] {
    CUgraph g = new_graph(), h = new_graph();
    CUgraphNode copy = add_copy(g, 1000);
    add_set(g, 25);
    add_copy(h, 5000);
    CUgraphNode theirs = add_set(h, 75);
    CUgraphExec e = instantiate(g);
    EXPECT_EQ(launch(e), 1100u);
    CUgraphExecUpdateResultInfo info{};
    ASSERT_EQ(::cuGraphExecUpdate_v2(e, h, &info), CUDA_SUCCESS);
    EXPECT_EQ(launch(e), 5300u);
    // nodes of either graph may be named from then on
    const CUDA_MEMSET_NODE_PARAMS s = words(5);
    EXPECT_EQ(::cuGraphExecMemsetNodeSetParams(e, theirs, &s, context_[0]), CUDA_SUCCESS);
    EXPECT_EQ(launch(e), 5020u);
    graph_node_enabled(e, copy, false);
    EXPECT_FALSE(graph_list(e)->items[0].enabled);
    graph_node_enabled(e, copy, true);
    // an update that failed may have changed a part: the launch says that it cannot tell
    CUgraph odd = new_graph();
    add_copy(odd, 1);
    EXPECT_NE(::cuGraphExecUpdate_v2(e, odd, &info), CUDA_SUCCESS);
    EXPECT_EQ(launch(e), 5020u);
    EXPECT_EQ(auditor.log[0].event.kind, EntryKind::kMap);
    // the older form of the call
    CUgraphExec again = instantiate(g);
    CUgraphNode error = nullptr;
    CUgraphExecUpdateResult result{};
    ASSERT_EQ(::cuGraphExecUpdate(again, h, &error, &result), CUDA_SUCCESS);
    EXPECT_EQ(launch(again), 5300u);
    EXPECT_NE(::cuGraphExecUpdate(again, odd, &error, &result), CUDA_SUCCESS);
    EXPECT_EQ(launch(again), 5300u);
    EXPECT_EQ(auditor.log[0].event.kind, EntryKind::kMap);
  });
}

TEST_F(TransferGraph, ChildGraphsCountAndChange) {
  in_child([&] {
    CUgraph inner = new_graph(), middle = new_graph(), outer = new_graph();
    add_copy(inner, 100);
    add_set(inner, 10);
    add_child(middle, inner);
    add_copy(middle, 7);
    add_copy(outer, 1000);
    CUgraphNode child = add_child(outer, middle);
    CUgraphExec e = instantiate(outer);
    EXPECT_EQ(launch(e), 1147u);
    CUgraph other_inner = new_graph(), other = new_graph();
    add_copy(other_inner, 200);
    add_set(other_inner, 20);
    add_child(other, other_inner);
    add_copy(other, 14);
    EXPECT_EQ(::cuGraphExecChildGraphNodeSetParams(e, child, other), CUDA_SUCCESS);
    EXPECT_EQ(launch(e), 1294u);
  });
}

TEST_F(TransferGraph, BatchesOfStreamOperationsInNodes) {
  in_child([&] {
    CUstreamBatchMemOpParams ops[3]{};
    ops[0].operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    ops[0].writeValue.address = device_[0];
    ops[1].operation = CU_STREAM_MEM_OP_BARRIER;
    ops[2].operation = CU_STREAM_MEM_OP_WRITE_VALUE_64;
    ops[2].writeValue.address = device_[0] + 64;
    const CUDA_BATCH_MEM_OP_NODE_PARAMS p{context_[0], 3, ops, 0};
    CUgraph g = new_graph();
    CUgraphNode n = nullptr;
    ASSERT_EQ(DRIVER(cuGraphAddBatchMemOpNode)(&n, g, nullptr, 0, &p), CUDA_SUCCESS);
    CUgraphExec e = instantiate(g);
    EXPECT_EQ(launch(e), 12u);
    EXPECT_EQ(auditor.log.size(), 2u);
    ops[2].writeValue.address = device_[0] + 4096;
    EXPECT_EQ(::cuGraphExecBatchMemOpNodeSetParams(e, n, &p), CUDA_SUCCESS);
    EXPECT_EQ(launch(e), 12u);
    EXPECT_EQ(auditor.log[1].event.destination, device_[0] + 4096);
  });
}

TEST_F(TransferGraph, ARefusedNodeKeepsTheGraphFromTheDriver) {
  in_child([&] {
    CUgraph g = new_graph();
    for (std::size_t i = 1; i <= 5; ++i) add_copy(g, i);
    CUgraphExec e = instantiate(g);
    auditor.refuse_at = 3;
    const std::uint64_t before = moved();
    EXPECT_EQ(::cuGraphLaunch(e, stream_), CUDA_ERROR_NOT_PERMITTED);
    EXPECT_EQ(moved(), before);
    ASSERT_EQ(auditor.log.size(), 4u);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(auditor.log[i].failed, CUDA_ERROR_NOT_PERMITTED);
    EXPECT_EQ(auditor.bytes(), 0u);
    EXPECT_EQ(auditor.counted, 0u);
    EXPECT_EQ(launch(e), 15u) << "the next one is granted";
  });
}

TEST_F(TransferGraph, AFailedLaunchFailsItsEntries) {
  in_child([&] {
    CUgraph g = new_graph();
    add_copy(g, 10);
    add_copy(g, 20);
    CUgraphExec e = instantiate(g);
    EXPECT_NE(::cuGraphLaunch(e, reinterpret_cast<CUstream>(std::uintptr_t{0x1230})), CUDA_SUCCESS);
    EXPECT_EQ(auditor.log.size(), 2u);
    EXPECT_EQ(auditor.bytes(), 0u);
    EXPECT_EQ(auditor.counted, 0u);
  });
}

TEST_F(TransferGraph, WhatCannotBeReadMakesTheExecutableUnsure) {
  in_child([&] {
    CUgraph g = new_graph();
    add_copy(g, 10);
    const auto silent =
        +[](CUgraphNode, CUDA_MEMCPY3D*) noexcept { return CUDA_ERROR_INVALID_VALUE; };
    next.cuGraphMemcpyNodeGetParams.set(reinterpret_cast<void*>(silent));
    CUgraphExec e = instantiate(g);
    auditor.clear();
    EXPECT_EQ(::cuGraphLaunch(e, stream_), CUDA_SUCCESS);
    ASSERT_EQ(auditor.log.size(), 1u) << "neither silent";
    EXPECT_EQ(auditor.log[0].event.kind, EntryKind::kMap);
    auditor.clear();
    auditor.refuse_at = 0;
    const std::uint64_t before = moved();
    EXPECT_EQ(::cuGraphLaunch(e, stream_), CUDA_ERROR_NOT_PERMITTED) << "nor free";
    EXPECT_EQ(moved(), before);
  });
}

TEST_F(TransferGraph, ThousandsOfNodes) {
  in_child([&] {
    constexpr std::size_t kNodes = 5000;
    CUgraph g = new_graph();
    std::vector<CUgraphNode> nodes;
    for (std::size_t i = 0; i < kNodes; ++i) nodes.push_back(add_copy(g, 8));
    CUgraphExec e = instantiate(g);
    EXPECT_EQ(launch(e), 8 * kNodes);
    EXPECT_EQ(auditor.log.size(), kNodes);
    EXPECT_EQ(::cuGraphNodeSetEnabled(e, nodes[4321], 0), CUDA_SUCCESS);
    EXPECT_EQ(launch(e), 8 * (kNodes - 1));
  });
}

// More executables than the table has places: those without a list say that they cannot tell.
TEST_F(TransferGraph, AFullTableIsNotSilent) {
  in_child([&] {
    CUgraph g = new_graph();
    add_copy(g, 8);
    std::vector<CUgraphExec> all;
    while (!graph_lists_lost() && all.size() < 6000) all.push_back(instantiate(g));
    ASSERT_TRUE(graph_lists_lost());
    auditor.clear();
    EXPECT_EQ(::cuGraphLaunch(all.back(), stream_), CUDA_SUCCESS);
    ASSERT_EQ(auditor.log.size(), 1u);
    EXPECT_EQ(auditor.log[0].event.kind, EntryKind::kMap);
    EXPECT_EQ(launch(all.front()), 8u);
    for (CUgraphExec e : all) EXPECT_EQ(::cuGraphExecDestroy(e), CUDA_SUCCESS);
    EXPECT_EQ(launch(instantiate(g)), 8u) << "places are used again";
  });
}

}  // namespace
}  // namespace bulkhead::hook::test
