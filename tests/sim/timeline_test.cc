// The device's time on a clock of the test's own: slices, switches, shares, engines, events, death.
#include "sim/timeline.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

namespace bulkhead::sim {
namespace {

constexpr std::uint64_t kUs = 1000, kMs = 1000 * kUs;

class SimTimeline : public ::testing::Test {
 protected:
  SimTimeline() {
    world_.rings = rings_.get();
    world_.stamps = stamps_;
    line_->clock_ns = kStart;
  }
  unsigned context(std::uint64_t mps = 0, unsigned sms = 132) {
    TimedContext c{};
    c.pid = next_pid_++;
    c.mps = mps;
    c.sm_limit = sms;
    return static_cast<unsigned>(add_context(*line_, c));
  }
  unsigned queue(unsigned context, int priority = 0) {
    return static_cast<unsigned>(add_queue(*line_, context, priority, 0));
  }
  void push(unsigned q, EntryKind kind, std::uint64_t a, unsigned sms = 132) {
    rings_[q][line_->queues[q].tail++ % kRing] = {a,    0, 0, static_cast<std::uint16_t>(sms),
                                                  kind, 0};
  }
  void kernel(unsigned q, std::uint64_t ns, unsigned sms = 132) {
    push(q, EntryKind::kKernel, ns, sms);
  }
  void wait(unsigned q, unsigned other) {
    push(q, EntryKind::kWait, line_->queues[other].tail);
    Entry& e = rings_[q][(line_->queues[q].tail - 1) % kRing];
    e.b = line_->queues[other].generation;
    e.c = other;
  }
  unsigned stamp(unsigned q) {
    const unsigned slot = next_stamp_++;
    stamps_[slot] = {0, 1, 1, 1};
    rings_[q][line_->queues[q].tail++ % kRing] = {1, 0, slot, 0, EntryKind::kStamp, 1};
    return slot;
  }
  void until(std::uint64_t ns) { advance(*line_, world_, kStart + ns); }
  std::uint64_t at(unsigned slot) const {
    return stamps_[slot].at_ns == 0 ? 0 : stamps_[slot].at_ns - kStart;
  }
  const TimedContext& books(unsigned c) const { return line_->contexts[c]; }
  const TimedUnit& unit() const { return line_->units[0]; }
  std::uint64_t sum_of_busy() const {
    std::uint64_t sum = unit().gone_busy_ns;
    for (unsigned i = 0; i < line_->contexts_high; ++i) sum += line_->contexts[i].busy_ns;
    return sum;
  }

  static constexpr std::uint64_t kStart = 1'000 * kMs;
  std::unique_ptr<Timeline> line_ = std::make_unique<Timeline>();
  std::unique_ptr<Entry[][kRing]> rings_{new Entry[64][kRing]};
  Stamp stamps_[64] = {};
  TimeWorld world_;
  std::uint32_t next_pid_ = 100;
  unsigned next_stamp_ = 0;
};

TEST_F(SimTimeline, AContextAloneHasTheDevice) {
  const unsigned a = context(), q = queue(a);
  const unsigned before = stamp(q);
  for (int i = 0; i < 10; ++i) kernel(q, 5 * kMs);
  const unsigned after = stamp(q);
  until(100 * kMs);
  EXPECT_EQ(stamps_[before].at_ns, kStart) << "at once";
  EXPECT_EQ(at(after), 50 * kMs);
  EXPECT_EQ(unit().switches, 0u);
  EXPECT_EQ(books(a).busy_ns, 50 * kMs);
  EXPECT_EQ(books(a).kernels, 10u);
}

TEST_F(SimTimeline, TwoContextsTakeTurnsAndPayForEachSwitch) {
  const unsigned a = context(), b = context();
  const unsigned qa = queue(a), qb = queue(b);
  for (int i = 0; i < 1000; ++i) kernel(qa, kMs), kernel(qb, kMs);
  until(1000 * kMs);
  EXPECT_NEAR(static_cast<double>(books(a).busy_ns), static_cast<double>(books(b).busy_ns),
              2.0 * kMs);
  EXPECT_EQ(books(a).busy_ns + books(b).busy_ns, unit().busy_ns);
  EXPECT_EQ(unit().busy_ns + unit().switch_ns, 1000 * kMs) << "the device was never idle";
  EXPECT_EQ(unit().switch_ns / (180 * kUs), 1000 * kMs / 2180'000) << "one a slice";
}

TEST_F(SimTimeline, SharesDoNotDependOnTheLengthOfKernels) {
  const unsigned c[3] = {context(), context(), context()};
  const std::uint64_t ns[3] = {100 * kUs, kMs, 700 * kMs};
  const unsigned q[3] = {queue(c[0]), queue(c[1]), queue(c[2])};
  for (unsigned i = 0; i < 3; ++i) {
    for (int k = 0; k < 1000; ++k) kernel(q[i], ns[i]);
  }
  until(200 * kMs);  // the short ones' work is not at its end yet
  for (const unsigned i : c) {
    EXPECT_NEAR(static_cast<double>(books(i).busy_ns), static_cast<double>(unit().busy_ns) / 3,
                2.0 * kMs);
  }
  EXPECT_EQ(sum_of_busy(), unit().busy_ns);
}

TEST_F(SimTimeline, AnUnusedSliceIsReleasedAtOnce) {
  const unsigned a = context(), b = context();
  const unsigned qa = queue(a), qb = queue(b);
  kernel(qa, 100 * kUs);
  kernel(qb, 100 * kUs);
  const unsigned end = stamp(qb);
  until(10 * kMs);
  EXPECT_EQ(at(end), (100 + 180 + 100) * kUs);
}

TEST_F(SimTimeline, WhoComesLaterWaitsForTheSliceThatRuns) {
  const unsigned a = context(), b = context();
  const unsigned qa = queue(a), qb = queue(b);
  kernel(qa, 100 * kMs);
  until(10'500 * kUs);  // 0.5 ms into a slice
  kernel(qb, 100 * kUs);
  const unsigned end = stamp(qb);
  until(50 * kMs);
  EXPECT_EQ(at(end), 12 * kMs + 280 * kUs);
}

TEST_F(SimTimeline, AnEventPairOfAShortKernelReadsItsCostUnderContention) {
  const unsigned a = context(), b = context();
  const unsigned qa = queue(a), qb = queue(b);
  kernel(qa, 1000 * kMs);
  until(700 * kUs);
  const unsigned before = stamp(qb);
  kernel(qb, 100 * kUs);
  const unsigned after = stamp(qb);
  until(100 * kMs);
  EXPECT_EQ(at(after) - at(before), 100 * kUs);
  EXPECT_EQ(at(before), 2 * kMs + 180 * kUs) << "stamped when its context was on the device";
}

TEST_F(SimTimeline, ALongKernelsPairHoldsTheOthersSlices) {
  const unsigned a = context(), b = context();
  const unsigned qa = queue(a), qb = queue(b);
  kernel(qa, 1000 * kMs);
  const unsigned before = stamp(qb);
  kernel(qb, 5 * kMs);
  const unsigned after = stamp(qb);
  until(100 * kMs);
  EXPECT_EQ(at(after) - at(before), 5 * kMs + 2 * (2 * kMs + 2 * 180 * kUs))
      << "two slices of the other";
}

TEST_F(SimTimeline, StreamsRunSideBySideAsFarAsTheSmsGo) {
  const unsigned a = context();
  const unsigned s[4] = {queue(a), queue(a), queue(a), queue(a)};
  unsigned end[4];
  for (unsigned i = 0; i < 4; ++i) {
    kernel(s[i], 10 * kMs, 44);  // a third of the device
    end[i] = stamp(s[i]);
  }
  until(100 * kMs);
  for (unsigned i = 0; i < 3; ++i) EXPECT_EQ(at(end[i]), 10 * kMs);
  EXPECT_EQ(at(end[3]), 20 * kMs) << "no room before";
  EXPECT_EQ(books(a).busy_ns, 20 * kMs) << "the union";
  EXPECT_EQ(books(a).work_ns, 40 * kMs) << "the sum";
}

TEST_F(SimTimeline, AKernelThatGetsLessIsSlowerInProportion) {
  const unsigned a = context();
  const unsigned s = queue(a), l = queue(a);
  kernel(s, 30 * kMs, 66);
  kernel(l, 10 * kMs, 132);  // half of it for 20 ms, which does it
  const unsigned end = stamp(l);
  until(100 * kMs);
  EXPECT_EQ(at(end), 20 * kMs);
}

TEST_F(SimTimeline, APriorityGoesFirstButStopsNobody) {
  const unsigned a = context();
  const unsigned low = queue(a, 0), high = queue(a, -5);
  kernel(low, 10 * kMs);
  kernel(low, 10 * kMs);
  until(kMs);
  kernel(high, kMs);
  const unsigned end = stamp(high);
  until(100 * kMs);
  EXPECT_EQ(at(end), 11 * kMs);
}

TEST_F(SimTimeline, CopiesHaveEnginesOfTheirOwn) {
  const unsigned a = context(), b = context();
  const unsigned qa = queue(a), qb = queue(b), qc = queue(b), qd = queue(b);
  kernel(qa, 100 * kMs);
  push(qb, EntryKind::kFromHost, 5 * kMs);
  const unsigned one = stamp(qb);
  push(qc, EntryKind::kFromHost, 5 * kMs);
  const unsigned two = stamp(qc);
  push(qd, EntryKind::kToHost, 5 * kMs);
  const unsigned other = stamp(qd);
  for (const unsigned q : {qb, qc, qd}) rings_[q][1].on_device = 0;  // as behind a copy
  until(50 * kMs);
  EXPECT_EQ(at(one), 5 * kMs);
  EXPECT_EQ(at(two), 10 * kMs) << "one at a time";
  EXPECT_EQ(at(other), 5 * kMs) << "the other direction";
  EXPECT_EQ(unit().switches, 0u) << "none of it needs the SMs";
  EXPECT_EQ(books(a).busy_ns, 50 * kMs);
}

TEST_F(SimTimeline, AStreamWaitsForAnother) {
  const unsigned a = context();
  const unsigned s = queue(a), l = queue(a);
  kernel(s, 10 * kMs, 1);
  wait(l, s);
  kernel(l, kMs, 1);
  const unsigned end = stamp(l);
  until(100 * kMs);
  EXPECT_EQ(at(end), 11 * kMs);
}

TEST_F(SimTimeline, ClientsOfOneServerRunTogetherWithinTheirShares) {
  const unsigned a = context(7, 32), b = context(7, 98), other = context();
  const unsigned qa = queue(a), qb = queue(b), qo = queue(other);
  kernel(qa, 10 * kMs);
  const unsigned end_a = stamp(qa);
  kernel(qb, 10 * kMs, 98);
  const unsigned end_b = stamp(qb);
  until(42 * kMs);
  EXPECT_EQ(at(end_b), 10 * kMs) << "all it asked for";
  EXPECT_NEAR(static_cast<double>(at(end_a)), 41'250.0 * kUs, 10.0)
      << "a whole device's kernel on 32 of 132";
  EXPECT_EQ(unit().switches, 0u);
  EXPECT_EQ(books(a).sm_ns, 32 * at(end_a));
  // Beside a context that is no client they are one group.
  for (int i = 0; i < 100; ++i) kernel(qa, kMs), kernel(qb, kMs), kernel(qo, kMs);
  const std::uint64_t busy = unit().busy_ns, switching = unit().switch_ns;
  until(42 * kMs + 109 * kMs);
  const std::uint64_t shared = unit().busy_ns - busy;
  EXPECT_EQ(shared + unit().switch_ns - switching, 109 * kMs);
  EXPECT_NEAR(static_cast<double>(books(other).busy_ns), static_cast<double>(shared) / 2,
              2.1 * kMs);
}

TEST_F(SimTimeline, WithoutSharesAClientWaitsForTheOthersKernel) {
  const unsigned a = context(7), b = context(7);
  const unsigned qa = queue(a), qb = queue(b);
  kernel(qa, 5 * kMs);
  kernel(qa, 5 * kMs);
  until(kMs);
  kernel(qb, 100 * kUs);
  const unsigned end = stamp(qb);
  until(100 * kMs);
  EXPECT_EQ(at(end), 5 * kMs + 100 * kUs);
}

TEST_F(SimTimeline, AContextThatEndsLeavesAtOnceAndTheBooksStayWhole) {
  const unsigned a = context(), b = context();
  const unsigned qa = queue(a), qb = queue(b);
  kernel(qa, kForever);
  kernel(qb, 20 * kMs);
  const unsigned end = stamp(qb);
  until(10 * kMs);  // b is half way through its third slice at most
  const std::uint64_t had = books(b).busy_ns;
  end_context(*line_, a);
  until(10 * kMs + 50 * kMs);
  EXPECT_LE(at(end), 10 * kMs + (20 * kMs - had) + 180 * kUs);
  EXPECT_EQ(books(b).busy_ns, 20 * kMs);
  EXPECT_EQ(sum_of_busy(), unit().busy_ns);
}

TEST_F(SimTimeline, AFaultTakesTheServersOtherClientsAndNobodyElse) {
  const unsigned a = context(7), b = context(7), other = context();
  const unsigned qa = queue(a), qb = queue(b), qo = queue(other);
  kernel(qa, 50 * kMs, 10);
  kernel(qb, 50 * kMs, 10);
  kernel(qo, kMs);
  until(kMs);
  EXPECT_TRUE(in_kernel(*line_, world_, a));
  EXPECT_FALSE(in_kernel(*line_, world_, other));
  fault_others(*line_, a);
  end_context(*line_, a);
  until(20 * kMs);
  EXPECT_EQ(books(b).faulted, 1u);
  EXPECT_FALSE(has_work(*line_, b));
  EXPECT_EQ(books(other).faulted, 0u);
  EXPECT_EQ(books(other).busy_ns, kMs);
}

// Looking in between, however often, changes nothing.
TEST_F(SimTimeline, TheOutcomeDoesNotDependOnWhoLooksWhen) {
  std::vector<std::uint64_t> ends[2];
  for (const bool often : {false, true}) {
    SetUp();
    line_ = std::make_unique<Timeline>();
    line_->clock_ns = kStart;
    const unsigned c[3] = {context(), context(9, 32), context(9, 64)};
    std::vector<unsigned> slots;
    for (unsigned i = 0; i < 12; ++i) {
      const unsigned q = queue(c[i % 3]);
      for (unsigned k = 0; k < 50; ++k) kernel(q, (1 + (i * 7 + k * 13) % 40) * 97 * kUs, 132);
      next_stamp_ = i;
      slots.push_back(stamp(q));
    }
    if (often) {
      for (std::uint64_t ns = 0; ns < 4000 * kMs; ns += 1'237'129) until(ns);
    }
    until(8000 * kMs);
    for (const unsigned s : slots) ends[often ? 1 : 0].push_back(at(s));
  }
  for (std::size_t i = 0; i < ends[0].size(); ++i) {
    EXPECT_NE(ends[0][i], 0u);
    EXPECT_NEAR(static_cast<double>(ends[0][i]), static_cast<double>(ends[1][i]), 100.0 * kUs)
        << "a partial grant rounds by less than a ns a look";
  }
}

TEST_F(SimTimeline, LookingAheadTellsTheEndAndChangesNothing) {
  const unsigned a = context(), b = context();
  const unsigned qa = queue(a), qb = queue(b);
  for (int i = 0; i < 20; ++i) kernel(qa, kMs), kernel(qb, kMs);
  until(0);
  auto ahead = std::make_unique<Timeline>();
  copy_timeline(*ahead, *line_);
  TimeWorld blind = world_;
  blind.stamps = nullptr;
  const unsigned end = stamp(qb);
  ASSERT_TRUE(
      look_ahead(*ahead, blind, qb, line_->queues[qb].generation, 20, kStart + 1000 * kMs, 1000));
  until(1000 * kMs);
  EXPECT_EQ(ahead->clock_ns, kStart + at(end));
}

}  // namespace
}  // namespace bulkhead::sim
