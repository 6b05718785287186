// The governor over regions of its own directory; processes are words that the test writes, time is the test's.
#include "daemon/governor.h"

#include <sys/epoll.h>
#include <sys/stat.h>

#include "daemon/test_daemon.h"
#include "shm/governed.h"

namespace bulkhead::daemon {
namespace {

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::uint8_t kGpu[shm::kUuidBytes] = {1};

class GovernorTest : public RegionsTest {
 protected:
  void SetUp() override {
    RegionsTest::SetUp();
    governor_ = std::make_unique<DeviceGovernor>(*regions_, loop_->poller());
    ASSERT_TRUE(governor_->open().ok());
  }
  void TearDown() override {
    governor_.reset();
    RegionsTest::TearDown();
  }
  void make(const char* name, std::uint32_t floor, std::uint32_t ceiling) {
    const std::uint32_t borrow = wire::kRecordBorrow;
    wire::TenantRecord r = record_of(name, 64 * kMiB, ceiling > floor ? borrow : 0);
    r.devices[0].compute_x100 = floor;
    r.devices[0].ceiling_x100 = ceiling;
    ASSERT_TRUE(regions_->make(r).ok());
    maps_[name] = own_region(name);
    words(name).header.slots_high.store(4);
  }
  shm::Region& words(const char* name) { return *maps_[name].as<shm::Region>(); }
  // A process that has work, or had none since `empty_ns` rose.
  void tell(const char* name, bool work, bool with_long = false, unsigned slot = 0) {
    if (!work) empty_[name] += kMs;
    shm::tell_work(words(name).cells[0][slot], now_, work, with_long, empty_[name]);
    if (work) words(name).compute[0].wanted_at_ns.store(now_);
  }
  int tick(std::uint64_t ms = 1) {
    now_ += ms * kMs;
    return governor_->tick({now_, now_, 0});
  }
  // So many milliseconds in which these work, each a loop that never rests.
  void run(int ms, const std::vector<const char*>& who) {
    for (int i = 0; i < ms; ++i) {
      for (const char* name : who) tell(name, true);
      tick();
    }
  }
  std::uint32_t given(const char* name) {
    auto page = shm::map_node(d_);
    const auto* at = shm::given_place(*page->as<const shm::NodePage>(), name, kGpu);
    return at == nullptr ? ~0u : at->load();
  }
  shm::Governed clock() {
    auto page = shm::map_node(d_);
    shm::Governed g;
    const auto& p = *page->as<const shm::NodePage>();
    EXPECT_TRUE(shm::read_governed(p, shm::governed_index(p, kGpu), kGpu, g));
    return g;
  }

  std::unique_ptr<DeviceGovernor> governor_;
  std::map<std::string, Mapping> maps_;
  std::map<std::string, std::uint64_t> empty_;
  std::uint64_t now_ = 1'000'000 * kMs;
};

TEST_F(GovernorTest, WhatOneLeavesTheOtherMayUseAndGivesBack) {
  make("a", 2500, 10'000);
  make("b", 7500, 7500);
  run(1, {"a"});
  EXPECT_TRUE(governor_->resting()) << "one alone needs nobody";
  EXPECT_EQ(given("a"), 10'000u);
  EXPECT_EQ(given("b"), 7500u) << "it starts at its floor";
  tell("b", true);
  const UniqueFd file{::open(region_path("b").c_str(), O_RDONLY)};
  ASSERT_EQ(::futimens(file.get(), nullptr), 0);
  tell("a", true);
  tick(30);
  loop_->turn(0);  // the bell
  tell("b", true);
  tell("a", true);
  tick(0);
  EXPECT_FALSE(governor_->resting());
  run(10, {"a", "b"});
  EXPECT_EQ(given("a"), 2500u);
  EXPECT_EQ(given("b"), 7500u);
  for (int i = 0; i < 30; ++i) tell("b", false), run(1, {"a"});
  EXPECT_EQ(given("a"), 10'000u) << "b has not asked for 4 ms";
  EXPECT_TRUE(governor_->resting());
  EXPECT_TRUE(clock().in_force(now_));
  EXPECT_NE(clock().state & shm::kResting, 0u);
}

TEST_F(GovernorTest, AtRestItLooksOnceASecond) {
  make("a", 2500, 10'000);
  tick();
  const std::uint64_t looks = governor_->looks();
  for (int i = 0; i < 999; ++i) EXPECT_GT(tick(), 0);
  EXPECT_LE(governor_->looks() - looks, 2u);
  EXPECT_GT(tick(20), 900) << "nothing is due for the best part of a second";
}

TEST_F(GovernorTest, TheClockGoesByWhoHasLongWork) {
  make("a", 5000, 5000);
  make("b", 5000, 5000);
  const auto both = [&](int ms) {
    for (int i = 0; i < ms; ++i) tell("a", true, true), tell("b", true, true), tick();
  };
  now_ += 1001 * kMs;  // it looks once a second
  both(10);
  const shm::Governed from = clock();
  both(100);
  const shm::Governed to = clock();
  EXPECT_EQ(to.contexts, 2u);
  EXPECT_EQ(to.shared_ns - from.shared_ns, 100 * kMs);
  EXPECT_EQ(to.v_ns - from.v_ns, 45 * kMs) << "half, less a tenth for switching";
}

// As a self-test kept it; the clock of long work goes by the loss.
TEST_F(GovernorTest, WhatWasMeasuredOfSlicesIsToldAndObeyed) {
  make("a", 5000, 5000);
  make("b", 5000, 5000);
  const auto paced = [this] {
    tell("a", true, true), tell("b", true, true), tick();
    const std::uint64_t before = clock().v_ns;
    tell("a", true, true), tell("b", true, true), tick();
    return clock().v_ns - before;
  };
  EXPECT_EQ(paced(), kMs * 9 / 10 / 2);
  EXPECT_EQ(clock().slice_ns, 0u) << "nobody knows";
  governor_->set_slice(kGpu, kMs, 180);
  EXPECT_EQ(paced(), kMs * 82 / 100 / 2);
  EXPECT_EQ(clock().slice_ns, kMs);
  EXPECT_EQ(clock().loss, 180u);
  governor_->set_slice(kGpu, 0, 0);
  EXPECT_EQ(paced(), kMs * 9 / 10 / 2);
  EXPECT_EQ(clock().slice_ns, 0u);
}

TEST_F(GovernorTest, RubbishMovesNothingFar) {
  make("a", 2500, 10'000);
  make("b", 7500, 10'000);
  std::uint64_t x = 88172645463325252ull;
  const auto random = [&x] { return x ^= x << 13, x ^= x >> 7, x ^= x << 17; };
  for (int i = 0; i < 2000; ++i) {
    shm::Region& r = words("a");
    r.header.slots_high.store(static_cast<std::uint32_t>(random()));
    for (auto* word : {&r.compute[0].raw_ns, &r.compute[0].shared_raw_ns, &r.compute[0].short_ns,
                       &r.compute[0].wanted_at_ns, &r.compute[0].held_until_ns})
      word->store(random() >> random() % 64);
    auto& cell = r.cells[0][random() % 64];
    cell.empty_ns.store(random());
    cell.work.store(i % 2 != 0 ? random() : (now_ / 1000) << 8 | 3);
    tell("b", true);
    const std::uint64_t before = i == 0 ? 0 : clock().v_ns;
    tick();
    EXPECT_GE(given("a"), 2500u);
    EXPECT_GE(given("b"), 7500u) << "nobody's floor is touched";
    const shm::Governed g = clock();
    EXPECT_GE(g.kappa, policy::compute::kKappaOne / 2);
    EXPECT_LE(g.kappa, policy::compute::kKappaOne * 2);
    EXPECT_TRUE(i == 0 || g.v_ns - before <= kMs);
  }
}

TEST_F(GovernorTest, ARingingTenantCostsFiftyLooksASecond) {
  make("a", 2500, 10'000);
  const UniqueFd file{::open(region_path("a").c_str(), O_RDONLY)};
  tick(1001);
  const std::uint64_t looks = governor_->looks();
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(::futimens(file.get(), nullptr), 0);
    loop_->turn(0);
    tick();
  }
  EXPECT_LE(governor_->looks() - looks, 55u);
  EXPECT_GE(governor_->looks() - looks, 10u) << "it is heard";
}

// Broken: floors are all there is, as without a governor. What one leaves is nobody's.
TEST_F(GovernorTest, WithoutItNobodyBorrows) {
  governor_.reset();
  make("a", 2500, 10'000);
  EXPECT_EQ(given("a"), 0u);
  auto page = shm::map_node(d_);
  EXPECT_EQ(shm::governed_index(*page->as<const shm::NodePage>(), kGpu), shm::kMaxDevices);
}

}  // namespace
}  // namespace bulkhead::daemon
