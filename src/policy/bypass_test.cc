#include "policy/bypass.h"

#include <gtest/gtest.h>

namespace bulkhead::policy {
namespace {

constexpr DeviceUuid kGpu{1}, kOther{2};
constexpr std::uint64_t kMiB = 1ull << 20;

// A small world: who is on which device, and which slots there are.
struct World {
  SeenRound round{true, {}, {}};
  std::vector<BookedProcess> books;
  BypassRules rules;
  World() { rules.own_pid = 999; }

  SeenProcess& process(std::uint32_t pid, std::uint32_t uid = 1000,
                       const char* exe = "/usr/bin/x") {
    SeenProcess p;
    p.pid = pid;
    p.parent_pid = 1;
    p.uid = uid;
    p.start_ticks = pid * 10ull;
    p.exe = exe;
    p.command = "x";
    round.processes.push_back(p);
    return round.processes.back();
  }
  SeenProcess& user(std::uint32_t pid, std::uint32_t uid = 1000, const char* exe = "/usr/bin/x",
                    std::uint64_t bytes = 500 * kMiB) {
    round.uses.push_back({pid, kGpu, bytes});
    return process(pid, uid, exe);
  }
  void slot(std::uint32_t pid, std::uint64_t start, std::uint64_t bytes, const char* tenant = "a") {
    books.push_back({pid, start, tenant, {{kGpu, bytes}}});
  }
};

std::vector<Stray> reported(World& w, int rounds) {
  Bypass bypass{w.rules};
  BypassResult last;
  for (int i = 0; i < rounds; ++i) last = bypass.look(w.round, w.books);
  return last.strays;
}

TEST(Bypass, AProcessWithItsSlotIsExplained) {
  World w;
  w.user(10);
  w.slot(10, 100, 500 * kMiB);
  EXPECT_TRUE(reported(w, 9).empty());
}

TEST(Bypass, AStrangerIsFoundInTheSecondRoundOnce) {
  World w;
  w.user(10);
  Bypass bypass{w.rules};
  EXPECT_TRUE(bypass.look(w.round, w.books).changes.empty());  // it may be about to register
  const auto second = bypass.look(w.round, w.books);
  ASSERT_EQ(second.changes.size(), 1u);
  EXPECT_EQ(second.changes[0].first, StrayChange::kFound);
  EXPECT_EQ(second.changes[0].second.kind, StrayKind::kUnregistered);
  EXPECT_EQ(second.changes[0].second.process.pid, 10u);
  EXPECT_EQ(second.changes[0].second.bytes, 500 * kMiB);
  for (std::uint32_t n = 3; n < 9; ++n) {
    const auto later = bypass.look(w.round, w.books);
    EXPECT_TRUE(later.changes.empty());
    ASSERT_EQ(later.strays.size(), 1u);
    EXPECT_EQ(later.strays[0].sightings, n);
    EXPECT_TRUE(later.kill.empty());
  }
  w.round.uses.clear();
  w.round.processes.clear();
  const auto gone = bypass.look(w.round, w.books);
  ASSERT_EQ(gone.changes.size(), 1u);
  EXPECT_EQ(gone.changes[0].first, StrayChange::kGone);
  EXPECT_TRUE(gone.strays.empty());
  EXPECT_TRUE(bypass.look(w.round, w.books).changes.empty());
}

TEST(Bypass, WhoRegistersWithinTheGraceIsNeverNamed) {
  World w;
  w.user(10);
  Bypass bypass{w.rules};
  bypass.look(w.round, w.books);
  w.slot(10, 100, 500 * kMiB);
  for (int i = 0; i < 5; ++i) {
    const auto r = bypass.look(w.round, w.books);
    EXPECT_TRUE(r.changes.empty() && r.strays.empty());
  }
}

TEST(Bypass, SightingsMustBeInARow) {
  World w;
  w.user(10);
  World empty;
  Bypass bypass{w.rules};
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(bypass.look(w.round, w.books).changes.empty());
    EXPECT_TRUE(bypass.look(empty.round, empty.books).changes.empty());
  }
}

TEST(Bypass, AnotherProcessWithTheSlotsPidIsAStranger) {
  World w;
  w.user(10);
  w.slot(10, 101, 500 * kMiB);  // pid reused: the start time differs
  ASSERT_EQ(reported(w, 2).size(), 1u);
}

TEST(Bypass, AMemberOfAnotherNamespaceIsMatchedByItsStart) {
  World w;
  w.user(10).nested = true;
  w.slot(0, 100, 500 * kMiB);
  EXPECT_TRUE(reported(w, 5).empty());
  w.round.processes[0].nested = false;  // the same tick in our own namespace explains nothing
  EXPECT_EQ(reported(w, 5).size(), 1u);
  w.round.processes[0].nested = true;
  w.books[0].start_ticks = 101;
  EXPECT_EQ(reported(w, 5).size(), 1u);
}

TEST(Bypass, AServerOfAnotherUserIsOneOnlyByItsProgramAndByItsControlDaemonsWord) {
  SeenProcess p;
  p.pid = 700;
  p.uid = 1000;
  p.start_ticks = 5;
  p.exe = "/usr/bin/nvidia-cuda-mps-server";
  BypassRules rules;
  EXPECT_FALSE(is_allowed(p, rules));
  rules.mps_servers = {700};
  EXPECT_TRUE(is_allowed(p, rules));
  p.exe = "/home/u/nvidia-cuda-mps-server";
  EXPECT_FALSE(is_allowed(p, rules));
  p.exe = "/usr/bin/python3";
  EXPECT_FALSE(is_allowed(p, rules));
}

TEST(Bypass, OursAndTheVendorsServicesAreNot) {
  World w;
  w.user(999);  // the daemon itself
  w.user(20, 0, "/usr/bin/nvidia-persistenced");
  w.user(21, 0, "/usr/bin/nvidia-cuda-mps-server");
  w.user(22, 0, "/usr/sbin/nvidia-cuda-mps-control");
  EXPECT_TRUE(reported(w, 5).empty());
  w.user(23, 1000, "/usr/bin/nvidia-cuda-mps-server");         // not root's
  w.user(24, 0, "/tmp/nvidia-cuda-mps-server");                // not the vendor's path
  w.user(25, 0, "/usr/bin/nvidia-cuda-mps-server (deleted)");  // replaced under its feet
  w.user(26, 0, "/usr/bin/x/nvidia-persistenced");
  EXPECT_EQ(reported(w, 5).size(), 4u);
}

TEST(Bypass, BypassAllow) {
  World w;
  w.user(10, 1000, "/opt/dcgm");
  w.user(11, 1500);
  w.rules.allow_paths = {"/opt/dcgm"};
  w.rules.allow_uids = {1500};
  EXPECT_TRUE(reported(w, 5).empty());
  w.user(12, 1501, "");  // a path that cannot be read matches nothing
  w.rules.allow_paths.emplace_back("");
  EXPECT_EQ(reported(w, 5).size(), 1u);
}

TEST(Bypass, HoldingANodeIsAKindOfItsOwn) {
  World w;
  w.process(10).holds_node = true;
  const auto strays = reported(w, 2);
  ASSERT_EQ(strays.size(), 1u);
  EXPECT_EQ(strays[0].kind, StrayKind::kHoldsNode);
}

TEST(Bypass, MembersTheirForksAndOurProgramsMayHoldNodes) {
  World w;
  w.process(10).holds_node = true;
  w.slot(10, 100, 0);
  auto& child = w.process(11);
  child.holds_node = true;
  child.parent_pid = 10;
  w.process(12, 1000, "/usr/bin/bulkhead").holds_node = true;
  w.rules.own_programs = {"/usr/bin/bulkhead"};
  EXPECT_TRUE(reported(w, 5).empty());
  // But our program's name does not excuse memory on a device.
  w.round.uses.push_back({12, kGpu, kMiB});
  EXPECT_EQ(reported(w, 5).size(), 1u);
}

// The process in which `bulkhead run` measures the driver; a slow one.
TEST(Bypass, OurProbeIsPassedOver) {
  World w;
  w.rules.probe = {8, 77};
  w.rules.kill = w.rules.root_daemon = true;
  w.user(10).exe_id = {8, 77};
  Bypass bypass{w.rules};
  for (std::uint32_t i = 0; i < kProbeRounds; ++i) {
    const auto r = bypass.look(w.round, w.books);
    EXPECT_TRUE(r.strays.empty() && r.changes.empty() && r.kill.empty());
  }
}

TEST(Bypass, OnlyOurVeryFileIsTheProbe) {
  World w;
  w.rules.probe = {8, 77};
  w.user(10, 1000, "/usr/bin/bulkhead").exe_id = {9, 77};  // a container's file of that path
  w.user(11, 1000, "/usr/bin/bulkhead").exe_id = {8, 78};
  w.user(12, 1000, "/usr/bin/bulkhead").exe_id = {};  // cannot be read
  w.user(13, 1000, "/usr/bin/bulkhead", kProbeBytes + 1).exe_id = {8, 77};
  EXPECT_EQ(reported(w, 2).size(), 4u);
  w.rules.probe = {};  // we do not know it: nobody is
  w.user(14).exe_id = {};
  EXPECT_EQ(reported(w, 2).size(), 5u);
}

// Code that was loaded into our program, one process after another: as `again` tells, in rounds of 1,000.
std::uint32_t hidden_rounds(std::uint32_t ration) {
  BypassRules rules;
  rules.own_pid = 999;
  rules.probe = {8, 77};
  rules.probe_rounds = ration;
  Bypass bypass{rules};
  std::uint32_t hidden = 0;
  for (std::uint32_t i = 0; i < 1000; ++i) {
    World w;
    w.user(10 + i / 5).exe_id = {8, 77};
    hidden += bypass.look(w.round, w.books).strays.empty() ? 1 : 0;
  }
  return hidden;
}

TEST(Bypass, BehindTheProbeNobodyHidesForLong) {
  // its first round is anybody's grace, in 200 processes; the rest is the ration and what comes back of it
  EXPECT_LE(hidden_rounds(kProbeRounds), 200 + kProbeRounds + 1000 / kProbeRefill);
  EXPECT_EQ(hidden_rounds(1000), 1000u);  // the broken variant: without a ration it is a way around
}

TEST(Bypass, ARationIsAUidsAndComesBack) {
  World w;
  w.rules.probe = {8, 77};
  w.rules.probe_rounds = 3;
  w.user(10).exe_id = {8, 77};
  w.user(11).exe_id = {8, 77};  // two at a time use it twice as fast
  Bypass bypass{w.rules};
  bypass.look(w.round, w.books);
  bypass.look(w.round, w.books);  // one of them is a stranger from here on
  EXPECT_TRUE(bypass.look(w.round, w.books).strays.size() == 1);
  World other;
  other.user(20, 1001).exe_id = {8, 77};
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(bypass.look(other.round, other.books).strays.empty());
  World empty;
  for (std::uint32_t i = 0; i < 3 * kProbeRefill; ++i) bypass.look(empty.round, empty.books);
  for (int i = 0; i < 1; ++i) EXPECT_TRUE(bypass.look(w.round, w.books).strays.empty());
}

TEST(Bypass, OnADeviceAndHoldingItIsOneStray) {
  World w;
  w.user(10).holds_node = true;
  const auto strays = reported(w, 3);
  ASSERT_EQ(strays.size(), 1u);
  EXPECT_EQ(strays[0].kind, StrayKind::kUnregistered);
}

TEST(Bypass, DriftIsMoreThan64MiBInThreeRounds) {
  World w;
  w.user(10, 1000, "/usr/bin/x", 600 * kMiB);
  w.slot(10, 100, 536 * kMiB);
  EXPECT_TRUE(reported(w, 9).empty());  // exactly 64 MiB
  w.round.uses[0].bytes += 1;
  EXPECT_TRUE(reported(w, 2).empty());  // the sampler has not corrected it yet
  const auto strays = reported(w, 3);
  ASSERT_EQ(strays.size(), 1u);
  EXPECT_EQ(strays[0].kind, StrayKind::kDrift);
  EXPECT_EQ(strays[0].bytes, 64 * kMiB + 1);
  EXPECT_EQ(strays[0].tenant, "a");
  w.round.uses[0].bytes = 0;  // the books lead by what the driver shows later or for nobody
  EXPECT_TRUE(reported(w, 9).empty());
}

TEST(Bypass, DriftIsPerDevice) {
  World w;
  w.user(10, 1000, "/usr/bin/x", 500 * kMiB);
  w.slot(10, 100, 500 * kMiB);
  w.round.uses.push_back({10, kOther, 100 * kMiB});  // a device the tenant does not have
  const auto strays = reported(w, 3);
  ASSERT_EQ(strays.size(), 1u);
  EXPECT_EQ(strays[0].device, kOther);
}

TEST(Bypass, ARoundWithoutNvmlProvesNothing) {
  World w;
  w.user(10);
  w.rules.kill = w.rules.root_daemon = true;
  Bypass bypass{w.rules};
  bypass.look(w.round, w.books);
  bypass.look(w.round, w.books);
  SeenRound blind;
  const auto r = bypass.look(blind, w.books);
  EXPECT_TRUE(r.changes.empty() && r.kill.empty());
  EXPECT_EQ(r.strays.size(), 1u);                           // not gone
  EXPECT_TRUE(bypass.look(w.round, w.books).kill.empty());  // and no third sighting in a row
  EXPECT_TRUE(bypass.look(w.round, w.books).kill.empty());
  EXPECT_EQ(bypass.look(w.round, w.books).kill.size(), 1u);
}

TEST(Bypass, KillsOnlyOnTheThirdSighting) {
  World w;
  w.user(10);
  w.round.uses.push_back({10, kOther, kMiB});
  w.rules.kill = w.rules.root_daemon = true;
  Bypass bypass{w.rules};
  EXPECT_TRUE(bypass.look(w.round, w.books).kill.empty());
  EXPECT_TRUE(bypass.look(w.round, w.books).kill.empty());
  const auto third = bypass.look(w.round, w.books);
  ASSERT_EQ(third.kill.size(), 1u);  // once, though it is on two devices
  EXPECT_EQ(third.kill[0].pid, 10u);
}

TEST(Bypass, WhoIsNeverKilled) {
  World w;
  w.rules.allow_paths = {"/opt/dcgm"};
  w.rules.allow_uids = {1500};
  w.rules.kill = w.rules.root_daemon = true;
  w.user(10, 0);  // root's
  w.user(11, 0, "/usr/bin/nvidia-cuda-mps-server");
  w.user(12, 1000, "/opt/dcgm");
  w.user(13, 1500);
  w.user(999);                                 // ourselves
  w.user(1, 1000);                             // init
  w.user(14, 0xffff'ffff);                     // nobody knows whose
  w.user(15).start_ticks = 0;                  // nor since when
  w.process(16).holds_node = true;             // a monitor
  w.user(17, 1000, "/usr/bin/x", 600 * kMiB);  // a tenant's that drifts
  w.slot(17, 170, 0);
  Bypass bypass{w.rules};
  for (int i = 0; i < 9; ++i) EXPECT_TRUE(bypass.look(w.round, w.books).kill.empty());
}

TEST(Bypass, NeverKillsUnlessToldToAndRoot) {
  for (const auto& [kill, root] : {std::pair{false, false}, {true, false}, {false, true}}) {
    World w;
    w.user(10);
    w.rules.kill = kill;
    w.rules.root_daemon = root;
    Bypass bypass{w.rules};
    for (int i = 0; i < 9; ++i) EXPECT_TRUE(bypass.look(w.round, w.books).kill.empty());
  }
}

}  // namespace
}  // namespace bulkhead::policy
