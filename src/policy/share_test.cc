#include "policy/share.h"

#include <gtest/gtest.h>

namespace bulkhead::policy {
namespace {

TEST(Share, BothMustNameTheOther) {
  const Partners none{}, one{{2}}, zero{{1}};
  EXPECT_TRUE(may_share(0, one, 1, zero));
  EXPECT_TRUE(may_share(1, zero, 0, one));
  EXPECT_FALSE(may_share(0, one, 1, none));
  EXPECT_FALSE(may_share(0, none, 1, zero));
  EXPECT_FALSE(may_share(0, none, 1, none));
}

TEST(Share, OnesOwnIsAlwaysOpen) { EXPECT_TRUE(may_share(5, {}, 5, {})); }

TEST(Share, ZeroNamesNobody) {
  const Partners none{};
  EXPECT_FALSE(names(none, ~0u));
  EXPECT_FALSE(names(none, 0));
}

TEST(Share, AnyOfTheEight) {
  Partners p{};
  p.named[7] = 301;
  EXPECT_TRUE(names(p, 300));
  EXPECT_FALSE(names(p, 301));
  EXPECT_FALSE(may_share(300, Partners{{1}}, 1, p));
  EXPECT_TRUE(may_share(0, p, 300, Partners{{1}}));
}

}  // namespace
}  // namespace bulkhead::policy
