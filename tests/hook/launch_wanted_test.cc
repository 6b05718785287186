// Who says that the device is wanted (docs/compute.md, 'The governor'): each process that launches and each thread, whatever
// others of the tenant said just now.
#include "tests/hook/launch_case.h"

namespace bulkhead::hook {
namespace {

class WantedTest : public ComputeTest {
 protected:
  static void learn() {
    gpu.cost_ns[function(1)] = 10'000;
    for (int i = 0; i < 6; ++i) {
      ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
      finish();
    }
  }
  // Another process of the tenant did, and does from now on.
  static void sibling_wants() {
    entry().wanted_at_ns.store(monotonic_ns() + 3'600'000 * kMs, kRelaxed);
  }
  // Nothing was launched, as far as the compute thread knows (without a node page it takes nothing back).
  static std::atomic<std::uint32_t>& launched() { return compute.device[0].launched; }
  // It is told once in a millisecond.
  static void launch_until_told(CUfunction f, CUstream s) {
    const std::uint64_t end = monotonic_ns() + 60'000 * kMs;
    while (launched().load(kRelaxed) == 0 && monotonic_ns() < end)
      ASSERT_EQ(launch(f, s), CUDA_SUCCESS);
    EXPECT_EQ(launched().load(kRelaxed), 1u);
  }
};

TEST_F(WantedTest, ASiblingsSignIsNotOurs) {
  in_child(50, [&] {
    learn();
    eventually([] { return compute.asleep.load(kRelaxed) == 1; });  // long after the last one
    sibling_wants();
    launched().store(0, kRelaxed);
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    EXPECT_EQ(launched().load(kRelaxed), 1u) << "our compute thread sleeps on";
    EXPECT_LT(entry().wanted_at_ns.load(kRelaxed), monotonic_ns() + kMs);
  });
}

// The short way would be open for ever.
TEST_F(WantedTest, OfManyLaunchesTheNextIsTold) {
  in_child(100, [&] {
    learn();
    gpu.runs = true;
    for (int round = 0; round < 3; ++round) {
      sibling_wants();
      launched().store(0, kRelaxed);
      launch_until_told(function(1), stream(1));
    }
  });
}

// A thread that waits says so all the time; another one's launch is told all the same.
TEST_F(WantedTest, AWaitingThreadHidesNoLaunch) {
  in_child(50, [&] {
    gpu.names[function(7)] = "ncclDevKernel_Generic";  // never held
    learn();
    shut();
    entry().wanted_at_ns.store(0, kRelaxed);
    std::thread waiter([] { EXPECT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS); });
    eventually([] { return entry().wanted_at_ns.load(kRelaxed) != 0; });
    sibling_wants();  // what the waiting one does each millisecond, held still
    launched().store(0, kRelaxed);
    launch_until_told(function(7), stream(2));
    // and it waits for the governor's word, whoever else does
    sibling_wants();
    eventually([] { return entry().wanted_at_ns.load(kRelaxed) < monotonic_ns() + kMs; });
    limit(0);
    waiter.join();
  });
}

}  // namespace
}  // namespace bulkhead::hook
