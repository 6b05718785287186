// The block of a pool that is known to be paid for (pool.h, Block): when the driver is asked, and that a block which
// the driver returned and took again behind our back is never believed. Then: which thread is alone.
#include <gtest/gtest.h>

#include <thread>

#include "hook/alone.h"
#include "hook/books.h"
#include "hook/memory_fake.h"

namespace bulkhead::hook {
namespace {

using fake::driver;
using fake::kContext;
using fake::kMiB;
using fake::quota;

class PoolBlock : public testing::Test {
 protected:
  void SetUp() override {
    fake::reset(4096 * kMiB);
    CUcontext ctx = nullptr;
    ASSERT_EQ(hook::cuDevicePrimaryCtxRetain(&ctx, 0), CUDA_SUCCESS);
    fake::make_current(ctx);
  }
  static CUdeviceptr take(std::uint64_t bytes) {
    CUdeviceptr p = 0;
    EXPECT_EQ(hook::cuMemAllocAsync(&p, bytes, nullptr), CUDA_SUCCESS);
    return p;
  }
  static void drop(CUdeviceptr p) { EXPECT_EQ(hook::cuMemFreeAsync(p, nullptr), CUDA_SUCCESS); }
  static void same() { EXPECT_EQ(quota.held.load(), driver.taken + driver.contexts_taken); }
};

TEST_F(PoolBlock, TheDriverIsAskedOnceForPairsInOneBlock) {
  for (int i = 0; i < 3; ++i) drop(take(kMiB));
  const int before = driver.pool_queries;
  for (int i = 0; i < 1000; ++i) drop(take(kMiB));
  EXPECT_EQ(driver.pool_queries, before);
  same();
}

TEST_F(PoolBlock, AShrunkPoolIsAskedAgain) {
  for (int i = 0; i < 3; ++i) drop(take(kMiB));
  ASSERT_EQ(hook::cuStreamSynchronize(nullptr), CUDA_SUCCESS);  // everything goes back
  same();
  EXPECT_EQ(quota.held.load(), kContext);
  const int before = driver.pool_queries;
  const CUdeviceptr p = take(kMiB);
  EXPECT_GT(driver.pool_queries, before);
  same();
  drop(p);
}

// The driver returns the block without a call of the program's, another request grows the pool by as much, and then
// the block comes back: reserved is one block above the charge, and must not stay so.
TEST_F(PoolBlock, ABlockOfAnotherDayIsNotBelieved) {
  for (int i = 0; i < 3; ++i) drop(take(20 * kMiB));
  Pool* const p = books.pools.current(0).load();
  ASSERT_NE(p, nullptr);
  const std::uint64_t known = p->block.load() & kBlockMask;
  ASSERT_NE(known, 0u);
  next.cuMemPoolTrimTo(fake::default_pool(), 0);  // behind our back
  const CUdeviceptr q = take(30 * kMiB);          // grows, and settles
  EXPECT_NE(p->block.load() & kBlockMask, known);
  const CUdeviceptr r = take(20 * kMiB);
  same();
  drop(q);
  drop(r);
}

TEST_F(PoolBlock, ARequestAcrossBlocksIsAlwaysLookedAt) {
  for (int i = 0; i < 3; ++i) drop(take(40 * kMiB));
  const int before = driver.pool_queries;
  drop(take(40 * kMiB));
  EXPECT_GT(driver.pool_queries, before);
  same();
}

TEST_F(PoolBlock, AWordDoubtedMeanwhileIsNotSet) {
  drop(take(kMiB));
  Pool& p = *books.pools.current(0).load();
  const CUdeviceptr at = take(kMiB);
  driver.on_query = [&] { pool_doubt(p); };  // another thread, in the middle of our look
  EXPECT_TRUE(pool_look(p, at, kMiB, 32 * kMiB));
  driver.on_query = nullptr;
  EXPECT_FALSE(pool_known(p, at, kMiB, 32 * kMiB));
  EXPECT_TRUE(pool_look(p, at, kMiB, 32 * kMiB));
  EXPECT_TRUE(pool_known(p, at, kMiB, 32 * kMiB));
  drop(at);
}

TEST(Alone, TheFirstThreadIsUntilThereIsASecond) {
  forget_threads();
  EXPECT_TRUE(alone());
  EXPECT_TRUE(alone());
  bool second = true;
  std::thread{[&] { second = alone(); }}.join();
  EXPECT_FALSE(second);
  EXPECT_FALSE(alone()) << "and never again";
  forget_threads();
  EXPECT_TRUE(alone());
}

}  // namespace
}  // namespace bulkhead::hook
