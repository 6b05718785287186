#include "policy/spatial.h"

#include <gtest/gtest.h>

namespace bulkhead::policy {
namespace {

TEST(SpatialShare, RoundsDownToTheDriversUnit) {
  EXPECT_EQ(sms_of_share(2'500, 132, 2), 32u);
  EXPECT_EQ(sms_of_share(1'250, 132, 2), 16u);
  EXPECT_EQ(sms_of_share(7'500, 132, 2), 98u);
  EXPECT_EQ(sms_of_share(10'000, 132, 2), 132u);
  EXPECT_EQ(sms_of_share(20'000, 132, 2), 132u);
  EXPECT_EQ(sms_of_share(100, 132, 2), 0u);
  EXPECT_EQ(sms_of_share(2'500, 132, 0), 0u);
}

TEST(SpatialShare, TheLeastShareComesToOneUnitAndNothingLessDoes) {
  for (const std::uint32_t sms : {1u, 20u, 82u, 108u, 132u, 188u}) {
    for (const std::uint32_t unit : {1u, 2u, 8u}) {
      if (unit > sms) continue;
      const std::uint32_t least = least_share_x100(sms, unit);
      EXPECT_GE(sms_of_share(least, sms, unit), unit) << sms << ' ' << unit;
      EXPECT_EQ(sms_of_share(least - 1, sms, unit), 0u) << sms << ' ' << unit;
    }
  }
  EXPECT_EQ(least_share_x100(0, 2), 0u);
}

TEST(SpatialShare, EveryShareIsWrittenAsItIsRead) {
  char text[kPercentageText];
  for (std::uint32_t x100 = 1; x100 <= 10'000; ++x100) {
    std::uint32_t back = 0;
    ASSERT_TRUE(parse_percentage(format_percentage(x100, text), &back)) << text;
    ASSERT_EQ(back, x100) << text;
  }
  EXPECT_STREQ(format_percentage(1'250, text), "12.5");
  EXPECT_STREQ(format_percentage(10'000, text), "100");
}

TEST(SpatialShare, WhatIsNoPercentageIsRefused) {
  std::uint32_t x100 = 7;
  for (const char* bad :
       {"", ".", "0", "0.00", "101", "100.01", "-1", "25%", "1e1", " 5", "4294967297"})
    EXPECT_FALSE(parse_percentage(bad, &x100)) << bad;
  EXPECT_FALSE(parse_percentage(nullptr, &x100));
  EXPECT_EQ(x100, 7u);
  ASSERT_TRUE(parse_percentage("12.599", &x100));
  EXPECT_EQ(x100, 1'259u);  // never more than what stood there
  ASSERT_TRUE(parse_percentage(".5", &x100));
  EXPECT_EQ(x100, 50u);
}

}  // namespace
}  // namespace bulkhead::policy
