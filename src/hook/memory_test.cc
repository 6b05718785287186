// Every allocating form on the model of memory_fake.h: after each step what is held of the quota must equal what
// the driver has taken, and must never have been exceeded by it.
#include "hook/memory_test.h"

#include "hook/array_size.h"

namespace bulkhead::hook {
namespace {

// Fills with `take` until refused; held must equal taken after each; returns how many were granted.
template <class Take>
int fill(Take take) {
  int n = 0;
  for (; n < 100'000; ++n) {
    const CUresult r = take();
    EXPECT_EQ(quota.held.load(), taken());
    if (r == CUDA_SUCCESS) continue;
    EXPECT_EQ(r, CUDA_ERROR_OUT_OF_MEMORY);
    break;
  }
  return n;
}

TEST_F(Memory, WholeAllocationsFillTheQuotaExactly) {
  start(100 * kMiB);
  std::vector<CUdeviceptr> all;
  const auto one = [&] {
    CUdeviceptr p = 77;
    const CUresult r = hook::cuMemAlloc_v2(&p, 5 * kMiB);
    if (r == CUDA_SUCCESS) {
      all.push_back(p);
    } else {
      EXPECT_EQ(p, 77u);  // untouched
    }
    return r;
  };
  EXPECT_EQ(fill(one), 16);  // 6 MiB each
  CUdeviceptr p = 0;
  EXPECT_EQ(hook::cuMemAlloc_v2(&p, 4 * kMiB), CUDA_SUCCESS);  // what is left
  EXPECT_EQ(hook::cuMemAlloc_v2(&p, 1), CUDA_ERROR_OUT_OF_MEMORY);
  for (const CUdeviceptr a : all) ASSERT_EQ(hook::cuMemFree_v2(a), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext + 4 * kMiB);
  same();
}

TEST_F(Memory, SmallOnesShareSlabsAndUseTheLastHole) {
  start(4 * kMiB);
  CUdeviceptr a = 0, b = 0, c = 0, d = 0;
  ASSERT_EQ(hook::cuMemAlloc_v2(&a, 1), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemAlloc_v2(&b, 1536 * 1024), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext + 2 * kMiB);
  ASSERT_EQ(hook::cuMemAlloc_v2(&c, 1 * kMiB), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext + 4 * kMiB);  // full
  same();
  // Holes: 512 KiB - 512 in the first slab, 1 MiB in the second.
  EXPECT_EQ(hook::cuMemAlloc_v2(&d, kMiB + 512), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(hook::cuMemAlloc_v2(&d, kMiB), CUDA_SUCCESS);
  EXPECT_EQ(hook::cuMemAlloc_v2(&d, kMiB / 2), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(hook::cuMemAlloc_v2(&d, kMiB / 2 - 512), CUDA_SUCCESS);
  EXPECT_EQ(hook::cuMemAlloc_v2(&d, 1), CUDA_ERROR_OUT_OF_MEMORY);
  same();
  ASSERT_EQ(hook::cuMemFree_v2(a), CUDA_SUCCESS);
  EXPECT_EQ(hook::cuMemAlloc_v2(&d, 513), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(hook::cuMemAlloc_v2(&d, 512), CUDA_SUCCESS);  // the hole that the free made
  same();
}

// What was remembered of holes does not outlive a slab that was opened since.
TEST_F(Memory, ANewSlabIsAHoleThatNoSearchSaw) {
  start(4 * kMiB);
  CUdeviceptr a = 0, large = 0, b = 0, c = 0;
  ASSERT_EQ(hook::cuMemAlloc_v2(&a, kMiB + kMiB / 2), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemAlloc_v2(&large, 2 * kMiB), CUDA_SUCCESS);
  EXPECT_EQ(hook::cuMemAlloc_v2(&b, kMiB),
            CUDA_ERROR_OUT_OF_MEMORY);  // the largest hole is half of it
  ASSERT_EQ(hook::cuMemFree_v2(large), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemAlloc_v2(&b, kMiB), CUDA_SUCCESS);  // opens a slab; the quota is full again
  EXPECT_EQ(hook::cuMemAlloc_v2(&c, kMiB), CUDA_SUCCESS);
  EXPECT_EQ(driver.most, kContext + 4 * kMiB);
  same();
}

// What the driver is still freeing is no hole for another thread's request.
TEST_F(Memory, WhatIsBeingFreedIsNoHole) {
  start(2 * kMiB);
  CUdeviceptr a = 0, b = 0, c = 0;
  ASSERT_EQ(hook::cuMemAlloc_v2(&a, 1), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemAlloc_v2(&b, kMiB + kMiB / 2), CUDA_SUCCESS);
  driver.on_free = [&] { EXPECT_EQ(hook::cuMemAlloc_v2(&c, kMiB), CUDA_ERROR_OUT_OF_MEMORY); };
  ASSERT_EQ(hook::cuMemFree_v2(b), CUDA_SUCCESS);
  EXPECT_EQ(driver.most, kContext + 2 * kMiB);
  same();
  EXPECT_EQ(hook::cuMemAlloc_v2(&c, kMiB), CUDA_SUCCESS);  // the "no" was not remembered
  same();
}

TEST_F(Memory, DriverFailuresGiveTheChargeBack) {
  CUdeviceptr p = 0;
  for (const std::size_t n : {std::size_t{1}, std::size_t{3} << 20}) {
    driver.fail_next = 1;
    EXPECT_EQ(hook::cuMemAlloc_v2(&p, n), CUDA_ERROR_UNKNOWN);
    same();
    ASSERT_EQ(hook::cuMemAlloc_v2(&p, n), CUDA_SUCCESS);
    driver.fail_next = 1;
    EXPECT_EQ(hook::cuMemFree_v2(p), CUDA_ERROR_UNKNOWN);
    same();  // still held
    EXPECT_EQ(hook::cuMemFree_v2(p), CUDA_SUCCESS);
    EXPECT_EQ(hook::cuMemFree_v2(p), CUDA_ERROR_INVALID_VALUE);  // unknown now: the driver answers
    same();
  }
  driver.fail_next = 1;
  EXPECT_EQ(hook::cuMemAllocAsync(&p, kMiB, nullptr), CUDA_ERROR_UNKNOWN);
  same();
  CUmemGenericAllocationHandle h = 0;
  CUmemAllocationProp prop{};
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  driver.fail_next = 1;
  EXPECT_EQ(hook::cuMemCreate(&h, 2 * kMiB, &prop, 0), CUDA_ERROR_UNKNOWN);
  EXPECT_EQ(hook::cuMemCreate(&h, kMiB, &prop, 0), CUDA_ERROR_INVALID_VALUE);
  same();
  EXPECT_EQ(hook::cuMemAlloc_v2(&p, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(hook::cuMemAlloc_v2(nullptr, 1), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(hook::cuMemAlloc_v2(&p, ~std::size_t{0}), CUDA_ERROR_OUT_OF_MEMORY);
  same();
}

TEST_F(Memory, PitchIsCorrectedToWhatTheDriverChose) {
  CUdeviceptr p = 0;
  std::size_t pitch = 0;
  ASSERT_EQ(hook::cuMemAllocPitch_v2(&p, &pitch, 1000, 5000, 4), CUDA_SUCCESS);
  EXPECT_EQ(pitch, 1024u);
  same();
  EXPECT_EQ(hook::cuMemFree_v2(p), CUDA_SUCCESS);
  driver.extra_pitch = 1024;
  ASSERT_EQ(hook::cuMemAllocPitch_v2(&p, &pitch, 1000, 5000, 4), CUDA_SUCCESS);
  EXPECT_EQ(pitch, 2048u);
  same();
  EXPECT_EQ(hook::cuMemFree_v2(p), CUDA_SUCCESS);
  same();
}

TEST_F(Memory, VmmIsHeldUntilReleasedAndUnmapped) {
  CUmemAllocationProp prop{};
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  CUmemGenericAllocationHandle h = 0, again = 0;
  ASSERT_EQ(hook::cuMemCreate(&h, 64 * kMiB, &prop, 0), CUDA_SUCCESS);
  const CUdeviceptr at = 0x10'0000'0000;
  ASSERT_EQ(hook::cuMemMap(at, 32 * kMiB, 0, h, 0), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemMap(at + 32 * kMiB, 32 * kMiB, 32 * kMiB, h, 0), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemRelease(h), CUDA_SUCCESS);
  same();
  EXPECT_EQ(quota.held.load(), kContext + 64 * kMiB);
  ASSERT_EQ(hook::cuMemRetainAllocationHandle(&again, reinterpret_cast<void*>(at)), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemUnmap(at, 64 * kMiB), CUDA_SUCCESS);
  same();
  EXPECT_EQ(quota.held.load(), kContext + 64 * kMiB);
  ASSERT_EQ(hook::cuMemRelease(again), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext);
  EXPECT_EQ(hook::cuMemRelease(again), CUDA_ERROR_INVALID_VALUE);
  same();
  start(100 * kMiB);
  EXPECT_EQ(fill([&] { return hook::cuMemCreate(&h, 6 * kMiB, &prop, 0); }), 16);
  prop.location.type = CU_MEM_LOCATION_TYPE_HOST;
  const std::uint64_t before = quota.held;
  EXPECT_EQ(hook::cuMemCreate(&h, 16 * kMiB, &prop, 0), CUDA_SUCCESS);  // not ours to charge
  EXPECT_EQ(quota.held.load(), before);
  driver.taken -= 16 * kMiB;  // the model does not tell host memory apart
  driver.most = 0;
}

TEST_F(Memory, PoolsAreChargedWhatTheyReserve) {
  start(128 * kMiB);
  std::vector<CUdeviceptr> all;
  CUdeviceptr p = 0;
  EXPECT_EQ(fill([&] {
              const CUresult r = hook::cuMemAllocAsync(&p, 10 * kMiB, nullptr);
              if (r == CUDA_SUCCESS) all.push_back(p);
              return r;
            }),
            12);  // three in each 32 MiB
  EXPECT_EQ(quota.held.load(), kContext + 128 * kMiB);
  EXPECT_EQ(hook::cuMemAllocAsync(&p, 2 * kMiB, nullptr), CUDA_SUCCESS);  // room inside
  EXPECT_EQ(hook::cuMemFreeAsync(p, nullptr), CUDA_SUCCESS);
  same();
  for (const CUdeviceptr a : all) ASSERT_EQ(hook::cuMemFreeAsync(a, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext + 128 * kMiB);  // reserved still
  EXPECT_EQ(hook::cuStreamSynchronize(nullptr), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext);
  same();
}

TEST_F(Memory, ARefusalTrimsPoolsFirst) {
  start(64 * kMiB);
  CUdeviceptr p = 0;
  ASSERT_EQ(hook::cuMemAllocAsync(&p, 60 * kMiB, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemFreeAsync(p, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext + 64 * kMiB);
  ASSERT_EQ(hook::cuMemAlloc_v2(&p, 50 * kMiB), CUDA_SUCCESS);
  same();
}

TEST_F(Memory, SteadyPairsStayInsideAndCostNoGrowth) {
  CUdeviceptr p = 0;
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(hook::cuMemAllocAsync(&p, kMiB, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(hook::cuMemFreeAsync(p, nullptr), CUDA_SUCCESS);
    ASSERT_EQ(quota.held.load(), kContext + 32 * kMiB);
  }
  same();
}

// What was freed in the stream is counted on for the next request of its size, and no longer when something else took
// the place or the pool shrank: the quota is never passed by it.
TEST_F(Memory, WhatWasFreedIsCountedOnOnlyWhileItIsThere) {
  start(32 * kMiB);
  CUdeviceptr p = 0, q = 0;
  ASSERT_EQ(hook::cuMemAllocAsync(&p, 20 * kMiB, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemFreeAsync(p, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemAllocAsync(&p, 20 * kMiB, nullptr), CUDA_SUCCESS);  // reused
  ASSERT_EQ(hook::cuMemFreeAsync(p, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemAllocAsync(&q, 30 * kMiB, nullptr), CUDA_SUCCESS);  // takes its place
  EXPECT_EQ(hook::cuMemAllocAsync(&p, 20 * kMiB, nullptr), CUDA_ERROR_OUT_OF_MEMORY);
  same();
  ASSERT_EQ(hook::cuMemFreeAsync(q, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuStreamSynchronize(nullptr), CUDA_SUCCESS);  // the pool gives everything back
  same();
  ASSERT_EQ(hook::cuMemAlloc_v2(&q, 32 * kMiB), CUDA_SUCCESS);
  EXPECT_EQ(hook::cuMemAllocAsync(&p, 30 * kMiB, nullptr), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(driver.most, kContext + 32 * kMiB);  // not for a moment
  same();
}

TEST_F(Memory, OwnPoolsAndTheCurrentPool) {
  CUmemPoolProps props{};
  props.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  CUmemoryPool pool = nullptr;
  CUdeviceptr p = 0, q = 0;
  ASSERT_EQ(hook::cuMemPoolCreate(&pool, &props), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemAllocFromPoolAsync(&p, 40 * kMiB, pool, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuDeviceSetMemPool(0, pool), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemAllocAsync(&q, 20 * kMiB, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext + 64 * kMiB);
  same();
  ASSERT_EQ(hook::cuMemFree_v2(q), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemFreeAsync(p, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemPoolTrimTo(pool, 0), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext);
  ASSERT_EQ(hook::cuMemAllocAsync(&q, 20 * kMiB, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemFreeAsync(q, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemPoolDestroy(pool), CUDA_SUCCESS);
  same();
}

TEST_F(Memory, AStreamInCaptureTakesNothing) {
  fake::set_capturing(true);
  CUdeviceptr p = 0;
  EXPECT_EQ(hook::cuMemAllocAsync(&p, 40 * kMiB, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext);
  same();
}

TEST_F(Memory, GraphNodesAreChargedAtLaunch) {
  start(200 * kMiB);
  CUgraphExec exec = nullptr, big = nullptr;
  const CUgraph g = fake::parent_of(fake::graph_of({60 * kMiB, 40 * kMiB}));
  ASSERT_EQ(hook::cuGraphInstantiateWithFlags(&exec, g, 0), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext);
  ASSERT_EQ(hook::cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext + 128 * kMiB);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(hook::cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
  same();
  ASSERT_EQ(hook::cuGraphInstantiateWithFlags(&big, fake::graph_of({300 * kMiB}), 0), CUDA_SUCCESS);
  EXPECT_EQ(hook::cuGraphLaunch(big, nullptr), CUDA_ERROR_OUT_OF_MEMORY);
  same();
  ASSERT_EQ(hook::cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuGraphExecDestroy(exec), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext + 128 * kMiB);
  ASSERT_EQ(hook::cuDeviceGraphMemTrim(0), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext);
  same();
}

TEST_F(Memory, AGraphUploadedWhileInstantiatedIsPaidBefore) {
  start(200 * kMiB);
  CUDA_GRAPH_INSTANTIATE_PARAMS params{};
  params.flags = 2;
  CUgraphExec exec = nullptr;
  EXPECT_EQ(hook::cuGraphInstantiateWithParams(&exec, fake::graph_of({300 * kMiB}), &params),
            CUDA_ERROR_OUT_OF_MEMORY);
  same();
  ASSERT_EQ(hook::cuGraphInstantiateWithParams(&exec, fake::graph_of({100 * kMiB}), &params),
            CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext + 128 * kMiB);
  ASSERT_EQ(hook::cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
  same();
}

TEST_F(Memory, ArraysByTheDriversOwnFigure) {
  start(100 * kMiB);
  CUarray a = nullptr, b = nullptr;
  CUmipmappedArray m = nullptr;
  const CUDA_ARRAY_DESCRIPTOR desc{1000, 1000, CU_AD_FORMAT_FLOAT, 1};
  ASSERT_EQ(hook::cuArrayCreate_v2(&a, &desc), CUDA_SUCCESS);
  same();
  const CUDA_ARRAY_DESCRIPTOR small{100, 100, CU_AD_FORMAT_FLOAT, 1};
  ASSERT_EQ(hook::cuArrayCreate_v2(&b, &small), CUDA_SUCCESS);
  same();
  const CUDA_ARRAY3D_DESCRIPTOR deep{512, 512, 4, CU_AD_FORMAT_FLOAT, 4, 0};
  ASSERT_EQ(hook::cuMipmappedArrayCreate(&m, &deep, 4), CUDA_SUCCESS);
  same();
  CUarray c = nullptr;
  EXPECT_EQ(fill([&] { return hook::cuArrayCreate_v2(&c, &desc); }), 15);
  EXPECT_EQ(hook::cuArrayDestroy(a), CUDA_SUCCESS);
  EXPECT_EQ(hook::cuArrayDestroy(b), CUDA_SUCCESS);
  EXPECT_EQ(hook::cuMipmappedArrayDestroy(m), CUDA_SUCCESS);
  same();
  driver.fail_next = 1;
  EXPECT_EQ(hook::cuArrayCreate_v2(&a, &desc), CUDA_ERROR_UNKNOWN);
  same();
  driver.probes = false;  // then an upper bound
  ASSERT_EQ(hook::cuArrayCreate_v2(&a, &desc), CUDA_SUCCESS);
  EXPECT_GE(quota.held.load(), taken());
  EXPECT_EQ(hook::cuArrayDestroy(a), CUDA_SUCCESS);
  same();
}

TEST_F(Memory, TheArrayBoundIsNeverBelowWhatWasMeasured) {
  const auto bound = [](std::size_t w, std::size_t h, std::size_t d, CUarray_format f, unsigned c,
                        unsigned levels) {
    return (array_bound({w, h, d, f, c, 0}, levels) + 2 * kMiB - 1) / (2 * kMiB) * (2 * kMiB);
  };
  EXPECT_GE(bound(1000, 1000, 0, CU_AD_FORMAT_FLOAT, 1, 0), 4u << 20);
  EXPECT_GE(bound(16384, 16384, 0, CU_AD_FORMAT_FLOAT, 1, 0), 1u << 30);
  EXPECT_GE(bound(300, 200, 100, CU_AD_FORMAT_FLOAT, 4, 0), 109'051'904u);
  EXPECT_GE(bound(1024, 1024, 64, CU_AD_FORMAT_HALF, 1, 0), 128u << 20);
  EXPECT_GE(bound(1024, 1024, 0, CU_AD_FORMAT_FLOAT, 4, 5), 23'068'672u);
  EXPECT_GE(bound(4097, 4097, 0, CU_AD_FORMAT_FLOAT, 2, 12), 184'549'376u);
}

TEST_F(Memory, APlainPointerFreedInStreamOrderIsGivenBackAtTheNextSynchronise) {
  CUdeviceptr p = 0;
  ASSERT_EQ(hook::cuMemAlloc_v2(&p, 3 * kMiB), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemFreeAsync(p, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext + 4 * kMiB);
  ASSERT_EQ(hook::cuCtxSynchronize(), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), idle_bytes());
}

TEST_F(Memory, AContextTakesItsMemoryWithIt) {
  CUcontext first = hook::here().context, second = nullptr;
  CUdeviceptr p = 0;
  CUarray a = nullptr;
  const CUDA_ARRAY_DESCRIPTOR small{100, 100, CU_AD_FORMAT_FLOAT, 1};
  ASSERT_EQ(hook::cuCtxCreate_v2(&second, 0, 0), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), 2 * kContext);
  for (const std::size_t n : {std::size_t{100}, std::size_t{7} << 20, std::size_t{1} << 20}) {
    ASSERT_EQ(hook::cuMemAlloc_v2(&p, n), CUDA_SUCCESS);
  }
  ASSERT_EQ(hook::cuArrayCreate_v2(&a, &small), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuMemAllocAsync(&p, kMiB, nullptr), CUDA_SUCCESS);
  same();
  ASSERT_EQ(hook::cuCtxDestroy_v2(second), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext + 32 * kMiB);  // pools are the device's
  same();
  EXPECT_EQ(hook::cuCtxDestroy_v2(second), CUDA_ERROR_INVALID_CONTEXT);
  fake::make_current(first);
  ASSERT_EQ(hook::cuMemAlloc_v2(&p, 100), CUDA_SUCCESS);
  driver.fail_next = 1;
  EXPECT_EQ(hook::cuCtxCreate_v2(&second, 0, 0), CUDA_ERROR_UNKNOWN);
  same();
  ASSERT_EQ(hook::cuDevicePrimaryCtxReset_v2(0), CUDA_SUCCESS);  // cudaDeviceReset
  EXPECT_EQ(quota.held.load(), 0u);
  EXPECT_EQ(quota.other.load(), 0u);
  same();
  ASSERT_EQ(hook::cuDevicePrimaryCtxRetain(&first, 0), CUDA_SUCCESS);
  ASSERT_EQ(hook::cuDevicePrimaryCtxRetain(&first, 0), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext);
  ASSERT_EQ(hook::cuDevicePrimaryCtxRelease_v2(0), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), kContext);
  ASSERT_EQ(hook::cuDevicePrimaryCtxRelease_v2(0), CUDA_SUCCESS);
  EXPECT_EQ(quota.held.load(), 0u);
}

}  // namespace
}  // namespace bulkhead::hook
