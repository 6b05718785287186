#include "wire/lines.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace bulkhead::wire {
namespace {

EventView sample_event() {
  EventView e{};
  e.id = 41;
  e.unix_ns = 1'795'331'140'123'456'789;
  e.kind = EventKind::kBypassFound;
  e.severity = Severity::kWarning;
  e.pid = 812;
  e.uid = 0;  // root is somebody
  e.bytes = ~0ull;
  for (unsigned i = 0; i < kUuidBytes; ++i) e.uuid[i] = static_cast<std::uint8_t>(i * 17);
  std::strcpy(e.tenant, "a");
  std::strcpy(e.text, "pid 812 \"x\\y\" \xc3\xa9 \xe2\x82\xac");
  return e;
}

TEST(Lines, AnEventComesBackAsItWent) {
  const EventView e = sample_event();
  const std::string line = event_line(e);
  EventView back;
  ASSERT_TRUE(parse_event_line(line, back)) << line;
  EXPECT_EQ(std::memcmp(&e, &back, sizeof e), 0) << line;
  EXPECT_EQ(line.find('\n'), std::string::npos);
}

TEST(Lines, WhatAnEventLacksHasNoKey) {
  EventView e{};
  e.id = 1;
  e.kind = EventKind::kDaemonStarted;
  e.uid = kNoId;
  EXPECT_EQ(event_line(e),
            "{\"id\":1,\"time\":\"1970-01-01T00:00:00.000000000Z\",\"kind\":\"daemon-started\","
            "\"severity\":\"info\",\"text\":\"\"}");
}

TEST(Lines, EveryKindHasAName) {
  for (auto k = static_cast<std::uint32_t>(EventKind::kDaemonStarted);
       k <= static_cast<std::uint32_t>(EventKind::kPeerRefused); ++k) {
    EventView e = sample_event(), back{};
    e.kind = static_cast<EventKind>(k);
    ASSERT_TRUE(parse_event_line(event_line(e), back)) << k;
    EXPECT_EQ(back.kind, e.kind);
  }
}

TEST(Lines, UnknownKeysAreSkippedBrokenLinesRefused) {
  EventView back;
  EXPECT_TRUE(parse_event_line(
      R"({"id":1,"new":null,"time":"2026-11-22T07:05:40.000000001Z","kind":"drift","severity":"info","text":"","x":1.5e3})",
      back));
  const std::string line = event_line(sample_event());
  for (std::size_t n = 0; n < line.size(); ++n) {
    EXPECT_FALSE(parse_event_line(line.substr(0, n), back)) << n;
  }
  EXPECT_FALSE(parse_event_line(line + "x", back));
  EXPECT_FALSE(parse_event_line(
      R"({"id":-1,"time":"2026-11-22T07:05:40.000000001Z","kind":"drift","severity":"info"})",
      back));
}

TEST(Lines, RandomDamageNeverReadsAsUtf8Garbage) {
  std::mt19937 random{7};
  const std::string line = event_line(sample_event());
  for (int i = 0; i < 20000; ++i) {
    std::string damaged = line;
    for (int n = 0; n < 3; ++n) damaged[random() % damaged.size()] = static_cast<char>(random());
    EventView back;
    if (!parse_event_line(damaged, back)) continue;
    EventView again;  // what was read can be written and read once more
    EXPECT_TRUE(parse_event_line(event_line(back), again));
  }
}

TEST(Lines, CleanTextCutsAndReplaces) {
  EXPECT_EQ(clean_text("a\x1b[31m\x7f\nb", 99), "a?[31m??b");
  EXPECT_EQ(clean_text("\xc2\x9b"
                       "31m",
                       99),
            "?31m");  // C1 CSI
  EXPECT_EQ(clean_text("\xff\xc0\xafx", 99), "???x");
  EXPECT_EQ(clean_text("\xed\xa0\x80", 99), "???");  // a surrogate
  EXPECT_EQ(clean_text("ab\xe2\x82\xac", 4), "ab");  // not half a character
  EXPECT_EQ(clean_text("ab\xe2\x82\xac", 5), "ab\xe2\x82\xac");
}

TEST(Lines, UsageComesBackAndNotMeasuredIsNull) {
  UsageLine l;
  std::strcpy(l.row.tenant, "team.a");
  l.row.from_unix_s = 100;
  l.row.to_unix_s = 200;
  l.row.byte_seconds = 1'234'567'890'123'456'789;
  l.row.gpu_ms = 0;
  l.row.moved_bytes = kNotMeasured;
  l.serial = 9;
  l.rest_ns = 999'999'999;
  const std::string text = usage_line(l);
  EXPECT_NE(text.find("\"gpu_ms\":0,\"moved_bytes\":null"), std::string::npos) << text;
  UsageLine back;
  ASSERT_TRUE(parse_usage_line(text, back));
  EXPECT_EQ(std::memcmp(&l.row, &back.row, sizeof l.row), 0);
  EXPECT_EQ(back.serial, 9u);
  EXPECT_EQ(back.rest_ns, 999'999'999u);
  l.row.gpu_ms = 70;
  l.row.counted_ms = 50;
  ASSERT_TRUE(parse_usage_line(usage_line(l), back));
  EXPECT_EQ(back.row.counted_ms, 50u);
}

TEST(Lines, TheOpenFile) {
  for (const std::size_t n : {0u, 1u, 3u}) {
    std::vector<UsageLine> rows(n), back;
    for (std::size_t i = 0; i < n; ++i) {
      std::strcpy(rows[i].row.tenant, "t");
      rows[i].serial = i + 1;
    }
    const std::string text = usage_open_text(rows, 77);
    std::uint64_t next = 0;
    ASSERT_TRUE(parse_usage_open(text, back, next)) << text;
    EXPECT_EQ(next, 77u);
    ASSERT_EQ(back.size(), n);
    for (std::size_t i = 0; i < n; ++i) EXPECT_EQ(back[i].serial, i + 1);
    for (std::size_t cut = 0; cut < text.size(); ++cut) {
      std::vector<UsageLine> torn;
      EXPECT_FALSE(parse_usage_open(text.substr(0, cut), torn, next));
    }
  }
}

}  // namespace
}  // namespace bulkhead::wire
