#include "policy/compute_spec.h"

#include <gtest/gtest.h>

#include <string>

namespace bulkhead::policy {
namespace {

std::string round(const char* text) {
  Share s;
  if (!parse_share(text, &s)) return "refused";
  char out[kShareText];
  return format_share(s.x100, s.borrow, out);
}

TEST(ComputeSpec, Shares) {
  EXPECT_EQ(round("25%"), "25%");
  EXPECT_EQ(round("25%+"), "25%+");
  EXPECT_EQ(round("100%"), "100%");
  EXPECT_EQ(round("100.00%"), "100%");
  EXPECT_EQ(round("12.5%"), "12.5%");
  EXPECT_EQ(round("0.01%+"), "0.01%+");
  EXPECT_EQ(round("33.34%"), "33.34%");
  EXPECT_EQ(round("007%"), "7%");
  for (const char* bad : {"",
                          "%",
                          "+",
                          "25",
                          "25+",
                          "25%%",
                          "25%++",
                          "+25%",
                          "-25%",
                          " 25%",
                          "25 %",
                          "25%x",
                          "0%",
                          "0.00%",
                          "0%+",
                          "100.01%",
                          "101%",
                          "1000%",
                          "99999999999999999999999%",
                          "0.001%",
                          "25.%",
                          ".5%",
                          "1e1%",
                          "0x10%",
                          "nan%"}) {
    EXPECT_EQ(round(bad), "refused") << bad;
  }
}

TEST(ComputeSpec, TheProblemSaysWhatIsPossible) {
  EXPECT_NE(std::string{share_problem("25+")}.find("25%+ to use idle time"), std::string::npos);
  EXPECT_NE(std::string{share_problem("25")}.find("25%,"), std::string::npos);
  EXPECT_NE(std::string{share_problem("0%")}.find("would never run"), std::string::npos);
  EXPECT_NE(std::string{share_problem("101%")}.find("more than the whole device"),
            std::string::npos);
  EXPECT_NE(std::string{share_problem("0.001%")}.find("two digits"), std::string::npos);
}

TEST(ComputeSpec, Paces) {
  std::uint32_t us = 0;
  EXPECT_TRUE(parse_pace("5ms", &us) && us == 5000);
  EXPECT_TRUE(parse_pace("1.5ms", &us) && us == 1500);
  EXPECT_TRUE(parse_pace("500us", &us) && us == 500);
  EXPECT_TRUE(parse_pace("1s", &us) && us == 1'000'000);
  for (const char* bad : {"", "5", "ms", "0ms", "0.5us", "1.01s", "2s", "-1ms", "5 ms", "5m",
                          "99999999999999999999s", "1.5"}) {
    EXPECT_FALSE(parse_pace(bad, &us)) << bad;
  }
}

}  // namespace
}  // namespace bulkhead::policy
