#include "policy/stream_sms.h"

#include <gtest/gtest.h>

namespace bulkhead::policy {
namespace {

TEST(StreamSms, TheGrammarIsOneShareBelowTheWhole) {
  std::uint32_t x100 = 0;
  EXPECT_TRUE(parse_stream_sms("high=25%", &x100));
  EXPECT_EQ(x100, 2'500u);
  EXPECT_TRUE(parse_stream_sms("high=0.01%", &x100));
  EXPECT_EQ(x100, 1u);
  for (const char* text : {"", "high", "high=", "high=25", "high=0%", "high=100%", "high=101%",
                           "high=25%+", "rest=25%", "25%", "high=25%,rest=5%", " high=25%"})
    EXPECT_FALSE(parse_stream_sms(text, &x100)) << text;
}

TEST(StreamSms, WholeUnitsNeverMoreThanAskedAndSomethingIsLeft) {
  EXPECT_EQ(high_sms(2'500, 132, 8), 32u);
  EXPECT_EQ(high_sms(607, 132, 8), 8u);
  EXPECT_EQ(high_sms(606, 132, 8), 0u);
  EXPECT_EQ(high_sms(2'500, 132, 0), 0u);
  for (std::uint32_t x100 = 1; x100 < 10'000; ++x100) {
    const std::uint32_t n = high_sms(x100, 132, 2);
    ASSERT_LE(std::uint64_t{n} * 10'000, std::uint64_t{132} * x100);
    ASSERT_LT(n, 132u);
  }
  EXPECT_EQ(high_sms(10'000, 8, 8), 0u);
}

}  // namespace
}  // namespace bulkhead::policy
