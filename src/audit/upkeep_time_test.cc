// Retention and clocks that are wrong: what is older than the policy keeps is so by the log's own word, not the wall clock's.
#include <gtest/gtest.h>

#include "audit/log_time.h"
#include "audit/upkeep_fixture.h"

namespace bulkhead::audit {
namespace {

using namespace test;

constexpr std::uint64_t kDay = 86'400 * kSecond;

struct Aging : Kept {
  UpkeepRules rules;
  std::unique_ptr<Upkeep> keep;

  Aging() {
    rules.retain_s = 30 * 86'400;
    rules.segment_s = 86'400;
    rules.pack = false;
  }
  // The daemon's end and its next start.
  void restart() {
    keep.reset();
    ASSERT_EQ(log.open(), "");
    keep = upkeep(rules);
  }
  void look() { keep->look(log.utc(), log.now); }
  void days(unsigned n) {
    for (unsigned i = 0; i < n; ++i) {
      log.now += kDay;
      grow(1536);  // a segment ends
      if (keep != nullptr) look();
    }
  }
  std::size_t told_ahead() const {
    return static_cast<std::size_t>(std::count_if(told.begin(), told.end(), [](const auto& t) {
      return t.find("s ahead of the audit log's last entry") != std::string::npos;
    }));
  }
};

TEST(UpkeepTime, AClockFarAheadAtTheStartRemovesNothing) {
  Aging a;
  a.days(5);
  const std::size_t before = a.log.writer->closed_segments().size();
  a.log.set_by += static_cast<std::int64_t>(3650 * kDay);  // a dead clock, nobody set it yet
  a.restart();
  a.look();
  a.log.now += kSecond;
  a.look();
  EXPECT_EQ(a.keep->figures().removed, 0u);
  EXPECT_EQ(a.told_ahead(), 1u) << testing::PrintToString(a.told);
  EXPECT_EQ(a.told.size(), 1u);
  // What it wrote meanwhile bears that time, and is no witness for it at the next start.
  a.days(2);
  a.restart();
  a.days(1);
  EXPECT_EQ(a.told_ahead(), 1u);
  a.log.set_by = 0;
  a.restart();
  a.days(1);
  EXPECT_EQ(a.told.size(), 1u) << testing::PrintToString(a.told);  // nothing of a removal
  EXPECT_GE(a.log.writer->closed_segments().size(), before + 3);
  EXPECT_EQ(a.verify(), "");
}

TEST(UpkeepTime, RetentionGoesOnBehindAJumpByTheLogsOwnTime) {
  Aging a;
  a.rules.retain_s = 8 * 86'400;
  a.days(3);
  a.log.set_by += static_cast<std::int64_t>(3650 * kDay);
  a.restart();
  a.look();
  a.days(4);
  EXPECT_EQ(a.keep->figures().removed, 0u);
  a.days(6);
  EXPECT_GT(a.keep->figures().removed, 0u);
  EXPECT_EQ(a.verify(), "");
}

TEST(UpkeepTime, AnAbsenceThatIsBelievedCounts) {
  Aging a;
  a.rules.retain_s = 56 * 86'400;  // a week is believed
  a.days(2);
  a.keep = a.upkeep(a.rules);
  for (unsigned i = 0; i < 9; ++i) {
    a.log.now += 6 * kDay;  // off
    a.restart();
    a.days(1);
  }
  EXPECT_EQ(a.told_ahead(), 0u);
  EXPECT_NE(a.told.size(), 0u);  // what was removed
  EXPECT_EQ(a.verify(), "");
}

TEST(UpkeepTime, AShortRetentionIsNotEndedByOneJump) {
  Aging a;
  a.rules.retain_s = 86'400;
  a.days(1);
  a.log.now += 3600 * kSecond;
  a.grow(1300);
  a.log.set_by += static_cast<std::int64_t>(30 * 3600 * kSecond);  // within a segment's time
  a.restart();
  a.look();
  a.grow(1300);
  a.restart();
  a.look();
  EXPECT_EQ(a.told_ahead(), 1u);
  EXPECT_EQ(a.told.size(), 1u) << testing::PrintToString(a.told);  // and nothing of a removal
}

TEST(LogTime, CountsOnlyGapsThatTheLogSupports) {
  LogTime t{400 * 86'400, 86'400};
  const std::uint64_t s = kStart;
  // a day, one that cannot be read, one set back, a jump; written until a day behind the last
  const std::vector<LogTime::Begun> all = {
      {0, s}, {256, s + kDay}, {512, std::nullopt}, {768, s}, {1024, s + 900 * kDay}};
  EXPECT_EQ(t.begin(all, 2000, s + 901 * kDay, s + 903 * kDay, 5), 0u);
  EXPECT_EQ(t.age_ns(1024), 3 * kDay);
  EXPECT_EQ(t.age_ns(768), 3 * kDay);
  EXPECT_EQ(t.age_ns(256), 3 * kDay);
  EXPECT_EQ(t.age_ns(0), 4 * kDay);
  EXPECT_EQ(t.age_ns(77), 0u);
  t.look({768, 1024, 2048}, 5 + kDay);
  EXPECT_EQ(t.age_ns(2048), 0u);
  EXPECT_EQ(t.age_ns(1024), 4 * kDay);
  t.look({768, 1024, 2048}, 5);  // a steady clock does not go back; if one does, nothing gets older
  EXPECT_EQ(t.age_ns(1024), 4 * kDay);
}

}  // namespace
}  // namespace bulkhead::audit
