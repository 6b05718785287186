#include "policy/mode.h"

#include <gtest/gtest.h>

namespace bulkhead::policy {
namespace {

ModeDevice gpu(std::uint32_t share_x100 = 2'500, Known spatial = Known::kWorks) {
  return {"GPU 0 (GPU-a)", share_x100, spatial, Known::kUnknown, 132, 2};
}
const ModeRules kAllowed{true, {"serving", "other"}};
ModeWish wish(ModeAsked asked) { return {asked, false, true, "serving"}; }

ModeRuling rule(const ModeWish& w, const ModeRules& r, const ModeDevice& d) {
  return rule_mode(w, r, {&d, 1});
}

TEST(Mode, AutoIsSpatialOnlyIfEverythingHolds) {
  EXPECT_EQ(rule(wish(ModeAsked::kAuto), kAllowed, gpu()).enforcer, Enforcer::kSpatial);
  const auto temporal = [](const ModeWish& w, const ModeRules& r, const ModeDevice& d) {
    const ModeRuling got = rule(w, r, d);
    return got.enforcer == Enforcer::kTemporal && got.problem.empty();
  };
  ModeWish w = wish(ModeAsked::kAuto);
  EXPECT_TRUE(temporal(w, {false, {"serving"}}, gpu()));
  EXPECT_TRUE(temporal(w, {true, {"other"}}, gpu()));
  EXPECT_TRUE(temporal(w, kAllowed, gpu(0)));
  EXPECT_TRUE(temporal(w, kAllowed, gpu(151)));
  EXPECT_TRUE(temporal(w, kAllowed, gpu(2'500, Known::kUnknown)));
  EXPECT_TRUE(temporal(w, kAllowed, gpu(2'500, Known::kNo)));
  w.group.clear();
  EXPECT_TRUE(temporal(w, kAllowed, gpu()));
  w = wish(ModeAsked::kAuto);
  w.borrows = true;
  EXPECT_TRUE(temporal(w, kAllowed, gpu()));
  const ModeDevice two[] = {gpu(), gpu(2'500, Known::kUnknown)};
  EXPECT_EQ(rule_mode(wish(ModeAsked::kAuto), kAllowed, two).enforcer, Enforcer::kTemporal);
  EXPECT_EQ(rule_mode(wish(ModeAsked::kAuto), kAllowed, {}).enforcer, Enforcer::kTemporal);
}

TEST(Mode, WhatIsAskedAndCannotBeSaysWhatIsPossible) {
  const auto says = [](const ModeRuling& got, const char* part) {
    EXPECT_EQ(got.enforcer, Enforcer::kTemporal);
    EXPECT_NE(got.problem.find(part), std::string::npos) << got.problem;
    EXPECT_EQ(got.problem.find('\n'), std::string::npos);
  };
  ModeWish w = wish(ModeAsked::kSpatial);
  EXPECT_TRUE(rule(w, kAllowed, gpu()).problem.empty());
  EXPECT_EQ(rule(w, kAllowed, gpu()).enforcer, Enforcer::kSpatial);
  says(rule(w, {false, {}}, gpu()), "[mps] enabled = true");
  says(rule(w, {true, {"other"}}, gpu()), "it has other");
  says(rule(w, kAllowed, gpu(0)), "--compute");
  says(rule(w, kAllowed, gpu(2'500, Known::kUnknown)), "doctor --self-test");
  says(rule(w, kAllowed, gpu(2'500, Known::kNo)), "do not bind");
  says(rule(w, kAllowed, gpu(151)), "ask for at least 1.52%");
  ModeDevice more = gpu(606);  // as an H200 does: steps of 2, but never less than 8
  more.sm_least = 8;
  says(rule(w, kAllowed, more),
       "6.06% of the 132 multiprocessors of GPU 0 (GPU-a) is less than the 8 MPS hands out: ask "
       "for at least 6.07%");
  more.share_x100 = 607;
  EXPECT_EQ(rule(w, kAllowed, more).enforcer, Enforcer::kSpatial);
  EXPECT_EQ(rule(w, kAllowed, gpu(152)).enforcer, Enforcer::kSpatial);
  w.borrows = true;
  says(rule(w, kAllowed, gpu()), "leave the + out");
  w = wish(ModeAsked::kSpatial);
  w.group.clear();
  says(rule(w, kAllowed, gpu()), "serving, other");
}

TEST(Mode, SliceIsOffUntilItWasSeenToAct) {
  ModeWish w = wish(ModeAsked::kSlice);
  ModeDevice d = gpu();
  EXPECT_NE(rule(w, kAllowed, d).problem.find("doctor --self-test"), std::string::npos);
  d.slice = Known::kNo;
  EXPECT_NE(rule(w, kAllowed, d).problem.find("do not act"), std::string::npos);
  d.slice = Known::kWorks;
  EXPECT_EQ(rule(w, {}, d).enforcer, Enforcer::kSlice);
  w.batch = false;
  EXPECT_EQ(rule(w, {}, d).enforcer, Enforcer::kTemporal);
  EXPECT_EQ(rule(wish(ModeAsked::kTemporal), kAllowed, d).enforcer, Enforcer::kTemporal);
}

ModeDevice divided(std::uint32_t share_x100, Known partitions = Known::kWorks) {
  ModeDevice d = gpu(share_x100);
  d.partitions = partitions;
  d.chunks = partitions == Known::kWorks ? 16 : 0;
  d.chunk_sms = partitions == Known::kWorks ? 8 : 0;
  return d;
}

TEST(Mode, APartitionNeedsTheOperatorsGroupAndAVerdict) {
  const auto says = [](const ModeRuling& got, const char* part) {
    EXPECT_EQ(got.enforcer, Enforcer::kTemporal);
    EXPECT_NE(got.problem.find(part), std::string::npos) << got.problem;
    EXPECT_EQ(got.problem.find('\n'), std::string::npos);
  };
  const ModeRules rules{true, {"serving", "other"}, {"serving"}};
  const ModeWish w = wish(ModeAsked::kPartition);
  EXPECT_EQ(rule(w, rules, divided(2'500)).enforcer, Enforcer::kPartition);
  EXPECT_EQ(rule(w, rules, divided(2'500)).problem, "");
  says(rule(w, {false, {}, {}}, divided(2'500)), "[mps] enabled = true");
  says(rule(w, kAllowed, divided(2'500)), "is not in [mps] partition_groups: it has none");
  says(rule(w, rules, divided(0)), "give --compute");
  says(rule(w, rules, divided(2'500, Known::kUnknown)), "doctor --self-test");
  says(rule(w, rules, divided(2'500, Known::kNo)), "has no partitions");
  says(rule(w, rules, divided(624)),
       "6.24% of the 16 chunks of 8 multiprocessors of GPU 0 (GPU-a) is less than one: ask for at "
       "least 6.25%; or use auto or temporal");
  ModeWish more = w;
  more.borrows = true;
  says(rule(more, rules, divided(2'500)), "leave the + out");
  const ModeDevice two[] = {divided(2'500), divided(2'500)};
  says(rule_mode(w, rules, two), "is of one GPU, and this tenant has 2");
  says(rule_mode(w, rules, {}), "has 0");
}

TEST(Mode, InAGroupOfPartitionsNobodyIsWithoutOne) {
  const ModeRules rules{true, {"serving", "other"}, {"serving"}};
  const ModeRuling spatial = rule(wish(ModeAsked::kSpatial), rules, divided(2'500));
  EXPECT_EQ(spatial.enforcer, Enforcer::kTemporal);
  EXPECT_NE(spatial.problem.find("use mode partition, or another group"), std::string::npos);
  EXPECT_EQ(rule(wish(ModeAsked::kAuto), rules, divided(2'500)).enforcer, Enforcer::kPartition);
  for (const Known seen : {Known::kNo, Known::kUnknown}) {
    const ModeRuling got = rule(wish(ModeAsked::kAuto), rules, divided(2'500, seen));
    EXPECT_EQ(got.enforcer, Enforcer::kTemporal) << "not spatial: it could make no context there";
    EXPECT_EQ(got.problem, "");
  }
  ModeWish other = wish(ModeAsked::kAuto);
  other.group = "other";
  EXPECT_EQ(rule(other, rules, divided(2'500)).enforcer, Enforcer::kSpatial);
}

}  // namespace
}  // namespace bulkhead::policy
