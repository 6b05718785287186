#include "shm/partition.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace bulkhead::shm {
namespace {

const std::string kGood =
    "partition GPU-74d43ed3-cdf7-e667-3644-bf5b4f46ed65/Dx4A/AA+A=\nchunks 4\nsms 32\ngroup g\nuid "
    "7\n";

bool reads(const std::string& text) {
  PartitionBook out;
  return parse_partition(text.data(), text.size(), out);
}

TEST(PartitionFile, IsReadWholeOrNotAtAll) {
  PartitionBook out;
  ASSERT_TRUE(parse_partition(kGood.data(), kGood.size(), out));
  EXPECT_STREQ(out.value, "GPU-74d43ed3-cdf7-e667-3644-bf5b4f46ed65/Dx4A/AA+A=");
  EXPECT_EQ(out.chunks, 4u);
  EXPECT_EQ(out.sms, 32u);
  EXPECT_STREQ(out.group, "g");
  EXPECT_EQ(out.uid, 7u);
  const std::string refused = "refused 2 chunks are free\ngroup g\nuid 7\n";
  ASSERT_TRUE(parse_partition(refused.data(), refused.size(), out));
  EXPECT_STREQ(out.refused, "2 chunks are free");
  EXPECT_STREQ(out.value, "");
  for (std::size_t cut = 0; cut < kGood.size(); ++cut)
    EXPECT_EQ(reads(kGood.substr(0, cut)), kGood.substr(0, cut).ends_with("group g\n")) << cut;
}

TEST(PartitionFile, RubbishIsRefused) {
  for (const std::string& bad :
       {kGood + "more 1\n", kGood + "\n", kGood + std::string(2000, 'a') + "\n", std::string{},
        "partition GPU-1/a b\n" + kGood, std::string{"partition /tmp\nchunks 1\nsms 8\ngroup g\n"},
        std::string{"partition GPU-1/\nchunks 1\nsms 8\ngroup g\n"},
        std::string{"partition GPU-1/a\nchunks 0\nsms 8\ngroup g\n"},
        std::string{"partition GPU-1/a\nchunks 1\nsms 65536\ngroup g\n"},
        std::string{"partition GPU-1/a\nchunks -1\nsms 8\ngroup g\n"},
        std::string{"partition GPU-1/a\nchunks 1\nsms 8\ngroup ../g\n"},
        "partition GPU-1/" + std::string(110, 'a') + "\nchunks 1\nsms 8\ngroup g\n",
        "refused no\n" + kGood, std::string{"refused \x01\ngroup g\n"}, std::string{"group g\n"}})
    EXPECT_FALSE(reads(bad)) << bad;
}

TEST(PartitionFile, OnlyTheDaemonsOwnIsRead) {
  char name[] = "/tmp/bulkhead-partition-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string at = std::string{name} + "/partitions";
  DirOptions options;
  options.asked = name;
  options.euid = ::geteuid();
  options.simulated = true;
  const auto dir = open_dir(options);
  ASSERT_TRUE(dir.ok());
  EXPECT_EQ(read_partition(*dir, "a").status().code(), Errc::kNotFound);
  ASSERT_EQ(::mkdir(at.c_str(), 0755), 0);
  EXPECT_EQ(read_partition(*dir, "a").status().code(), Errc::kNotFound);
  EXPECT_EQ(read_partition(*dir, "../a").status().code(), Errc::kInvalid);
  std::ofstream{at + "/a"} << kGood;
  ASSERT_TRUE(read_partition(*dir, "a").ok());
  EXPECT_EQ(read_partition(*dir, "a")->sms, 32u);
  ::chmod((at + "/a").c_str(), 0666);
  EXPECT_EQ(read_partition(*dir, "a").status().code(), Errc::kUntrusted);
  ::symlink((at + "/a").c_str(), (at + "/b").c_str());
  EXPECT_FALSE(read_partition(*dir, "b").ok());
  ::mkfifo((at + "/c").c_str(), 0600);
  EXPECT_EQ(read_partition(*dir, "c").status().code(), Errc::kUntrusted);
  std::ofstream{at + "/d"} << kGood << std::string(2000, ' ');
  EXPECT_EQ(read_partition(*dir, "d").status().code(), Errc::kCorrupt);
  std::filesystem::remove_all(name);
}

}  // namespace
}  // namespace bulkhead::shm
