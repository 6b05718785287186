// Packing, retention and cosigning beside a writer that never waits for them.
#include "audit/upkeep.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <atomic>
#include <thread>

#include "audit/pack.h"
#include "audit/upkeep_fixture.h"

namespace bulkhead::audit {
namespace {

using namespace test;

TEST(Upkeep, PacksWhatIsClosedAndTheLogGoesOnFromIt) {
  Kept k;
  k.grow(5500);
  auto upkeep = k.upkeep({});
  while (upkeep->look(k.log.now, k.log.now)) {
  }
  EXPECT_EQ(upkeep->figures().packed, 4u);
  EXPECT_LT(upkeep->figures().packed_bytes, upkeep->figures().raw_bytes);
  EXPECT_EQ(k.count(".zst"), 4u);
  EXPECT_EQ(k.count(".data"), 1u);
  EXPECT_EQ(k.verify(), "");
  upkeep.reset();
  // A start that has to read everything again reads the packed ones.
  std::filesystem::remove(k.log.directory + "/epoch.key");
  for (const char* level : {"1", "2", "3"})
    std::filesystem::remove(k.log.directory + "/tree/" + level);
  ASSERT_EQ(k.log.open(), "");
  k.grow(100);
  EXPECT_EQ(k.verify(), "");
  EXPECT_TRUE(k.told.empty());
}

TEST(Upkeep, ACrashWithinPackingLeavesTheSegment) {
  Kept k;
  k.grow(2000);
  int error = 0;
  ASSERT_NE(k.log.writer->files().open("segment/000000000000.zst.new", OpenMode::kFresh, error),
            nullptr);
  // and between the rename and the removal: both are there
  PackResult result;
  const std::string data = slurp(k.log.directory + "/segment/000000000000.data");
  EXPECT_EQ(pack_segment(k.log.writer->files(), 0, result), "");
  spit(k.log.directory + "/segment/000000000000.data", data);
  ASSERT_EQ(k.log.open(), "");
  auto upkeep = k.upkeep({});
  while (upkeep->look(k.log.now, k.log.now)) {
  }
  EXPECT_EQ(k.count(".data"), 1u);
  EXPECT_EQ(k.count(".new"), 0u);
  EXPECT_EQ(k.verify(), "");
}

TEST(Upkeep, WhatStopsWithinASegmentLeavesItsData) {
  Kept k;
  k.grow(2000);
  PackResult result;
  EXPECT_NE(pack_segment(k.log.writer->files(), 0, result, [] { return true; }), "");
  EXPECT_EQ(k.count(".data"), 2u);
  EXPECT_EQ(k.count(".new"), 0u);
}

TEST(Upkeep, RemovesWhatIsOlderThanThePolicyKeeps) {
  Kept k;
  UpkeepRules rules;
  rules.retain_s = 3600;
  auto upkeep = k.upkeep(rules);
  k.grow(1400);  // one closed
  upkeep->look(k.log.now, k.log.now);
  k.log.now += 1800 * kSecond;
  k.grow(2800);  // two more
  while (upkeep->look(k.log.now, k.log.now)) {
  }
  EXPECT_EQ(upkeep->figures().removed, 0u);
  // A wall clock that is set ahead by a year makes nothing old.
  upkeep->look(k.log.now + 365 * 86'400 * kSecond, k.log.now + kSecond);
  EXPECT_EQ(upkeep->figures().removed, 0u);
  k.log.now += 2000 * kSecond;
  while (upkeep->look(k.log.now, k.log.now)) {
  }
  EXPECT_EQ(upkeep->figures().removed, 1u);
  ASSERT_EQ(k.told.size(), 1u);
  EXPECT_NE(k.told[0].find("older than 3600 s"), std::string::npos);
  EXPECT_EQ(k.log.writer->closed_segments(), std::vector<std::uint64_t>{1280});
  EXPECT_EQ(k.verify(), "");
  ASSERT_EQ(k.log.open(), "");
  k.grow(10);
  EXPECT_EQ(k.verify(), "");
}

TEST(Upkeep, KeepsTheSegmentsBelowTheirBytes) {
  Kept k;
  k.grow(10'000);
  UpkeepRules rules;
  rules.pack = false;
  rules.retain_bytes = 300'000;
  auto upkeep = k.upkeep(rules);
  upkeep->look(k.log.now, k.log.now);
  EXPECT_GT(upkeep->figures().removed, 0u);
  std::uint64_t sum = 0;
  for (const auto& file : std::filesystem::directory_iterator(k.log.directory + "/segment"))
    sum += file.file_size();
  EXPECT_LE(sum, rules.retain_bytes);
  EXPECT_EQ(k.verify(), "");
}

TEST(Upkeep, ASegmentEndsWhenItIsOldEnough) {
  Kept k;
  k.log.options.segment_s = 600;
  ASSERT_EQ(k.log.open(), "");
  k.grow(100);
  EXPECT_TRUE(k.log.writer->closed_segments().empty());
  k.log.now += 601 * kSecond;
  k.grow(300);  // over the next border
  EXPECT_EQ(k.log.writer->closed_segments().size(), 1u);
  EXPECT_EQ(k.verify(), "");
}

// A witness that listens and never answers.
struct Mute {
  explicit Mute(const std::string& path) : fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)} {
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    EXPECT_LT(path.copy(at.sun_path, sizeof at.sun_path - 1), sizeof at.sun_path - 1);
    EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
    EXPECT_EQ(::listen(fd.get(), 1), 0);
  }
  UniqueFd fd;
};

TEST(Upkeep, AWitnessThatIsAwayBlocksNothing) {
  Kept k;
  TestLog place;
  PosixFiles files{place.directory};
  Witness witness{files, "witness.test/one", *PrivateKey::generate(KeyType::kEd25519),
                  parse_policy(slurp(k.log.directory + "/host.pub"))->log};
  const std::string good = place.directory + "/good", mute = place.directory + "/mute";
  std::atomic<bool> stop{false};
  SystemClock clock;
  std::thread server{
      [&] { (void)serve_witness(witness, good, clock, [&] { return stop.load(); }); }};
  while (!std::filesystem::exists(good)) std::this_thread::yield();
  const Mute silent{mute};
  k.grow(100);
  UpkeepRules rules;
  rules.witnesses = {good, mute};
  rules.patience_ms = 3'600'000;  // it would wait for an hour
  auto upkeep = k.upkeep(rules);
  upkeep->start();
  // The mute one is asked behind the good one: when that has kept something, we are waiting for the mute one.
  while (witness.kept(k.log.writer->origin()).empty()) std::this_thread::yield();
  k.grow(5000);
  EXPECT_EQ(upkeep->figures().cosigned, 0u);  // it waits still
  upkeep.reset();                             // and gives up at once
  // The other one's word is kept, and what is wrong is told once.
  rules.witnesses = {place.directory + "/gone", good};
  upkeep = k.upkeep(rules);
  upkeep->look(k.log.now, 1);
  k.grow(10);
  upkeep->look(k.log.now, 3'600 * kSecond);
  EXPECT_EQ(upkeep->figures().witnesses, 2u);
  EXPECT_EQ(upkeep->figures().away, 1u);
  EXPECT_EQ(upkeep->figures().cosigned, k.log.writer->state().signed_size);
  EXPECT_EQ(k.told.size(), 1u) << testing::PrintToString(k.told);
  EXPECT_EQ(k.told[0], "witness " + place.directory + "/gone: No such file or directory");
  stop = true;
  server.join();
  VerifyOptions options;
  options.policy = *parse_policy(slurp(k.log.directory + "/host.pub") + "witness one " +
                                 witness.vkey() + "\nquorum 1\n");
  PosixFiles log_files{k.log.directory};
  const VerifyReport r = verify_log(log_files, options);
  EXPECT_EQ(r.exit_code(), 0) << (r.findings.empty() ? r.could_not : finding_text(r.findings[0]));
  EXPECT_EQ(r.witnessed_size, k.log.writer->state().signed_size);
}

}  // namespace
}  // namespace bulkhead::audit
