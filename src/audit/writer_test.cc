// The writer on a real directory: what it writes is there again after a stop, and what cannot be is refused.
#include "audit/writer.h"

#include <gtest/gtest.h>

#include <fstream>

#include "audit/log_fixture.h"
#include "audit/sync_thread.h"
#include "base/clock.h"

namespace bulkhead::audit {
namespace {

using namespace test;

std::string read_file(const std::string& path) {
  std::ifstream in{path, std::ios::binary};
  return {std::istreambuf_iterator<char>{in}, {}};
}
void write_file(const std::string& path, const std::string& text) {
  std::ofstream{path, std::ios::binary} << text;
}

TEST(Writer, SignsWhatIsDurableAndGoesOnAfterAStop) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  EXPECT_EQ(log.writer->size(), 2u);  // boot and the first key
  EXPECT_EQ(log.writer->state().signed_size, 2u);
  ASSERT_TRUE(log.writer->record(session_json(1, log.now)).ok());
  log.append(1, 0, 0, 1000);
  EXPECT_EQ(log.writer->size(), 1003u);
  EXPECT_EQ(log.writer->durable(), 2u);
  EXPECT_EQ(log.writer->state().signed_size, 2u);
  ASSERT_TRUE(log.writer->tick().ok());
  EXPECT_EQ(log.writer->state().signed_size, 2u) << "signed what was not durable";
  ASSERT_TRUE(log.writer->sync().ok());
  EXPECT_EQ(log.writer->durable(), 1003u);
  ASSERT_TRUE(log.writer->tick().ok());
  EXPECT_EQ(log.writer->state().signed_size, 1003u);
  ASSERT_EQ(log.open(), "");
  EXPECT_EQ(log.writer->recovered(), 1003u);
  EXPECT_EQ(log.writer->size(), 1004u);  // a boot record; the key is the one before
  EXPECT_EQ(log.writer->state().epoch, 0u);
  EXPECT_EQ(log.writer->state().signed_size, 1004u);
}

TEST(Writer, SecondWriterIsKeptOut) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  auto second = Writer::open(std::make_unique<PosixFiles>(log.directory),
                             std::make_unique<ManualClock>(&log.now), log.options);
  EXPECT_EQ(second.problem, "another process writes this log");
}

TEST(Writer, EpochsChangeTheKeyAlsoWhenNothingHappens) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  const std::string first = read_file(log.directory + "/epoch.key");
  for (int i = 0; i < 3; ++i) log.next_epoch();
  EXPECT_EQ(log.writer->state().epoch, 3u);
  EXPECT_EQ(log.writer->size(), 5u);
  const std::string last = read_file(log.directory + "/epoch.key");
  EXPECT_TRUE(last.starts_with("epoch 3 record 4\n"));
  EXPECT_NE(first.substr(20), last.substr(20));
  EXPECT_FALSE(std::filesystem::exists(log.directory + "/epoch.key.next"));
  ASSERT_EQ(log.open(), "");
  EXPECT_EQ(log.writer->state().epoch, 3u);
}

TEST(Writer, SegmentsEndAtBundlesAndTreesAreTheirs) {
  TestLog log;
  log.options.segment_bytes = 20'000;
  ASSERT_EQ(log.open(), "");
  ASSERT_TRUE(log.writer->record(session_json(1, log.now)).ok());
  for (int i = 0; i < 30; ++i) log.append(1, 0, static_cast<std::uint64_t>(i) * 100, 100);
  ASSERT_TRUE(log.writer->finish().ok());
  const auto closed = log.writer->closed_segments();
  ASSERT_GE(closed.size(), 4u);
  for (const std::uint64_t first : closed) EXPECT_EQ(first % kBundle, 0u);
  EXPECT_EQ(read_file(log.directory + "/tree/1").size(), 32 * (log.writer->size() / 256));
  ASSERT_EQ(log.open(), "");
  EXPECT_EQ(log.writer->closed_segments(), closed);
  EXPECT_EQ(log.writer->recovered(), 3003u);
}

TEST(Writer, TornTailIsCutAndSaid) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  ASSERT_TRUE(log.writer->record(session_json(1, log.now)).ok());
  log.append(1, 0, 0, 10);
  ASSERT_TRUE(log.writer->finish().ok());
  log.append(1, 0, 10, 10);
  log.writer.reset();
  const std::string data = log.directory + "/segment/000000000000.data";
  std::string bytes = read_file(data);
  bytes[bytes.size() - 5] ^= 1;
  write_file(data, bytes);
  ASSERT_EQ(log.open(), "");
  EXPECT_EQ(log.writer->recovered(), 13u);
  EXPECT_NE(read_file(data).find("\"cut_bytes\":664"), std::string::npos);
}

TEST(Writer, RefusesToStartBelowOrBesideASignedCheckpoint) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  ASSERT_TRUE(log.writer->record(session_json(1, log.now)).ok());
  log.append(1, 0, 0, 10);
  ASSERT_TRUE(log.writer->finish().ok());
  log.writer.reset();
  const std::string data = log.directory + "/segment/000000000000.data";
  const std::string whole = read_file(data);
  std::string bytes = whole;
  bytes[bytes.size() - 5] ^= 1;
  write_file(data, bytes);
  EXPECT_EQ(log.open(), "the last signed checkpoint is of size 13, and only 3 entries are there");
  EXPECT_EQ(read_file(data), bytes) << "a refused start changed something";
  write_file(data, whole);
  EXPECT_EQ(log.open(), "");
}

TEST(Writer, LostEpochKeyBeginsANewChainByTheHost) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  log.next_epoch();
  log.writer.reset();
  std::filesystem::remove(log.directory + "/epoch.key");
  ASSERT_EQ(log.open(), "");
  EXPECT_EQ(log.writer->state().epoch, 2u);
  EXPECT_NE(
      read_file(log.directory + "/segment/000000000000.data").find(R"("by":"host","epoch":2)"),
      std::string::npos);
}

TEST(Writer, ThreadMakesDurableAndSignsWhileOthersAppend) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  ASSERT_TRUE(log.writer->record(session_json(1, log.now)).ok());
  {
    SyncThread syncing{*log.writer, {1, 1}, {}};
    for (std::uint64_t n = 0; n < 20'000; n += 100) log.append(1, 0, n, 100);
    const std::uint64_t watchdog = monotonic_ns() + 60 * kSecond;
    while (log.writer->state().signed_size < log.writer->size() && monotonic_ns() < watchdog)
      std::this_thread::yield();
    EXPECT_EQ(log.writer->state().signed_size, 20'003u);
    log.append(1, 0, 20'000, 1);
  }
  EXPECT_EQ(log.writer->state().signed_size, 20'004u) << "its end signs what is left";
}

TEST(Writer, BatchesLargerThanOneRecordGoThrough) {
  TestLog log;
  ASSERT_EQ(log.open(), "");
  ASSERT_TRUE(log.writer->record(session_json(1, log.now)).ok());
  log.append(1, 0, 0, 10'000);
  EXPECT_EQ(log.writer->size(), 10'003u);
  ASSERT_TRUE(log.writer->finish().ok());
  ASSERT_EQ(log.open(), "");
  EXPECT_EQ(log.writer->recovered(), 10'003u);
}

}  // namespace
}  // namespace bulkhead::audit
