// SHA-256 against FIPS 180-4 and OpenSSL, CRC32C, base64, the tree against RFC 6962's known roots, and its proofs.
#include "audit/tree.h"

#include <gtest/gtest.h>
#include <openssl/sha.h>

#include <random>

#include "audit/base64.h"
#include "audit/crc32c.h"
#include "base/clock.h"

namespace bulkhead::audit {
namespace {

Buffer random_bytes(std::mt19937_64& random, std::size_t n) {
  Buffer out(n);
  for (auto& b : out) b = static_cast<std::uint8_t>(random());
  return out;
}

class BothKinds : public testing::TestWithParam<Sha256Kind> {
 protected:
  void SetUp() override {
    before_ = sha256_kind();
    if (!use_sha256(GetParam())) GTEST_SKIP() << "this machine has no SHA instructions";
  }
  void TearDown() override { use_sha256(before_); }
  Sha256Kind before_{};
};
INSTANTIATE_TEST_SUITE_P(Sha256, BothKinds,
                         testing::Values(Sha256Kind::kPortable, Sha256Kind::kShaNi));

TEST_P(BothKinds, AgreesWithOpenSslAtEveryLength) {
  std::mt19937_64 random{6962};
  for (std::size_t n = 0; n < 300; ++n) {
    const Buffer data = random_bytes(random, n);
    Hash want;
    SHA256(data.data(), n, want.data());
    EXPECT_EQ(sha256(data), want) << n;
    Buffer leaf{0};
    leaf.insert(leaf.end(), data.begin(), data.end());
    SHA256(leaf.data(), leaf.size(), want.data());
    EXPECT_EQ(leaf_hash(data), want) << n;
  }
}

TEST_P(BothKinds, LeavesAndNodesInPairsAreTheSame) {
  std::mt19937_64 random{54};
  for (std::size_t count = 1; count < 10; ++count) {
    const Buffer entries = random_bytes(random, count * 56);
    std::vector<Hash> leaves(count);
    leaf_hashes_54(entries.data() + 2, 56, count, leaves.data());
    for (std::size_t i = 0; i < count; ++i)
      EXPECT_EQ(leaves[i], leaf_hash(Bytes{entries}.subspan(2 + 56 * i, 54)));
    std::vector<Hash> nodes(count / 2);
    node_hashes(leaves.data(), count / 2, nodes.data());
    for (std::size_t i = 0; i < count / 2; ++i) {
      Buffer both{1};
      both.insert(both.end(), leaves[2 * i].begin(), leaves[2 * i].end());
      both.insert(both.end(), leaves[2 * i + 1].begin(), leaves[2 * i + 1].end());
      EXPECT_EQ(nodes[i], sha256(both));
    }
  }
}

// A floor that no machine's speed moves: the code with SHA instructions against the one without, in turns of one run, best of
// each. With the trap of sha256.h it would be a hundred times slower, not faster.
TEST(Sha256, InstructionsBeatThePortableCode) {
  const Sha256Kind before = sha256_kind();
  if (!use_sha256(Sha256Kind::kShaNi)) GTEST_SKIP() << "this machine has no SHA instructions";
  std::mt19937_64 random{3};
  const Buffer entries = random_bytes(random, 256 * 56);
  std::vector<Hash> leaves(256);
  std::uint64_t best[2] = {UINT64_MAX, UINT64_MAX};
  for (int round = 0; round < 400; ++round) {
    const auto kind = static_cast<Sha256Kind>(round % 2);
    use_sha256(kind);
    const std::uint64_t from = monotonic_ns();
    leaf_hashes_54(entries.data() + 2, 56, 256, leaves.data());
    std::uint64_t& slot = best[round % 2];
    slot = std::min(slot, monotonic_ns() - from);
  }
  use_sha256(before);
  EXPECT_LT(best[1], best[0]) << "ns for 256 leaves with SHA instructions, and without";
}

TEST(Crc32c, KnownValues) {
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xe3069283u);
  EXPECT_EQ(crc32c(bytes_of("56789"), crc32c(bytes_of("1234"))), 0xe3069283u);
}

TEST(Base64, StrictBothWays) {
  std::mt19937_64 random{4648};
  for (std::size_t n = 0; n < 70; ++n) {
    const Buffer data = random_bytes(random, n);
    EXPECT_EQ(from_base64(base64(data)), data);
  }
  EXPECT_EQ(base64(bytes_of("foob")), "Zm9vYg==");
  for (const char* bad : {"Zm9vYg=", "Zm9vYh==", "Zm9v Yg==", "=m9v", "Zg==Zg==", "Zm9-"})
    EXPECT_FALSE(from_base64(bad)) << bad;
}

// The leaves and roots that the implementations of Certificate Transparency test themselves with.
const std::vector<std::string> kLeaves = {"",         std::string(1, '\0'), "\x10",
                                          "\x20\x21", "\x30\x31",           "@ABC",
                                          "PQRSTUVW", "`abcdefghijklmno"};
const char* const kRoots[] = {"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                              "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                              "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
                              "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
                              "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
                              "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
                              "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
                              "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
                              "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"};

TEST(Tree, KnownRoots) {
  Frontier f;
  EXPECT_EQ(hex(f.root()), kRoots[0]);
  for (std::size_t i = 0; i < kLeaves.size(); ++i) {
    f.append(leaf_hash(bytes_of(kLeaves[i])));
    EXPECT_EQ(hex(f.root()), kRoots[i + 1]) << i;
  }
}

struct Forest {
  std::vector<Hash> leaves;
  explicit Forest(std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) leaves.push_back(leaf_hash(bytes_of(std::to_string(i))));
  }
  [[nodiscard]] SubtreeHash hashes() const {
    return [this](unsigned level, std::uint64_t index) -> std::optional<Hash> {
      const std::uint64_t from = index << level, to = (index + 1) << level;
      if (to > leaves.size()) return std::nullopt;
      if (level == 0) return leaves[from];
      const auto half = hashes();
      return node_hash(*half(level - 1, 2 * index), *half(level - 1, 2 * index + 1));
    };
  }
  [[nodiscard]] Hash root(std::uint64_t n) const {
    Frontier f;
    for (std::uint64_t i = 0; i < n; ++i) f.append(leaves[i]);
    return f.root();
  }
};

TEST(Tree, BatchesOfAnySizeMakeTheSameTreeAndEmitItsBundles) {
  const Forest forest{2000};
  std::mt19937_64 random{1};
  for (int round = 0; round < 20; ++round) {
    Frontier f;
    std::vector<Hash> bundles;
    for (std::size_t at = 0; at < forest.leaves.size();) {
      const std::size_t n = std::min<std::size_t>(random() % 700, forest.leaves.size() - at);
      std::vector<Hash> batch{forest.leaves.begin() + static_cast<std::ptrdiff_t>(at),
                              forest.leaves.begin() + static_cast<std::ptrdiff_t>(at + n)};
      f.append(batch, [&](unsigned level, const Hash& h) {
        EXPECT_EQ(level, 8u);
        bundles.push_back(h);
      });
      at += n;
      EXPECT_EQ(f.root(), forest.root(at));
      const auto again = Frontier::of(f.size(), f.peaks());
      ASSERT_TRUE(again.has_value());
      EXPECT_EQ(again->root(), f.root());
    }
    ASSERT_EQ(bundles.size(), 7u);
    for (std::size_t i = 0; i < 7; ++i) EXPECT_EQ(bundles[i], *forest.hashes()(8, i));
  }
}

TEST(Tree, EveryProofOfSmallTreesHoldsAndNoChangedOneDoes) {
  const Forest forest{40};
  for (std::uint64_t size = 1; size <= 40; ++size) {
    const Hash root = forest.root(size);
    for (std::uint64_t i = 0; i < size; ++i) {
      auto path = inclusion_proof(forest.hashes(), i, size);
      ASSERT_TRUE(path);
      EXPECT_TRUE(check_inclusion(i, size, forest.leaves[i], *path, root));
      EXPECT_FALSE(check_inclusion(i, size, forest.leaves[(i + 1) % 40], *path, root));
      EXPECT_FALSE(check_inclusion(i ^ 1, size, forest.leaves[i], *path, root) && size > 1);
      path->push_back(root);
      EXPECT_FALSE(check_inclusion(i, size, forest.leaves[i], *path, root));
    }
    for (std::uint64_t old = 0; old <= size; ++old) {
      auto path = consistency_proof(forest.hashes(), old, size);
      ASSERT_TRUE(path);
      EXPECT_TRUE(check_consistency(old, size, forest.root(old), root, *path))
          << old << " " << size;
      if (old == 0) continue;
      EXPECT_FALSE(check_consistency(old, size, forest.leaves[39], root, *path));
      for (Hash& h : *path) {
        h[0] ^= 1;
        EXPECT_FALSE(check_consistency(old, size, forest.root(old), root, *path));
        h[0] ^= 1;
      }
      path->push_back(root);
      EXPECT_FALSE(check_consistency(old, size, forest.root(old), root, *path));
    }
    EXPECT_FALSE(inclusion_proof(forest.hashes(), size, size));
  }
}

}  // namespace
}  // namespace bulkhead::audit
