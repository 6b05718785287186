// What pools, graphs, modules and streams take beyond the plain cases: refusals, trimming, leaks, several mappings.
#include "tests/sim/machine.h"

namespace bulkhead::test {
namespace {

class SimPools : public Machine {};

#define OK(call) ASSERT_EQ(call, CUDA_SUCCESS)

// Bytes this process has beyond its one context.
std::uint64_t charged() { return shown() - kContext; }
cuuint64_t graph_attribute(CUgraphMem_attribute a) {
  cuuint64_t v = ~0ull;
  EXPECT_EQ(CU(cuDeviceGetGraphMemAttribute)(0, a, &v), CUDA_SUCCESS);
  return v;
}

TEST_F(SimPools, ThresholdTrimAndMaxSize) {
  run([] {
    start();
    CUmemPoolProps props{};
    props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    props.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    props.maxSize = 128 * kMiB;
    CUmemoryPool pool{};
    OK(CU(cuMemPoolCreate)(&pool, &props));
    EXPECT_EQ(charged(), 0u);
    cuuint64_t threshold = 64 * kMiB;
    OK(CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
    CUdeviceptr p{};
    OK(CU(cuMemAllocFromPoolAsync)(&p, 100 * kMiB, pool, nullptr));
    EXPECT_EQ(charged(), 128 * kMiB);
    CUdeviceptr q{};
    EXPECT_EQ(CU(cuMemAllocFromPoolAsync)(&q, 100 * kMiB, pool, nullptr), CUDA_ERROR_OUT_OF_MEMORY);
    OK(CU(cuMemFreeAsync)(p, nullptr));
    OK(CU(cuCtxSynchronize)());
    EXPECT_EQ(charged(), 64 * kMiB);
    OK(CU(cuMemPoolTrimTo)(pool, 0));
    EXPECT_EQ(charged(), 0u);
    OK(CU(cuMemAllocFromPoolAsync)(&p, kMiB, pool, nullptr));
    OK(CU(cuMemPoolDestroy)(pool));  // lives until its last allocation is freed
    EXPECT_EQ(charged(), 32 * kMiB);
    OK(CU(cuMemFreeAsync)(p, nullptr));
    EXPECT_EQ(charged(), 0u);
    EXPECT_EQ(CU(cuMemAllocFromPoolAsync)(&p, kMiB, pool, nullptr), CUDA_ERROR_INVALID_VALUE);
  });
}

cuuint64_t attribute(CUmemoryPool pool, CUmemPool_attribute a) {
  cuuint64_t v = ~0ull;
  EXPECT_EQ(CU(cuMemPoolGetAttribute)(pool, a, &v), CUDA_SUCCESS);
  return v;
}

// As one H200 did: handles, attributes and memory stay; NVML shows a process only while it has a context.
TEST_F(SimPools, SurviveTheResetOfThePrimaryContext) {
  Child other{[](Child& me) {  // a context beside, to see the device by
    start();
    const std::uint64_t all = free_bytes();
    while (me.hear() && me.say(all - free_bytes())) {
    }
  }};
  const auto on_the_device = [&] {
    std::uint64_t bytes = ~0ull;
    EXPECT_TRUE(other.say() && other.hear(&bytes));
    return bytes;
  };
  ASSERT_EQ(on_the_device(), 0u);
  Child child{[](Child& me) {
    start();
    CUmemPoolProps props{};
    props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    props.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    CUmemoryPool all[2] = {};
    CUdeviceptr p[2] = {};
    OK(CU(cuDeviceGetDefaultMemPool)(&all[0], 0));
    OK(CU(cuMemPoolCreate)(&all[1], &props));
    OK(CU(cuMemAllocAsync)(&p[0], 1000, nullptr));
    OK(CU(cuMemAllocFromPoolAsync)(&p[1], 50, all[1], nullptr));
    OK(CU(cuCtxSynchronize)());
    EXPECT_EQ(charged(), 64 * kMiB);
    OK(CU(cuDevicePrimaryCtxReset_v2)(0));
    EXPECT_EQ(shown(), 0u);
    for (CUmemoryPool pool : all) {
      EXPECT_EQ(attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 32 * kMiB);
    }
    EXPECT_EQ(attribute(all[0], CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 1024u);
    EXPECT_EQ(attribute(all[1], CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 512u);
    me.say();
    me.hear();
    start();
    EXPECT_EQ(charged(), 64 * kMiB);
    CUmemoryPool again{};
    OK(CU(cuDeviceGetDefaultMemPool)(&again, 0));
    EXPECT_EQ(again, all[0]);
    OK(CU(cuMemFreeAsync)(p[0], nullptr));
    OK(CU(cuMemFreeAsync)(p[1], nullptr));
    EXPECT_EQ(charged(), 64 * kMiB) << "until a synchronisation";
    OK(CU(cuCtxSynchronize)());
    EXPECT_EQ(charged(), 0u);
    OK(CU(cuMemAllocFromPoolAsync)(&p[1], 50, all[1], nullptr));
    EXPECT_EQ(charged(), 32 * kMiB);
  }};
  EXPECT_TRUE(child.hear());
  EXPECT_EQ(on_the_device(), 64 * kMiB) << "taken though NVML shows it for nobody";
  child.say();
  EXPECT_EQ(child.end(), 0);
  EXPECT_EQ(on_the_device(), 0u) << "gone with the process";
  other.end(SIGKILL);
}

TEST_F(SimPools, UnusedBlocksAreGivenUpBeforeARefusal) {
  run([] {
    start();
    CUmemoryPool pool{};
    OK(CU(cuDeviceGetDefaultMemPool)(&pool, 0));
    cuuint64_t keep = ~0ull;
    OK(CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep));
    CUdeviceptr p{};
    OK(CU(cuMemAllocAsync)(&p, 1024 * kMiB, nullptr));
    OK(CU(cuMemFreeAsync)(p, nullptr));
    OK(CU(cuCtxSynchronize)());
    EXPECT_EQ(charged(), 1024 * kMiB);
    const std::uint64_t rest = free_bytes() / (2 * kMiB) * 2 * kMiB;
    CUdeviceptr all{};
    OK(CU(cuMemAlloc_v2)(&all, rest + 512 * kMiB));
    EXPECT_EQ(charged(), rest + 512 * kMiB);
  });
}

TEST_F(SimPools, GraphMemoryStaysUntilTrimmed) {
  run([] {
    start();
    CUgraph g{};
    OK(CU(cuGraphCreate)(&g, 0));
    CUDA_MEM_ALLOC_NODE_PARAMS p{};
    p.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    p.poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    p.bytesize = 40 * kMiB;
    CUgraphNode a{}, b{}, f{};
    OK(CU(cuGraphAddMemAllocNode)(&a, g, nullptr, 0, &p));
    const CUdeviceptr first = p.dptr;
    OK(CU(cuGraphAddMemAllocNode)(&b, g, &a, 1, &p));
    OK(CU(cuGraphAddMemFreeNode)(&f, g, &b, 1, first));
    const CUdeviceptr leaked = p.dptr;
    CUgraphExec e{};
    OK(CU(cuGraphInstantiateWithFlags)(&e, g, 0));
    EXPECT_EQ(charged(), 0u);  // neither adding nor instantiating takes memory
    OK(CU(cuGraphLaunch)(e, nullptr));
    EXPECT_EQ(charged(), 128 * kMiB);
    EXPECT_EQ(graph_attribute(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT), 128 * kMiB);
    OK(CU(cuCtxSynchronize)());
    EXPECT_EQ(CU(cuGraphLaunch)(e, nullptr), CUDA_ERROR_INVALID_VALUE);  // one is still allocated
    OK(CU(cuMemFree_v2)(leaked));
    EXPECT_EQ(charged(), 128 * kMiB);
    OK(CU(cuDeviceGraphMemTrim)(0));
    EXPECT_EQ(charged(), 0u);
    OK(CU(cuGraphLaunch)(e, nullptr));
    EXPECT_EQ(charged(), 128 * kMiB);
    OK(CU(cuGraphExecDestroy)(e));
    OK(CU(cuGraphDestroy)(g));
    EXPECT_EQ(charged(), 128 * kMiB);
    OK(CU(cuMemFreeAsync)(leaked, nullptr));
    OK(CU(cuDeviceGraphMemTrim)(0));
    EXPECT_EQ(charged(), 0u);
  });
}

TEST_F(SimPools, GraphTakesNothingIfTheWholeDoesNotFit) {
  run([] {
    start();
    CUgraph g{};
    OK(CU(cuGraphCreate)(&g, 0));
    CUDA_MEM_ALLOC_NODE_PARAMS p{};
    p.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    p.poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    p.bytesize = 80ull << 30;
    CUgraphNode a{}, b{};
    OK(CU(cuGraphAddMemAllocNode)(&a, g, nullptr, 0, &p));
    OK(CU(cuGraphAddMemAllocNode)(&b, g, &a, 1, &p));
    CUgraphExec e{};
    OK(CU(cuGraphInstantiateWithFlags)(&e, g, 0));
    EXPECT_EQ(CU(cuGraphLaunch)(e, nullptr), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(charged(), 0u);
  });
}

TEST_F(SimPools, OneAllocationMappedTwiceIsOneMemory) {
  run([] {
    start();
    CUmemAllocationProp prop{};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    CUmemGenericAllocationHandle h{};
    OK(CU(cuMemCreate)(&h, 2 * kMiB, &prop, 0));
    CUdeviceptr va{};
    OK(CU(cuMemAddressReserve)(&va, 4 * kMiB, 0, 0, 0));
    OK(CU(cuMemMap)(va, 2 * kMiB, 0, h, 0));
    OK(CU(cuMemMap)(va + 2 * kMiB, 2 * kMiB, 0, h, 0));
    const CUmemAccessDesc access{{CU_MEM_LOCATION_TYPE_DEVICE, 0},
                                 CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    OK(CU(cuMemSetAccess)(va, 4 * kMiB, &access, 1));
    EXPECT_EQ(charged(), 2 * kMiB);
    OK(CU(cuMemsetD32_v2)(va, 0xabcd1234, 16));
    unsigned out = 0;
    OK(CU(cuMemcpyDtoH_v2)(&out, va + 2 * kMiB, 4));
    EXPECT_EQ(out, 0xabcd1234);
  });
}

TEST_F(SimPools, StreamsStacksAndModulesTakeMemory) {
  run([] {
    start();
    CUstream streams[64];
    for (CUstream& s : streams) OK(CU(cuStreamCreate)(&s, 0));
    EXPECT_EQ(charged(), 34 * kMiB);
    for (CUstream s : streams) OK(CU(cuStreamDestroy_v2)(s));
    EXPECT_EQ(charged(), 0u);
    OK(CU(cuCtxSetLimit)(CU_LIMIT_STACK_SIZE, 16384));
    EXPECT_EQ(charged(), 15360ull * 132 * 2048);  // 4.15 GB
    OK(CU(cuDevicePrimaryCtxReset_v2)(0));
    start();
    CUmodule m{};
    OK(CU(cuModuleLoadData)(
        &m,
        "// bulkhead-sim-bytes=4194304 bulkhead-sim-lazy-bytes=8388608\n"
        ".version 7.0\n.target sm_70\n.address_size 64\n"
        ".visible .entry other() { .local .align 16 .b8 depot[65536]; ret; }\n"));
    EXPECT_EQ(charged(), 4 * kMiB);
    CUfunction f{};
    OK(CU(cuModuleGetFunction)(&f, m, "other"));
    EXPECT_EQ(CU(cuModuleGetFunction)(&f, m, "none"), CUDA_ERROR_NOT_FOUND);
    OK(CU(cuModuleGetFunction)(&f, m, "other"));
    EXPECT_EQ(charged(), 4 * kMiB);
    OK(CU(cuLaunchKernel)(f, 1, 1, 1, 32, 1, 1, 0, nullptr, nullptr, nullptr));
    EXPECT_EQ(charged(), 12 * kMiB + 64512ull * 132 * 2048);  // 17.4 GB of local memory
    OK(CU(cuModuleUnload)(m));
    EXPECT_EQ(charged(), 64512ull * 132 * 2048);
  });
}

}  // namespace
}  // namespace bulkhead::test
