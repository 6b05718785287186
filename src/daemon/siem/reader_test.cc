// The log as events: sums are the log's own, whoever reads from wherever; what was tampered with is told.
#include "daemon/siem/reader.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "audit/pack.h"
#include "daemon/siem/frame.h"
#include "daemon/siem/reader_fixture.h"

namespace bulkhead::daemon::siem {
namespace {

TEST(SiemReader, SumsAreTheLogs) {
  Bench b;
  const Made made = write(b.log, 1, 12, 700);
  Receiver r;
  const auto positions = b.read(std::nullopt, r);
  EXPECT_GE(positions.size(), 12u);
  EXPECT_EQ(r.made.totals, made.totals);
  EXPECT_EQ(r.made.singles, made.singles);
  EXPECT_EQ(positions.back().next, b.log.writer->size());
  EXPECT_TRUE(positions.back().tree);  // and every root was the checkpoint's
}

TEST(SiemReader, FromEveryPositionTheSameEvents) {
  Bench b;
  write(b.log, 2, 8, 400);
  Receiver once;
  const auto positions = b.read(std::nullopt, once);
  ASSERT_GE(positions.size(), 8u);
  for (const Position& from : positions) {
    Receiver rest = once;  // an event of another content under a uid it has is a failure
    b.read(from, rest);
    EXPECT_EQ(rest.seen.size(), once.seen.size());
  }
}

// The rule that is wrong: windows that begin where the reader was, not where the last one ended. A restart in the middle of a window would
// then count its beginning twice, under uids that no receiver can know as the same.
TEST(SiemReader, APositionInsideAWindowIsCaught) {
  Bench b;
  const Made made = write(b.log, 3, 4, 400);
  Receiver r;
  const auto positions = b.read(std::nullopt, r);
  Position wrong = positions[positions.size() - 2];
  ASSERT_LT(wrong.next + 50, positions.back().next);
  wrong.next += 50;
  wrong.tree.reset();
  b.read(wrong, r);
  EXPECT_NE(r.made.totals, made.totals);
}

TEST(SiemReader, FollowsWhileItGrows) {
  Bench b;
  Reader reader{*b.files, "host", "0.1.0"};
  ASSERT_TRUE(reader.start(std::nullopt)) << reader.problem();
  Receiver r;
  Made made;
  std::vector<Event> events;
  Position behind;
  for (unsigned i = 0; i < 5; ++i) {
    b.log.append(9, 0, i * 300, 300);
    ASSERT_TRUE(b.log.writer->sync().ok());
    while (reader.next(events, behind))
      for (const Event& e : events) r.take(e);
    EXPECT_LT(behind.next, b.log.writer->size()) << "it was not signed yet";
    ASSERT_TRUE(b.log.writer->tick().ok());
    while (reader.next(events, behind))
      for (const Event& e : events) r.take(e);
    EXPECT_EQ(behind.next, b.log.writer->size());
    b.log.now += kSecond;
  }
  std::uint64_t count = 0;
  for (const auto& [uid, json] : r.seen) {
    const Json j = Json::parse(json);
    if (j["class_uid"] == 1004) count += j["count"].get<std::uint64_t>();
  }
  EXPECT_EQ(count, 1500u);
  EXPECT_EQ(reader.problem(), "");
}

TEST(SiemReader, ReadsPackedSegments) {
  Bench b;
  const Made made = write(b.log, 4, 8, 500);
  std::size_t packed = 0;
  for (const std::uint64_t first : b.log.writer->closed_segments()) {
    audit::PackResult result;
    ASSERT_EQ(audit::pack_segment(*b.files, first, result), "");
    ++packed;
  }
  ASSERT_GE(packed, 2u);
  Receiver r;
  b.read(std::nullopt, r);
  EXPECT_EQ(r.made.totals, made.totals);
}

TEST(SiemReader, AChangedByteIsToldByTheChecksum) {
  Bench b;
  write(b.log, 5, 6, 300);
  const std::string data = b.log.directory + "/segment/000000000000.data";
  std::string text = audit::test::slurp(data);
  text.back() ^= 1;  // of a leaf, not of its length
  audit::test::spit(data, text);
  Receiver r;
  b.read(std::nullopt, r);
  EXPECT_EQ(findings(r), (std::vector<std::string>{"changed", "damaged"}));
}

// Who changes checksums, marks and roots of the journal as well is found by what was signed.
TEST(SiemReader, AChangedLogIsToldByItsRoot) {
  Bench b;
  b.log.options.segment_bytes = 1u << 30;
  ASSERT_EQ(b.log.open(), "");
  b.log.append(1, 0, 0, 100);
  ASSERT_TRUE(b.log.writer->finish().ok());
  b.log.writer.reset();
  const audit::test::Forger forger{b.log.directory};
  forger.change([](audit::test::Leaves& leaves) { leaves.back()[44] ^= 1; });
  Receiver r;
  b.read(std::nullopt, r);
  EXPECT_EQ(findings(r), (std::vector<std::string>{"changed"}));
}

TEST(SiemReader, ALostSegmentIsToldAndTheRestIsSent) {
  Bench b;
  write(b.log, 6, 8, 500);
  Receiver first;
  const auto positions = b.read(std::nullopt, first, 2);
  const auto closed = b.log.writer->closed_segments();
  ASSERT_GE(closed.size(), 3u);
  for (const char* ending : {".data", ".journal"})
    std::filesystem::remove(b.log.directory + "/" + audit::segment_name(closed[1]) + ending);
  Receiver r;
  const auto rest = b.read(positions.front(), r);
  EXPECT_EQ(rest.back().next, b.log.writer->size());
  const auto told = findings(r);  // once for each checkpoint that covers some of it
  EXPECT_FALSE(told.empty());
  for (const std::string& one : told) EXPECT_EQ(one, "missing");
}

TEST(SiemReader, RetainedLogsBeginWhereTheyBegin) {
  Bench b;
  write(b.log, 7, 8, 500);
  const auto closed = b.log.writer->closed_segments();
  ASSERT_GE(closed.size(), 3u);
  std::uint64_t removed = 0;
  ASSERT_TRUE(b.log.writer->retain_from(closed[2], "test", removed).ok());
  ASSERT_TRUE(b.log.writer->finish().ok());
  ASSERT_GE(removed, 1u);
  Receiver fresh;
  EXPECT_EQ(b.read(std::nullopt, fresh).back().next, b.log.writer->size());
  EXPECT_TRUE(findings(fresh).empty());  // it had sent none of them
  Position old;
  old.next = 5;
  Receiver late;
  b.read(old, late);
  EXPECT_EQ(findings(late), (std::vector<std::string>{"removed"}));
}

TEST(SiemReader, AnotherOrAShorterLogIsTold) {
  Bench b;
  write(b.log, 8, 2, 50);
  Position other;
  other.log = "deadbeef";
  other.next = 77;
  Receiver r;
  EXPECT_EQ(b.read(other, r).back().next, b.log.writer->size());
  EXPECT_EQ(findings(r), (std::vector<std::string>{"replaced"}));
  Receiver s;
  auto beyond = b.read(std::nullopt, s).back();
  beyond.next += 1000;
  beyond.tree.reset();
  b.read(beyond, s);
  EXPECT_EQ(findings(s), (std::vector<std::string>{"shorter"}));
}

// A storm of refusals: windows end early, memory stays bounded, and each is told.
TEST(SiemReader, ARefusalStormEndsWindowsEarly) {
  Bench b;
  std::vector<AuditEntry> batch;
  std::mt19937_64 random{9};
  for (unsigned i = 0; i < 5000; ++i) {
    AuditEntry e = entry(random, EntryKind::kTransfer, 1, i, b.log.now);
    e.direction_decision_flags = abi::pack_verdict(Direction::kHostToDevice, Decision::kDenied, 0);
    batch.push_back(e);
  }
  for (std::size_t at = 0; at < batch.size(); at += 500)
    ASSERT_TRUE(b.log.writer->entries(std::span{batch}.subspan(at, 500)).ok());
  ASSERT_TRUE(b.log.writer->finish().ok());
  Reader reader{*b.files, "host", "0.1.0"};
  ASSERT_TRUE(reader.start(std::nullopt));
  std::vector<Event> events;
  std::size_t denied = 0;
  for (Position behind; reader.next(events, behind);) {
    EXPECT_LE(events.size(), Window::kMostEvents);
    for (const Event& e : events) denied += std::string{e.msgid} == "DENY";
  }
  EXPECT_EQ(denied, 5000u);
}

TEST(SiemPosition, SurvivesATornSlot) {
  char name[] = "/tmp/bh-pos-XXXXXX";
  const std::string directory = ::mkdtemp(name);
  const UniqueFd dir{::open(directory.c_str(), O_RDONLY | O_DIRECTORY)};
  const auto open = [&] {
    auto files = open_position_files(dir.get());
    EXPECT_TRUE(files.ok());
    return PositionStore{std::move(*files)};
  };
  bool damaged = true;
  PositionStore store = open();
  EXPECT_FALSE(store.load(damaged));
  EXPECT_FALSE(damaged);
  Position p;
  p.log = "0011";
  p.tree = audit::Frontier{};
  for (std::uint64_t i = 1; i <= 5; ++i) {
    p.next = i;
    p.tree->append(audit::Hash{});
    auto names = std::make_shared<Context>();
    EXPECT_TRUE(names->take(Json{{"record", "session"}, {"serial", i}, {"tenant", "t"}}));
    p.names = names;
    ASSERT_EQ(store.save(p), 0);
    PositionStore other = open();
    const auto back = other.load(damaged);
    ASSERT_TRUE(back);
    EXPECT_EQ(back->next, i);
    EXPECT_EQ(back->tree->root(), p.tree->root());
    EXPECT_EQ(back->names->session(static_cast<std::uint32_t>(i))->tenant, "t");
  }
  // The newest slot (the fifth: an odd one, the second place) loses a byte: the one before it counts, with its names.
  const std::string path = directory + "/position";
  std::string text = audit::test::slurp(path);
  text[4096 + 20] ^= 1;
  audit::test::spit(path, text);
  {
    PositionStore other = open();
    const auto back = other.load(damaged);
    ASSERT_TRUE(back);
    EXPECT_FALSE(damaged);
    EXPECT_EQ(back->next, 4u);
    EXPECT_NE(back->names->session(4), nullptr);
  }
  text[20] ^= 1;
  audit::test::spit(path, text);
  PositionStore other = open();
  EXPECT_FALSE(other.load(damaged));
  EXPECT_TRUE(damaged);
  std::filesystem::remove_all(directory);
}

TEST(SiemOcsf, NothingIsLongerThanAReceiverMustTake) {
  const Ocsf ocsf{{std::string(255, 'o'), "0123abcd", std::string(64, 'h'), "0.1.0"}};
  Context context;
  Json session = {{"record", "session"},
                  {"serial", 1},
                  {"tenant", std::string(63, 't')},
                  {"exe", std::string(4000, '\x01')},
                  {"pid", 1 << 22},
                  {"uid", 4294967295},
                  {"mode", "enforce"},
                  {"devices", Json::array()}};
  for (int i = 0; i < 20; ++i) session["devices"].push_back(std::string(40, 'd'));
  Json grant = {{"record", "grant"},
                {"serial", 7},
                {"session_tenant", std::string(63, 't')},
                {"sub", std::string(4000, '\xff')},
                {"jti", std::string(400, 'j')},
                {"iss", std::string(400, '"')},
                {"kid", std::string(400, '\n')},
                {"devices", session["devices"]},
                {"datatypes", session["devices"]},
                {"directions", {"h2d"}}};
  context.take(session);
  context.take(grant);
  const Json odd = {
      {"record", std::string(4000, 'k')}, {"why", std::string(4000, '\x02')}, {"utc", "x"}};
  const Json gap = {
      {"record", "gap"}, {"why", std::string(4000, '\\')}, {"count", -1}, {"session", 1}};
  AuditEntry e{};
  e.version_kind = abi::version_kind(EntryKind::kMap);
  e.session = 1;
  e.grant = 7;
  e.operation = 255;
  e.direction_decision_flags = 0xff;
  e.utc_ns = ~0ull;
  std::vector<Event> all{ocsf.entry(e, ~0ull, ~0ull, context),
                         ocsf.finding("damaged", std::string(999, 'x'), 0, 1, 2, 3)};
  for (const Json& r : {session, grant, odd, gap})
    all.push_back(ocsf.record(r, ~0ull, ~0ull, context));
  for (const Event& event : all) {
    EXPECT_LE(syslog_message(event, std::string(64, 'h'), 4294967295u).size(), kMostMessage)
        << event.json;
    const Json j = Json::parse(event.json, nullptr, false);
    ASSERT_TRUE(j.is_object());
    for (const char c : event.json) ASSERT_TRUE(c >= 0x20 && c < 0x7f);
    for (const char* key : {"activity_id", "category_uid", "class_uid", "type_uid", "severity_id",
                            "time", "metadata"})
      EXPECT_TRUE(j.contains(key)) << key << event.json;
  }
}

}  // namespace
}  // namespace bulkhead::daemon::siem
