// The pace of copies: bytes over any time, the longest wait, and a rate that changes.
#include <gtest/gtest.h>

#include "policy/compute/copy_pace.h"

namespace bulkhead::policy::compute {
namespace {

constexpr std::uint64_t kMs = 1'000'000, kNow = 1'000'000 * kMs;
constexpr std::uint64_t kMiB = 1u << 20;

TEST(CopyPace, BytesTakeTheirTimeAtTheRate) {
  EXPECT_EQ(copy_ns(1'000'000, 1), 1'000'000'000u);
  EXPECT_EQ(copy_ns(25'000, 25'000), 1'000u);  // 25 GB/s: 25 bytes a ns
  EXPECT_EQ(copy_ns(0, 1), 0u);
  EXPECT_EQ(copy_ns(~std::uint64_t{0}, 1), kMaxCost_ns);
}

TEST(CopyPace, NoMoreThanTheRateAndTheBurstOverAnyTime) {
  for (const std::uint64_t each : {std::uint64_t{4096}, 1 * kMiB, 64 * kMiB}) {
    Bucket tat{0};
    std::uint64_t now = kNow, bytes = 0;
    const std::uint32_t rate = 10'000;
    while (now < kNow + 2'000 * kMs) {
      std::uint64_t waited = 0;
      while (const std::uint64_t left = copy_wait_ns(tat.load(), now, waited)) {
        now += left;
        waited += left;
      }
      charge_copy(tat, now, each, rate);
      bytes += each;
      now += 100;  // a call
    }
    const double most = static_cast<double>(now - kNow + kCopyBurst_ns) * rate / 1000;
    EXPECT_LE(static_cast<double>(bytes), most + static_cast<double>(each)) << each;
    EXPECT_GE(static_cast<double>(bytes), 0.98 * most - static_cast<double>(each)) << each;
  }
}

TEST(CopyPace, NobodyWaitsLongerThanASecondWhateverTheWordSays) {
  const std::uint64_t scribbled = ~std::uint64_t{0};
  std::uint64_t waited = 0;
  while (const std::uint64_t left = copy_wait_ns(scribbled, kNow + waited, waited)) {
    ASSERT_LE(left, kCopySlice_ns);
    waited += left;
  }
  EXPECT_EQ(waited, kCopyMostWait_ns);
}

}  // namespace
}  // namespace bulkhead::policy::compute
