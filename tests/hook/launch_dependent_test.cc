// Programmatic dependents under a share: no event parts one from a predecessor that it would overlap, and its cost is learned all
// the same. The device's time is the real one, so that holds and kernels are in step.
#include "tests/hook/launch_case.h"

namespace bulkhead::hook {
namespace {

class DependentTest : public ComputeTest {
 protected:
  static CUresult launch_after(CUfunction f, CUstream s) {
    CUlaunchAttribute pdl{};
    pdl.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
    pdl.value.programmaticStreamSerializationAllowed = 1;
    const CUlaunchConfig config{1, 1, 1, 32, 1, 1, 0, s, &pdl, 1};
    return ::cuLaunchKernelEx(&config, f, nullptr, nullptr);
  }
  static void live() {
    gpu.now_ns = monotonic_ns();
    gpu.live = true;
  }
  // All is done, ended by a launch of another kind, and settled.
  static void finish_live(CUstream s) {
    eventually([s] { return fake::stream_query(s) == CUDA_SUCCESS; });
    limit(100);
    EXPECT_EQ(launch(function(9), s), CUDA_SUCCESS);
    eventually([] { return compute.pending.load(kRelaxed) == 0; });
  }
  static std::uint64_t most_predicted() {
    std::uint64_t most = 0;
    for (const shares::CostEntry& e : compute.costs.entries)
      most = std::max(most, e.prediction_ns.load(kRelaxed));
    return most;
  }
};

// A stream on which each launch is one was in no segment at all, and was charged the first guess, 4 us, for ever.
TEST_F(DependentTest, AStreamOfNothingElseIsLearnedAndHeld) {
  in_child(25, [&] {
    gpu.cost_ns[function(1)] = kMs;
    live();
    const std::uint64_t from = monotonic_ns();
    constexpr unsigned kLaunches = 40;
    for (unsigned i = 0; i < kLaunches; ++i)
      ASSERT_EQ(launch_after(function(1), stream(1)), CUDA_SUCCESS);
    // At 25 % the launches take 160 ms, less the burst of 5 and the first ones, which nobody knew.
    EXPECT_GE(monotonic_ns() - from, 60 * kMs);
    finish_live(stream(1));
    EXPECT_EQ(gpu.parted, 0);
    EXPECT_GE(most_predicted(), kMs);
    EXPECT_EQ(entry().launches.load(), kLaunches) << "the last one is open";
    EXPECT_GE(entry().used_ns.load(), kLaunches * kMs * 8 / 10);
  });
}

// What was learned and is too low by now is mended.
TEST_F(DependentTest, ACostThatRisesIsLearnedAnew) {
  in_child(25, [&] {
    gpu.cost_ns[function(1)] = kMs / 2;
    live();
    for (int i = 0; i < 12; ++i) ASSERT_EQ(launch_after(function(1), stream(1)), CUDA_SUCCESS);
    {
      const fake::Lock l{gpu.lock};
      gpu.cost_ns[function(1)] = 2 * kMs;
    }
    const std::uint64_t end = monotonic_ns() + 60'000 * kMs;
    while (most_predicted() < 2 * kMs && monotonic_ns() < end)
      ASSERT_EQ(launch_after(function(1), stream(1)), CUDA_SUCCESS);
    EXPECT_GE(most_predicted(), 2 * kMs);
    EXPECT_EQ(gpu.parted, 0);
    finish_live(stream(1));
  });
}

TEST_F(DependentTest, NoEventPartsAPairAmongOthers) {
  in_child(50, [&] {
    gpu.cost_ns[function(1)] = 50'000;
    gpu.cost_ns[function(2)] = 80'000;
    live();
    for (int i = 0; i < 300; ++i) {
      if (i % 7 == 0) {
        ASSERT_EQ(launch(function(2), stream(1)), CUDA_SUCCESS);
      } else {
        ASSERT_EQ(launch_after(function(1), stream(1)), CUDA_SUCCESS);
      }
    }
    EXPECT_EQ(gpu.parted, 0);
    EXPECT_GT(gpu.records, 10) << "between others there are events all the same";
    finish_live(stream(1));
  });
}

// Nobody waits for ever: what nothing is known of, behind a kernel that does not end, goes after 100 ms.
TEST_F(DependentTest, AnUnknownOneBehindAnEndlessKernelGoes) {
  in_child(100, [&] {
    gpu.cost_ns[function(1)] = 3'600'000 * kMs;
    live();
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    const std::uint64_t from = monotonic_ns();
    ASSERT_EQ(launch_after(function(2), stream(1)), CUDA_SUCCESS);
    EXPECT_GE(monotonic_ns() - from, 100 * kMs);
    EXPECT_EQ(gpu.launches, 2);
  });
}

// One such wait, not one for each: until something of that stream has ended there is nothing to wait for.
TEST_F(DependentTest, ManyBehindOneLongKernelWaitOnce) {
  in_child(100, [&] {
    gpu.cost_ns[function(1)] = 3'600'000 * kMs;
    live();
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    ASSERT_EQ(launch_after(function(2), stream(1)), CUDA_SUCCESS);
    const std::uint64_t held = entry().held_ns.load();
    EXPECT_GE(held, 100 * kMs);
    for (unsigned i = 0; i < 20; ++i)
      ASSERT_EQ(launch_after(function(2 + i), stream(1)), CUDA_SUCCESS);
    EXPECT_EQ(entry().held_ns.load(), held);
    // Another stream's are others.
    ASSERT_EQ(launch(function(1), stream(2)), CUDA_SUCCESS);
    ASSERT_EQ(launch_after(function(2), stream(2)), CUDA_SUCCESS);
    EXPECT_GE(entry().held_ns.load(), held + 100 * kMs);
  });
}

// Once the stream was at rest the next ones wait again, and are learned.
TEST_F(DependentTest, WhenItHasEndedTheNextOnesWaitAgain) {
  in_child(100, [&] {
    gpu.cost_ns[function(1)] = 3'600'000 * kMs;
    gpu.cost_ns[function(2)] = kMs;
    live();
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    ASSERT_EQ(launch_after(function(2), stream(1)), CUDA_SUCCESS);
    {
      const fake::Lock l{gpu.lock};  // it ends at once
      gpu.ready_ns[fake::key_of(stream(1))] = gpu.now_ns;
      for (CUevent e : gpu.events) {
        std::uint64_t& at = reinterpret_cast<fake::Event*>(e)->at_ns;
        at = std::min(at, gpu.now_ns);
      }
    }
    for (int i = 0; i < 6; ++i) ASSERT_EQ(launch_after(function(2), stream(1)), CUDA_SUCCESS);
    eventually([] { return most_predicted() >= kMs; });
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    const std::uint64_t held = entry().held_ns.load();
    ASSERT_EQ(launch_after(function(3), stream(1)), CUDA_SUCCESS);
    EXPECT_GE(entry().held_ns.load(), held + 100 * kMs);
  });
}

}  // namespace
}  // namespace bulkhead::hook
