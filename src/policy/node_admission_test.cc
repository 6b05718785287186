#include "policy/node_admission.h"

#include <gtest/gtest.h>

namespace bulkhead::policy {
namespace {

constexpr std::uint64_t kGib = 1ull << 30;

TEST(NodeAdmission, FitsToTheByte) {
  NodeSum s{100 * kGib, 5 * kGib, 15 * kGib, 50 * kGib, 30 * kGib};
  EXPECT_EQ(node_room(s), 30 * kGib);
  EXPECT_TRUE(node_fits(s));
  ++s.asked_bytes;
  EXPECT_FALSE(node_fits(s));
}

TEST(NodeAdmission, NoSumWraps) {
  EXPECT_EQ(node_room({10, 20, 0, 0, 1}), 0u);
  EXPECT_EQ(node_room({10, 4, 8, 0, 1}), 0u);
  EXPECT_FALSE(node_fits({10, 0, 0, ~0ull, 1}));
  EXPECT_FALSE(node_fits({10, 0, 0, 1, ~0ull}));
  EXPECT_FALSE(node_fits({~0ull, 0, 0, 1, ~0ull}));
  EXPECT_TRUE(node_fits({~0ull, 0, 0, 0, ~0ull}));
}

TEST(NodeAdmission, TheReserveIsKeptOnlyFromOthersAndOnlyOnce) {
  EXPECT_EQ(reserve_kept(15, 0, false), 15u);
  EXPECT_EQ(reserve_kept(15, 10, false), 5u);  // 10 of it are promised, and counted there
  EXPECT_EQ(reserve_kept(15, 20, false), 0u);
  EXPECT_EQ(reserve_kept(15, 0, true), 0u);
}

TEST(NodeAdmission, WaitingHelpsOnlyWhatCouldEverFit) {
  EXPECT_TRUE(node_could_fit({100, 50, 15, 80, 85}));
  EXPECT_FALSE(node_could_fit({100, 0, 15, 0, 86}));
}

TEST(NodeAdmission, TheLineIsTheSum) {
  EXPECT_EQ(
      node_sum_text({100 * kGib, kGib, 0, 90 * kGib, 10 * kGib}, "GPU 0"),
      "10 GiB asked + 90 GiB promised to others > 100 GiB total - 1 GiB held outside tenants - "
      "0 B reserve on GPU 0");
}

TEST(NodeAdmission, SharesOfTimeAreSummedByTheirFloors) {
  EXPECT_TRUE(time_fits({7500, 2500}));
  EXPECT_FALSE(time_fits({7500, 2501}));
  EXPECT_TRUE(time_fits({10'000, 0})) << "without a limit nothing is promised";
  EXPECT_TRUE(time_fits({12'000, 0})) << "nor where more is promised than there is";
  EXPECT_FALSE(time_fits({12'000, 1}));
  EXPECT_EQ(time_room({7500, 9999}), 2500u);
  EXPECT_EQ(time_room({12'000, 1}), 0u);
  EXPECT_EQ(time_sum_text({7500, 4050}, "GPU 0 (GPU-x)"),
            "40.5% asked + 75% promised to others > 100% of the time of GPU 0 (GPU-x)");
}

}  // namespace
}  // namespace bulkhead::policy
