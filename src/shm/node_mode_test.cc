#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "shm/node.h"

namespace bulkhead::shm {
namespace {

constexpr std::uint8_t kGpu[kUuidBytes] = {1, 2, 3}, kOther[kUuidBytes] = {9};

std::unique_ptr<NodePage> page_of(const char* name) {
  auto page = std::make_unique<NodePage>();
  format_node(*page, 0);
  EXPECT_TRUE(set_node_limit(*page, name, kGpu, 1 << 21).ok());
  return page;
}

TEST(NodeMode, AnEntryHasNoModeUntilItIsSet) {
  auto page = page_of("a");
  const auto none = node_mode(*page, "a");
  ASSERT_TRUE(none.ok());
  EXPECT_EQ(none->flags, 0u);
  EXPECT_STREQ(none->mps_group, "");
  ASSERT_TRUE(set_node_mode(*page, "a", kTenantSpatial, "serving").ok());
  EXPECT_EQ(node_mode(*page, "a")->flags, kTenantSpatial);
  EXPECT_STREQ(node_mode(*page, "a")->mps_group, "serving");
  ASSERT_TRUE(set_node_mode(*page, "a", kTenantPartition, "fenced").ok());
  EXPECT_EQ(node_mode(*page, "a")->flags, kTenantPartition);
  EXPECT_EQ(node_mode(*page, "b").status().code(), Errc::kNotFound);
  EXPECT_EQ(set_node_mode(*page, "b", 0, "").code(), Errc::kNotFound);
}

TEST(NodeMode, AnEntryThatIsUsedAgainHasNotTheModeOfWhoHadIt) {
  auto page = page_of("a");
  ASSERT_TRUE(set_node_mode(*page, "a", kTenantSpatial, "serving").ok());
  ASSERT_TRUE(remove_node_tenant(*page, "a"));
  ASSERT_TRUE(set_node_limit(*page, "b", kGpu, 1 << 21).ok());
  EXPECT_EQ(node_index(*page, "b"), 0u);
  EXPECT_EQ(node_mode(*page, "b")->flags, 0u);
  EXPECT_STREQ(node_mode(*page, "b")->mps_group, "");
}

TEST(NodeMode, AnEntryThatIsBeingWrittenIsNotRead) {
  auto page = page_of("a");
  page->tenants[0].version.fetch_or(1);
  EXPECT_EQ(node_mode(*page, "a").status().code(), Errc::kNotReady);
}

TEST(NodeVerdicts, AreUnknownUntilSetAndOfTheirGpu) {
  auto page = page_of("a");
  EXPECT_EQ(node_verdict(*page, kGpu), Verdict{});
  Verdict v;
  v.spatial = Seen::kWorks;
  v.slice = Seen::kNo;
  v.sms = 132;
  v.sm_unit = 2;
  v.sm_least = 8;
  v.partitions = Seen::kWorks;
  v.chunks = 16;
  v.chunk_sms = 8;
  v.tested_unix_s = 1'700'000'000;
  ASSERT_TRUE(set_node_verdict(*page, kGpu, "580.159.04", v).ok());
  EXPECT_EQ(node_verdict(*page, kGpu), v);
  EXPECT_EQ(node_verdict(*page, kOther), Verdict{});
  Verdict w = v;
  w.spatial = Seen::kNo;
  ASSERT_TRUE(set_node_verdict(*page, kOther, "580.159.04", w).ok());
  EXPECT_EQ(node_verdict(*page, kGpu), v);
  EXPECT_EQ(node_verdict(*page, kOther), w);
  ASSERT_TRUE(set_node_verdict(*page, kGpu, "590.1", Verdict{}).ok());  // another driver: unknown
  EXPECT_EQ(node_verdict(*page, kGpu).spatial, Seen::kUnknown);
}

TEST(NodeVerdicts, ThereIsRoomFor64) {
  auto page = page_of("a");
  Verdict v;
  v.spatial = Seen::kWorks;
  for (unsigned i = 0; i < kMaxVerdicts; ++i) {
    const std::uint8_t uuid[kUuidBytes] = {static_cast<std::uint8_t>(i + 1), 7};
    ASSERT_TRUE(set_node_verdict(*page, uuid, "1", v).ok());
  }
  const std::uint8_t more[kUuidBytes] = {200};
  EXPECT_EQ(set_node_verdict(*page, more, "1", v).code(), Errc::kFull);
  const std::uint8_t last[kUuidBytes] = {kMaxVerdicts, 7};
  EXPECT_EQ(node_verdict(*page, last).spatial, Seen::kWorks);
}

}  // namespace
}  // namespace bulkhead::shm
