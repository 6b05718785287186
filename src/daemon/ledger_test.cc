#include "daemon/ledger.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "daemon/test_node.h"

namespace bulkhead::daemon {
namespace {

constexpr const char* kUsersMay = "[policy]\nusers_may_create = true\nmax_memory = '50GiB'\n";

Answer enrol(TestNode& n, const Peer& p, const wire::TenantRecord& r, std::uint32_t flags = 0) {
  return n.ledger.enrol(p, request(r, flags), n.now, nullptr);
}
wire::TenantRecord wanting(const char* name, std::uint64_t bytes) { return record(name, bytes); }
Answer set(TestNode& n, const Peer& p, const char* name, std::uint64_t bytes) {
  return n.ledger.update(p, wanting(name, bytes), wire::kSetMemory, n.now);
}

TEST(Ledger, TheSumOfAllIsWithinTheDevice) {
  TestNode n;
  EXPECT_TRUE(enrol(n, peer(0), record("a", 60 * kGib)).ok());
  Answer a = enrol(n, peer(0), record("b", 41 * kGib));
  EXPECT_EQ(a.result, Errc::kFull);
  EXPECT_TRUE(a.may_wait);
  EXPECT_EQ(a.sums.promised_bytes, 60 * kGib);
  EXPECT_EQ(a.sums.asked_bytes, 41 * kGib);
  EXPECT_NE(a.text.find("41 GiB asked + 60 GiB promised to others > 100 GiB total"), a.text.npos);
  EXPECT_NE(a.text.find("ask for at most 40GiB, or wait"), a.text.npos) << a.text;
  EXPECT_TRUE(enrol(n, peer(0), record("b", 40 * kGib)).ok());
  EXPECT_TRUE(enrol(n, peer(0), record("c", 100 * kGib, 1)).ok());  // another device
  a = enrol(n, peer(0), record("d", 101 * kGib, 1));
  EXPECT_EQ(a.result, Errc::kTooLarge);  // waiting would not help
  EXPECT_FALSE(a.may_wait);
  wire::TenantRecord more = record("e", 50 * kGib);
  more.flags = wire::kRecordOvercommit;
  EXPECT_TRUE(enrol(n, peer(0), more).ok());
}

wire::TenantRecord share(const char* name, std::uint32_t x100, std::uint32_t flags = 0) {
  wire::TenantRecord r = record(name, kGib);
  r.devices[0].compute_x100 = x100;
  r.flags = flags;
  return r;
}

TEST(Ledger, TheSharesOfAllAreWithinTheDevicesTime) {
  TestNode n;
  EXPECT_TRUE(enrol(n, peer(0), share("a", 7500, wire::kRecordBorrow)).ok());
  EXPECT_EQ(n.regions.all.at("a").rules.ceiling_x100, 10'000u);
  Answer a = enrol(n, peer(0), share("b", 2550));
  EXPECT_EQ(a.result, Errc::kFull);
  EXPECT_TRUE(a.may_wait);
  EXPECT_EQ(
      a.text,
      "25.5% asked + 75% promised to others > 100% of the time of GPU 0 "
      "(GPU-10101010-1010-1010-1010-101010101010); ask for at most 25%, or wait for room with "
      "--wait");
  EXPECT_TRUE(enrol(n, peer(0), share("free", 0)).ok()) << "no limit promises nothing";
  EXPECT_TRUE(enrol(n, peer(0), share("b", 2500)).ok());
  a = enrol(n, peer(0), share("c", 1));
  EXPECT_NE(a.text.find("lower another's share, or wait"), a.text.npos) << a.text;
  EXPECT_TRUE(enrol(n, peer(0), share("o", 5000, wire::kRecordOvercommit)).ok());
}

TEST(Ledger, ALiveShareFollowsTheRules) {
  TestNode n(kUsersMay);
  ASSERT_TRUE(enrol(n, peer(1000), share("a", 2500)).ok());
  ASSERT_TRUE(enrol(n, peer(0), share("b", 5000)).ok());
  const auto set_share = [&n](std::uint32_t uid, std::uint32_t x100, std::uint32_t flags = 0) {
    return n.ledger.update(peer(uid), share("a", x100, flags), wire::kSetCompute, n.now);
  };
  EXPECT_EQ(set_share(1000, 2501).result, Errc::kUntrusted);
  EXPECT_EQ(set_share(1000, 2500, wire::kRecordBorrow).result, Errc::kUntrusted) << "may borrow";
  EXPECT_EQ(set_share(1000, 0).result, Errc::kUntrusted) << "no limit is all of it";
  EXPECT_EQ(set_share(1001, 100).result, Errc::kNotFound);
  n.posted.clear();
  ASSERT_TRUE(set_share(1000, 1000).ok());
  EXPECT_EQ(n.regions.all.at("a").rules.floor_x100, 1000u);
  ASSERT_TRUE(n.saw(wire::EventKind::kTenantUpdated));
  EXPECT_EQ(n.posted.back().text, "tenant a updated: share of the GPU's time 25% -> 10%");
  EXPECT_EQ(set_share(0, 5001).result, Errc::kFull) << "beside the 50% of b";
  EXPECT_EQ(n.regions.all.at("a").rules.floor_x100, 1000u);
  EXPECT_TRUE(set_share(0, 5000, wire::kRecordBorrow).ok());
  EXPECT_EQ(n.regions.all.at("a").rules.ceiling_x100, 10'000u);
  EXPECT_TRUE(set_share(0, 0).ok());
  EXPECT_EQ(n.posted.back().text, "tenant a updated: share of the GPU's time 50%+ -> no limit");
  EXPECT_EQ(n.regions.all.at("a").record.devices[0].memory_bytes, kGib)
      << "memory is another matter";
}

TEST(Ledger, ThePaceIsNarrowedByItsOwnerAlone) {
  TestNode n(kUsersMay);
  ASSERT_TRUE(enrol(n, peer(1000), share("a", 2500)).ok());
  const auto pace = [&n](std::uint32_t uid, std::uint32_t burst_us, std::uint32_t window_us) {
    wire::TenantRecord r = record("a", 0);
    r.device_count = 0;
    r.devices[0] = {};
    r.burst_us = burst_us;
    r.window_us = window_us;
    return n.ledger.update(peer(uid), r, wire::kSetPace, n.now);
  };
  EXPECT_EQ(pace(1000, 5001, 0).result, Errc::kUntrusted) << "beyond the usual";
  EXPECT_EQ(pace(1000, 0, 2001).result, Errc::kUntrusted);
  ASSERT_TRUE(pace(1000, 1000, 0).ok());
  EXPECT_EQ(n.regions.all.at("a").rules.burst_us, 1000u);
  EXPECT_EQ(n.regions.all.at("a").rules.window_us, shm::kWindow_us) << "was not said";
  EXPECT_NE(n.posted.back().text.find("burst 5000 us -> 1000 us"), std::string::npos);
  EXPECT_TRUE(pace(0, 9000, 9000).ok());
  EXPECT_EQ(n.regions.all.at("a").rules.floor_x100, 2500u);
}

TEST(Ledger, JoiningWithAnotherShareIsRefused) {
  TestNode n;
  ASSERT_TRUE(enrol(n, peer(0), share("a", 2500)).ok());
  const auto join = [&n](wire::TenantRecord r) {
    return enrol(n, peer(0), r, wire::kJoinExisting | wire::kSameOrRefuse);
  };
  EXPECT_TRUE(join(share("a", 2500)).ok());
  EXPECT_TRUE(join(share("a", 0)).ok()) << "not asked for";
  const Answer a = join(share("a", 3000));
  EXPECT_EQ(a.result, Errc::kExists);
  EXPECT_NE(a.text.find("has a share of 25% on"), a.text.npos) << a.text;
  EXPECT_NE(a.text.find("not the 30% asked for"), a.text.npos) << a.text;
  EXPECT_EQ(join(share("a", 2500, wire::kRecordBorrow)).result, Errc::kExists);
  wire::TenantRecord burst = share("a", 2500);
  burst.burst_us = 77;
  EXPECT_EQ(join(burst).result, Errc::kExists);
  wire::TenantRecord only = share("a", 2500);
  only.devices[0].memory_bytes = 0;
  EXPECT_TRUE(join(only).ok()) << "its memory is not asked for";
}

TEST(Ledger, SharesOutliveADaemon) {
  std::string stored;
  {
    TestNode n;
    wire::TenantRecord r = share("a", 2500, wire::kRecordBorrow);
    r.devices[0].ceiling_x100 = 8000;
    r.burst_us = 7000;
    r.dampening_x1000 = 900;
    ASSERT_TRUE(enrol(n, peer(0), r).ok());
    n.later();
    stored = n.stored;
  }
  TestNode again;
  ASSERT_TRUE(again.ledger.restore(stored));
  again.ledger.settle(again.now);
  EXPECT_EQ(again.regions.all.at("a").rules, (shm::ComputeRules{2500, 8000, 7000, 2000, 900}));
  EXPECT_EQ(enrol(again, peer(0), share("b", 7501)).result, Errc::kFull);
}

TEST(Ledger, AReloadChangesAShare) {
  TestNode n("[[tenant]]\nname='a'\nmemory='1GiB'\ncompute='25%'\nburst='1ms'");
  EXPECT_EQ(n.regions.all.at("a").rules.floor_x100, 2500u);
  EXPECT_EQ(n.regions.all.at("a").rules.burst_us, 1000u);
  ASSERT_EQ(n.configure("[[tenant]]\nname='a'\nmemory='1GiB'\ncompute='10%+'"), "");
  EXPECT_EQ(n.regions.all.at("a").rules, (shm::ComputeRules{1000, 10'000}));
}

TEST(Ledger, OverheadAndReserveAreTakenOff) {
  TestNode n("[reserve]\nclass = 'c'\nshare = '20%'");
  auto gpus = TestNode::gpus();
  gpus[0].overhead_bytes = 10 * kGib;
  n.ledger.set_capacities(gpus);
  EXPECT_EQ(enrol(n, peer(0), record("a", 71 * kGib)).result, Errc::kFull);
  wire::TenantRecord classed = record("c", 90 * kGib);
  wire::put_text(classed.reserve_class, "c");
  EXPECT_TRUE(enrol(n, peer(0), classed).ok());
}

TEST(Ledger, WhatNobodyCanHoldIsRefused) {
  TestNode n;
  EXPECT_EQ(enrol(n, peer(0), record("a", 7)).result, Errc::kInvalid);
  EXPECT_EQ(enrol(n, peer(0), record("a", kGib, 5)).result, Errc::kNotFound);
  n.regions.make_answer = Errc::kIo;
  EXPECT_EQ(enrol(n, peer(0), record("a", kGib)).result, Errc::kIo);
  EXPECT_TRUE(n.ledger.entries().empty());
}

TEST(Ledger, UsersWithinTheirRights) {
  TestNode n;
  EXPECT_EQ(enrol(n, peer(1000), record("a", kGib)).result, Errc::kUntrusted);
  EXPECT_TRUE(n.saw(wire::EventKind::kPeerRefused));
  ASSERT_EQ(n.configure(kUsersMay), "");
  EXPECT_TRUE(enrol(n, peer(1000), record("a", 30 * kGib)).ok());
  EXPECT_EQ(n.regions.all.at("a").record.owner_uid, 1000u);
  EXPECT_EQ(enrol(n, peer(1000), record("b", 21 * kGib)).result, Errc::kUntrusted);  // 51 of 50
  EXPECT_TRUE(enrol(n, peer(1000), record("b", 21 * kGib, 1)).ok());  // each device its own maximum
  EXPECT_TRUE(enrol(n, peer(1001), record("c", 50 * kGib)).ok());
  wire::TenantRecord fast = record("d", kGib, 1);
  fast.priority = wire::Priority::kLatency;
  EXPECT_EQ(enrol(n, peer(1001), fast).result, Errc::kUntrusted);
  EXPECT_EQ(set(n, peer(1000), "a", 31 * kGib).result, Errc::kUntrusted);
  EXPECT_TRUE(set(n, peer(1000), "a", 10 * kGib).ok());
  EXPECT_EQ(set(n, peer(1001), "a", 10 * kGib).result, Errc::kNotFound);  // not even its name
  EXPECT_EQ(n.ledger.unregister(peer(1001), "a", true, n.now).result, Errc::kNotFound);
  EXPECT_TRUE(n.ledger.unregister(peer(1000), "a", false, n.now).ok());
}

TEST(Ledger, ANameIsJoinedByItsOwnerOnly) {
  TestNode n(kUsersMay);
  ASSERT_TRUE(enrol(n, peer(1000), record("a", kGib)).ok());
  EXPECT_EQ(enrol(n, peer(1000), record("a", kGib)).result, Errc::kExists);
  EXPECT_TRUE(enrol(n, peer(1000), record("a", 2 * kGib), wire::kJoinExisting).ok());
  EXPECT_EQ(
      enrol(n, peer(1000), record("a", 2 * kGib), wire::kJoinExisting | wire::kSameOrRefuse).result,
      Errc::kExists);
  EXPECT_EQ(enrol(n, peer(1001), record("a", kGib), wire::kJoinExisting).result, Errc::kUntrusted);
}

TEST(Ledger, TheOperatorsRulesOutrankTheName) {
  TestNode n(
      "[[tenant]]\nname='m'\nmemory='10GiB'\nmatch={uid=1000}\n[policy]\nusers_may_create=true");
  EXPECT_TRUE(n.regions.all.contains("m"));
  const Answer a = enrol(n, peer(1000), record("other", kGib));
  EXPECT_EQ(a.result, Errc::kUntrusted);
  EXPECT_NE(a.text.find("belongs to tenant m by its match"), a.text.npos) << a.text;
  EXPECT_EQ(enrol(n, peer(1000), record("", kGib), wire::kJoinExisting).tenant, "m");
  EXPECT_EQ(n.ledger.who(peer(1000)).tenant, "m");
  EXPECT_EQ(n.ledger.who(peer(1001)).result, Errc::kNotFound);
  wire::TenantRecord job = record("job", kGib);
  wire::put_text(job.match_cgroup, "/slurm/job_1");
  ASSERT_TRUE(enrol(n, peer(0), job).ok());
  EXPECT_EQ(n.ledger.who(peer(1000, 5, "/slurm/job_1/task")).tenant, "job");
}

TEST(Ledger, WithoutANameItIsOnesOwnAndEndsWithItsRun) {
  TestNode n(kUsersMay);
  const Answer a = enrol(n, peer(1000, 4321), record("", kGib));
  ASSERT_TRUE(a.ok());
  EXPECT_EQ(a.tenant, "run-4321-77");
  n.later();
  EXPECT_TRUE(n.regions.all.contains(a.tenant));
  n.regions.all.at(a.tenant).processes = 1;
  n.dead = {4321};
  n.later();
  EXPECT_TRUE(n.regions.all.contains(a.tenant));  // its processes run on
  n.regions.all.at(a.tenant).processes = 0;
  const std::uint64_t freed = n.ledger.freed();
  n.later();
  EXPECT_FALSE(n.regions.all.contains(a.tenant));
  EXPECT_FALSE(n.ledger.entries().contains(a.tenant));
  EXPECT_GT(n.ledger.freed(), freed);
}

TEST(Ledger, WhoTakesTheNameOfAnothersRunKeepsItFromNothing) {
  TestNode n(kUsersMay);
  ASSERT_TRUE(enrol(n, peer(1001), record("run-4321-77", kGib)).ok());
  const Answer a = enrol(n, peer(1000, 4321), record("", kGib));
  ASSERT_TRUE(a.ok());
  EXPECT_EQ(a.tenant, "run-4321-77-2");
}

TEST(Ledger, LoweringBelowUseSaysSoAndKillsNothing) {
  TestNode n;
  ASSERT_TRUE(enrol(n, peer(0), record("a", 10 * kGib)).ok());
  n.regions.all.at("a").held = 8 * kGib;
  n.regions.all.at("a").processes = 1;
  const Answer a = set(n, peer(0), "a", 4 * kGib);
  EXPECT_TRUE(a.ok());
  EXPECT_NE(a.text.find("holds 8GiB"), a.text.npos) << a.text;
  EXPECT_TRUE(n.saw(wire::EventKind::kLimitBelowUse));
  EXPECT_EQ(n.regions.all.at("a").record.devices[0].memory_bytes, 4 * kGib);
  EXPECT_EQ(set(n, peer(0), "a", 101 * kGib).result, Errc::kTooLarge);
  EXPECT_TRUE(set(n, peer(0), "a", 100 * kGib).ok());
  EXPECT_EQ(n.ledger.promised(record("a", 0).devices[0].uuid), 100 * kGib);
}

TEST(Ledger, AReloadKeepsWhatSetChangedUntilTheFileChanges) {
  const std::string ten = "[[tenant]]\nname='a'\nmemory='10GiB'",
                    twenty = "[[tenant]]\nname='a'\nmemory='20GiB'";
  TestNode n(ten.c_str());
  ASSERT_TRUE(set(n, peer(0), "a", 5 * kGib).ok());
  ASSERT_EQ(n.configure(ten), "");
  EXPECT_EQ(n.regions.all.at("a").record.devices[0].memory_bytes, 5 * kGib);
  ASSERT_EQ(n.configure(twenty), "");
  EXPECT_EQ(n.regions.all.at("a").record.devices[0].memory_bytes, 20 * kGib);
  EXPECT_NE(n.configure("[[tenant]]\nname='a'\nmemory='200GiB'"),
            "");  // a broken one changes nothing
  EXPECT_EQ(n.regions.all.at("a").record.devices[0].memory_bytes, 20 * kGib);
  EXPECT_EQ(n.ledger.unregister(peer(0), "a", true, n.now).result, Errc::kInvalid);
  n.regions.all.at("a").processes = 1;
  ASSERT_EQ(n.configure(""), "");
  EXPECT_TRUE(n.regions.all.contains("a"));  // in use: stays until rm
  n.regions.all.at("a").processes = 0;
  EXPECT_TRUE(n.ledger.unregister(peer(0), "a", false, n.now).ok());
}

TEST(Ledger, OneUserDoesNotTakeAllOfTheNodesTenants) {
  TestNode n("[policy]\nusers_may_create = true");
  unsigned made = 0;
  while (made < 1024 &&
         enrol(n, peer(1000), record(("t" + std::to_string(made)).c_str(), 2 << 20)).ok())
    ++made;
  EXPECT_EQ(made, 128u);
  EXPECT_EQ(enrol(n, peer(1000), record("more", 2 << 20)).result, Errc::kFull);
  EXPECT_TRUE(enrol(n, peer(1001), record("others", 2 << 20)).ok());
  EXPECT_TRUE(enrol(n, peer(0), record("root", 2 << 20)).ok());
}

// The regions tell of a process once; a tenant that asks again and again would push out what matters.
TEST(Ledger, AJoinIsNoEventOfTheLedgers) {
  TestNode n;
  ASSERT_TRUE(enrol(n, peer(0), record("a", kGib)).ok());
  wire::JoinRequest q{};
  wire::put_text(q.name, "a");
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(n.ledger.join(peer(0), q, UniqueFd{::dup(0)}, n.now).ok());
  }
  EXPECT_FALSE(n.saw(wire::EventKind::kProcessJoined));
}

// D6: what the file takes from a tenant and the ledger promises to others is not left in the page.
TEST(Ledger, AGpuThatTheFileTakesAwayIsTakenAway) {
  TestNode n("[[tenant]]\nname='a'\nmemory='60GiB'");
  ASSERT_EQ(n.regions.all.at("a").record.device_count, 2u);
  n.regions.all.at("a").processes = 1;
  const char* const only_one =
      "[[tenant]]\nname='a'\nmemory='60GiB'\ndevices=['GPU-10101010-1010-1010-1010-101010101010']";
  ASSERT_EQ(n.configure(only_one), "");
  EXPECT_EQ(n.regions.all.at("a").record.devices[0].memory_bytes, 60 * kGib);
  EXPECT_EQ(n.regions.all.at("a").record.devices[1].memory_bytes, 0u);
  EXPECT_TRUE(enrol(n, peer(0), record("b", 100 * kGib, 1)).ok());
  n.regions.all.at("a").processes = 0;
  ASSERT_EQ(n.configure(only_one), "");
  EXPECT_EQ(n.regions.all.at("a").record.device_count, 1u);  // made anew
}

TEST(Ledger, ATenantOfAnotherOwnerIsMadeAnew) {
  TestNode n("[[tenant]]\nname='a'\nmemory='60GiB'\nmatch={uid=1000}");
  ASSERT_EQ(n.regions.all.at("a").record.owner_uid, 1000u);
  ASSERT_EQ(n.configure("[[tenant]]\nname='a'\nmemory='60GiB'\nmatch={uid=2000}"), "");
  EXPECT_EQ(n.regions.all.at("a").record.owner_uid, 2000u);
}

// A daemon that was killed while it made a tenant, and whose policy does not take it over.
TEST(Ledger, RootRemovesARegionThatNobodyTookOver) {
  TestNode n;
  n.regions.all["left"].record = record("left", kGib);
  EXPECT_EQ(n.ledger.unregister(peer(1000), "left", true, n.now).result, Errc::kNotFound);
  EXPECT_TRUE(n.ledger.unregister(peer(0), "left", false, n.now).ok());
  EXPECT_TRUE(n.regions.all.empty());
  EXPECT_EQ(n.ledger.unregister(peer(0), "left", false, n.now).result, Errc::kNotFound);
}

// What its own tenant has broken is made anew by rm, though the configuration declares it.
TEST(Ledger, ABrokenRegionOfAConfiguredTenantIsMadeAnewByRm) {
  TestNode n("[[tenant]]\nname='a'\nmemory='60GiB'");
  n.regions.all.at("a").left_alone = true;
  EXPECT_EQ(n.ledger.unregister(peer(1000), "a", false, n.now).result, Errc::kNotFound);
  EXPECT_TRUE(n.ledger.unregister(peer(0), "a", false, n.now).ok());
  n.later();
  ASSERT_TRUE(n.regions.all.contains("a"));
  EXPECT_FALSE(n.regions.all.at("a").left_alone);
  EXPECT_EQ(n.ledger.unregister(peer(0), "a", true, n.now).result, Errc::kInvalid);
}

TEST(Ledger, ARestartLosesNothing) {
  const char* const file = "[[tenant]]\nname='m'\nmemory='10GiB'\n[policy]\nusers_may_create=true";
  TestNode n(file);
  ASSERT_TRUE(enrol(n, peer(1000), record("a", 3 * kGib)).ok());
  ASSERT_TRUE(enrol(n, peer(1000, 4321), record("", kGib)).ok());
  ASSERT_TRUE(set(n, peer(0), "m", 5 * kGib).ok());
  n.later();
  ASSERT_FALSE(n.stored.empty());

  TestNode
      next;  // a daemon later: the regions of `m` and of the run are still there, that of `a` is not
  next.regions.all["m"].record = record("m", 10 * kGib);
  next.regions.all["run-4321-77"].record = record("run-4321-77", kGib);
  ASSERT_TRUE(next.ledger.restore(n.stored));
  EXPECT_EQ(next.configure(file), "");
  EXPECT_EQ(next.regions.all.at("m").record.devices[0].memory_bytes, 5 * kGib);
  EXPECT_EQ(next.regions.all.at("a").record.devices[0].memory_bytes, 3 * kGib);
  EXPECT_EQ(next.ledger.entries().at("a").record.owner_uid, 1000u);
  EXPECT_EQ(next.ledger.entries().at("run-4321-77").creator_pid, 4321u);
}

TEST(Ledger, ABrokenStateFileIsTakenForNothing) {
  TestNode n;
  for (const char* text : {"", "{", "[]", "{\"schema\":2,\"tenants\":[]}",
                           "{\"schema\":1,\"tenants\":[{}]}", "{\"schema\":1,\"tenants\":{}}"}) {
    EXPECT_FALSE(n.ledger.restore(text)) << text;
  }
  EXPECT_TRUE(n.ledger.restore("{\"schema\":1,\"tenants\":[]}"));
}

TEST(Adoption, WhomThePolicyAdmitsWithinHisMaxima) {
  TestNode n;
  wire::TenantRecord found = record("a", 80 * kGib);
  found.owner_uid = 1000;
  EXPECT_FALSE(n.ledger.adopt(found, n.now));  // users may not create
  ASSERT_EQ(n.configure(kUsersMay), "");
  n.regions.all["a"].record = found;
  EXPECT_TRUE(n.ledger.adopt(found, n.now));
  n.later();
  EXPECT_EQ(n.regions.all.at("a").record.devices[0].memory_bytes, 50 * kGib);
  found = record("b", 80 * kGib);
  found.owner_uid = 0;
  n.regions.all["b"].record = found;
  EXPECT_TRUE(n.ledger.adopt(
      found, n.now));  // it is there; what it has stands, and nobody else is admitted
  EXPECT_EQ(enrol(n, peer(0), record("c", kGib)).result, Errc::kFull);
}

TEST(Adoption, AForeignersShareIsWithinHisMaxima) {
  TestNode n("[policy]\nusers_may_create = true\nmax_compute = '50%'\nmax_memory = '50GiB'");
  wire::TenantRecord found = share("a", 3000);
  found.owner_uid = 1000;
  ASSERT_TRUE(n.ledger.adopt(found, n.now));
  EXPECT_EQ(n.ledger.entries().at("a").record.devices[0].compute_x100, 3000u);
  found = share("b", 0);  // all of the time
  found.owner_uid = 1000;
  ASSERT_TRUE(n.ledger.adopt(found, n.now));
  EXPECT_EQ(n.ledger.entries().at("b").record.devices[0].compute_x100, 2000u);
  EXPECT_EQ(n.ledger.promised_x100(found.devices[0].uuid), 5000u);
}

TEST(Adoption, ARecordBoundsWhatAHeaderSays) {
  TestNode n("[[tenant]]\nname='m'\nmemory='10GiB'\nmatch={uid=1000}");
  wire::TenantRecord found = record("m", 90 * kGib);
  found.owner_uid = 1001;
  EXPECT_FALSE(n.ledger.adopt(found, n.now));  // another's region under its name
  found.owner_uid = 1000;
  n.regions.all["m"].record = found;
  EXPECT_TRUE(n.ledger.adopt(found, n.now));
  n.later();
  EXPECT_EQ(n.regions.all.at("m").record.devices[0].memory_bytes, 10 * kGib);
}

TEST(Join, OnlyAProcessOfTheTenantAndWithAPidfd) {
  TestNode n(kUsersMay);
  ASSERT_TRUE(enrol(n, peer(1000), record("a", kGib)).ok());
  wire::JoinRequest q{};
  wire::begin(q, wire::Kind::kJoin, 1);
  wire::put_text(q.name, "a");
  q.pid = 1;
  q.slot = 3;
  const auto join = [&](const Peer& p, bool pidfd) {
    UniqueFd fd{pidfd ? ::open("/dev/null", O_RDONLY | O_CLOEXEC) : -1};
    return n.ledger.join(p, q, std::move(fd), n.now).result;
  };
  EXPECT_EQ(join(peer(1001), true), Errc::kUntrusted);
  EXPECT_EQ(join(peer(1000), false), Errc::kNotReady);
  EXPECT_EQ(join(peer(1000, 555), true), Errc::kOk);
  EXPECT_EQ(n.regions.calls.back(), "watch a 3 555");
  wire::put_text(q.name, "b");
  EXPECT_EQ(join(peer(1000), true), Errc::kNotFound);
}

TEST(UsersDaemon, ItsUserMayEverythingAndNobodyElse) {
  TestNode n("", 1000);
  wire::TenantRecord r = record("a", kGib);
  r.priority = wire::Priority::kLatency;
  EXPECT_TRUE(enrol(n, peer(1000), r).ok());
  EXPECT_EQ(enrol(n, peer(1001), record("b", kGib)).result, Errc::kUntrusted);
}

TEST(Ledger, TheDefaultTenantIsItsOwnersOnly) {
  TestNode n(
      "[policy]\nunmatched='default:d'\n"
      "[[tenant]]\nname='d'\nmemory='10GiB'\nmatch={uid=1000,cgroup='/jobs'}\n"
      "[[tenant]]\nname='g'\nmemory='10GiB'\nmatch={gid=3000}");
  const auto nameless = request(record("", kGib), wire::kJoinExisting);
  EXPECT_EQ(n.ledger.enrol(peer(1000), nameless, n.now, nullptr).tenant, "d");
  EXPECT_EQ(n.ledger.who(peer(1000)).tenant, "d");
  // others could not open its region: refused as if there were no default
  const Answer a = n.ledger.enrol(peer(2000), nameless, n.now, nullptr);
  EXPECT_EQ(a.result, Errc::kUntrusted);
  EXPECT_NE(a.text.find("users may not create tenants"), a.text.npos) << a.text;
  EXPECT_EQ(n.ledger.who(peer(2000)).result, Errc::kNotFound);
  EXPECT_EQ(
      n.ledger.enrol(peer(2000), request(record("d", kGib), wire::kJoinExisting), n.now, nullptr)
          .result,
      Errc::kUntrusted);
  // a match draws them in all the same: said at once, not by a program that meets error 802
  const Answer g = n.ledger.enrol(peer(3000), nameless, n.now, nullptr);
  EXPECT_EQ(g.result, Errc::kUntrusted);
  EXPECT_NE(g.text.find("only uid 0 can use"), g.text.npos) << g.text;
  EXPECT_NE(g.text.find("{uid = 3000}"), g.text.npos) << g.text;
}

}  // namespace
}  // namespace bulkhead::daemon
