// How the ledger has shares enforced: docs/spatial.md.
#include <gtest/gtest.h>

#include "daemon/test_node.h"

namespace bulkhead::daemon {
namespace {

wire::TenantRecord share(const char* name, std::uint32_t x100, std::uint32_t flags = 0) {
  wire::TenantRecord r = record(name, kGib);
  r.devices[0].compute_x100 = x100;
  r.flags = flags;
  return r;
}

Answer enrol(TestNode& n, const Peer& p, const wire::TenantRecord& r, std::uint32_t flags = 0) {
  return n.ledger.enrol(p, request(r, flags), n.now, nullptr);
}

constexpr const char* kWithMps = "[mps]\nenabled = true\ngroups = ['g']\n";

// The first GPU was seen to obey percentages.
void tested(TestNode& n, const char* config = kWithMps) {
  const auto c = parse_config(config, "f.toml");
  ASSERT_TRUE(c.ok());
  ModeFacts facts;
  facts.rules = {c.value->mps_enabled, c.value->mps_groups, c.value->mps_partition_groups};
  facts.verdict = [](const std::uint8_t* uuid) {
    shm::Verdict v;
    if (uuid[0] != 0x10) return v;
    v.spatial = v.partitions = shm::Seen::kWorks;
    v.sms = 132, v.sm_unit = 2, v.chunks = 16, v.chunk_sms = 8;
    return v;
  };
  n.ledger.set_mode_facts(std::move(facts));
}

wire::TenantRecord grouped(const char* name, std::uint32_t x100, wire::ComputeMode mode) {
  wire::TenantRecord r = share(name, x100);
  r.compute_mode = mode;
  wire::put_text(r.mps_group, "g");
  return r;
}

TEST(Ledger, AModeThatCannotBeIsRefusedInOneLine) {
  TestNode n;
  for (const auto mode : {wire::ComputeMode::kSpatial, wire::ComputeMode::kSlice}) {
    wire::TenantRecord r = share("a", 2500);
    r.compute_mode = mode;
    const Answer a = enrol(n, peer(0), r);
    EXPECT_EQ(a.result, Errc::kInvalid);
    EXPECT_NE(a.text.find("or use auto or temporal"), a.text.npos) << a.text;
    EXPECT_EQ(a.text.find('\n'), a.text.npos);
  }
  tested(n);
  const Answer small = enrol(n, peer(0), grouped("s", 100, wire::ComputeMode::kSpatial));
  EXPECT_NE(small.text.find("ask for at least 1.52%"), small.text.npos) << small.text;
}

TEST(Ledger, ThePageSaysWhichModeIsInForce) {
  TestNode n;
  tested(n);
  ASSERT_TRUE(enrol(n, peer(0), grouped("a", 2500, wire::ComputeMode::kAuto)).ok());
  ASSERT_TRUE(enrol(n, peer(0), grouped("b", 2500, wire::ComputeMode::kTemporal)).ok());
  ASSERT_TRUE(enrol(n, peer(0), share("c", 2500)).ok());
  EXPECT_EQ(n.regions.all["a"].enforcer, shm::kTenantSpatial);
  EXPECT_EQ(n.regions.all["a"].mps_group, "g");
  EXPECT_EQ(n.regions.all["b"].enforcer, 0u);
  EXPECT_EQ(n.regions.all["b"].mps_group, "") << "no group where there is no MPS";
  EXPECT_EQ(n.regions.all["c"].enforcer, 0u);
  n.ledger.set_mode_facts({});  // the operator takes MPS away: time holds them from the next turn
  n.later();
  EXPECT_EQ(n.regions.all["a"].enforcer, 0u);
}

TEST(Ledger, APartitionIsInThePageWithItsGroup) {
  TestNode n;
  tested(n, "[mps]\nenabled = true\ngroups = ['g']\npartition_groups = ['g']\n");
  ASSERT_TRUE(enrol(n, peer(0), grouped("a", 2500, wire::ComputeMode::kPartition)).ok());
  ASSERT_TRUE(enrol(n, peer(0), grouped("b", 2500, wire::ComputeMode::kAuto)).ok());
  for (const char* name : {"a", "b"}) {
    EXPECT_EQ(n.regions.all[name].enforcer, shm::kTenantPartition);
    EXPECT_EQ(n.regions.all[name].mps_group, "g");
  }
  const Answer small = enrol(n, peer(0), grouped("s", 600, wire::ComputeMode::kPartition));
  EXPECT_NE(small.text.find("ask for at least 6.25%"), small.text.npos) << small.text;
  const Answer set = n.ledger.update(peer(0), share("a", 1250), wire::kSetCompute, n.now);
  ASSERT_TRUE(set.ok()) << set.text;
  EXPECT_NE(set.text.find("changed when no process of it runs"), set.text.npos) << set.text;
  tested(n);  // no longer a group of partitions
  n.later();
  EXPECT_EQ(n.regions.all["a"].enforcer, 0u);
  EXPECT_EQ(n.regions.all["b"].enforcer, shm::kTenantSpatial) << "auto takes what is left";
}

TEST(Ledger, ASpatialShareThatIsSetSaysThatItReachesNewProcesses) {
  TestNode n;
  tested(n);
  ASSERT_TRUE(enrol(n, peer(0), grouped("a", 2500, wire::ComputeMode::kSpatial)).ok());
  const Answer a = n.ledger.update(peer(0), share("a", 1250), wire::kSetCompute, n.now);
  ASSERT_TRUE(a.ok()) << a.text;
  EXPECT_NE(a.text.find("processes that run keep"), a.text.npos) << a.text;
  const Answer small = n.ledger.update(peer(0), share("a", 100), wire::kSetCompute, n.now);
  EXPECT_EQ(small.result, Errc::kInvalid);
  EXPECT_NE(small.text.find("at least 1.52%"), small.text.npos) << small.text;
  EXPECT_EQ(n.ledger.entries().at("a").record.devices[0].compute_x100, 1250u);
}

}  // namespace
}  // namespace bulkhead::daemon
