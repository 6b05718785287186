#include "shm/compute.h"

#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <new>
#include <thread>
#include <vector>

#include "shm/audit_totals.h"
#include "shm/test_directory.h"
#include "shm/test_region.h"

namespace bulkhead::shm {
namespace {

constexpr std::uint8_t kGpu[kUuidBytes] = {1};

ComputeRules hard(std::uint32_t x100) {
  ComputeRules r;
  r.floor_x100 = r.ceiling_x100 = x100;
  return r;
}

class Compute : public testing::Test {
 protected:
  Compute() { format_node(page(), 0); }
  NodePage& page() { return *reinterpret_cast<NodePage*>(bytes_.data()); }
  std::vector<char> bytes_ = std::vector<char>(sizeof(NodePage));
  TestRegion region_{100, 1};  // its device's UUID begins with 1
};

TEST_F(Compute, WithoutRulesThereIsNoLimit) {
  EXPECT_FALSE(region_compute(*region_, 0).limited());
  EXPECT_FALSE(compute_rules(*region_, 0, nullptr, "test")->limited());
  EXPECT_FALSE(compute_rules(*region_, 0, &page(), "test")->limited());
  ASSERT_TRUE(set_node_limit(page(), "test", kGpu, 5).ok());
  EXPECT_FALSE(compute_rules(*region_, 0, &page(), "test")->limited());
}

TEST_F(Compute, TheLineIsReadAsItWasWrittenAndRaisesRules) {
  ComputeRules r{2500, 8000, 7000, 3000, 900};
  const std::uint32_t before = region_->compute[0].rules.load();
  set_compute(*region_, 0, r);
  EXPECT_EQ(region_->compute[0].rules.load(), before + 1);
  EXPECT_EQ(region_compute(*region_, 0), r);
  EXPECT_TRUE(region_compute(*region_, 0).borrows());
  EXPECT_EQ(region_->compute[0].flags.load(), std::uint32_t{kComputeBorrow});
  set_compute(*region_, 0, hard(1000));
  EXPECT_EQ(region_compute(*region_, 0), hard(1000));
  EXPECT_EQ(region_->compute[0].flags.load(), 0u);
  set_compute(*region_, 0, ComputeRules{});
  EXPECT_FALSE(region_compute(*region_, 0).limited());
}

// A process's own words are further to the tenant's, of the device that its slot names, for good.
TEST_F(Compute, SumsAreThoseOfTheTenantAndOfAllSlots) {
  TestRegion two{100, 2};
  Region& r = *two;
  r.header.slots_high.store(3);
  const auto move = [&r](unsigned s, unsigned direction, std::uint64_t bytes) {
    add_alone(r.slots[s].own_moved[direction], bytes);
    count_alone(r.slots[s].own_copies);
  };
  r.compute[0].moved_bytes[1].store(5);
  r.compute[0].stream_ops[kCopyOps].store(1);
  ASSERT_TRUE(own_counts_for(r.slots[0], 0));
  ASSERT_TRUE(own_counts_for(r.slots[2], 1));
  move(0, 1, 100);
  move(0, 4, 7);
  move(2, 1, 1000);
  EXPECT_EQ(compute_sums(r, 0).moved_bytes[1], 105u);
  EXPECT_EQ(compute_sums(r, 0).moved_bytes[4], 7u);
  EXPECT_EQ(compute_sums(r, 0).copied_bytes, 112u);
  EXPECT_EQ(compute_sums(r, 0).stream_ops[kCopyOps], 3u);
  EXPECT_EQ(compute_sums(r, 1).moved_bytes[1], 1000u);
  // the slot's next owner counts for the same device, one later for another: that one not here
  EXPECT_TRUE(own_counts_for(r.slots[0], 0));
  move(0, 1, 1);
  EXPECT_EQ(compute_sums(r, 0).moved_bytes[1], 106u);
  EXPECT_FALSE(own_counts_for(r.slots[0], 1));
  EXPECT_EQ(compute_sums(r, 0).moved_bytes[1], 106u);
  EXPECT_EQ(compute_sums(r, 0).stream_ops[kCopyOps], 4u);
  EXPECT_EQ(compute_sums(r, 1).moved_bytes[1], 1000u);
  std::uint64_t all[kCopyDirections] = {};
  moved_bytes(r, all);
  EXPECT_EQ(all[1], 1106u);
  EXPECT_EQ(all[4], 7u);
  // beyond the highest slot there is nobody, and a device that cannot be names none
  r.slots[3].own_device.store(1);
  add_alone(r.slots[3].own_moved[0], 9);
  EXPECT_EQ(compute_sums(r, 0).moved_bytes[0], 0u);
  r.slots[1].own_device.store(~0u);
  EXPECT_TRUE(own_counts_for(r.slots[1], 0));
  EXPECT_EQ(r.slots[1].own_device.load(), 1u);
}

TEST_F(Compute, AuditedCallsAreThoseOfTheTenantAndOfAllSlots) {
  unsigned classes = 0;
  for (unsigned c = 0; c < kMapClass; ++c) {
    if (own_audited(c) == kOwnAudited) continue;
    ++classes;
    EXPECT_EQ(kClassOfOwn[own_audited(c)], c);
  }
  EXPECT_EQ(classes, kOwnAudited);
  Region& r = *region_;
  r.header.slots_high.store(2);
  r.header.audit.classes[2].calls.store(3);
  r.header.audit.classes[2].bytes.store(30);
  for (unsigned s = 0; s < 3; ++s) {  // the last is nobody's
    r.slots[s].own_audited_calls[1].store(10);
    r.slots[s].own_audited_bytes[1].store(100);
  }
  AuditTotals t;
  read_audit_counts(r, t);
  EXPECT_EQ(t.classes[2].calls, 23u);
  EXPECT_EQ(t.classes[2].bytes, 230u);
  EXPECT_EQ(t.sum().calls, 23u);
}

TEST_F(Compute, WhoWaitsOnTheRulesIsWoken) {
  std::atomic<bool> woken{false};
  std::thread waiter{[&] {
    // a waiter that comes late sees the word changed and does not sleep at all
    while (region_->compute[0].rules.load() == 0)
      ::syscall(SYS_futex, &region_->compute[0].rules, FUTEX_WAIT, 0, nullptr, nullptr, 0);
    woken = true;
  }};
  set_compute(*region_, 0, hard(1000));
  waiter.join();  // else the test's own watchdog ends it
  EXPECT_TRUE(woken);
}

TEST_F(Compute, WhatIsScribbledComesOutInRange) {
  ComputeEntry& e = region_->compute[0];
  for (auto* word : {&e.floor_x100, &e.ceiling_x100, &e.burst_us, &e.window_us, &e.dampening_x1000,
                     &e.flags, &e.rules}) {
    word->store(~0u);
  }
  ComputeRules r = region_compute(*region_, 0);
  EXPECT_EQ(r.floor_x100, 10'000u);
  EXPECT_EQ(r.ceiling_x100, 10'000u);
  EXPECT_EQ(r.burst_us, kMostPace_us);
  EXPECT_EQ(r.dampening_x1000, 1000u);
  e.floor_x100.store(500), e.ceiling_x100.store(3), e.dampening_x1000.store(0);
  r = region_compute(*region_, 0);
  EXPECT_EQ(r.ceiling_x100, 500u) << "a ceiling below its floor is the floor";
  EXPECT_EQ(r.dampening_x1000, kDampening_x1000);
}

// A tenant can write its own region's line: whatever stands there, it gets no more than the page promises.
TEST_F(Compute, WhoScribblesOnItsOwnRegionGainsNothing) {
  ASSERT_TRUE(set_node_limit(page(), "test", kGpu, 5).ok());
  const ComputeRules promised{2500, 5000, 4000, 2000, 1000};
  ASSERT_TRUE(set_node_compute(page(), "test", kGpu, promised).ok());
  set_compute(*region_, 0, promised);
  EXPECT_EQ(*compute_rules(*region_, 0, &page(), "test"), promised);
  ComputeEntry& e = region_->compute[0];
  e.floor_x100.store(0);  // "no limit"
  EXPECT_EQ(*compute_rules(*region_, 0, &page(), "test"), promised);
  e.floor_x100.store(9000), e.ceiling_x100.store(10'000), e.burst_us.store(~0u),
      e.window_us.store(~0u), e.flags.store(~0u);
  EXPECT_EQ(*compute_rules(*region_, 0, &page(), "test"), promised);
  e.floor_x100.store(1000), e.flags.store(0), e.burst_us.store(10);  // less: it may
  const ComputeRules less = *compute_rules(*region_, 0, &page(), "test");
  EXPECT_EQ(less.floor_x100, 1000u);
  EXPECT_EQ(less.ceiling_x100, 1000u);
  EXPECT_EQ(less.burst_us, 10u);
  EXPECT_EQ(less.window_us, 2000u);
}

TEST_F(Compute, ThePageOfAnotherTenantOrDeviceBindsNothing) {
  const std::uint8_t other[kUuidBytes] = {2};
  ASSERT_TRUE(set_node_limit(page(), "a", kGpu, 5).ok());
  ASSERT_TRUE(set_node_compute(page(), "a", kGpu, hard(100)).ok());
  EXPECT_EQ(set_node_compute(page(), "a", other, hard(100)).code(), Errc::kNotFound);
  EXPECT_EQ(set_node_compute(page(), "b", kGpu, hard(100)).code(), Errc::kNotFound);
  set_compute(*region_, 0, hard(2500));
  EXPECT_EQ(*compute_rules(*region_, 0, &page(), "test"), hard(2500));
  EXPECT_EQ(node_compute(page(), "a", kGpu)->floor_x100, 100u);
}

// The entry of a tenant that is gone is another's: its share must not stay in it.
TEST_F(Compute, ANewTenantDoesNotInheritAShare) {
  ASSERT_TRUE(set_node_limit(page(), "a", kGpu, 5).ok());
  ASSERT_TRUE(set_node_compute(page(), "a", kGpu, hard(100)).ok());
  ASSERT_TRUE(remove_node_tenant(page(), "a"));
  ASSERT_TRUE(set_node_limit(page(), "b", kGpu, 5).ok());
  EXPECT_FALSE(node_compute(page(), "b", kGpu)->limited());
}

TEST_F(Compute, APageThatIsBeingWrittenIsNotReady) {
  ASSERT_TRUE(set_node_limit(page(), "test", kGpu, 5).ok());
  page().tenants[0].version.fetch_add(1);
  EXPECT_EQ(compute_rules(*region_, 0, &page(), "test").status().code(), Errc::kNotReady);
}

TEST(ComputeFigures, Delivered) {
  EXPECT_EQ(delivered_x100(1000, 251'000, 1'000'000), 2500u);
  EXPECT_EQ(delivered_x100(5, 4, 1'000'000), 0u) << "a sum that fell";
  EXPECT_EQ(delivered_x100(0, ~0ull, 1), 10'000u);
  EXPECT_EQ(delivered_x100(0, 5, 0), 0u);
}

TEST_F(TenantTest, SharesAreSummedUnderTheSameLock) {
  const Dir d = dir();
  TenantSpec a = spec("a", kGiB);
  a.devices[0].compute = hard(7000);
  ASSERT_TRUE(create(d, a).ok());
  EXPECT_EQ(region_compute(snapshot_tenant(d, "a")->region(), 0), hard(7000));
  TenantSpec b = spec("b", kGiB);
  b.devices[0].compute = hard(3001);
  Arithmetic sums;
  EXPECT_EQ(create_tenant(d, b, sums).code(), Errc::kTooLarge);
  EXPECT_TRUE(sums.of_compute);
  EXPECT_EQ(sums.committed_x100, 7000u);
  EXPECT_EQ(sums.asked_x100, 3001u);
  EXPECT_EQ(names(d), std::vector<std::string>{"a"});
  b.devices[0].compute = ComputeRules{3000, 10'000};  // a floor that borrows counts as its floor
  EXPECT_TRUE(create(d, b).ok());
  EXPECT_TRUE(create(d, spec("free", kGiB)).ok()) << "no limit promises nothing";
  TenantSpec other = spec("other", kGiB, 2);
  other.devices[0].compute = hard(10'000);
  EXPECT_TRUE(create(d, other).ok()) << "another device";
  TenantSpec over = spec("over", kGiB);
  over.devices[0].compute = hard(5000);
  over.overcommit = true;
  EXPECT_TRUE(create(d, over).ok());
}

TEST_F(TenantTest, ASetShareIsSummedOnlyIfItRises) {
  const Dir d = dir();
  for (const char* name : {"a", "b"}) {
    TenantSpec s = spec(name, kGiB);
    s.devices[0].compute = hard(5000);
    ASSERT_TRUE(create(d, s).ok());
  }
  Arithmetic sums;
  DeviceSpec want = spec("a", 0).devices[0];
  want.compute = hard(6000);
  EXPECT_EQ(set_shares(d, "a", &want, 1, false, sums).code(), Errc::kTooLarge);
  EXPECT_EQ(sums.committed_x100, 5000u);
  EXPECT_EQ(region_compute(snapshot_tenant(d, "a")->region(), 0), hard(5000));
  want.compute = hard(4000);
  ASSERT_TRUE(set_shares(d, "a", &want, 1, false, sums).ok());
  EXPECT_EQ(region_compute(snapshot_tenant(d, "a")->region(), 0), hard(4000));
  EXPECT_EQ(limit_bytes(snapshot_tenant(d, "a")->region(), 0), kGiB) << "memory is another matter";
  want.compute = hard(6000);
  EXPECT_TRUE(set_shares(d, "a", &want, 1, true, sums).ok()) << "overcommitted";
  want.compute = ComputeRules{};
  EXPECT_TRUE(set_shares(d, "a", &want, 1, false, sums).ok()) << "no limit promises nothing";
  want.uuid[0] = 9;
  EXPECT_EQ(set_shares(d, "a", &want, 1, false, sums).code(), Errc::kNotFound);
}

}  // namespace
}  // namespace bulkhead::shm
