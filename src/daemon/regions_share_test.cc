// Shares of a device's time in region, page and view.
#include <sys/mman.h>

#include "daemon/test_daemon.h"
#include "shm/beacon.h"

namespace bulkhead::daemon {
namespace {

using wire::EventKind;
constexpr std::uint64_t kLimit = 64 * kMiB;
class ShareTest : public RegionsTest {};
constexpr shm::ComputeRules kQuarter{2500, 2500};

wire::TenantRecord with_share(const char* name) {
  wire::TenantRecord r = record_of(name, kLimit);
  r.devices[0].compute_x100 = 2500;
  return r;
}

TEST_F(ShareTest, ASharePassesThroughRegionAndPage) {
  ASSERT_TRUE(regions_->make(with_share("a")).ok());
  const auto in_file = [&] {
    return shm::region_compute(shm::snapshot_tenant(d_, "a")->region(), 0);
  };
  const auto in_page = [&] {
    auto page = shm::map_node(d_);
    const std::uint8_t uuid[shm::kUuidBytes] = {1};
    return *shm::node_compute(*page->as<const shm::NodePage>(), "a", uuid);
  };
  EXPECT_EQ(in_file(), kQuarter);
  EXPECT_EQ(in_page(), kQuarter);
  EXPECT_EQ(view("a").devices[0].compute_x100, 2500u);
  const Mapping map = own_region("a");
  const std::uint32_t before = map.as<shm::Region>()->compute[0].rules.load();
  const shm::ComputeRules other{1000, 8000, 7000, 100, 900};
  ASSERT_TRUE(regions_->set_compute("a", uuid_, other).ok());
  EXPECT_EQ(in_file(), other);
  EXPECT_EQ(in_page(), other);
  EXPECT_EQ(map.as<shm::Region>()->compute[0].rules.load(), before + 1);
  ASSERT_TRUE(regions_->set_compute("a", uuid_, other).ok());
  EXPECT_EQ(map.as<shm::Region>()->compute[0].rules.load(), before + 1) << "nothing changed";
  restart();  // the page and the region speak for it
  ASSERT_EQ(found_.size(), 1u);
  EXPECT_EQ(found_[0].devices[0].compute_x100, 1000u);
  EXPECT_EQ(found_[0].devices[0].ceiling_x100, 8000u);
  EXPECT_EQ(found_[0].burst_us, 7000u);
  EXPECT_EQ(in_page(), other);
  ASSERT_TRUE(regions_->set_compute("a", uuid_, shm::ComputeRules{}).ok());
  EXPECT_FALSE(in_file().limited());
  EXPECT_FALSE(in_page().limited());
  const std::uint8_t none[shm::kUuidBytes] = {7};
  EXPECT_EQ(regions_->set_compute("a", none, other).code(), Errc::kNotFound);
  EXPECT_EQ(regions_->set_compute("b", uuid_, other).code(), Errc::kNotFound);
}

TEST_F(ShareTest, AShareThatWasGivenWithoutTheDaemonIsTakenOver) {
  shm::TenantSpec s = spec("a", kLimit);
  s.devices[0].compute = {2500, 9000, 1000};
  ASSERT_TRUE(create(d_, s).ok());
  until([&] { return found_.size() == 1; });
  EXPECT_EQ(found_[0].devices[0].compute_x100, 2500u);
  EXPECT_EQ(found_[0].devices[0].ceiling_x100, 9000u);
  EXPECT_NE(found_[0].flags & wire::kRecordBorrow, 0u);
  EXPECT_EQ(found_[0].burst_us, 1000u);
  EXPECT_EQ(found_[0].window_us, 0u) << "the usual";
}

TEST_F(ShareTest, ATamperedShareIsSetBackAndTold) {
  ASSERT_TRUE(regions_->make(with_share("a")).ok());
  const Mapping map = own_region("a");
  shm::ComputeEntry& e = map.as<shm::Region>()->compute[0];
  e.floor_x100.store(0);  // "no limit"
  until([&] { return heard(EventKind::kLimitTampered) == 1; });
  EXPECT_EQ(shm::region_compute(*map.as<shm::Region>(), 0), kQuarter);
  e.floor_x100.store(100);  // less: set back, and nothing to tell
  until([&] { return e.floor_x100.load() == 2500; });
  EXPECT_EQ(heard(EventKind::kLimitTampered), 1u);
}

// The sums are the tenant's to write; what is shown of them only rises, and a share is at most the whole device.
TEST_F(ShareTest, TheDeliveredShareIsUsedTimeOverTime) {
  Now now = read_clocks();
  restart([&now] { return now; });
  ASSERT_TRUE(regions_->make(with_share("a")).ok());
  const Mapping map = own_region("a");
  shm::ComputeEntry& e = map.as<shm::Region>()->compute[0];
  const auto second = [&](std::uint64_t used_ns) {
    e.used_ns.store(used_ns);
    now.mono_ns += 1'000'000'000, now.boot_ns += 1'000'000'000, now.unix_ns += 1'000'000'000;
    loop_->turn(0);
    return view("a").devices[0];
  };
  EXPECT_EQ(view("a").devices[0].delivered_x100, wire::kUnknownShare) << "nothing to compare with";
  e.held_ns.store(5), e.borrowed_ns.store(6), e.forgiven_ns.store(7), e.launches.store(8);
  wire::DeviceView v = second(250'000'000);
  EXPECT_EQ(v.delivered_x100, 2500u);
  EXPECT_EQ(v.used_ns, 250'000'000u);
  EXPECT_EQ(v.held_ns, 5u);
  EXPECT_EQ(v.borrowed_ns, 6u);
  EXPECT_EQ(v.forgiven_ns, 7u);
  EXPECT_EQ(v.launches, 8u);
  EXPECT_EQ(second(250'000'000).delivered_x100, 0u);
  v = second(100);  // it fell: another count begins, ours goes on
  EXPECT_EQ(v.used_ns, 250'000'000u);
  EXPECT_EQ(second(100'000'100).used_ns, 350'000'000u);
  EXPECT_EQ(second(~0ull).delivered_x100, 10'000u);
  ASSERT_TRUE(regions_->set_compute("a", uuid_, shm::ComputeRules{}).ok());
  EXPECT_EQ(second(~0ull).delivered_x100, wire::kUnknownShare);
}

// Who may write which beacon (docs/formats/beacon.md, 'Hand-out').
TEST_F(ShareTest, BeaconsAreHandedToWhoIsToHaveThem) {
  wire::TenantRecord web = with_share("web");
  web.priority = wire::Priority::kLatency;
  wire::TenantRecord far = record_of("far", kLimit);
  far.devices[0].uuid[0] = 9;  // another GPU
  ASSERT_TRUE(regions_->make(web).ok());
  ASSERT_TRUE(regions_->make(with_share("a")).ok());
  ASSERT_TRUE(regions_->make(far).ok());
  const auto theirs = regions_->hand_out("a", true);
  ASSERT_EQ(theirs.size(), 1u);
  EXPECT_STREQ(theirs[0].entry.name, "web");
  EXPECT_EQ(theirs[0].entry.flags, 0u);
  EXPECT_EQ(theirs[0].entry.share_x100[0], 2500u);
  constexpr std::size_t kPage = sizeof(shm::Beacon);
  EXPECT_EQ(::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, theirs[0].fd.get(), 0),
            MAP_FAILED)
      << "the page of another tenant can be written";
  void* const seen = ::mmap(nullptr, kPage, PROT_READ, MAP_SHARED, theirs[0].fd.get(), 0);
  ASSERT_NE(seen, MAP_FAILED);
  EXPECT_NE(::mprotect(seen, kPage, PROT_READ | PROT_WRITE), 0);
  const auto own = regions_->hand_out("web", true);
  ASSERT_EQ(own.size(), 1u);
  EXPECT_EQ(own[0].entry.flags, wire::kOwnBeacon);
  EXPECT_NE(::ftruncate(own[0].fd.get(), 0), 0) << "a reader would be killed";
  void* const mine = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, own[0].fd.get(), 0);
  ASSERT_NE(mine, MAP_FAILED);
  static_cast<shm::Beacon*>(mine)->busy_until_ns[0].store(77);
  EXPECT_EQ(static_cast<const shm::Beacon*>(seen)->busy_until_ns[0].load(), 77u);
  EXPECT_TRUE(regions_->hand_out("web", false).empty()) << "a process of another user";
  EXPECT_TRUE(regions_->hand_out("far", true).empty()) << "it shares no GPU with a latency tenant";
  EXPECT_TRUE(regions_->hand_out("nobody", true).empty());
  ::munmap(seen, kPage);
  ::munmap(mine, kPage);
}

TEST_F(ShareTest, ACopyRateStandsInTheRegion) {
  wire::TenantRecord r = with_share("a");
  r.copy_rate_mb_s = 12'500;
  ASSERT_TRUE(regions_->make(r).ok());
  const Mapping map = own_region("a");
  const auto& word = map.as<shm::Region>()->compute[0].copy_rate_mb_s;
  EXPECT_EQ(word.load(), 12'500u);
  ASSERT_TRUE(regions_->set_copy_rate("a", 0).ok());
  EXPECT_EQ(word.load(), 0u);
  EXPECT_EQ(regions_->set_copy_rate("b", 1).code(), Errc::kNotFound);
}

TEST_F(ShareTest, PriorityStandsInThePageAndOutlivesTheDaemon) {
  const auto page = [&] { return shm::map_node(d_); };
  const auto epoch = [&] { return page()->as<const shm::NodePage>()->latency_epoch.load(); };
  const auto latency = [&] { return shm::node_latency(*page()->as<const shm::NodePage>(), "a"); };
  ASSERT_TRUE(regions_->make(with_share("a")).ok());
  EXPECT_FALSE(latency());
  EXPECT_EQ(epoch(), 0u);
  ASSERT_TRUE(regions_->set_priority("a", wire::Priority::kLatency).ok());
  EXPECT_TRUE(latency());
  const auto raised = epoch();
  EXPECT_NE(raised, 0u);
  ASSERT_TRUE(regions_->set_priority("a", wire::Priority::kLatency).ok());
  EXPECT_EQ(epoch(), raised) << "nothing changed";
  restart();
  ASSERT_EQ(found_.size(), 1u);
  EXPECT_EQ(found_[0].priority, wire::Priority::kLatency);
  EXPECT_TRUE(latency());
  const auto before = epoch();
  ASSERT_TRUE(regions_->remove("a", true).ok());
  EXPECT_NE(epoch(), before);
  EXPECT_EQ(regions_->set_priority("a", wire::Priority::kBatch).code(), Errc::kNotFound);
}

}  // namespace
}  // namespace bulkhead::daemon
