// Steps of the wall clock under a running writer, between two of them, and what its own records must not be taken for.
#include <gtest/gtest.h>

#include "audit/forger.h"
#include "audit/reader.h"
#include "audit/verify.h"

namespace bulkhead::audit {
namespace {

using namespace test;

std::string first_finding(const TestLog& log, bool off = false) {
  VerifyOptions options;
  options.policy = *parse_policy(slurp(log.directory + "/host.pub"));
  if (off) options.off[static_cast<std::size_t>(Check::kClock)] = true;
  PosixFiles files{log.directory};
  const VerifyReport r = verify_log(files, options);
  return r.findings.empty() ? r.could_not : finding_text(r.findings[0]);
}

TEST(Clock, AStepBackIsRecordedBeforeWhatComesBehindIt) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  ASSERT_TRUE(log.writer->record(session_json(1, log.utc())).ok());
  log.append(1, 0, 0, 3);
  log.set_by -= static_cast<std::int64_t>(90 * kSecond);
  log.append(1, 0, 3, 3);
  log.next_epoch();
  log.append(1, 0, 6, 3);
  ASSERT_TRUE(log.writer->finish().ok());
  EXPECT_EQ(log.writer->figures().clock_steps, 1u);
  EXPECT_EQ(log.writer->figures().last_step_ns, -static_cast<std::int64_t>(90 * kSecond));
  EXPECT_EQ(first_finding(log), "");
}

// A lane may hold what was stamped before the step when the record of it is written.
TEST(Clock, WhatWasStampedBeforeAStepMayBeDrainedBehindIt) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  ASSERT_TRUE(log.writer->record(session_json(1, log.utc())).ok());
  log.append(1, 0, 0, 3);
  const std::uint64_t before = log.utc();
  log.set_by -= static_cast<std::int64_t>(30 * kSecond);
  log.append(1, 1, 0, 1);  // another lane, behind the step: the record is written
  const abi::AuditEntry late[] = {transfer(1, 0, 3, before), transfer(1, 0, 4, log.utc())};
  ASSERT_TRUE(log.writer->entries(late).ok());
  log.next_epoch();
  EXPECT_EQ(log.writer->figures().clock_steps, 1u);
  EXPECT_EQ(first_finding(log), "");
  // Twice by one step it does not go.
  const abi::AuditEntry again[] = {transfer(1, 0, 5, log.utc()),
                                   transfer(1, 0, 6, log.utc() - 20 * kSecond)};
  ASSERT_TRUE(log.writer->entries(again).ok());
  ASSERT_TRUE(log.writer->finish().ok());
  EXPECT_NE(first_finding(log).find("clock: "), std::string::npos) << first_finding(log);
}

TEST(Clock, ASlewIsNoStep) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  for (int i = 0; i < 100; ++i) {
    log.now += 10 * kSecond;
    log.set_by -= 4'000'000;  // 400 ppm
    ASSERT_TRUE(
        log.writer->record(session_json(static_cast<std::uint32_t>(i + 1), log.utc())).ok());
  }
  EXPECT_EQ(log.writer->figures().clock_steps, 0u);
}

TEST(Clock, SetBackWhileNobodyWroteIsSaidAtTheStart) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  ASSERT_TRUE(log.writer->record(session_json(1, log.utc())).ok());
  log.append(1, 0, 0, 3);
  log.writer.reset();
  log.set_by -= static_cast<std::int64_t>(600 * kSecond);
  ASSERT_EQ(log.open(), "");
  log.append(1, 0, 3, 3);  // the same session: it outlived the writer
  ASSERT_TRUE(log.writer->finish().ok());
  EXPECT_EQ(first_finding(log), "");
}

// What stands between an intent and a crash: the writer's own records are no entries that arrived.
TEST(Clock, OwnRecordsAreNotCountedAsHandedOver) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  ASSERT_TRUE(log.writer->record(session_json(1, log.utc())).ok());
  const std::uint64_t before = log.writer->size();
  log.next_epoch();  // a key record
  log.set_by -= static_cast<std::int64_t>(5 * kSecond);
  log.append(1, 0, 0, 7);  // a clock record, and seven entries
  const std::uint64_t found = log.writer->size();
  ASSERT_GE(found - before, 9u);
  ASSERT_EQ(log.open(), "");
  auto reader = LogReader::open(std::make_unique<PosixFiles>(log.directory));
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ((*reader)->handed_over(before, found), 7u);
  EXPECT_EQ((*reader)->handed_over(before, before), 0u);
}

}  // namespace
}  // namespace bulkhead::audit
