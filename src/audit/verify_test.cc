// The verifier on logs as the writer makes them: intact ones are called so, and each rule about what the entries say
// is broken once by a log that is signed correctly. What somebody changes afterwards: tamper_test.cc.
#include "audit/verify.h"

#include <gtest/gtest.h>

#include <fstream>

#include "audit/log_fixture.h"
#include "audit/pack.h"

namespace bulkhead::audit {
namespace {

using namespace test;

VerifyOptions options_of(const TestLog& log) {
  std::ifstream in{log.directory + "/host.pub"};
  const std::string text{std::istreambuf_iterator<char>{in}, {}};
  auto policy = parse_policy(text);
  EXPECT_TRUE(policy.ok()) << policy.problem;
  VerifyOptions out;
  out.policy = *policy;
  return out;
}
VerifyReport verify(const TestLog& log) {
  PosixFiles files{log.directory};
  return verify_log(files, options_of(log));
}
std::string first_text(const VerifyReport& r) {
  return r.findings.empty() ? r.could_not : finding_text(r.findings[0]);
}

TEST(Verify, WhatTheWriterMakesIsIntact) {
  TestLog log;
  log.options.segment_bytes = 30'000;
  ASSERT_EQ(log.open(), "");
  ASSERT_TRUE(log.writer->record(session_json(1, log.now)).ok());
  ASSERT_TRUE(log.writer->record(grant_json(1, log.now / kSecond, log.now / kSecond + 900)).ok());
  std::uint64_t n = 0;
  for (int epoch = 0; epoch < 4; ++epoch) {
    for (int i = 0; i < 5; ++i, n += 70) log.append(1, 0, n, 70, 1);
    ASSERT_TRUE(log.writer->finish().ok());
    log.next_epoch();
  }
  log.next_epoch();
  ASSERT_EQ(log.open(), "");  // the same boot: the session goes on
  log.append(1, 0, n, 30, 1);
  ASSERT_TRUE(log.writer->record(end_json(1, n + 30)).ok());
  ASSERT_TRUE(log.writer->finish().ok());
  const VerifyReport r = verify(log);
  EXPECT_EQ(r.exit_code(), 0) << first_text(r);
  EXPECT_EQ(r.entries, n + 30);
  EXPECT_EQ(r.size, log.writer->size());
  EXPECT_EQ(r.signed_size, r.size);
  EXPECT_EQ(r.epochs, 6u);
  EXPECT_EQ(r.bytes, (n + 30) * 4096);
}

TEST(Verify, PackedAndRemovedSegmentsAreInOrder) {
  TestLog log;
  log.options.segment_bytes = 30'000;
  ASSERT_EQ(log.open(), "");
  ASSERT_TRUE(log.writer->record(session_json(1, log.now)).ok());
  for (std::uint64_t n = 0; n < 5000; n += 100) log.append(1, 0, n, 100);
  log.next_epoch();
  const auto closed = log.writer->closed_segments();
  ASSERT_GE(closed.size(), 5u);
  PackResult packed;
  for (const std::size_t i : {0u, 1u, 2u, 3u}) {
    ASSERT_EQ(pack_segment(log.writer->files(), closed[i], packed), "");
    EXPECT_LT(packed.packed_bytes, packed.raw_bytes / 4);
  }
  VerifyReport r = verify(log);
  EXPECT_EQ(r.exit_code(), 0) << first_text(r);
  EXPECT_EQ(r.entries, 5000u);
  std::uint64_t removed = 0;
  ASSERT_TRUE(log.writer->retain_from(closed[3], "a week", removed).ok());
  EXPECT_EQ(removed, 3u);
  r = verify(log);
  EXPECT_EQ(r.exit_code(), 0) << first_text(r);
  EXPECT_EQ(r.first, closed[3]);
  ASSERT_EQ(log.open(), "");
  log.next_epoch();
  r = verify(log);
  EXPECT_EQ(r.exit_code(), 0) << first_text(r);
}

// Says something wrong in a log that is written and signed as it should be.
struct Says {
  const char* name;
  std::function<void(TestLog&)> write;
  Check check;
  std::string text;  // of the first finding
};

void add(TestLog& log, const abi::AuditEntry& entry) {
  ASSERT_TRUE(log.writer->entries({&entry, 1}).ok());
}
void add(TestLog& log, const std::string& json) { ASSERT_TRUE(log.writer->record(json).ok()); }
std::uint64_t now_s(const TestLog& log) { return log.now / kSecond; }

std::vector<Says> wrong_words() {
  const auto begin = [](TestLog& log, const std::string& mode = "enforce") {
    add(log, session_json(1, log.now, mode));  // index 2
    add(log, grant_json(7, now_s(log) - 5, now_s(log) + 60, 8192));
    log.append(1, 0, 0, 1, 7);  // index 4
  };
  const auto changed = [begin](auto change) {
    return [=](TestLog& log) {
      begin(log);
      abi::AuditEntry e = transfer(1, 0, 1, log.now, 7);
      change(e, log);
      add(log, e);
    };
  };
  using E = abi::AuditEntry;
  std::vector<Says> all;
  const auto grant_case = [&](const char* name, auto change, const std::string& text) {
    all.push_back({name, changed(change), Check::kGrant,
                   "grant: index 5 (session 1, lane 0, sequence 1): " + text});
  };
  grant_case(
      "no grant", [](E& e, TestLog&) { e.grant = 0; }, "names no grant");
  grant_case(
      "unknown grant", [](E& e, TestLog&) { e.grant = 8; },
      "names a grant that has no record before it");
  grant_case(
      "late",
      [](E& e, TestLog& log) {
        log.next_epoch();
        log.next_epoch();
        e.utc_ns = log.now;
      },
      "is later than its grant's end");
  all.back().text = "grant: index 7 (session 1, lane 0, sequence 1): is later than its grant's end";
  grant_case(
      "direction",
      [](E& e, TestLog&) {
        e.direction_decision_flags =
            abi::pack_verdict(abi::Direction::kBetweenDevices, abi::Decision::kAllowed, 0);
      },
      "has a direction its grant does not allow");
  grant_case(
      "unknown direction needs all",
      [](E& e, TestLog&) {
        e.direction_decision_flags =
            abi::pack_verdict(abi::Direction::kUnknown, abi::Decision::kAllowed, 0);
      },
      "has a direction its grant does not allow");
  grant_case(
      "map", [](E& e, TestLog&) { e.version_kind = abi::version_kind(abi::EntryKind::kMap); },
      "has a direction its grant does not allow");
  grant_case(
      "device", [](E& e, TestLog&) { e.destination_device = 1; },
      "touches a device its grant does not name");
  grant_case(
      "bytes", [](E& e, TestLog&) { abi::set_bytes(e, 8000); },
      "moves more bytes than its grant allows");
  grant_case(
      "observed under enforce",
      [](E& e, TestLog&) {
        e.direction_decision_flags =
            abi::pack_verdict(abi::Direction::kHostToDevice, abi::Decision::kObserved, 0);
      },
      "says observed, and its session is not of mode observe");
  all.push_back({"early grant",
                 [begin](TestLog& log) {
                   add(log, session_json(1, log.now));
                   add(log, grant_json(7, now_s(log) + 5, now_s(log) + 60));
                   log.append(1, 0, 0, 1, 7);
                 },
                 Check::kGrant,
                 "grant: index 4 (session 1, lane 0, sequence 0): is earlier than its grant"});
  all.push_back(
      {"another tenant's grant",
       [](TestLog& log) {
         add(log, session_json(1, log.now));
         add(log, grant_json(7, now_s(log), now_s(log) + 60, 0, "other"));
         log.append(1, 0, 0, 1, 7);
       },
       Check::kGrant,
       "grant: index 4 (session 1, lane 0, sequence 0): names a grant of another tenant"});
  all.push_back({"revoked",
                 [begin](TestLog& log) {
                   begin(log);
                   add(log, "{\"record\":\"policy\",\"revoked_grant\":7,\"utc\":" +
                                std::to_string(log.now) + "}");
                   add(log, transfer(1, 0, 1, log.now + 1'500'000'000, 7));
                 },
                 Check::kGrant,
                 "grant: index 6 (session 1, lane 0, sequence 1): names a grant that was revoked"});
  all.push_back({"grant said twice",
                 [begin](TestLog& log) {
                   begin(log);
                   add(log, grant_json(7, now_s(log), now_s(log) + 60, 9000));
                 },
                 Check::kGrant, "grant: index 5: grant 7 has another meaning than before"});
  const auto lane_case = [&](const char* name, Check check, auto change, const std::string& text) {
    all.push_back({name, changed(change), check, text});
  };
  lane_case(
      "sequence missing", Check::kSequence, [](E& e, TestLog&) { abi::set_sequence(e, 4); },
      "sequence: index 5 (session 1, lane 0, sequence 1): 3 entries are missing from this one on");
  lane_case(
      "sequence again", Check::kSequence, [](E& e, TestLog&) { abi::set_sequence(e, 0); },
      "sequence: index 5 (session 1, lane 0, sequence 0): it is there again, or out of order "
      "(expected 1)");
  lane_case(
      "no such session", Check::kSession,
      [](E& e, TestLog&) {
        e.session = 2;
        abi::set_sequence(e, 0);
      },
      "session: index 5 (session 2, lane 0, sequence 0): its session has no record before it, or "
      "has ended");
  lane_case(
      "version", Check::kEntryForm, [](E& e, TestLog&) { e.version_kind = 0x21; },
      "entry-form: index 5: not an entry of this format");
  lane_case(
      "time goes back", Check::kClock, [](E& e, TestLog&) { e.utc_ns -= 1'100'000'000; },
      "clock: index 5 (session 1, lane 0, sequence 1): its time is 1100 ms before that of the "
      "entry or session before it");
  lane_case(
      "from the future", Check::kEpochTime, [](E& e, TestLog&) { e.utc_ns += 50 * kSecond; },
      "epoch-time: index 5 (session 1, lane 0, sequence 1): its time is after the end of its "
      "epoch, which the record at index 7 ended");
  all.back().write = [write = all.back().write](TestLog& log) {
    write(log);
    log.options.epoch_s = 60;
    log.now += 10 * kSecond;
    const std::uint64_t keep = log.now;
    ASSERT_EQ(log.open(), "");  // index 6: boot
    std::filesystem::remove(log.directory + "/epoch.key");
    log.now = keep;
    ASSERT_EQ(log.open(), "");
  };
  all.back().text =
      "epoch-time: index 5 (session 1, lane 0, sequence 1): its time is after the end of its "
      "epoch, which the record at index 8 ended";
  lane_case(
      "gap entry", Check::kGap,
      [](E& e, TestLog&) {
        e.version_kind = abi::version_kind(abi::EntryKind::kGap);
        abi::set_bytes(e, 12);
      },
      "gap: index 5 (session 1, lane 0, sequence 1): 12 entries were not recorded");
  all.push_back({"end of a session short",
                 [begin](TestLog& log) {
                   begin(log);
                   add(log, end_json(1, 3));
                 },
                 Check::kSessionEnd,
                 "session-end: index 5 (session 1, lane 0, sequence 1): the session's end says 3 "
                 "entries in this lane, the log has 1"});
  all.push_back({"record not canonical",
                 [begin](TestLog& log) {
                   begin(log);
                   add(log, "{\"record\":\"read\", \"who\":\"me\"}");
                 },
                 Check::kRecordForm,
                 "record-form: index 5: a record that cannot be read: not canonical JSON"});
  all.push_back({"member twice",
                 [begin](TestLog& log) {
                   begin(log);
                   add(log, "{\"record\":\"read\",\"record\":\"boot\"}");
                 },
                 Check::kRecordForm,
                 "record-form: index 5: a record that cannot be read: not canonical JSON"});
  all.push_back({"boot record in the middle",
                 [begin](TestLog& log) {
                   begin(log);
                   add(log, boot_json({log.now, "boot-1", "test/bulkhead", 2, 0, 2, ""}));
                 },
                 Check::kBoot, "boot: index 5: a boot record says that 2 entries were there"});
  all.push_back({"gap record",
                 [begin](TestLog& log) {
                   begin(log);
                   add(log,
                       "{\"count\":3,\"from\":1,\"lane\":0,\"record\":\"gap\",\"session\":1,\"to\":"
                       "3,\"why\":\"ring lost\"}");
                 },
                 Check::kGap,
                 "gap: index 5 (session 1, lane 0, sequence 1): 3 entries are known to be lost"});
  return all;
}

TEST(Verify, EachRuleIsKeptAndNamesTheEntry) {
  for (const Says& one : wrong_words()) {
    SCOPED_TRACE(one.name);
    TestLog log;
    ASSERT_EQ(log.open(), "");
    one.write(log);
    ASSERT_TRUE(log.writer->finish().ok());
    const VerifyReport r = verify(log);
    EXPECT_EQ(r.exit_code(), 1);
    EXPECT_EQ(first_text(r), one.text);
    // The mutation: without its check nothing is found, so no other check hides that it is gone.
    PosixFiles files{log.directory};
    VerifyOptions options = options_of(log);
    options.off[static_cast<std::size_t>(one.check)] = true;
    const VerifyReport without = verify_log(files, options);
    EXPECT_EQ(without.exit_code(), 0) << first_text(without);
  }
}

// Files that somebody changed or took away, in a log of several segments.
TEST(Verify, SegmentsAndStoredHashesAreLookedAt) {
  struct Case {
    const char* name;
    std::function<void(const std::string&, const std::vector<std::uint64_t>&)> change;
    Check check;
    std::string begins;
    bool only;
  };
  const auto remove = [](const std::string& dir, std::uint64_t first) {
    std::filesystem::remove(dir + "/" + segment_name(first) + ".data");
    std::filesystem::remove(dir + "/" + segment_name(first) + ".journal");
  };
  const std::vector<Case> cases = {
      {"the oldest segments, and nobody said so",
       [&](const std::string& dir, const auto& closed) {
         remove(dir, closed[0]);
         remove(dir, closed[1]);
       },
       Check::kSegments, "segments: index 0: entries before index 1536 are missing", true},
      {"one in the middle",
       [&](const std::string& dir, const auto& closed) { remove(dir, closed[1]); },
       Check::kSegments,
       "segments: index 768: 768 entries are missing: the next segment begins at index 1536",
       false},
      {"a stored hash",
       [](const std::string& dir, const auto&) {
         std::fstream f{dir + "/tree/1", std::ios::in | std::ios::out | std::ios::binary};
         f.seekp(32 * 3 + 5);
         f.put('x');
       },
       Check::kTreeFiles,
       "tree-files: index 768: tree/1 has another hash for the entries from here to index 1023",
       true},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(one.name);
    TestLog log;
    log.options.segment_bytes = 30'000;
    ASSERT_EQ(log.open(), "");
    ASSERT_TRUE(log.writer->record(session_json(1, log.now)).ok());
    for (std::uint64_t n = 0; n < 3000; n += 100) log.append(1, 0, n, 100);
    ASSERT_TRUE(log.writer->finish().ok());
    const auto closed = log.writer->closed_segments();
    ASSERT_GE(closed.size(), 3u);
    one.change(log.directory, closed);
    const VerifyReport r = verify(log);
    EXPECT_EQ(r.exit_code(), 1);
    EXPECT_TRUE(first_text(r).starts_with(one.begins)) << first_text(r);
    if (!one.only) continue;
    VerifyOptions options = options_of(log);
    options.off[static_cast<std::size_t>(one.check)] = true;
    PosixFiles files{log.directory};
    const VerifyReport without = verify_log(files, options);
    EXPECT_EQ(without.exit_code(), 0) << first_text(without);
  }
}

TEST(Verify, AnnouncedStepOfTheClockIsInOrder) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  ASSERT_TRUE(log.writer->record(session_json(1, log.now)).ok());
  log.append(1, 0, 0, 3);
  ASSERT_TRUE(log.writer->record("{\"record\":\"clock\",\"step_ns\":-5000000000,\"utc\":1}").ok());
  log.now -= 5 * kSecond;
  log.append(1, 0, 3, 3);
  ASSERT_TRUE(log.writer->finish().ok());
  EXPECT_EQ(verify(log).exit_code(), 0) << first_text(verify(log));
}

TEST(Verify, AnotherBootEndsSessionsWithoutTheirEnd) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  ASSERT_TRUE(log.writer->record(session_json(1, log.now)).ok());
  log.append(1, 0, 0, 3);
  log.options.boot_id = "boot-2";
  ASSERT_EQ(log.open(), "");
  const VerifyReport r = verify(log);
  EXPECT_EQ(r.exit_code(), 0) << first_text(r);
  ASSERT_FALSE(r.remarks.empty());
  EXPECT_NE(r.remarks[0].find("the machine stopped with 1 sessions open"), std::string::npos);
}

TEST(Verify, WhatCannotBeReadIsNotCalledIntact) {
  TestLog log;
  EXPECT_EQ(verify_log(*std::make_unique<PosixFiles>(log.directory), {}).exit_code(), 2);
}

}  // namespace
}  // namespace bulkhead::audit
