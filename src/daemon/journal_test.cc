#include "daemon/journal.h"

#include <gtest/gtest.h>

#include <cstring>

namespace bulkhead::daemon {
namespace {

using wire::EventKind;

std::vector<std::uint64_t> ids(const std::vector<wire::EventView>& events) {
  std::vector<std::uint64_t> out;
  for (const auto& e : events) out.push_back(e.id);
  return out;
}
std::vector<std::uint64_t> range(std::uint64_t from, std::uint64_t to) {
  std::vector<std::uint64_t> out;
  for (; from <= to; ++from) out.push_back(from);
  return out;
}

TEST(Journal, KeepsWhatItIsTold) {
  Journal journal;
  const std::uint8_t uuid[16] = {1, 2, 3};
  Now now;
  now.unix_ns = 77;
  journal.post(now, EventKind::kDrift, "text", {wire::Severity::kWarning, "tenant", 5, 6, 7, uuid});
  std::uint32_t lost = 9;
  const auto got = journal.after(0, 10, lost);
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(lost, 0u);
  EXPECT_EQ(got[0].id, 1u);
  EXPECT_EQ(got[0].unix_ns, 77);
  EXPECT_EQ(got[0].kind, EventKind::kDrift);
  EXPECT_EQ(got[0].severity, wire::Severity::kWarning);
  EXPECT_STREQ(got[0].tenant, "tenant");
  EXPECT_EQ(got[0].pid, 5u);
  EXPECT_EQ(got[0].uid, 6u);
  EXPECT_EQ(got[0].bytes, 7u);
  EXPECT_EQ(std::memcmp(got[0].uuid, uuid, 16), 0);
  EXPECT_STREQ(got[0].text, "text");
}

TEST(Journal, CutsAndCleansWhatStrangersChose) {
  Journal journal;
  journal.post({}, EventKind::kDrift, "a\x1b]0;x\a\n" + std::string(500, 'z'),
               {.tenant = std::string(300, 't')});
  std::uint32_t lost = 0;
  const auto e = journal.after(0, 1, lost).at(0);
  EXPECT_EQ(std::string{e.text}.substr(0, 8), "a?]0;x??");
  EXPECT_EQ(std::strlen(e.text), sizeof e.text - 1);
  EXPECT_EQ(std::strlen(e.tenant), sizeof e.tenant - 1);
}

TEST(Journal, AfterGivesTheOldestFirstAndCountsTheLost) {
  Journal journal;
  for (std::size_t i = 0; i < Journal::kKept + 10; ++i) journal.post({}, EventKind::kDrift, "");
  std::uint32_t lost = 0;
  EXPECT_EQ(ids(journal.after(0, 3, lost)), range(11, 13));
  EXPECT_EQ(lost, 10u);
  EXPECT_EQ(ids(journal.after(7, 1, lost)), range(11, 11));
  EXPECT_EQ(lost, 3u);
  EXPECT_EQ(ids(journal.after(10, 2, lost)), range(11, 12));
  EXPECT_EQ(lost, 0u);
  EXPECT_EQ(ids(journal.after(Journal::kKept + 8, 99, lost)),
            range(Journal::kKept + 9, Journal::kKept + 10));
  EXPECT_EQ(lost, 0u);
  EXPECT_TRUE(journal.after(Journal::kKept + 10, 99, lost).empty());
  EXPECT_EQ(lost, 0u);
  EXPECT_TRUE(journal.after(~0ull, 99, lost).empty());  // none of the past
  EXPECT_EQ(lost, 0u);
}

TEST(Journal, GoesOnWhereAnEarlierDaemonEnded) {
  std::vector<wire::EventView> old(3);
  old[0].id = 5;
  old[1].id = 7;  // 6 did not reach the disk
  old[2].id = 8;
  Journal journal;
  journal.restore(old);
  EXPECT_EQ(journal.next_id(), 9u);
  journal.post({}, EventKind::kDrift, "");
  std::uint32_t lost = 0;
  EXPECT_EQ(ids(journal.after(5, 9, lost)), range(7, 9));
  EXPECT_EQ(lost, 1u);
}

TEST(Journal, ADamagedFileGivesNoSecondIdAndNoEnd) {
  std::vector<wire::EventView> old(4);
  old[0].id = 5;
  old[1].id = 4;
  old[2].id = ~0ull;
  old[3].id = 6;
  Journal journal;
  journal.restore(old);
  std::uint32_t lost = 0;
  EXPECT_EQ(ids(journal.after(0, 9, lost)), range(5, 6));
  EXPECT_EQ(journal.next_id(), 7u);
  Journal later{100};
  later.restore(old);
  EXPECT_EQ(later.next_id(), 100u);
}

}  // namespace
}  // namespace bulkhead::daemon
