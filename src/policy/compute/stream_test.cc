// BULKHEAD_STREAM_COMPUTE: its grammar, and who is shaped by it.
#include <gtest/gtest.h>

#include "policy/compute/stream_spec.h"

namespace bulkhead::policy::compute {
namespace {

TEST(StreamSpec, AShareForEachAndSharesForSome) {
  StreamSpec s;
  ASSERT_TRUE(parse_streams("25%", s));
  EXPECT_EQ(share_of_stream(s, 1), 2'500u);
  EXPECT_EQ(share_of_stream(s, 999), 2'500u);
  ASSERT_TRUE(parse_streams("1=50%,2=12.5%", s));
  EXPECT_EQ(share_of_stream(s, 1), 5'000u);
  EXPECT_EQ(share_of_stream(s, 2), 1'250u);
  EXPECT_EQ(share_of_stream(s, 3), 0u);
  ASSERT_TRUE(parse_streams("3=10%,40%", s));
  EXPECT_EQ(share_of_stream(s, 3), 1'000u);
  EXPECT_EQ(share_of_stream(s, 4), 4'000u);
}

TEST(StreamSpec, WhatIsNoSpecIsRefused) {
  for (const char* bad :
       {"", ",", "25", "25%,", ",25%", "25%+", "0%", "101%", "0=10%", "=10%", "x=10%",
        "1=10%,1=20%", "10%,20%", "1=", "-1=10%", "99999999=1%", "1=10% ", "1 =10%"}) {
    StreamSpec s;
    EXPECT_FALSE(parse_streams(bad, s)) << bad;
  }
  std::string many = "1=1%";
  for (unsigned i = 2; i <= kMostNamed; ++i) many += "," + std::to_string(i) + "=1%";
  StreamSpec s;
  EXPECT_TRUE(parse_streams(many.c_str(), s));
  EXPECT_FALSE(parse_streams((many + ",99=1%").c_str(), s));
}

}  // namespace
}  // namespace bulkhead::policy::compute
