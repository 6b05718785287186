#include "shm/node.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "shm/dir.h"
#include "shm/test_region.h"

namespace bulkhead::shm {
namespace {

TEST(Node, Limits) {
  std::vector<char> bytes(sizeof(NodePage));
  auto* page = new (bytes.data()) NodePage;
  EXPECT_EQ(check_node(*page).code(), Errc::kNotReady);
  format_node(*page, 0);
  EXPECT_TRUE(check_node(*page).ok());
  const std::uint8_t gpu[kUuidBytes] = {1}, other[kUuidBytes] = {2};
  EXPECT_EQ(node_limit(*page, "a", gpu).status().code(), Errc::kNotFound);
  ASSERT_TRUE(set_node_limit(*page, "a", gpu, 5).ok());
  ASSERT_TRUE(set_node_limit(*page, "b", gpu, 6).ok());
  ASSERT_TRUE(set_node_limit(*page, "a", gpu, 7).ok());
  EXPECT_EQ(*node_limit(*page, "a", gpu), 7u);
  EXPECT_EQ(*node_limit(*page, "b", gpu), 6u);
  EXPECT_EQ(node_limit(*page, "a", other).status().code(), Errc::kNotFound);
  page->tenants[0].version.store(3);
  EXPECT_EQ(node_limit(*page, "a", gpu).status().code(), Errc::kNotReady);
  page->tenant_count.store(~0u);
  EXPECT_EQ(node_limit(*page, "zzz", gpu).status().code(), Errc::kNotFound);
  EXPECT_EQ(set_node_limit(*page, "../x", gpu, 1).code(), Errc::kInvalid);
}

// A page's bytes; a writer that died is an odd version and what else it had not got to.
struct PageInMemory {
  std::vector<char> bytes = std::vector<char>(sizeof(NodePage));
  NodePage& page = *new (bytes.data()) NodePage;
  const std::uint8_t gpu[kUuidBytes] = {1};
  PageInMemory() { format_node(page, 0); }
};

TEST(Node, AnEntryIsUsedAgain) {
  PageInMemory m;
  ASSERT_TRUE(set_node_limit(m.page, "a", m.gpu, 5).ok());
  ASSERT_TRUE(set_node_limit(m.page, "b", m.gpu, 6).ok());
  ASSERT_TRUE(set_node_partners(m.page, "b", {1}).ok());
  EXPECT_TRUE(remove_node_tenant(m.page, "a"));
  std::uint16_t partners[kMaxPartners] = {9};
  ASSERT_TRUE(node_partners(m.page, 1, partners));
  EXPECT_EQ(partners[0], 0u);  // whoever gets the entry is not b's partner
  EXPECT_FALSE(remove_node_tenant(m.page, "a"));
  EXPECT_EQ(node_limit(m.page, "a", m.gpu).status().code(), Errc::kNotFound);
  ASSERT_TRUE(set_node_limit(m.page, "c", m.gpu, 7).ok());
  EXPECT_EQ(m.page.tenant_count.load(), 2u);
  EXPECT_EQ(*node_limit(m.page, "b", m.gpu), 6u);
  EXPECT_EQ(*node_limit(m.page, "c", m.gpu), 7u);
  for (unsigned i = 0; i < 3 * kMaxTenants; ++i) {  // one after the other: never full
    const std::string name = "run-" + std::to_string(i);
    ASSERT_TRUE(set_node_limit(m.page, name.c_str(), m.gpu, i).ok()) << i;
    EXPECT_TRUE(remove_node_tenant(m.page, name.c_str()));
  }
}

TEST(Node, WhatADeadWriterLeftIsRepaired) {
  PageInMemory m;
  for (const char* name : {"a", "b", "c"}) ASSERT_TRUE(set_node_limit(m.page, name, m.gpu, 5).ok());
  m.page.tenants[0].version.fetch_add(1);  // died after the limit
  m.page.tenants[1].version.fetch_add(1);  // died over a new name
  m.page.tenants[1].device_count.store(0);
  m.page.tenants[2].device_count.store(99);  // no writer of ours does that
  repair_node(m.page);
  EXPECT_EQ(*node_limit(m.page, "a", m.gpu), 5u);
  EXPECT_EQ(node_limit(m.page, "b", m.gpu).status().code(), Errc::kNotFound);
  EXPECT_EQ(node_limit(m.page, "c", m.gpu).status().code(), Errc::kNotFound);
  EXPECT_TRUE(set_node_limit(m.page, "d", m.gpu, 8).ok());
  EXPECT_EQ(*node_limit(m.page, "d", m.gpu), 8u);
  EXPECT_EQ(m.page.tenant_count.load(), 3u);
}

// A directory with a page that rules in it, and a region of two GPUs whose UUIDs begin with 1 and 2.
class ApplyNode : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/bulkhead-node-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    root_ = name;
    format_node(page(), 0);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  NodePage& page() { return *reinterpret_cast<NodePage*>(bytes_.data()); }
  Result<std::uint32_t> apply() {
    std::filesystem::remove(root_ + "/node");
    std::ofstream{root_ + "/node", std::ios::binary}.write(
        bytes_.data(), static_cast<std::streamsize>(bytes_.size()));
    std::filesystem::permissions(root_ + "/node", std::filesystem::perms{0444});
    DirOptions o;
    o.root_dir = root_.c_str();
    o.root_uid = o.euid = ::geteuid();
    Result<Dir> dir = open_dir(o);
    EXPECT_TRUE(dir.ok() && dir->authoritative);
    return apply_node(*dir, *region_, 2, "test");
  }
  static constexpr std::uint8_t kFirst[kUuidBytes] = {1}, kSecond[kUuidBytes] = {2};
  std::vector<char> bytes_ = std::vector<char>(sizeof(NodePage));
  std::string root_;
  TestRegion region_{100, 2};
};

TEST_F(ApplyNode, LowersAndNeverRaises) {
  ASSERT_TRUE(set_node_limit(page(), "test", kFirst, 60 * kTestUnit).ok());
  ASSERT_TRUE(set_node_limit(page(), "test", kSecond, 900 * kTestUnit).ok());
  EXPECT_EQ(*apply(), 3u);
  EXPECT_EQ(limit_bytes(*region_, 0), 60 * kTestUnit);
  EXPECT_EQ(limit_bytes(*region_, 1), 100 * kTestUnit) << "the tenant asked for less";
  region_.open_slots(1);
  EXPECT_FALSE(take(*region_, 0, 61));
  EXPECT_TRUE(take(*region_, 0, 60));
}

TEST_F(ApplyNode, GrantsNothingThatItDoesNotName) {
  EXPECT_EQ(*apply(), 0u) << "another tenant's page";
  ASSERT_TRUE(set_node_limit(page(), "test", kSecond, 900 * kTestUnit).ok());
  EXPECT_EQ(*apply(), 2u);
}

TEST_F(ApplyNode, ADamagedPageIsAnError) {
  page().major = 9;
  EXPECT_EQ(apply().status().code(), Errc::kBadVersion);
}

TEST_F(ApplyNode, WithoutAuthorityEverythingIsGranted) {
  EXPECT_EQ(*apply_node(Dir{}, *region_, 2, "test"), ~0u);
  EXPECT_EQ(limit_bytes(*region_, 0), 100 * kTestUnit);
}

}  // namespace
}  // namespace bulkhead::shm
