#include "policy/rollout.h"

#include <gtest/gtest.h>

namespace bulkhead::policy {
namespace {

RolloutRules all_rules() {
  RolloutRules r;
  r.watch_ns = 1000;
  r.on_gap = true;
  r.p99_ns = 800'000;
  r.refusals = 5;
  return r;
}

TEST(Rollout, GoesOnlyAfterItsWatch) {
  const RolloutRules r = all_rules();
  EXPECT_EQ(judge_rollout(r, 0, {.mode = 0}).what, RolloutAnswer::kNext);
  EXPECT_EQ(judge_rollout(r, 1, {.mode = 1, .watched_ns = 999}).what, RolloutAnswer::kWait);
  EXPECT_EQ(judge_rollout(r, 1, {.mode = 1, .watched_ns = 1000}).what, RolloutAnswer::kNext);
  EXPECT_EQ(judge_rollout(r, 2, {.mode = 2, .watched_ns = 999}).what, RolloutAnswer::kWait);
  EXPECT_EQ(judge_rollout(r, 2, {.mode = 2, .watched_ns = 1000}).what, RolloutAnswer::kDone);
  RolloutRules observe = r;
  observe.target = 1;
  EXPECT_EQ(judge_rollout(observe, 1, {.mode = 1, .watched_ns = 1000}).what, RolloutAnswer::kDone);
}

// Each condition is seen, also in the very look in which the watch would end, and says its name first.
TEST(Rollout, EachConditionEndsIt) {
  const RolloutRules r = all_rules();
  RolloutSeen good{.mode = 1, .watched_ns = 5000};
  const auto back = [&](const RolloutSeen& s, const char* name, const RolloutRules& rules) {
    const RolloutAnswer a = judge_rollout(rules, 1, s);
    EXPECT_EQ(a.what, RolloutAnswer::kBack) << name;
    EXPECT_EQ(a.why.rfind(name, 0), 0u) << a.why;
  };
  RolloutSeen s = good;
  s.missed_calls = 1;
  back(s, "gap: 1 calls", r);
  s = good;
  s.broken_lanes = 1;
  back(s, "gap", r);
  s = good;
  s.refusals = 5;
  back(s, "refusals: 5", r);
  s = good;
  s.has_p99 = true, s.p99_from_ns = 800'000, s.p99_to_ns = 1'000'000;
  back(s, "p99", r);
  s = good;
  s.counts_lost = true;
  back(s, "the tenant's counts", r);
  RolloutRules service = r;
  service.service_p99_ns = 100;
  back(good, "service-p99: the service's figure is missing", service);
  s = good;
  s.service_known = true, s.service_ns = 101;
  back(s, "service-p99: the service says", service);
  s.service_ns = 100;
  EXPECT_EQ(judge_rollout(service, 1, s).what, RolloutAnswer::kNext);
}

TEST(Rollout, JustBelowNothingEndsIt) {
  const RolloutRules r = all_rules();
  RolloutSeen s{.mode = 1, .watched_ns = 5};
  s.refusals = 4;
  s.has_p99 = true, s.p99_from_ns = 799'999, s.p99_to_ns = 900'000;  // it may lie below
  EXPECT_EQ(judge_rollout(r, 1, s).what, RolloutAnswer::kWait);
  s.missed_calls = 1;
  RolloutRules without = r;
  without.on_gap = false;
  EXPECT_EQ(judge_rollout(without, 1, s).what, RolloutAnswer::kWait);
}

TEST(Rollout, AModeSetByHandEndsItWithoutAFallBack) {
  RolloutSeen s{.mode = 2, .watched_ns = 5};
  s.missed_calls = 7;
  EXPECT_EQ(judge_rollout(all_rules(), 1, s).what, RolloutAnswer::kStop);
}

TEST(Rollout, FallsOneBackAndNeverBeforeItsBeginning) {
  EXPECT_EQ(rollout_back(2, 0), 1u);
  EXPECT_EQ(rollout_back(1, 0), 0u);
  EXPECT_EQ(rollout_back(1, 1), 1u);
  EXPECT_EQ(rollout_back(2, 1), 1u);
}

TEST(Rollout, ReadsWhatPeopleWrite) {
  RolloutRules r;
  EXPECT_TRUE(parse_abort_rule("gap", r) && r.on_gap);
  EXPECT_TRUE(parse_abort_rule("p99=0.8ms", r));
  EXPECT_EQ(r.p99_ns, 800'000u);
  EXPECT_TRUE(parse_abort_rule("refusals=10", r));
  EXPECT_EQ(r.refusals, 10u);
  EXPECT_TRUE(parse_abort_rule("service-p99=5ms", r));
  EXPECT_EQ(r.service_p99_ns, 5'000'000u);
  for (const char* bad : {"", "gap=1", "p99", "p99=", "p99=-1ms", "p99=1", "p99=nanms", "p99=1e30s",
                          "refusals=0", "refusals=-1", "refusals=x", "other"}) {
    EXPECT_FALSE(parse_abort_rule(bad, r)) << bad;
  }
  std::uint64_t ns = 0;
  EXPECT_TRUE(parse_span("10m", ns));
  EXPECT_EQ(span_text(ns), "10 min");
  EXPECT_EQ(span_text(800'000), "0.8 ms");
}

}  // namespace
}  // namespace bulkhead::policy
