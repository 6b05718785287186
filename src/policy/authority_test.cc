#include "policy/authority.h"

#include <gtest/gtest.h>

#include <vector>

namespace bulkhead::policy {
namespace {

constexpr Asker kRoot{0, 0, "/"};
constexpr Asker kAnna{1000, 100, "/user.slice/anna"};
constexpr Asker kBert{1001, 100, "/user.slice/bert"};
constexpr std::uint64_t kGib = 1ull << 30;

NodeRules node() {
  NodeRules r;
  r.users_may_create = true;
  r.max_memory_bytes = 10 * kGib;
  return r;
}
Wishes of(const Asker& a) {
  Wishes w;
  w.owner_uid = a.uid;
  return w;
}
Rule create(const Asker& a, const NodeRules& r, const Wishes& w, DeviceWish d = {kGib, 0, 0, 0}) {
  return may_create(a, r, w, {&d, 1}).rule;
}

TEST(Create, RootMayEverything) {
  Wishes w = of(kAnna);
  w.overcommit = w.open_on_fault = w.latency_priority = w.audit = w.match = true;
  w.reserve_class = w.grant_subject = w.mps_group = true;
  EXPECT_EQ(create(kRoot, NodeRules{}, w, {~0ull, 10000, ~0ull, 10000}), Rule::kGranted);
}
TEST(Create, TheDaemonsOwnUserMayEverythingForItself) {
  NodeRules r;
  r.daemon_uid = 1000;
  Wishes w = of(kAnna);
  w.latency_priority = true;
  EXPECT_EQ(create(kAnna, r, w), Rule::kGranted);
  EXPECT_EQ(create(kAnna, r, of(kBert)), Rule::kForOthers);
  EXPECT_EQ(create(kRoot, r, of(kBert)), Rule::kForOthers);  // its daemon cannot give files away
}
TEST(Create, UsersOnlyIfTheyMay) {
  EXPECT_EQ(create(kAnna, node(), of(kAnna)), Rule::kGranted);
  EXPECT_EQ(create(kAnna, NodeRules{}, of(kAnna)), Rule::kUsersMayNotCreate);
}
TEST(Create, UsersOnlyForThemselves) {
  EXPECT_EQ(create(kAnna, node(), of(kBert)), Rule::kForOthers);
  EXPECT_EQ(create(kAnna, node(), of(kRoot)), Rule::kForOthers);
}
TEST(Create, UsersNeverSetWhatTouchesOthers) {
  bool Wishes::*const fields[] = {
      &Wishes::overcommit,    &Wishes::open_on_fault, &Wishes::latency_priority, &Wishes::audit,
      &Wishes::reserve_class, &Wishes::grant_subject, &Wishes::mps_group,        &Wishes::match};
  for (const auto field : fields) {
    Wishes w = of(kAnna);
    w.*field = true;
    EXPECT_EQ(create(kAnna, node(), w), Rule::kOperatorsOnly);
  }
}
TEST(Create, TheMemoryMaximumIsOfAllTenantsOfOneUser) {
  EXPECT_EQ(create(kAnna, node(), of(kAnna), {10 * kGib, 0, 0, 0}), Rule::kGranted);
  EXPECT_EQ(create(kAnna, node(), of(kAnna), {10 * kGib + 1, 0, 0, 0}), Rule::kOverMaxMemory);
  EXPECT_EQ(create(kAnna, node(), of(kAnna), {4 * kGib, 0, 6 * kGib, 0}), Rule::kGranted);
  EXPECT_EQ(create(kAnna, node(), of(kAnna), {4 * kGib, 0, 6 * kGib + 1, 0}), Rule::kOverMaxMemory);
  EXPECT_EQ(create(kAnna, node(), of(kAnna), {~0ull, 0, ~0ull, 0}), Rule::kOverMaxMemory);
}
TEST(Create, TheComputeMaximumCountsNoLimitAsAll) {
  NodeRules r = node();
  r.max_compute_x100 = 5000;
  EXPECT_EQ(create(kAnna, r, of(kAnna), {kGib, 5000, 0, 0}), Rule::kGranted);
  EXPECT_EQ(create(kAnna, r, of(kAnna), {kGib, 5001, 0, 0}), Rule::kOverMaxCompute);
  EXPECT_EQ(create(kAnna, r, of(kAnna), {kGib, 0, 0, 0}), Rule::kOverMaxCompute);
  EXPECT_EQ(create(kAnna, r, of(kAnna), {kGib, 2000, 0, 3001}), Rule::kOverMaxCompute);
}

Rule update(const Asker& a, DeviceChange d, Changes c = {}) {
  c.devices = {&d, 1};
  return may_update(a, node(), 1000, c).rule;
}
TEST(Update, OwnersOnlyLowerMemory) {
  EXPECT_EQ(update(kAnna, {2 * kGib, kGib}), Rule::kGranted);
  EXPECT_EQ(update(kAnna, {kGib, kGib}), Rule::kGranted);
  EXPECT_EQ(update(kAnna, {kGib, kGib + 1}), Rule::kWouldRaise);
  EXPECT_EQ(update(kRoot, {kGib, 2 * kGib}), Rule::kGranted);
  EXPECT_EQ(update(kBert, {2 * kGib, kGib}), Rule::kNotOwner);
}
TEST(Update, OwnersOnlyLowerCompute) {
  EXPECT_EQ(update(kAnna, {1, 1, {5000, 0, false}, {4000, 0, false}}), Rule::kGranted);
  EXPECT_EQ(update(kAnna, {1, 1, {5000, 0, false}, {5001, 0, false}}), Rule::kWouldRaise);
  EXPECT_EQ(update(kAnna, {1, 1, {5000, 0, false}, {0, 0, false}}), Rule::kWouldRaise);
  EXPECT_EQ(update(kAnna, {1, 1, {0, 0, false}, {5000, 0, false}}), Rule::kGranted);
  EXPECT_EQ(update(kAnna, {1, 1, {5000, 0, false}, {4000, 0, true}}),
            Rule::kWouldRaise);  // borrows
  EXPECT_EQ(update(kAnna, {1, 1, {5000, 6000, true}, {4000, 6000, true}}), Rule::kGranted);
  EXPECT_EQ(update(kAnna, {1, 1, {5000, 6000, true}, {4000, 0, true}}), Rule::kWouldRaise);
  EXPECT_EQ(update(kAnna, {1, 1, {5000, 6000, true}, {5500, 6000, true}}), Rule::kWouldRaise);
}
TEST(Update, OwnersNeverSetTheOperatorsFields) {
  bool Changes::*const fields[] = {&Changes::changes_priority, &Changes::changes_mode,
                                   &Changes::changes_audit, &Changes::opens_on_fault};
  for (const auto field : fields) {
    Changes c;
    c.*field = true;
    EXPECT_EQ(update(kAnna, {1, 1}, c), Rule::kOperatorsOnly);
    EXPECT_EQ(update(kRoot, {1, 1}, c), Rule::kGranted);
  }
  Changes c;
  c.widens_share_with = true;
  EXPECT_EQ(update(kAnna, {1, 1}, c), Rule::kWouldRaise);
  c = {};
  c.widens_pace = true;
  EXPECT_EQ(update(kAnna, {1, 1}, c), Rule::kWouldRaise);
  EXPECT_EQ(update(kRoot, {1, 1}, c), Rule::kGranted);
}

TEST(Handle, OwnersAndOperators) {
  EXPECT_TRUE(may_handle(kRoot, node(), 1000).ok());
  EXPECT_TRUE(may_handle(kAnna, node(), 1000).ok());
  EXPECT_FALSE(may_handle(kBert, node(), 1000).ok());
  EXPECT_FALSE(may_handle(Asker{}, node(), kNobody).ok());  // an unknown peer owns nothing
  EXPECT_FALSE(may_operate(kAnna, node()).ok());
  NodeRules own;
  own.daemon_uid = 1000;
  EXPECT_TRUE(may_operate(kAnna, own).ok());
  EXPECT_TRUE(may_operate(kRoot, own).ok());
}

const std::vector<Claim> kClaims = {
    {"by-uid", 1000, false, "", 1000, kNobody},
    {"by-both", 1001, false, "/system.slice", 1001, kNobody},
    {"by-group", 0, false, "", kNobody, 100},
    {"annas", 1000, false, "", kNobody, kNobody},
    {"job-1", 0, true, "/slurm/job_1", kNobody, kNobody},
    {"job-1-step", 0, true, "/slurm/job_1/step_0", kNobody, kNobody},
    {"free", 2000, false, "", kNobody, kNobody},
};
std::string who(const Asker& a, std::string_view asked = {}, std::string_view fallback = {}) {
  NodeRules r;
  r.default_tenant = fallback;
  const Belonging b = belongs_to(a, r, asked, kClaims);
  const char* const by[] = {"cgroup", "match", "asked", "default", "new", "refused", "unmatched"};
  return std::string{by[static_cast<unsigned>(b.by)]} + " " +
         (b.claim == kNone ? "-" : std::string{kClaims[b.claim].name});
}

TEST(Belongs, ARegisteredCgroupOutranksAll) {
  EXPECT_EQ(who({1000, 100, "/slurm/job_1"}), "cgroup job-1");
  EXPECT_EQ(who({1000, 100, "/slurm/job_1/x"}), "cgroup job-1");
  EXPECT_EQ(who({1000, 100, "/slurm/job_1/step_0/task"}), "cgroup job-1-step");
  EXPECT_EQ(who({1000, 100, "/slurm/job_12"}),
            "match by-uid");  // a prefix of parts, not of letters
  EXPECT_EQ(who({1000, 100, "/slurm/job_1"}, "annas"), "refused job-1");
  EXPECT_EQ(who({1000, 100, "/slurm/job_1"}, "job-1"), "cgroup job-1");
}
TEST(Belongs, TheFirstMatchInTheFileComesNext) {
  EXPECT_EQ(who({1000, 100, "/x"}), "match by-uid");  // by-group would fit too
  EXPECT_EQ(who({1001, 7, "/system.slice/a"}), "match by-both");
  EXPECT_EQ(who({1001, 100, "/x"}), "match by-group");  // every key given must fit
  EXPECT_EQ(who({1001, 7, "/x"}), "unmatched -");
  EXPECT_EQ(who({1000, 100, "/x"}, "annas"), "refused by-uid");
  EXPECT_EQ(who({1000, 100, "/x"}, "nobodys"), "refused by-uid");
}
TEST(Belongs, TheNameAskedForIfItIsOnesOwn) {
  EXPECT_EQ(who({2000, 7, "/x"}, "free"), "asked free");
  EXPECT_EQ(who({2001, 7, "/x"}, "free"), "refused -");
  EXPECT_EQ(who({2001, 7, "/x"}, "nobodys"), "new -");
  EXPECT_EQ(who({kNobody, kNobody, ""}, "free"), "refused -");
}
TEST(Belongs, RootMayAskForAny) {
  EXPECT_EQ(who({0, 100, "/x"}, "annas"), "asked annas");
  EXPECT_EQ(who({0, 100, "/slurm/job_1"}, "annas"), "asked annas");
  EXPECT_EQ(who({0, 100, "/slurm/job_1"}, "nobodys"), "new -");
}
TEST(Belongs, ThoseWhoMatchNothingAreRefusedOrTheDefaults) {
  EXPECT_EQ(who({2001, 7, "/x"}), "unmatched -");
  EXPECT_EQ(who({2000, 7, "/x"}, "", "free"), "default free");
  EXPECT_EQ(who({0, 7, "/x"}, "", "free"), "default free");
  EXPECT_EQ(who({2000, 7, "/x"}, "", "gone"), "unmatched -");
  // another uid could not open its region
  EXPECT_EQ(who({2001, 7, "/x"}, "", "free"), "unmatched -");
  EXPECT_EQ(who({2001, 7, "/x"}, "free", "free"), "refused -");
  EXPECT_EQ(who({kNobody, kNobody, ""}, "", "free"), "unmatched -");
}
TEST(Belongs, CgroupsAreComparedByParts) {
  EXPECT_TRUE(cgroup_below("/a/b", "/a"));
  EXPECT_TRUE(cgroup_below("/a/b", "/a/"));
  EXPECT_TRUE(cgroup_below("/a", "/a"));
  EXPECT_TRUE(cgroup_below("/a", "/"));
  EXPECT_FALSE(cgroup_below("/ab", "/a"));
  EXPECT_FALSE(cgroup_below("", "/"));
  EXPECT_FALSE(cgroup_below("/a", ""));
}

TEST(Rulings, SayWhyInOneLine) {
  for (int rule = 1; rule <= static_cast<int>(Rule::kOverMaxCompute); ++rule) {
    const std::string text = ruling_text({static_cast<Rule>(rule), "memory"}, "a");
    EXPECT_FALSE(text.empty());
    EXPECT_EQ(text.find('\n'), std::string::npos);
  }
}

}  // namespace
}  // namespace bulkhead::policy
