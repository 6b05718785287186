// What the verifier makes of modes that change, of transfers that had no lane, and of tokens.
#include <gtest/gtest.h>

#include <fstream>

#include "audit/log_fixture.h"
#include "audit/verify.h"

namespace bulkhead::audit {
namespace {

using namespace test;

VerifyOptions options_of(const TestLog& log) {
  std::ifstream in{log.directory + "/host.pub"};
  const std::string text{std::istreambuf_iterator<char>{in}, {}};
  VerifyOptions out;
  out.policy = *parse_policy(text);
  return out;
}
VerifyReport verify(const TestLog& log, const VerifyOptions& options) {
  PosixFiles files{log.directory};
  return verify_log(files, options);
}
std::string first_text(const VerifyReport& r) {
  return r.findings.empty() ? r.could_not : finding_text(r.findings[0]);
}
void add(TestLog& log, const std::string& json) { ASSERT_TRUE(log.writer->record(json).ok()); }
void add_mode(TestLog& log, const std::string& mode) {
  add(log, "{\"mode\":\"" + mode + "\",\"record\":\"mode\",\"tenant\":\"trade\",\"utc\":" +
               std::to_string(log.now) + "}");
}
void observed(TestLog& log, std::uint64_t sequence, std::uint64_t utc_ns) {
  abi::AuditEntry e = transfer(1, 0, sequence, utc_ns, 0);
  e.direction_decision_flags =
      abi::pack_verdict(abi::Direction::kHostToDevice, abi::Decision::kObserved, 0);
  ASSERT_TRUE(log.writer->entries({&e, 1}).ok());
}

// A session of mode enforce may observe while the log says that its tenant does, and shortly after.
TEST(VerifyMode, AModeThatWasChangedBindsTheSessionsThatRun) {
  struct Case {
    const char* name;
    std::vector<std::string> before,
        after;  // modes that are said before and after the session's record
    std::uint64_t later_s;
    bool intact;
  };
  for (const Case& c :
       {Case{"none said", {}, {}, 0, false},
        Case{"never lowered", {"enforce"}, {"enforce"}, 1, false},
        Case{"lowered", {"enforce"}, {"observe"}, 0, true},
        Case{"raised again, at once", {"enforce"}, {"observe", "enforce"}, 5, true},
        Case{"observes on, said again", {"enforce"}, {"observe", "observe"}, 61, true},
        Case{"raised, and said again", {"enforce"}, {"observe", "enforce", "enforce"}, 5, true},
        Case{"raised again, long ago", {"enforce"}, {"observe", "enforce"}, 61, false},
        Case{"stricter by its own word", {"observe"}, {"observe"}, 0, false}}) {
    SCOPED_TRACE(c.name);
    TestLog log;
    ASSERT_EQ(log.open(), "");
    for (const std::string& mode : c.before) add_mode(log, mode);
    add(log, session_json(1, log.now, "enforce"));
    for (const std::string& mode : c.after) add_mode(log, mode);
    const std::uint64_t at = log.now + c.later_s * kSecond;
    while (log.now < at) log.next_epoch();
    observed(log, 0, at);
    ASSERT_TRUE(log.writer->finish().ok());
    const VerifyReport r = verify(log, options_of(log));
    EXPECT_EQ(r.exit_code(), c.intact ? 0 : 1) << first_text(r);
    if (!c.intact) {
      EXPECT_EQ(r.findings[0].check, Check::kGrant) << first_text(r);
    }
  }
}

TEST(VerifyMode, WhatHadNoLaneIsAGap) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  add(log,
      "{\"bytes\":4096,\"count\":3,\"from\":0,\"lane\":65535,\"record\":\"gap\",\"session\":0,"
      "\"tenant\":\"t\",\"to\":0,\"utc\":1,\"why\":\"there was no lane\"}");
  ASSERT_TRUE(log.writer->finish().ok());
  VerifyOptions options = options_of(log);
  const VerifyReport r = verify(log, options);
  EXPECT_EQ(r.exit_code(), 1);
  EXPECT_EQ(
      first_text(r),
      "gap: index 2: 3 transfers of tenant t went to the driver and no lane took their entries");
  options.off[static_cast<std::size_t>(Check::kGap)] = true;
  EXPECT_EQ(verify(log, options).exit_code(), 0);
}

TEST(VerifyToken, AGrantIsWhatItsTokenSays) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  const std::string grant = grant_json(7, log.now / kSecond - 5, log.now / kSecond + 60);
  add(log, grant);
  ASSERT_TRUE(log.writer->finish().ok());
  VerifyOptions options = options_of(log);
  EXPECT_EQ(verify(log, options).tokens, 0u);
  using Token = VerifyOptions::Token;
  std::string seen;
  options.check_token = [&](const std::string& record, std::string&) {
    seen = record;
    return Token::kGood;
  };
  VerifyReport r = verify(log, options);
  EXPECT_EQ(r.exit_code(), 0) << first_text(r);
  EXPECT_EQ(r.tokens, 1u);
  EXPECT_EQ(seen, grant);
  options.check_token = [](const std::string&, std::string& why) {
    why = "its signature does not hold";
    return Token::kBad;
  };
  r = verify(log, options);
  EXPECT_EQ(r.exit_code(), 1);
  EXPECT_EQ(first_text(r), "token: index 2: grant 7: its signature does not hold");
  options.off[static_cast<std::size_t>(Check::kToken)] = true;
  EXPECT_EQ(verify(log, options).exit_code(), 0);
  options.check_token = [](const std::string&, std::string&) { return Token::kUnknownKey; };
  r = verify(log, options);
  EXPECT_EQ(r.exit_code(), 2) << "a key that is not there is no clean bill";
  EXPECT_EQ(r.unknown_keys, 1u);
}

}  // namespace
}  // namespace bulkhead::audit
