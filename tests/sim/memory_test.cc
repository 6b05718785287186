// What each form of memory takes from the device and when it comes back. The figures are those measured on an H200.
#include "tests/sim/machine.h"

namespace bulkhead::test {
namespace {

class SimMemory : public Machine {
 protected:
  // Runs `body` with a context; at its end only the context may be left.
  static void with_context(const std::function<void()>& body) {
    run([&] {
      start();
      ASSERT_EQ(shown(), kContext);
      body();
      EXPECT_EQ(shown(), kContext) << "given back";
    });
  }
};

std::uint64_t taken() { return shown() - kContext; }

CUmemAllocationProp device_memory() {
  CUmemAllocationProp p{};
  p.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  p.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  return p;
}

TEST_F(SimMemory, TotalsAreTheProfiles) {
  run([] {
    std::size_t total = 0;
    start();
    EXPECT_EQ(CU(cuDeviceTotalMem_v2)(&total, 0), CUDA_SUCCESS);
    EXPECT_EQ(total, kTotal);
    nvmlMemory_t m{};
    EXPECT_EQ(ML(nvmlDeviceGetMemoryInfo)(nvml_device(), &m), NVML_SUCCESS);
    EXPECT_EQ(m.total, 150754820096u);
    EXPECT_EQ(free_bytes(), kTotal - 552402944) << "the first context hides some of what it takes";
  });
}

TEST_F(SimMemory, EachContextTakesItsOwn) {
  with_context([] {
    CUcontext second = nullptr, third = nullptr;
    EXPECT_EQ(CU(cuCtxCreate_v2)(&second, 0, 0), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuCtxCreate_v2)(&third, 0, 0), CUDA_SUCCESS);
    EXPECT_EQ(shown(), 3 * kContext);
    EXPECT_EQ(CU(cuCtxDestroy_v2)(third), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuCtxDestroy_v2)(second), CUDA_SUCCESS);
  });
}

TEST_F(SimMemory, SmallRequestsShareSlabs) {
  with_context([] {
    CUdeviceptr a = 0, b = 0, c = 0;
    EXPECT_EQ(CU(cuMemAlloc_v2)(&a, 1), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 2 * kMiB);
    EXPECT_EQ(CU(cuMemAlloc_v2)(&b, 3 * kMiB / 2), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 2 * kMiB);
    EXPECT_EQ(b - a, 512u) << "first fit, 512 bytes apart";
    EXPECT_EQ(CU(cuMemAlloc_v2)(&c, kMiB), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 4 * kMiB) << "does not fit in what is left";
    EXPECT_EQ(CU(cuMemFree_v2)(c), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 2 * kMiB) << "an empty slab goes back at once";
    EXPECT_EQ(CU(cuMemFree_v2)(a), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemFree_v2)(b), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemFree_v2)(b), CUDA_ERROR_INVALID_VALUE) << "twice";
  });
}

TEST_F(SimMemory, LargeRequestsTakeWholeGranules) {
  with_context([] {
    CUdeviceptr a = 0, b = 0;
    std::size_t pitch = 0;
    EXPECT_EQ(CU(cuMemAlloc_v2)(&a, 2 * kMiB + 1), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 4 * kMiB);
    EXPECT_EQ(CU(cuMemAllocPitch_v2)(&b, &pitch, 1000, 10000, 4), CUDA_SUCCESS);
    EXPECT_EQ(pitch, 1024u);
    EXPECT_EQ(taken(), 14 * kMiB);
    EXPECT_EQ(CU(cuMemFree_v2)(a), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemFree_v2)(b), CUDA_SUCCESS);
  });
}

TEST_F(SimMemory, ManagedMemoryComesInBatchesAndIsNotInTheProcessesFigure) {
  with_context([] {
    CUdeviceptr a = 0, b = 0, c = 0;
    const std::uint64_t before = free_bytes();
    EXPECT_EQ(CU(cuMemAllocManaged)(&a, 5'000'000, CU_MEM_ATTACH_GLOBAL), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 0u);
    EXPECT_EQ(before - free_bytes(), 128 * kMiB) << "a batch";
    EXPECT_EQ(CU(cuMemAllocManaged)(&b, 122 * kMiB, CU_MEM_ATTACH_GLOBAL), CUDA_SUCCESS);
    EXPECT_EQ(before - free_bytes(), 128 * kMiB) << "its rest serves the next";
    EXPECT_EQ(CU(cuMemAllocManaged)(&c, 1, CU_MEM_ATTACH_GLOBAL), CUDA_SUCCESS);
    EXPECT_EQ(before - free_bytes(), 256 * kMiB);
    EXPECT_EQ(taken(), 0u);
    EXPECT_EQ(CU(cuMemFree_v2)(a), CUDA_SUCCESS);
    EXPECT_EQ(before - free_bytes(), 128 * kMiB);
    EXPECT_EQ(CU(cuMemFree_v2)(b), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemFree_v2)(c), CUDA_SUCCESS);
    EXPECT_EQ(free_bytes(), before);
  });
}

TEST_F(SimMemory, AManagedRequestNeedsAWholeBatch) {
  with_context([] {
    const std::uint64_t batch = 128 * kMiB;
    const std::uint64_t rest = free_bytes() / batch * batch;
    CUdeviceptr a = 0, b = 0;
    ASSERT_EQ(CU(cuMemAlloc_v2)(&a, free_bytes() - rest + 2 * kMiB), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemAllocManaged)(&b, rest - batch + 2 * kMiB, CU_MEM_ATTACH_GLOBAL),
              CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(CU(cuMemAllocManaged)(&b, rest - batch, CU_MEM_ATTACH_GLOBAL), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemFree_v2)(a), CUDA_SUCCESS);
  });
}

TEST_F(SimMemory, PoolsGrowByBlocksAndShrinkAtASynchronisation) {
  with_context([] {
    CUdeviceptr a = 0, b = 0;
    EXPECT_EQ(CU(cuMemAllocAsync)(&a, 1000, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemAllocAsync)(&b, 33 * kMiB, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 64 * kMiB) << "one space in blocks of 32 MiB";
    CUmemoryPool pool = nullptr;
    std::uint64_t reserved = 0;
    EXPECT_EQ(CU(cuDeviceGetDefaultMemPool)(&pool, 0), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved),
              CUDA_SUCCESS);
    EXPECT_EQ(reserved, taken());
    EXPECT_EQ(CU(cuMemFreeAsync)(a, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemFreeAsync)(b, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 64 * kMiB) << "kept until a synchronisation";
    EXPECT_EQ(CU(cuStreamSynchronize)(nullptr), CUDA_SUCCESS);
  });
}

TEST_F(SimMemory, AnOwnPoolKeepsWhatItsThresholdSays) {
  with_context([] {
    CUmemPoolProps props{};
    props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    props.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    props.maxSize = 64 * kMiB;
    CUmemoryPool pool = nullptr;
    CUdeviceptr a = 0, b = 0;
    ASSERT_EQ(CU(cuMemPoolCreate)(&pool, &props), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 0u);
    std::uint64_t threshold = 32 * kMiB;
    EXPECT_EQ(CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold),
              CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemAllocFromPoolAsync)(&a, 50 * kMiB, pool, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemAllocFromPoolAsync)(&b, 50 * kMiB, pool, nullptr), CUDA_ERROR_OUT_OF_MEMORY)
        << "maxSize";
    EXPECT_EQ(CU(cuMemFreeAsync)(a, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuCtxSynchronize)(), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 32 * kMiB);
    EXPECT_EQ(CU(cuMemPoolTrimTo)(pool, 0), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 0u);
    EXPECT_EQ(CU(cuMemPoolDestroy)(pool), CUDA_SUCCESS);
  });
}

TEST_F(SimMemory, VirtualMemoryIsTakenAtCreateAndKeptByItsMapping) {
  with_context([] {
    const CUmemAllocationProp prop = device_memory();
    CUmemGenericAllocationHandle h = 0;
    CUdeviceptr at = 0;
    EXPECT_EQ(CU(cuMemCreate)(&h, 3 * kMiB, &prop, 0), CUDA_ERROR_INVALID_VALUE)
        << "not whole granules";
    ASSERT_EQ(CU(cuMemCreate)(&h, 6 * kMiB, &prop, 0), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 6 * kMiB);
    EXPECT_EQ(CU(cuMemAddressReserve)(&at, 6 * kMiB, 0, 0, 0), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemMap)(at, 6 * kMiB, 0, h, 0), CUDA_SUCCESS);
    const CUmemAccessDesc both{{CU_MEM_LOCATION_TYPE_DEVICE, 0},
                               CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    EXPECT_EQ(CU(cuMemSetAccess)(at, 6 * kMiB, &both, 1), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemRelease)(h), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 6 * kMiB) << "mapped";
    EXPECT_EQ(CU(cuMemsetD8_v2)(at, 1, 6 * kMiB), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemUnmap)(at, 6 * kMiB), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemAddressFree)(at, 6 * kMiB), CUDA_SUCCESS);
  });
}

struct Shape {
  std::size_t width, height, depth;
  CUarray_format format;
  unsigned channels, levels;  // levels 0: no mipmap
  std::uint64_t bytes;        // as NVML showed on an H200
};
class SimArrays : public SimMemory, public testing::WithParamInterface<Shape> {};

TEST_P(SimArrays, TakeWhatWasMeasured) {
  const Shape s = GetParam();
  with_context([&] {
    const CUDA_ARRAY3D_DESCRIPTOR d{s.width, s.height, s.depth, s.format, s.channels, 0};
    CUarray a = nullptr;
    CUmipmappedArray m = nullptr;
    const auto create = [&](const CUDA_ARRAY3D_DESCRIPTOR& of) {
      return s.levels != 0 ? CU(cuMipmappedArrayCreate)(&m, &of, s.levels)
                           : CU(cuArray3DCreate_v2)(&a, &of);
    };
    const auto destroy = [&] {
      return s.levels != 0 ? CU(cuMipmappedArrayDestroy)(m) : CU(cuArrayDestroy)(a);
    };
    const auto ask = [&](CUDA_ARRAY_MEMORY_REQUIREMENTS& need) {
      return s.levels != 0 ? CU(cuMipmappedArrayGetMemoryRequirements)(&need, m, 0)
                           : CU(cuArrayGetMemoryRequirements)(&need, a, 0);
    };
    ASSERT_EQ(create(d), CUDA_SUCCESS);
    EXPECT_EQ(taken(), s.bytes);
    CUDA_ARRAY_MEMORY_REQUIREMENTS need{};
    EXPECT_EQ(ask(need), CUDA_ERROR_INVALID_VALUE) << "answered for deferred mapping only";
    EXPECT_EQ(destroy(), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 0u);
    auto deferred = d;
    deferred.Flags = 0x80;
    ASSERT_EQ(create(deferred), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 0u) << "deferred: nothing yet";
    EXPECT_EQ(ask(need), CUDA_SUCCESS);
    EXPECT_EQ(need.size % 65536, 0u);
    EXPECT_EQ((need.size + 2 * kMiB - 1) / (2 * kMiB) * (2 * kMiB), s.bytes);
    EXPECT_EQ(destroy(), CUDA_SUCCESS);
  });
}

INSTANTIATE_TEST_SUITE_P(
    H200, SimArrays,
    testing::Values(Shape{1000, 1000, 0, CU_AD_FORMAT_FLOAT, 1, 0, 4 * kMiB},
                    Shape{16384, 16384, 0, CU_AD_FORMAT_FLOAT, 1, 0, 1024 * kMiB},
                    Shape{300, 200, 100, CU_AD_FORMAT_FLOAT, 4, 0, 109051904},
                    Shape{1024, 1024, 64, CU_AD_FORMAT_HALF, 1, 0, 128 * kMiB},
                    Shape{1024, 1024, 0, CU_AD_FORMAT_FLOAT, 4, 5, 23068672},
                    Shape{4097, 4097, 0, CU_AD_FORMAT_FLOAT, 2, 12, 184549376}));

TEST_F(SimMemory, SmallArraysHaveSlabsOfTheirOwn) {
  with_context([] {
    CUdeviceptr plain = 0;
    CUarray a[4] = {};
    const CUDA_ARRAY_DESCRIPTOR d{400, 400, CU_AD_FORMAT_FLOAT, 1};  // 640 KiB and some rows
    EXPECT_EQ(CU(cuMemAlloc_v2)(&plain, 1), CUDA_SUCCESS);
    for (unsigned i = 0; i < 2; ++i) EXPECT_EQ(CU(cuArrayCreate_v2)(&a[i], &d), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 4 * kMiB);
    for (unsigned i = 2; i < 4; ++i) EXPECT_EQ(CU(cuArrayCreate_v2)(&a[i], &d), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 6 * kMiB);
    for (const CUarray one : a) EXPECT_EQ(CU(cuArrayDestroy)(one), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 2 * kMiB);
    EXPECT_EQ(CU(cuMemFree_v2)(plain), CUDA_SUCCESS);
  });
}

TEST_F(SimMemory, GraphMemoryComesAtTheLaunchAndStaysUntilTrimmed) {
  with_context([] {
    CUgraph g = nullptr;
    CUgraphExec exec = nullptr;
    CUgraphNode node = nullptr;
    CUDA_MEM_ALLOC_NODE_PARAMS p{};
    p.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    p.poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    p.bytesize = 100 * kMiB;
    EXPECT_EQ(CU(cuGraphCreate)(&g, 0), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuGraphAddMemAllocNode)(&node, g, nullptr, 0, &p), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuGraphInstantiateWithFlags)(&exec, g, 0), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 0u);
    EXPECT_EQ(CU(cuGraphUpload)(exec, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 128 * kMiB);
    EXPECT_EQ(CU(cuGraphLaunch)(exec, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuCtxSynchronize)(), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 128 * kMiB);
    std::uint64_t reserved = 0;
    EXPECT_EQ(
        CU(cuDeviceGetGraphMemAttribute)(0, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &reserved),
        CUDA_SUCCESS);
    EXPECT_EQ(reserved, taken());
    EXPECT_EQ(CU(cuMemFree_v2)(p.dptr), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuGraphExecDestroy)(exec), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuGraphDestroy)(g), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 128 * kMiB) << "kept for the next";
    EXPECT_EQ(CU(cuDeviceGraphMemTrim)(0), CUDA_SUCCESS);
  });
}

TEST_F(SimMemory, AStackLimitTakesMemoryForEveryThreadTheDeviceHolds) {
  run([] {
    start();
    std::size_t bytes = 0;
    EXPECT_EQ(CU(cuCtxGetLimit)(&bytes, CU_LIMIT_STACK_SIZE), CUDA_SUCCESS);
    EXPECT_EQ(bytes, 1024u);
    EXPECT_EQ(CU(cuCtxSetLimit)(CU_LIMIT_MALLOC_HEAP_SIZE, 64 * kMiB), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 0u) << "nothing at once, as measured";
    EXPECT_EQ(CU(cuCtxSetLimit)(CU_LIMIT_STACK_SIZE, 16384), CUDA_SUCCESS);
    EXPECT_EQ(taken(), 15360u * 2048 * 132) << "4.15 GB";
    EXPECT_EQ(CU(cuCtxGetLimit)(&bytes, CU_LIMIT_STACK_SIZE), CUDA_SUCCESS);
    EXPECT_EQ(bytes, 16384u);
    EXPECT_EQ(CU(cuCtxSetLimit)(CU_LIMIT_STACK_SIZE, kMiB), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(CU(cuDevicePrimaryCtxReset_v2)(0), CUDA_SUCCESS);
    EXPECT_EQ(shown(), 0u);
  });
}

TEST_F(SimMemory, APointerTellsWhatItIs) {
  with_context([] {
    CUdeviceptr p = 0, base = 0;
    bool managed = true;
    unsigned type = 0;
    int ordinal = -1;
    ASSERT_EQ(CU(cuMemAlloc_v2)(&p, 1000), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p + 10),
              CUDA_SUCCESS);
    EXPECT_EQ(type, static_cast<unsigned>(CU_MEMORYTYPE_DEVICE));
    CUpointer_attribute asked[] = {CU_POINTER_ATTRIBUTE_IS_MANAGED,
                                   CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
                                   CU_POINTER_ATTRIBUTE_RANGE_START_ADDR};
    void* answers[] = {&managed, &ordinal, &base};
    EXPECT_EQ(CU(cuPointerGetAttributes)(3, asked, answers, p + 999), CUDA_SUCCESS);
    EXPECT_FALSE(managed);
    EXPECT_EQ(ordinal, 0);
    EXPECT_EQ(base, p);
    EXPECT_EQ(CU(cuMemFree_v2)(p), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuPointerGetAttribute)(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(CU(cuPointerGetAttributes)(3, asked, answers, p), CUDA_SUCCESS);
    EXPECT_EQ(base, 0u) << "unknown: zeros";
  });
}

TEST_F(SimMemory, AResetGivesAllButPoolsBack) {
  run([] {
    start();
    CUdeviceptr p = 0, pooled = 0;
    CUarray a = nullptr;
    CUstream s = nullptr;
    const CUDA_ARRAY_DESCRIPTOR d{1000, 1000, CU_AD_FORMAT_FLOAT, 1};
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 100), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 7 * kMiB), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemAllocAsync)(&pooled, 7 * kMiB, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuArrayCreate_v2)(&a, &d), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuStreamCreate)(&s, 0), CUDA_SUCCESS);
    EXPECT_GT(shown(), kContext + 40 * kMiB);
    EXPECT_EQ(CU(cuDevicePrimaryCtxReset_v2)(0), CUDA_SUCCESS);
    EXPECT_EQ(shown(), 0u);
    EXPECT_NE(CU(cuMemAlloc_v2)(&p, 100), CUDA_SUCCESS) << "the context is gone";
    start();
    EXPECT_EQ(shown(), kContext + 32 * kMiB) << "the pool's block";
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 100), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemFree_v2)(p), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemFreeAsync)(pooled, nullptr), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuCtxSynchronize)(), CUDA_SUCCESS);
    EXPECT_EQ(shown(), kContext);
  });
}

}  // namespace
}  // namespace bulkhead::test
