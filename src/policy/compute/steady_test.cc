// Steady keys, and what a segment with pauses in it still teaches.
#include "policy/compute/steady.h"

#include <gtest/gtest.h>

#include <memory>

#include "policy/compute/meter.h"

namespace bulkhead::policy::compute {
namespace {

class Steady : public testing::Test {
 protected:
  // A segment of `ops` launches of the key, charged as predicted.
  Segment segment(std::uint32_t ops) {
    Segment g{};
    g.part_count = 1;
    g.ops = ops;
    g.predicted_ns = ops * kEach_ns;
    g.parts[0] = {&entry_, ops, g.predicted_ns};
    return g;
  }
  void agree(std::uint32_t times) {
    for (std::uint32_t i = 0; i < times; ++i) judge(segment(40), 40 * kEach_ns);
  }
  static constexpr std::uint64_t kEach_ns = 5'000;
  std::unique_ptr<CostTable> table_ = std::make_unique<CostTable>();
  CostEntry& entry_ = find_or_add(*table_, 11, 0);
};

TEST_F(Steady, AfterFourSegmentsThatCameToWhatWasPredicted) {
  agree(kSteadyAfter - 1);
  EXPECT_FALSE(is_steady(entry_));
  EXPECT_FALSE(runs_unmeasured(entry_, kEach_ns, 0));
  agree(1);
  EXPECT_TRUE(is_steady(entry_));
  EXPECT_TRUE(runs_unmeasured(entry_, kEach_ns, 0));
  EXPECT_TRUE(runs_unmeasured(entry_, kLight_ns, kSteadyRun_ns - kLight_ns));
  EXPECT_FALSE(runs_unmeasured(entry_, kLight_ns, kSteadyRun_ns - kLight_ns + 1)) << "it is time";
  EXPECT_FALSE(runs_unmeasured(entry_, kLight_ns + 1, 0)) << "measuring costs little there";
}

TEST_F(Steady, OneSegmentThatDoesNotEndsIt) {
  for (const std::uint64_t each : {kEach_ns - kEach_ns / 10, kEach_ns + kEach_ns / 10}) {
    agree(kSteadyAfter);
    ASSERT_TRUE(is_steady(entry_));
    judge(segment(40), 40 * each);
    EXPECT_FALSE(is_steady(entry_)) << each;
    agree(kSteadyAfter - 1);
    EXPECT_FALSE(is_steady(entry_)) << "it begins anew";
  }
}

// The events and the host's delay move a single launch by as much as it costs; twice as much is no such thing.
TEST_F(Steady, FewLaunchesOnlySayWhenTheyAreFarOff) {
  agree(kSteadyAfter);
  judge(segment(1), kEach_ns * 2);
  EXPECT_TRUE(is_steady(entry_));
  judge(segment(1), kEach_ns * 2 + 1);
  EXPECT_FALSE(is_steady(entry_));
  for (std::uint32_t i = 0; i < 2 * kSteadyAfter; ++i) judge(segment(1), kEach_ns);
  EXPECT_FALSE(is_steady(entry_)) << "they prove nothing";
}

TEST_F(Steady, IsSampledOneLaunchIn1024) {
  for (int i = 0; i < 3; ++i) learn(entry_, kEach_ns, false);
  agree(kSteadyAfter);
  int alone = 0;
  for (int i = 0; i < 10'240; ++i) alone += count_launch(entry_);
  EXPECT_EQ(alone, 10);
  judge(segment(40), 80 * kEach_ns);
  alone = 0;
  for (int i = 0; i < 6'400; ++i) alone += count_launch(entry_);
  EXPECT_EQ(alone, 100) << "as one of which little is known";
}

// With the host's pauses in it a segment says what its launches cost at most: who is thought to cost more is put right.
TEST_F(Steady, ASegmentWithPausesTeachesWhatIsLess) {
  for (int i = 0; i < 3; ++i) learn(entry_, 4 * kEach_ns, true);
  ASSERT_EQ(predict(entry_, 0), 4 * kEach_ns);
  Segment g = segment(40);  // neither tight nor gapless
  Reading r;
  r.elapsed_ns = r.span_ns = r.fresh_ns = 40 * kEach_ns;
  r.alone = r.clean = true;
  for (std::uint32_t i = 0; i < kSamples; ++i) teach(g, r);
  EXPECT_EQ(predict(entry_, 0), kEach_ns);
  r.elapsed_ns = 4'000 * kEach_ns;
  for (std::uint32_t i = 0; i < kSamples; ++i) teach(g, r);
  EXPECT_EQ(predict(entry_, 0), kEach_ns) << "a pause is no cost";
}

}  // namespace
}  // namespace bulkhead::policy::compute
