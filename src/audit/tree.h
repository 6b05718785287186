// The RFC 6962 tree: its frontier (one hash for each bit set in the size), roots, and proofs. Pure: no I/O.
#pragma once
#include <array>
#include <functional>
#include <optional>
#include <vector>

#include "audit/sha256.h"

namespace bulkhead::audit {

inline constexpr unsigned kMaxLevels = 64;

// The peaks of a tree of `size` leaves. Copies are cheap (2 KiB): take one, append, and keep it if the writing went well.
class Frontier {
 public:
  // Told of each complete subtree whose level is 8, 16 or 24, in order: what tree/1, tree/2 and tree/3 hold.
  using Emit = std::function<void(unsigned level, const Hash& hash)>;

  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  // Appends leaves by their hashes; `leaves` is used up as room for the work.
  void append(std::span<Hash> leaves, const Emit& emit = {}) noexcept;
  void append(const Hash& leaf) noexcept {
    Hash one = leaf;
    append(std::span{&one, 1});
  }
  // SHA-256 of nothing for an empty tree.
  [[nodiscard]] Hash root() const noexcept;
  // The peaks, largest first.
  [[nodiscard]] std::vector<Hash> peaks() const;
  // The frontier of a tree of `size` leaves with these peaks; none if there are not as many as bits.
  static std::optional<Frontier> of(std::uint64_t size, std::span<const Hash> peaks);

 private:
  std::uint64_t size_ = 0;
  std::array<Hash, kMaxLevels> at_{};  // at_[l] counts if bit l of size_ is set
};

// The hash of the complete subtree of 2^level leaves that begins at leaf index << level; none if it cannot be had.
using SubtreeHash = std::function<std::optional<Hash>(unsigned level, std::uint64_t index)>;
// RFC 6962 2.1 for any range of a tree: the root of leaves [from, to).
[[nodiscard]] std::optional<Hash> range_root(const SubtreeHash& hash, std::uint64_t from,
                                             std::uint64_t to);
// RFC 6962 2.1.1, 2.1.2. None if a hash is missing or the numbers are impossible.
[[nodiscard]] std::optional<std::vector<Hash>> inclusion_proof(const SubtreeHash& hash,
                                                               std::uint64_t index,
                                                               std::uint64_t size);
[[nodiscard]] std::optional<std::vector<Hash>> consistency_proof(const SubtreeHash& hash,
                                                                 std::uint64_t old_size,
                                                                 std::uint64_t size);
// RFC 9162 2.1.3.2, 2.1.4.2: strict, every hash of the proof is used.
[[nodiscard]] bool check_inclusion(std::uint64_t index, std::uint64_t size, const Hash& leaf,
                                   std::span<const Hash> path, const Hash& root) noexcept;
[[nodiscard]] bool check_consistency(std::uint64_t old_size, std::uint64_t size,
                                     const Hash& old_root, const Hash& root,
                                     std::span<const Hash> path) noexcept;

}  // namespace bulkhead::audit
