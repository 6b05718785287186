// Launches without events ('What a launch costs' of docs/compute.md) beside measured ones: together they are charged no more than
// the device was busy. Its time is the real one, so that what is told by the host's clock and by stamps can be compared.
#include <algorithm>
#include <utility>
#include <vector>

#include "tests/hook/launch_case.h"

namespace bulkhead::hook {
namespace {

// On a process's only device, and on the second of two: each rank of a collective sees all devices of its node as a rule.
class LooseTest : public ComputeTest, public ::testing::WithParamInterface<int> {
 protected:
  void SetUp() override {
    ordinal = GetParam();
    ComputeTest::SetUp();
  }
  static constexpr std::uint64_t kShort = 150'000;
  static inline const CUfunction kCompute = function(1), kCollective = function(7),
                                 kOther = function(8);

  static void live() {
    const fake::Lock l{gpu.lock};
    gpu.now_ns = monotonic_ns();
    gpu.live = true;
  }
  // Nobody is held, and nothing waits for an end.
  static void wide() {
    entry().window_us.store(1'000'000, kRelaxed);
    limit(100);
  }
  static void over(CUstream s) {
    eventually([s] { return fake::stream_query(s) == CUDA_SUCCESS; });
  }
  // Each key has its samples, and what is launched often has no events.
  static void learn() {
    gpu.cost_ns[kCompute] = kMs;
    gpu.cost_ns[kCollective] = gpu.cost_ns[kOther] = kShort;
    gpu.names[kCollective] = "ncclDevKernel_AllReduce_Sum_f32_RING_LL";
    live();
    wide();
    for (int i = 0; i < 6; ++i) {
      for (const auto& [f, s] : {std::pair{kCompute, stream(1)}, std::pair{kCollective, stream(2)},
                                 std::pair{kOther, stream(3)}}) {
        ASSERT_EQ(launch(f, s), CUDA_SUCCESS);
        over(s);
        settled();
      }
    }
  }
  static void settled() {
    eventually([] { return compute.pending.load(kRelaxed) == 0; });
  }
  // Launches n times and notes when each runs.
  void put(CUfunction f, CUstream s, int n) {
    for (int i = 0; i < n; ++i) {
      ASSERT_EQ(launch(f, s), CUDA_SUCCESS);
      const fake::Lock l{gpu.lock};
      const std::uint64_t end = gpu.ready_ns[fake::key_of(s)];
      ran_.emplace_back(end - gpu.cost_ns[f], end);
    }
  }
  // How long the device was busy with all of that.
  [[nodiscard]] double busy() {
    std::sort(ran_.begin(), ran_.end());
    std::uint64_t sum = 0, until = 0;
    for (const auto& [from, to] : ran_) {
      if (to > until) sum += to - std::max(from, until), until = to;
    }
    return static_cast<double>(sum);
  }
  // All is over, and `n` launches more than `before` are told.
  static void told(std::uint64_t before, std::uint64_t n) {
    for (unsigned s = 1; s < 6; ++s) over(stream(s));
    eventually([=] { return entry().launches.load(kRelaxed) >= before + n; });
    settled();
  }
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ran_;
};

// One whose communicator nobody knows is charged what it took, not the first guess for ever.
TEST_P(LooseTest, ACollectiveOfNoKnownCommunicatorIsLearned) {
  in_child(100, [&] {
    learn();
    const std::uint64_t used = entry().used_ns.load(), launches = entry().launches.load();
    put(kCollective, stream(2), 50);
    told(launches, 50);
    EXPECT_NEAR(static_cast<double>(entry().used_ns.load() - used), busy(), busy() * 0.1);
  });
}

TEST_P(LooseTest, CollectivesBesideMeasuredWorkAreChargedOnce) {
  in_child(100, [&] {
    learn();
    const std::uint64_t used = entry().used_ns.load(), raw = entry().raw_ns.load();
    const std::uint64_t launches = entry().launches.load();
    const int records = gpu.records;
    put(kCompute, stream(1), 40);
    put(kCollective, stream(2), 100);
    EXPECT_LT(gpu.records - records, 40 * 2 + 20) << "the collectives have events";
    told(launches, 140);
    EXPECT_LE(static_cast<double>(entry().used_ns.load() - used), busy() * 1.15);
    EXPECT_LE(static_cast<double>(entry().raw_ns.load() - raw), busy() * 1.15);
    EXPECT_GE(static_cast<double>(entry().used_ns.load() - used), busy() * 0.8);
  });
}

// One after the other: each pays in full.
TEST_P(LooseTest, CollectivesByThemselvesTakeNothingOffTheRest) {
  in_child(100, [&] {
    learn();
    const std::uint64_t used = entry().used_ns.load(), launches = entry().launches.load();
    put(kCollective, stream(2), 100);
    over(stream(2));
    put(kCompute, stream(1), 20);
    over(stream(1));
    put(kCollective, stream(2), 100);
    told(launches, 220);
    EXPECT_NEAR(static_cast<double>(entry().used_ns.load() - used), busy(), busy() * 0.1);
  });
}

// Nor do those of several streams pay more than the time they take together.
TEST_P(LooseTest, SeveralStreamsOfThemAreChargedTogether) {
  in_child(100, [&] {
    learn();
    const std::uint64_t used = entry().used_ns.load(), launches = entry().launches.load();
    for (int i = 0; i < 600; ++i) {
      put(kCollective, stream(2), 1);
      put(kOther, stream(3), 1);
    }
    // of what is no collective the last segment may be open
    for (unsigned s = 1; s < 6; ++s) over(stream(s));
    eventually(
        [=] { return entry().launches.load(kRelaxed) + shares::kSegmentOps >= launches + 1'200; });
    settled();
    EXPECT_LE(static_cast<double>(entry().used_ns.load() - used), busy() * 1.25);
  });
}

// The compute thread leaves the books of streams alone on which nothing is loose: it does not as much as try to take them.
TEST_P(LooseTest, OnlyBooksWithLooseLaunchesAreTouched) {
  in_child(100, [&] {
    learn();
    const std::uint64_t launches = entry().launches.load();
    StreamBook* const idle = take_book(stream(1), Twin::kPlain, 0);
    ASSERT_NE(idle, nullptr);
    idle->held.store(2, kRelaxed);  // who tries leaves a 1
    for (unsigned round = 1; round <= 20; ++round) {
      put(kCollective, stream(2), 1);
      told(launches, round);
      EXPECT_EQ(idle->held.load(kRelaxed), 2u);
    }
    release_book(*idle);
  });
}

// Predictions that are a little high would put what is loose ever further into the future: a measured end puts it right.
TEST_P(LooseTest, WhereTheyRunIsMeasuredNowAndThen) {
  in_child(100, [&] {
    learn();
    StreamBook* const book = take_book(stream(2), Twin::kPlain, 0);
    ASSERT_NE(book, nullptr);
    book->loose.until_ns = monotonic_ns() + 3'600'000 * kMs;
    release_book(*book);
    for (int i = 0; i < 200; ++i) {
      const std::uint64_t launches = entry().launches.load();
      put(kCollective, stream(2), 100);
      told(launches, 100);
      if (book->loose.until_ns < monotonic_ns() + 3'000'000 * kMs) break;
    }
    EXPECT_LT(book->loose.until_ns, monotonic_ns() + 3'000'000 * kMs);
  });
}

INSTANTIATE_TEST_SUITE_P(OnDevice, LooseTest, ::testing::Values(0, 1));

}  // namespace
}  // namespace bulkhead::hook
