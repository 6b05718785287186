// Answers of a control daemon with static partitions: as they were seen by others, and rubbish.
#include "policy/partition.h"

#include <gtest/gtest.h>

namespace bulkhead::policy {
namespace {

constexpr const char* kUuid = "GPU-74d43ed3-cdf7-e667-3644-bf5b4f46ed65";
constexpr const char* kHeading =
    "GPU           Partition                             free    used    free   used   clients\n"
    "                                                    chunks  chunks  SM     SM\n";

std::string with(const std::string& rows) { return kHeading + rows; }

// A parser as one would write it first: it takes what it knows and passes over the rest. Kept to show what that costs.
unsigned broken_used_chunks(const std::string& text) {
  unsigned used = 0;
  for (std::size_t at = 0; (at = text.find("GPU-", at)) != std::string::npos; ++at) {
    char gpu[64], id[80], in_use[8];
    unsigned chunks = 0, sms = 0;
    if (std::sscanf(text.c_str() + at, "%63s %79s %u %u %7s", gpu, id, &chunks, &sms, in_use) ==
            5 &&
        (in_use[0] == 'Y' || in_use[0] == 'N'))
      used += chunks;
  }
  return used;
}

TEST(Partition, ASharesChunksAreRoundedDownAndFitSideBySide) {
  EXPECT_EQ(chunks_of_share(2'500, 16), 4u);
  EXPECT_EQ(chunks_of_share(5'000, 15), 7u);
  EXPECT_EQ(chunks_of_share(600, 16), 0u);
  EXPECT_EQ(share_of_chunks_x100(1, 16), 625u);
  EXPECT_EQ(share_of_chunks_x100(1, 15), 667u);
  for (std::uint32_t chunks = 1; chunks <= 40; ++chunks) {
    EXPECT_EQ(chunks_of_share(share_of_chunks_x100(1, chunks), chunks), 1u);
    EXPECT_EQ(chunks_of_share(share_of_chunks_x100(1, chunks) - 1, chunks), 0u);
    for (std::uint32_t a = 0; a <= 10'000; a += 77)
      EXPECT_LE(chunks_of_share(a, chunks) + chunks_of_share(10'000 - a, chunks), chunks);
  }
}

TEST(Partition, ATableInBothFormsThatWereSeen) {
  const std::string blank = with(
      "GPU-74d43ed3                                        7       9       60     72\n"
      "GPU-74d43ed3  Dw8PDw/PDwAAAAAAAAAAAAAAAAAAAAAAAAAA   7       56      No\n"
      "GPU-74d43ed3  AADw8AAAAA8PDw8PAAAAAAAAAAAAAAAAAAAA  2       16      Yes\r\n");
  const std::string dashes = with(
      "GPU-74d43ed3  -         7  9  60  72  -\n"
      "GPU-74d43ed3  Dw8PDw/PDwAAAAAAAAAAAAAAAAAAAAAAAAAA  -  7  -  56  No\n"
      "GPU-74d43ed3  AADw8AAAAA8PDw8PAAAAAAAAAAAAAAAAAAAA  -  2  -  16  Yes\n");
  for (const std::string& text : {blank, dashes}) {
    const PartitionTable t = parse_lspart(text);
    ASSERT_EQ(t.problem, "") << text;
    const PartitionedGpu* g = t.of(kUuid);
    ASSERT_NE(g, nullptr);
    EXPECT_EQ((std::vector{g->free_chunks, g->used_chunks, g->free_sms, g->used_sms}),
              (std::vector<std::uint32_t>{7, 9, 60, 72}));
    const PartitionRow* p = partition_of(*g, "Dw8PDw/PDwAAAAAAAAAAAAAAAAAAAAAAAAAA");
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(p->chunks, 7u);
    EXPECT_EQ(p->sms, 56u);
    EXPECT_FALSE(p->in_use);
    EXPECT_TRUE(partition_of(*g, "AADw8AAAAA8PDw8PAAAAAAAAAAAAAAAAAAAA")->in_use);
    EXPECT_EQ(partition_of(*g, "AADw8"), nullptr) << "a part of an id is another id";
  }
  EXPECT_TRUE(parse_lspart("").problem.empty());
  EXPECT_TRUE(parse_lspart(kHeading).gpus.empty());
}

TEST(Partition, AGpuIsFoundByThePartOfItsUuidAndByNoOther) {
  const PartitionTable t = parse_lspart(with("GPU-74  8 0 64 0\nGPU-89 8 0 64 0\n"));
  EXPECT_EQ(t.of(kUuid), &t.gpus[0]);
  EXPECT_EQ(t.of("GPU-11d43ed3-cdf7-e667-3644-bf5b4f46ed65"), nullptr);
  const PartitionTable both = parse_lspart(with("GPU-74  8 0 64 0\nGPU-74d 8 0 64 0\n"));
  EXPECT_EQ(both.problem, "");
  EXPECT_EQ(both.of(kUuid), nullptr) << "two could be it";
}

TEST(Partition, WhatIsNotUnderstoodIsNoTableAtAll) {
  const std::string good = "GPU-74  8 4 64 32\nGPU-74 AAAA 2 16 No\n";
  for (const std::string bad :
       {"Unknown command \"lspart\"", "GPU-74 AAAB 2 16 Maybe", "GPU-74 AAAB two 16 No",
        "GPU-74 AAAB 2 16", "GPU-74 AAAB 2 16 No more", "GPU-74 AAAA 2 16 No",
        "GPU-75 AAAB 2 16 No", "GPU-74 8 4 64 32", "GPU-74 AAAB 0 0 No", "GPU-74 AAAB 99999 16 No",
        "GPU-74 A!AB 2 16 No", "GPU-xy 8 0 64 0", "warning: the server is in state FAULT",
        "\x01\x02\xff", "GPU-74 AAAB -2 16 No", "GPU-74 AAAB 4 16 No"}) {
    for (const std::string& text : {good + bad + "\n", bad + "\n" + good}) {
      const PartitionTable t = parse_lspart(with(text));
      EXPECT_NE(t.problem, "") << text;
      EXPECT_TRUE(t.gpus.empty());
      EXPECT_EQ(t.problem.find('\n'), std::string::npos);
    }
  }
  // what passing over the rest would do: a partition whose line has changed is not counted, and its room is handed out again
  const std::string changed =
      with("GPU-74 8 4 64 32\nGPU-74 AAAA 2 16 No\nGPU-74 AAAB 2 16 Draining\n");
  EXPECT_EQ(broken_used_chunks(changed), 2u);
  EXPECT_NE(parse_lspart(changed).problem.find("AAAB 2 16 Draining"), std::string::npos);
}

TEST(Partition, AnIdIsTakenFromTheTwoSentencesThatWereSeenAndFromNoOther) {
  const std::string whole = std::string{kUuid} + "/Dx4A/AA+A=";
  EXPECT_EQ(parse_added("Partition " + whole + " created\n", kUuid).id, "Dx4A/AA+A=");
  EXPECT_EQ(parse_added("\n" + whole + "\n", kUuid).id, "Dx4A/AA+A=");
  const std::string refused =
      "Failed to fulfill the requested SM partition of 28 chunks, error "
      "CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION\n";
  EXPECT_EQ(parse_added(refused, kUuid).id, "");
  EXPECT_NE(parse_added(refused, kUuid).problem.find("28 chunks"), std::string::npos);
  EXPECT_EQ(parse_added("", kUuid).problem, "nothing");
  for (const std::string& bad :
       {std::string{"Unknown command sm_partition\n"}, "Partition " + whole + " was not created\n",
        std::string{"Partition GPU-11111111-cdf7-e667-3644-bf5b4f46ed65/Dx4A created\n"},
        "Partition " + std::string{kUuid} + "/ created\n",
        "Partition " + whole + " created\n" + whole + "\n",
        "Partition " + whole + " created\nwarning\n",
        "Partition " + std::string{kUuid} + "/a;b created\n",
        std::string{kUuid} + "/" + std::string(65, 'A') + "\n"}) {
    const AddedPartition got = parse_added(bad, kUuid);
    EXPECT_EQ(got.id, "") << bad;
    EXPECT_NE(got.problem, "");
  }
}

TEST(Partition, AnyBytesAreReadAndNoneMakesATable) {
  std::uint32_t state = 12345;
  for (int i = 0; i < 20'000; ++i) {
    std::string text = with("GPU-74 8 4 64 32\nGPU-74 AAAA 4 32 No\n");
    for (int n = 0; n < 3; ++n) {
      state = state * 1'664'525 + 1'013'904'223;
      text[(state >> 8) % text.size()] = static_cast<char>(state >> 24);
    }
    const PartitionTable t = parse_lspart(text);
    for (const PartitionedGpu& g : t.gpus) {
      std::uint32_t sum = 0;
      for (const PartitionRow& p : g.partitions) sum += p.chunks;
      EXPECT_LE(sum, g.used_chunks);
    }
    (void)parse_added(text, kUuid);
  }
}

}  // namespace
}  // namespace bulkhead::policy
