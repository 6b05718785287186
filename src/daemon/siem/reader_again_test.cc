// What was told once is not the end of looking, nor counted a second time.
#include <algorithm>

#include "daemon/siem/reader_fixture.h"

namespace bulkhead::daemon::siem {
namespace {

// After one finding roots are compared again: from the next segment on, whose header says the tree before it.
TEST(SiemReader, ASecondChangeIsToldByItsRootToo) {
  Bench b;
  write(b.log, 10, 10, 700);
  const auto closed = b.log.writer->closed_segments();
  ASSERT_GE(closed.size(), 8u);
  const auto change = [&](std::uint64_t first) {
    const std::string data = b.log.directory + "/" + audit::segment_name(first) + ".data";
    std::string text = audit::test::slurp(data);
    text.back() ^= 1;
    audit::test::spit(data, text);
  };
  change(closed[0]);
  Receiver once;
  EXPECT_TRUE(b.read(std::nullopt, once).back().tree);
  EXPECT_EQ(findings(once), (std::vector<std::string>{"changed", "damaged"}));
  change(closed[6]);
  Receiver both;
  const auto positions = b.read(std::nullopt, both);
  auto told = findings(both);
  std::sort(told.begin(), told.end());
  EXPECT_EQ(told, (std::vector<std::string>{"changed", "changed", "damaged", "damaged"}));
  for (const Position& from : positions) {  // the rule that events depend on the position alone
    Receiver rest = both;
    b.read(from, rest);
    EXPECT_EQ(rest.seen.size(), both.seen.size());
  }
}

// Whose mode it is, and whether less is recorded or refused from then on.
TEST(SiemOcsf, AModeNamesItsTenantAndStandsOutIfItIsWeaker) {
  const Ocsf ocsf{{"log", "0123abcd", "host", "0.1.0"}};
  const Context context;
  const auto severity = [&](const char* was, const char* mode) {
    const Json r = {{"record", "mode"}, {"tenant", "trade"}, {"was", was},
                    {"mode", mode},     {"by_uid", 7},       {"utc", 1}};
    const Event event = ocsf.record(r, 3, 4, context);
    const Json j = Json::parse(event.json);
    EXPECT_NE(event.json.find("\"trade\""), std::string::npos) << event.json;
    EXPECT_EQ(j["unmapped"]["was"], was);
    EXPECT_EQ(j["unmapped"]["mode"], mode);
    EXPECT_EQ(j["unmapped"]["by_uid"], 7);
    return j["severity_id"].get<int>();
  };
  EXPECT_EQ(severity("off", "observe"), 1);
  EXPECT_EQ(severity("observe", "enforce"), 1);
  EXPECT_EQ(severity("enforce", "observe"), 4);
  EXPECT_EQ(severity("enforce", "off"), 4);
  EXPECT_EQ(severity("observe", "off"), 4);
}

// Each reconnection begins at what was confirmed last: what was missed then is missed once.
TEST(SiemReader, WhatIsMissedIsCountedOnce) {
  Bench b;
  write(b.log, 11, 8, 700);
  const auto closed = b.log.writer->closed_segments();
  ASSERT_GE(closed.size(), 5u);
  for (const char* ending : {".data", ".journal"})
    std::filesystem::remove(b.log.directory + "/" + audit::segment_name(closed[3]) + ending);
  std::uint64_t removed = 0;
  ASSERT_TRUE(b.log.writer->retain_from(closed[1], "test", removed).ok());
  ASSERT_TRUE(b.log.writer->finish().ok());
  Position old;
  old.next = 5;
  Reader reader{*b.files, "host", "0.1.0"};
  const std::uint64_t gone = closed[1] - 5 + (closed[4] - closed[3]);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(reader.start(old)) << reader.problem();
    std::vector<Event> events;
    for (Position behind; reader.next(events, behind);) {
    }
    EXPECT_EQ(reader.at(), b.log.writer->size());
    EXPECT_EQ(reader.missed(), gone);
  }
}

}  // namespace
}  // namespace bulkhead::daemon::siem
