// The fixture of the tests that hold the books of every allocating form against the model of memory_fake.h.
#pragma once
#include <gtest/gtest.h>

#include "hook/memory_fake.h"

namespace bulkhead::hook {

using fake::driver;
using fake::kContext;
using fake::kMiB;
using fake::quota;

inline std::uint64_t idle_bytes() { return kContext + driver.batches; }

inline std::uint64_t taken() { return driver.taken + driver.contexts_taken; }

class Memory : public testing::Test {
 protected:
  void SetUp() override { start(4096 * kMiB); }
  void TearDown() override {
    EXPECT_EQ(quota.counts[static_cast<int>(Count::kFault)].load(), 0u);
    EXPECT_LE(driver.most, quota.limit.load());
  }
  void start(std::uint64_t limit) {
    fake::reset(limit + kContext);
    CUcontext ctx = nullptr;
    ASSERT_EQ(hook::cuDevicePrimaryCtxRetain(&ctx, 0), CUDA_SUCCESS);
    fake::make_current(ctx);
    same();
  }
  void same() { ASSERT_EQ(quota.held.load(), taken()); }
};

}  // namespace bulkhead::hook
