// Captures that fork and join or fail to, graphs that are built, ordered and changed, and the streams of threads.
#include <vector>

#include "kernels/kernels.h"
#include "tests/sim/machine.h"

namespace bulkhead::test {
namespace {

class SimGraphs : public Machine {};

#define OK(call) ASSERT_EQ(call, CUDA_SUCCESS)

CUfunction kernel(const char* name) {
  static CUmodule module = nullptr;
  if (module == nullptr) {
    EXPECT_EQ(CU(cuModuleLoadData)(&module, kernels::kPtx), CUDA_SUCCESS);
  }
  CUfunction f{};
  EXPECT_EQ(CU(cuModuleGetFunction)(&f, module, name), CUDA_SUCCESS) << name;
  return f;
}

CUresult launch(CUfunction f, std::vector<void*> args, CUstream s) {
  return CU(cuLaunchKernel)(f, 4, 1, 1, 128, 1, 1, 0, s, args.data(), nullptr);
}

TEST_F(SimGraphs, CaptureMakesAGraphThatDoesTheSame) {
  run([] {
    start();
    const CUfunction fill = kernel("bh_fill");
    CUstream s{}, t{};
    OK(CU(cuStreamCreate)(&s, CU_STREAM_NON_BLOCKING));
    OK(CU(cuStreamCreate)(&t, CU_STREAM_NON_BLOCKING));
    CUdeviceptr p{};
    OK(CU(cuMemAlloc_v2)(&p, 4096));
    CUevent fork{}, join{};
    OK(CU(cuEventCreate)(&fork, CU_EVENT_DISABLE_TIMING));
    OK(CU(cuEventCreate)(&join, CU_EVENT_DISABLE_TIMING));
    OK(CU(cuStreamBeginCapture_v2)(s, CU_STREAM_CAPTURE_MODE_RELAXED));
    unsigned value = 5;
    cuuint64_t n = 4;
    OK(launch(fill, {&p, &value, &n}, s));
    value = 6;  // captured by value
    OK(CU(cuEventRecord)(fork, s));
    OK(CU(cuStreamWaitEvent)(t, fork, 0));
    OK(CU(cuMemsetD32Async)(p + 16, 7, 4, t));
    OK(CU(cuEventRecord)(join, t));
    OK(CU(cuStreamWaitEvent)(s, join, 0));
    CUdeviceptr temporary{};
    OK(CU(cuMemAllocAsync)(&temporary, kMiB, s));
    OK(CU(cuMemFreeAsync)(temporary, s));
    CUgraph g{};
    OK(CU(cuStreamEndCapture)(s, &g));
    std::size_t nodes = 0;
    OK(CU(cuGraphGetNodes)(g, nullptr, &nodes));
    EXPECT_EQ(nodes, 4u);
    unsigned out[8] = {};
    OK(CU(cuMemcpyDtoH_v2)(out, p, sizeof out));
    EXPECT_EQ(out[0], 0u);  // nothing ran yet
    CUgraphExec e{};
    OK(CU(cuGraphInstantiateWithFlags)(&e, g, 0));
    for (int i = 0; i < 2; ++i) {
      OK(CU(cuMemsetD8_v2)(p, 0, 4096));
      OK(CU(cuGraphLaunch)(e, s));
      OK(CU(cuStreamSynchronize)(s));
      OK(CU(cuMemcpyDtoH_v2)(out, p, sizeof out));
      EXPECT_EQ(out[3], 5u);
      EXPECT_EQ(out[7], 7u);
    }
  });
}

TEST_F(SimGraphs, AnUnjoinedStreamOrAnUnsafeCallSpoilsACapture) {
  run([] {
    start();
    CUstream s{}, t{};
    OK(CU(cuStreamCreate)(&s, CU_STREAM_NON_BLOCKING));
    OK(CU(cuStreamCreate)(&t, CU_STREAM_NON_BLOCKING));
    CUevent fork{};
    OK(CU(cuEventCreate)(&fork, CU_EVENT_DISABLE_TIMING));
    CUdeviceptr p{};
    OK(CU(cuMemAlloc_v2)(&p, 4096));
    OK(CU(cuStreamBeginCapture_v2)(s, CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(CU(cuEventRecord)(fork, s));
    OK(CU(cuStreamWaitEvent)(t, fork, 0));
    OK(CU(cuMemsetD32Async)(p, 7, 4, t));
    CUgraph g{};
    EXPECT_EQ(CU(cuStreamEndCapture)(s, &g), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    OK(CU(cuStreamBeginCapture_v2)(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
    CUdeviceptr q{};
    EXPECT_EQ(CU(cuMemAlloc_v2)(&q, 64), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    EXPECT_EQ(CU(cuStreamEndCapture)(s, &g), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    OK(CU(cuMemAlloc_v2)(&q, 64));
  });
}

TEST_F(SimGraphs, GraphsAreBuiltUpdatedAndOrdered) {
  run([] {
    start();
    CUdeviceptr p{};
    OK(CU(cuMemAlloc_v2)(&p, 64));
    CUgraph g{};
    OK(CU(cuGraphCreate)(&g, 0));
    CUDA_MEMSET_NODE_PARAMS one{p, 0, 1, 4, 16, 1}, two{p, 0, 2, 4, 1, 1};
    CUgraphNode a{}, b{}, host{};
    OK(CU(cuGraphAddMemsetNode)(&b, g, nullptr, 0, &two,
                                nullptr));  // added first, but runs after a
    OK(CU(cuGraphAddMemsetNode)(&a, g, nullptr, 0, &one, nullptr));
    OK(CU(cuGraphAddDependencies)(g, &a, &b, 1));
    static int calls = 0;
    const CUDA_HOST_NODE_PARAMS fn{[](void* n) { ++*static_cast<int*>(n); }, &calls};
    OK(CU(cuGraphAddHostNode)(&host, g, &b, 1, &fn));
    CUgraphExec e{};
    OK(CU(cuGraphInstantiateWithFlags)(&e, g, 0));
    OK(CU(cuGraphLaunch)(e, nullptr));
    OK(CU(cuCtxSynchronize)());
    unsigned out[16];
    OK(CU(cuMemcpyDtoH_v2)(out, p, 64));
    EXPECT_EQ(out[0], 2u);
    EXPECT_EQ(out[1], 1u);
    EXPECT_EQ(calls, 1);
    two.value = 9;
    OK(CU(cuGraphExecMemsetNodeSetParams)(e, b, &two, nullptr));
    OK(CU(cuGraphLaunch)(e, nullptr));
    OK(CU(cuMemcpyDtoH_v2)(out, p, 64));
    EXPECT_EQ(out[0], 9u);
    OK(CU(cuGraphAddDependencies)(g, &b, &a, 1));  // a circle
    CUgraphExec none{};
    EXPECT_EQ(CU(cuGraphInstantiateWithFlags)(&none, g, 0), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(SimGraphs, PerThreadTwinsMeanTheThreadsOwnStream) {
  run([] {
    start();
    unsigned long long legacy = 0, own = 0, named = 0;
    OK(CU(cuStreamGetId)(nullptr, &legacy));
    OK(CU(cuStreamGetId_ptsz)(nullptr, &own));
    OK(CU(cuStreamGetId)(reinterpret_cast<CUstream>(kStreamPerThread), &named));
    EXPECT_NE(legacy, own);
    EXPECT_EQ(own, named);
    CUdeviceptr p{};
    OK(CU(cuMemAllocAsync_ptsz)(&p, 64, nullptr));
    OK(CU(cuMemFreeAsync_ptsz)(p, nullptr));
  });
}

TEST_F(SimGraphs, BytesMayBeSwitchedOff) {
  ::setenv("BULKHEAD_SIM_BYTES", "off", 1);
  run([] {
    start();
    CUdeviceptr p{};
    OK(CU(cuMemAlloc_v2)(&p, 100ull << 30));
    OK(CU(cuMemsetD8_v2)(p, 1, 100ull << 30));  // would need 100 GB of host memory
    unsigned char out = 9;
    OK(CU(cuMemcpyDtoH_v2)(&out, p, 1));
    EXPECT_EQ(out, 9);
  });
}

}  // namespace
}  // namespace bulkhead::test
