// Single entries and proofs out of a log, and what a changed proof is called.
#include "audit/reader.h"

#include <gtest/gtest.h>

#include "audit/forger.h"
#include "audit/pack.h"

namespace bulkhead::audit {
namespace {

using namespace test;

struct Made {
  TestLog log;
  TrustPolicy policy;
  std::unique_ptr<LogReader> reader;
  Made() {
    log.options.segment_bytes = 20'000;
    EXPECT_EQ(log.open(), "");
    EXPECT_TRUE(log.writer->record(session_json(1, log.now)).ok());
    EXPECT_TRUE(log.writer->record(grant_json(3, log.now / kSecond, log.now / kSecond + 60)).ok());
    for (std::uint64_t n = 0; n < 1500; n += 50) log.append(1, 0, n, 50, 3);
    EXPECT_TRUE(log.writer->finish().ok());
    policy = *parse_policy(slurp(log.directory + "/host.pub"));
    PackResult packed;
    EXPECT_EQ(pack_segment(log.writer->files(), 0, packed), "");
    reader = std::move(*LogReader::open(std::make_unique<PosixFiles>(log.directory)));
  }
};

TEST(Reader, FindsEveryEntryInPackedAndPlainSegments) {
  Made m;
  ASSERT_EQ(m.reader->size(), 1504u);
  for (std::uint64_t i = 4; i < 1504; ++i) {
    const auto entry = m.reader->entry(i);
    ASSERT_TRUE(entry) << i;
    EXPECT_EQ(abi::sequence_of(entry_of(*entry)), i - 4);
  }
  EXPECT_FALSE(m.reader->entry(1504));
}

TEST(Reader, ProofsHoldAloneAndChangedOnesDoNot) {
  Made m;
  for (const std::uint64_t index : {0u, 1u, 4u, 255u, 256u, 1000u, 1503u}) {
    auto proof = make_proof(*m.reader, m.policy.origin, index);
    ASSERT_TRUE(proof.ok()) << proof.problem;
    std::string shown;
    EXPECT_EQ(check_proof(*proof, m.policy, shown), "");
    EXPECT_NE(shown.find("\"index\":" + std::to_string(index)), std::string::npos);
    for (const char* member : {"\"entry\": \"", "\"path\": [\n  \""}) {
      std::string changed = *proof;
      const std::size_t at = changed.find(member) + std::string_view{member}.size();
      changed[at] = changed[at] == 'A' ? 'B' : 'A';
      EXPECT_NE(check_proof(changed, m.policy, shown), "") << member << " " << index;
    }
  }
  auto proof = make_proof(*m.reader, m.policy.origin, 1000);
  EXPECT_NE((*proof).find("\"session\": {"), std::string::npos);
  EXPECT_NE((*proof).find("\"grant\": {"), std::string::npos);
  EXPECT_FALSE(make_proof(*m.reader, m.policy.origin, 1504).ok());
  // Another log's keys do not vouch for it.
  Made other;
  std::string shown;
  EXPECT_EQ(check_proof(*proof, other.policy, shown),
            "its checkpoint has no signature of the log's key");
  EXPECT_NE(check_proof("{", m.policy, shown), "");
  EXPECT_NE(check_proof("[]", m.policy, shown), "");
}

TEST(Reader, ConsistencyBetweenAnyTwoSizes) {
  Made m;
  Frontier f;
  std::vector<Hash> roots{f.root()};
  for (std::uint64_t i = 0; i < 1504; ++i) {
    f.append(leaf_hash(*m.reader->entry(i)));
    roots.push_back(f.root());
  }
  for (const std::uint64_t old : {1u, 2u, 255u, 256u, 257u, 700u, 1503u}) {
    const auto path = consistency_proof(m.reader->hashes(), old, 1504);
    ASSERT_TRUE(path) << old;
    EXPECT_TRUE(check_consistency(old, 1504, roots[old], roots[1504], *path)) << old;
  }
}

}  // namespace
}  // namespace bulkhead::audit
