// Packing where it cannot go on: a segment that cannot be packed, a disk that is nearly full.
#include <gtest/gtest.h>

#include "audit/pack.h"
#include "audit/upkeep_fixture.h"

namespace bulkhead::audit {
namespace {

using namespace test;

// The directory's, with as much room as a test says.
class TightFiles final : public Files {
 public:
  TightFiles(const std::string& directory, const std::uint64_t* room)
      : files_(directory), room_(room) {}
  std::unique_ptr<File> open(const std::string& name, OpenMode mode, int& error) noexcept override {
    return files_.open(name, mode, error);
  }
  int rename(const std::string& from, const std::string& to) noexcept override {
    return files_.rename(from, to);
  }
  int remove(const std::string& name) noexcept override { return files_.remove(name); }
  int make_directory(const std::string& name) noexcept override {
    return files_.make_directory(name);
  }
  int sync_directory(const std::string& name) noexcept override {
    return files_.sync_directory(name);
  }
  std::vector<std::string> list(const std::string& directory) noexcept override {
    return files_.list(directory);
  }
  int lock() noexcept override { return files_.lock(); }
  std::uint64_t room() noexcept override { return *room_; }

 private:
  PosixFiles files_;
  const std::uint64_t* room_;
};

TEST(UpkeepPack, TheDirectorySaysItsRoom) {
  TestLog place;
  PosixFiles files{place.directory};
  const std::uint64_t room = files.room();
  EXPECT_GT(room, 0u);
  EXPECT_LE(room, std::filesystem::space(place.directory).capacity);
}

std::string data_of(const Kept& k, std::uint64_t first) {
  return k.log.directory + "/" + segment_name(first) + ".data";
}

TEST(UpkeepPack, OneSegmentThatCannotBePackedStopsNoOther) {
  Kept k;
  k.grow(5500);
  const std::string bad = data_of(k, 0), was = slurp(bad);
  std::string damaged = was;
  damaged[0] = damaged[1] = 0;  // no entry has no bytes
  spit(bad, damaged);
  auto upkeep = k.upkeep({});
  while (upkeep->look(k.log.now, k.log.now)) {
  }
  EXPECT_EQ(upkeep->figures().packed, 3u);
  ASSERT_EQ(k.told.size(), 1u) << testing::PrintToString(k.told);
  EXPECT_NE(k.told[0].find("segment/000000000000"), std::string::npos);
  // Not tried again at once, and told once however often it is.
  spit(bad, was);
  while (upkeep->look(k.log.now + kSecond, k.log.now + kSecond)) {
  }
  EXPECT_EQ(upkeep->figures().packed, 3u);
  spit(bad, damaged);
  for (unsigned i = 1; i < 10; ++i) upkeep->look(k.log.now, k.log.now + i * 7200 * kSecond);
  EXPECT_EQ(k.told.size(), 1u);
  spit(bad, was);
  while (upkeep->look(k.log.now, k.log.now + 7 * 86'400 * kSecond)) {
  }
  EXPECT_EQ(upkeep->figures().packed, 4u);
  EXPECT_EQ(k.verify(), "");
}

TEST(UpkeepPack, ANearlyFullDiskIsNotFilledByPacking) {
  Kept k;
  k.grow(5500);
  std::uint64_t room = kPackReserve + 1024;  // less than any of them
  auto upkeep = k.upkeep({}, std::make_unique<TightFiles>(k.log.directory, &room));
  for (unsigned i = 0; i < 3; ++i) EXPECT_FALSE(upkeep->look(k.log.now, k.log.now + i));
  EXPECT_EQ(upkeep->figures().packed, 0u);
  EXPECT_EQ(k.count(".new"), 0u);
  EXPECT_EQ(k.told, std::vector<std::string>{
                        "no room to pack a segment of the audit log: it stays as it is"});
  room = 0;
  EXPECT_FALSE(upkeep->look(k.log.now, k.log.now + 5));
  room = kPackReserve + (1u << 20);
  while (upkeep->look(k.log.now, k.log.now + 6)) {
  }
  EXPECT_EQ(upkeep->figures().packed, 4u);
  ASSERT_EQ(k.told.size(), 2u);
  EXPECT_EQ(k.told[1], "no segment of the audit log waits for room to be packed any more");
  EXPECT_EQ(k.verify(), "");
}

// Somebody else takes the room meanwhile.
TEST(UpkeepPack, GivesUpWhenTheRoomGoesAway) {
  Kept k;
  k.grow(2000);
  std::uint64_t room = UINT64_MAX;
  TightFiles files{k.log.directory, &room};
  PackResult result;
  const auto steal = [&room] {
    room = kPackReserve - 1;
    return false;
  };
  EXPECT_NE(pack_segment(files, 0, result, steal).find("No space left"), std::string::npos);
  EXPECT_FALSE(result.no_room);
  EXPECT_EQ(k.count(".new"), 0u);
  EXPECT_EQ(k.count(".zst"), 0u);
  EXPECT_EQ(k.count(".data"), 2u);
}

}  // namespace
}  // namespace bulkhead::audit
