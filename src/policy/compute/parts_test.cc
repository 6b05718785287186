// Segments, the meter, the shared clock, rates, holds and collectives, each by itself.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "policy/compute/collective.h"
#include "policy/compute/hold.h"
#include "policy/compute/meter.h"
#include "policy/compute/rates.h"

namespace bulkhead::policy::compute {
namespace {

constexpr std::uint64_t kMs = 1'000'000;

class Segments : public testing::Test {
 protected:
  std::unique_ptr<CostTable> table_ = std::make_unique<CostTable>();
  CostEntry& entry_ = find_or_add(*table_, 11, 0);
  Segment segment_{};
  StreamCut stream_;
  // As the library does: cut, begin, launch.
  Cut launch(const Op& op, bool drained = false) {
    const Cut c = cut(stream_, op, drained);
    if (c.end) end_segment(stream_, true, true);
    if (c.begin) begin_segment(stream_, &segment_);
    if (!op.capturing) add_op(stream_, op, 1, op.predicted_ns);
    return c;
  }
};

TEST_F(Segments, ADrainedStreamBeginsWithAnEventOfItsOwnABusyOneWhereTheLastEnded) {
  EXPECT_TRUE(launch({&entry_, 1'000}, true).start);
  end_segment(stream_, true, true);
  const Cut c = launch({&entry_, 1'000}, false);
  EXPECT_TRUE(c.begin);
  EXPECT_FALSE(c.start);
}

TEST_F(Segments, EndByTimeByCountAndForAnOperationAlone) {
  EXPECT_TRUE(launch({&entry_, 150'000}, true).begin);
  EXPECT_TRUE(launch({&entry_, 60'000}).end);  // would pass 200 us
  stream_ = {};
  for (std::uint32_t i = 0; i < kSegmentOps - 1; ++i)
    EXPECT_FALSE(launch({&entry_, 10}, true).end_after);
  EXPECT_TRUE(launch({&entry_, 10}).end_after);
  stream_ = {};
  launch({&entry_, 10}, true);
  Op alone{&entry_, 10, true};
  const Cut c = launch(alone);
  EXPECT_TRUE(c.end && c.begin && c.end_after);
  EXPECT_EQ(stream_.open->ops, 1u);
}

TEST_F(Segments, NoEventStandsBeforeADependentThatMayOverlapNorOnACapturingStream) {
  launch({&entry_, 190'000}, true);
  stream_.dependents = true;
  Op dependent{&entry_, 190'000, true, true};
  for (int i = 0; i < 200; ++i) {
    const Cut c = cut(stream_, dependent, false);
    EXPECT_FALSE(c.end || c.begin || c.start);
    add_op(stream_, dependent, 1, 0);
  }
  EXPECT_FALSE(cut(stream_, {&entry_, 1'000, false}, false).end_after) << "the next may be one";
  const Cut rested = cut(stream_, dependent, true);
  EXPECT_TRUE(rested.end && rested.begin && rested.end_after) << "there is nothing to part it from";
  stream_ = {};
  Op capturing{&entry_, 1'000'000, true, false, true};
  const Cut c = cut(stream_, capturing, true);
  EXPECT_FALSE(c.end || c.begin || c.start || c.end_after);
}

TEST_F(Segments, ADependentWaitsForRestOnlyWhereItMust) {
  const Op dependent{&entry_, 10'000, false, true}, plain{&entry_, 10'000};
  EXPECT_TRUE(waits_for_rest(stream_, dependent, false)) << "nothing is known of it";
  EXPECT_FALSE(waits_for_rest(stream_, plain, false));
  for (int i = 0; i < 3; ++i) learn(entry_, 10'000, true);
  EXPECT_FALSE(waits_for_rest(stream_, dependent, false));
  stream_.dependents = true;
  launch(dependent, true);
  EXPECT_FALSE(ends_before_hold(stream_, 900'000, 910'000)) << "the hold may end first";
  EXPECT_TRUE(ends_before_hold(stream_, 900'000, 900'000 + kDrainSlack_ns));
  stream_.open->predicted_ns = kLongestOpen_ns;
  EXPECT_TRUE(waits_for_rest(stream_, dependent, false));
  EXPECT_FALSE(waits_for_rest(stream_, dependent, true));
  end_segment(stream_, true, true);
  EXPECT_TRUE(waits_for_rest(stream_, dependent, true)) << "an end event is before it";
  launch(dependent, true);
  EXPECT_FALSE(stream_.guarded);
}

// The device cannot have idled longer than from the first launch to the last.
TEST_F(Segments, ARowOfDependentsIsUnbrokenIfItsLaunchesLieCloserThanItsOperations) {
  for (const std::uint64_t apart : {5'000u, 120'000u, 200'000u}) {
    stream_ = {};
    stream_.dependents = true;
    for (std::uint64_t i = 0; i < 6; ++i) {
      const Op op{&entry_, 40'000, false, true};  // 170 us in truth
      if (i == 0) begin_segment(stream_, &segment_);
      add_op(stream_, op, 1'000 + i * apart, 0);
    }
    const Segment& g = *end_segment(stream_, true, true);
    const std::uint64_t busy = 6 * 170'000, last = 5 * apart + 170'000;
    const Reading r{busy > last ? busy : last, 0, 0, 0, 0, true, true};
    EXPECT_EQ(unbroken(g, r), apart == 5'000u) << apart;  // 120 us apart: it cannot be told
    Reading beside = r;
    beside.clean = false;
    EXPECT_FALSE(unbroken(g, beside));
  }
}

TEST_F(Segments, AreQuietAMillisecondAfterTheirLastOperation) {
  EXPECT_FALSE(is_quiet(stream_, 5 * kMs));
  launch({&entry_, 10}, true);
  EXPECT_FALSE(is_quiet(stream_, kQuiet_ns));
  EXPECT_TRUE(is_quiet(stream_, kQuiet_ns + 1));
}

Reading read(std::uint64_t elapsed, std::uint64_t virt, bool clean) {
  return {elapsed, elapsed, elapsed, virt, virt, clean, clean};
}

TEST_F(Segments, AShortOnesForeignSliceIsNotCharged) {
  for (int i = 0; i < 40; ++i) learn(entry_, 100'000, false);
  launch({&entry_, 100'000}, true);
  const Segment& g = *end_segment(stream_, false, true);
  EXPECT_EQ(cost_ns(g, read(103'000, 50'000, false)), 103'000u);
  EXPECT_EQ(cost_ns(g, read(2'320'000, 1'100'000, false)), 100'000u);
  EXPECT_EQ(cost_ns(g, read(2'320'000, 1'100'000, true)), 2'320'000u);  // it ran alone: it was slow
  EXPECT_EQ(cost_ns(g, read(40'000, 20'000, false)), 40'000u);
}

TEST_F(Segments, TheHostsPausesAreNotCharged) {
  for (int i = 0; i < 40; ++i) learn(entry_, 10'000, true);
  launch({&entry_, 10'000}, true);
  launch({&entry_, 10'000});
  const Segment& g = *end_segment(stream_, true, true);
  EXPECT_FALSE(g.gapless);
  EXPECT_EQ(cost_ns(g, read(150'000, 150'000, true)), 20'000u);
}

TEST_F(Segments, ALongOneIsChargedByTheSharedClockAndOverlapOnce) {
  launch({&entry_, 10 * kMs}, true);
  const Segment& g = *end_segment(stream_, false, true);
  EXPECT_EQ(cost_ns(g, read(20 * kMs, 9 * kMs, false)), 9 * kMs);
  Reading half = read(20 * kMs, 9 * kMs, false);
  half.fresh_ns = 10 * kMs;
  EXPECT_EQ(cost_ns(g, half), 9 * kMs / 2);
  EXPECT_EQ(running_ns(g, read(11 * kMs, 11 * kMs, true)), 0u);
  EXPECT_EQ(running_ns(g, read(15 * kMs, 15 * kMs, true)), 15 * kMs);
}

TEST(Meter, CoverCountsTheUnionOfStreams) {
  Cover c;
  EXPECT_EQ(c.take(100, 200), 100u);
  EXPECT_EQ(c.take(150, 250), 50u);
  EXPECT_EQ(c.take(120, 240), 0u);
  EXPECT_EQ(c.take(300, 310), 10u);
}

TEST(Meter, KappaMakesTheChargesTheTimeTheDeviceWasBusy) {
  std::uint32_t k = kKappaOne;
  for (int i = 0; i < 20; ++i) k = next_kappa(k, {200 * kMs, 0, 20 * kMs, 150 * kMs});
  EXPECT_NEAR(static_cast<double>(with_kappa(150 * kMs, k)), 180e6, 1e5);
  EXPECT_EQ(next_kappa(k, {200 * kMs, 0, 190 * kMs, 10 * kMs}), k);  // hardly shared: tells nothing
  for (int i = 0; i < 200; ++i) k = next_kappa(k, {200 * kMs, 50 * kMs, 0, 100 * kMs});
  EXPECT_EQ(k, kKappaOne);
  EXPECT_EQ(next_kappa(kKappaMost, {200 * kMs, 0, 0, 60 * kMs}), kKappaMost);
}

TEST(Clock, GoesOnByWhatShortWorkLeavesToLong) {
  VPoint v{1'000, 0, 0};
  v = advanced(v, 1'000 + kMs, {2, 1, 300'000}, 100);
  EXPECT_EQ(v.v_ns, 600'000u);
  v = advanced(v, 1'000 + 2 * kMs, {3, 2, 0}, 100);
  EXPECT_EQ(v.v_ns, 1'050'000u);
  EXPECT_EQ(v.shared_ns, 2 * kMs);
  EXPECT_EQ(advanced(v, v.at_ns + kMs, {1, 1, 0}, 100).v_ns, v.v_ns + kMs);
  EXPECT_EQ(advanced(v, v.at_ns, {1, 1, 0}, 100).v_ns, v.v_ns);
}

TEST(Clock, HistoryIsReadBetweenItsPoints) {
  VHistory h;
  EXPECT_FALSE(h.covers(0));
  VPoint v{};
  for (int i = 0; i < 1'000; ++i) {
    v = advanced(v, v.at_ns + kMs, {2, 2, 0}, 0);
    h.add(v);
  }
  EXPECT_EQ(h.at(999 * kMs + kMs / 2).v_ns, 499 * kMs + 3 * kMs / 4);
  EXPECT_EQ(h.at(1'001 * kMs).v_ns, 500 * kMs + kMs / 2);
  EXPECT_TRUE(h.covers(1'000 * kMs));
  EXPECT_FALSE(h.covers(1'000 * kMs + 1));
  EXPECT_EQ(h.at(0).v_ns, 0u);  // forgotten: at the pace of the oldest there is
}

TEST(Meter, ARowIsPlacedAmongTheSlicesOfOthers) {
  // A round is 2 ms of one's own and 2.4 of others.
  EXPECT_EQ(sliced_ns(1'500'000, 680'000), 1'500'000u);
  EXPECT_EQ(sliced_ns(3'000'000, 1'364'000), 2'000'000u);
  EXPECT_NEAR(static_cast<double>(sliced_ns(5'400'000, 2'454'545)), 3e6, 10);
  EXPECT_EQ(sliced_ns(5'000'000, 5'000'000), 5'000'000u);
}

std::vector<std::uint32_t> filled(const std::vector<Want>& w) {
  std::vector<std::uint32_t> r(w.size());
  fill(w.data(), static_cast<std::uint32_t>(w.size()), r.data());
  return r;
}

TEST(Rates, WhatIsLeftGoesByFloorsToWhoWantsIt) {
  using V = std::vector<std::uint32_t>;
  EXPECT_EQ(filled({{2'500, 10'000, 10'000}}), V{10'000});
  EXPECT_EQ(filled({{2'500, 2'500, 10'000}}), V{2'500});
  EXPECT_EQ(filled({{2'500, 10'000, 10'000}, {2'500, 10'000, 10'000}}), (V{5'000, 5'000}));
  EXPECT_EQ(filled({{2'500, 10'000, 10'000}, {7'500, 10'000, 0}}), (V{10'000, 7'500}));
  // Beside a hard cap f / F would leave a quarter to nobody.
  EXPECT_EQ(filled({{2'500, 10'000, 10'000}, {2'500, 2'500, 10'000}}), (V{7'500, 2'500}));
  // One that uses a tenth of the device leaves the rest, and keeps its floor to come back to.
  EXPECT_EQ(filled({{5'000, 10'000, 1'000}, {5'000, 10'000, 10'000}}), (V{5'000, 9'000}));
  // More is promised than there is.
  EXPECT_EQ(filled({{10'000, 10'000, 10'000}, {10'000, 10'000, 10'000}}), (V{5'000, 5'000}));
  EXPECT_EQ(filled({{0, 10'000, 10'000}}), V{1});
}

TEST(Rates, DemandIsWhatItWouldUseIfNobodyHeldIt) {
  EXPECT_EQ(demand_x100(1 * kMs, 3 * kMs, 0, false), 2'500u);
  EXPECT_EQ(demand_x100(1 * kMs, 3 * kMs, 0, true), 10'000u);
  EXPECT_EQ(demand_x100(1 * kMs, 3 * kMs, kBacklog_ns, false), 10'000u);
  EXPECT_EQ(demand_x100(1 * kMs, 0, 0, false), 10'000u);
  EXPECT_EQ(demand_x100(0, kMs, 0, false), 1u);
}

TEST(Rates, DampeningArrives) {
  for (const std::uint32_t d : {0u, 1u, 20u, 500u, 900u, 1'000u}) {
    std::uint32_t up = 100, down = 10'000;
    for (int i = 0; i < 20'000; ++i) up = dampened(up, 9'000, d), down = dampened(down, 7, d);
    EXPECT_EQ(up, 9'000u) << d;
    EXPECT_EQ(down, 7u) << d;
  }
}

TEST(Hold, PausesThenSleepsToTheInstantInSlices) {
  for (std::uint32_t i = 0; i < 16; ++i) {
    EXPECT_GT(hold_step(i, 1'000, kPause_ns).pauses, 0u);
    EXPECT_LE(hold_step(i, 1'000, kPause_ns).pauses, 512u);
  }
  EXPECT_EQ(hold_step(16, 1'000, 5'000).sleep_until, 6'000u);  // a pause that did not help
  EXPECT_EQ(hold_step(0, 1'000, 3 * kMs).sleep_until, 1'000 + 3 * kMs);
  EXPECT_EQ(hold_step(0, 1'000, 900 * kMs).sleep_until, 1'000 + kHoldSlice_ns);
}

TEST(Hold, TheGateAsksForTokensRoomAndOnceHeldForALittleInHand) {
  const Rules r = make_rules(5'000, 4 * kMs);
  const std::uint64_t now = 1'000 * kMs, window = 4 * kMs;
  EXPECT_EQ(gate_ns(now + 7 * kMs, now, r, 0, window, false), 0u);
  EXPECT_EQ(gate_ns(now + 7 * kMs, now, r, 0, window, true), kMs);
  EXPECT_EQ(gate_ns(now + 9 * kMs, now, r, 0, window, false), 3 * kMs);
  EXPECT_EQ(gate_ns(now, now, r, window, window, false), kWindowLook_ns);
  EXPECT_EQ(gate_ns(now, now, r, window - 1, window, false), 0u);
  EXPECT_EQ(gate_ns(now + 900 * kMs, now, make_rules(10'000, kMs), 0, window, true), 0u);
  EXPECT_EQ(window_ns_of(4'000, false, window), window / 2);
  EXPECT_EQ(window_ns_of(4'000, true, window), 4'000u);
}

TEST(Collective, RanksAreChargedTheLeastOfThem) {
  CollectiveWord w{0};
  EXPECT_EQ(agree_ns(w, 1, 900), 900u);
  EXPECT_EQ(agree_ns(w, 1, 40), 40u);
  EXPECT_EQ(agree_ns(w, 1, 700), 40u);
  EXPECT_EQ(agree_ns(w, 2, 300), 300u);
  EXPECT_EQ(agree_ns(w, 1, 10), 10u);  // late: by itself, and nothing is disturbed
  EXPECT_EQ(agree_ns(w, 2, 500), 300u);
  CollectiveWord end{(0xff'ffffull << 40) | 7};
  EXPECT_EQ(agree_ns(end, 0x100'0000, 50), 50u);  // the circle closes
}

}  // namespace
}  // namespace bulkhead::policy::compute
