#include "audit/tree.h"

#include <algorithm>
#include <bit>

namespace bulkhead::audit {

// Level by level: what waits at a level (its bit of the size is set) is the left neighbour of the first hash; the pairs
// are hashed two at a time; one left over waits.
void Frontier::append(std::span<Hash> leaves, const Emit& emit) noexcept {
  const std::uint64_t old = size_;
  size_ += leaves.size();
  std::size_t n = leaves.size();
  Hash* h = leaves.data();
  for (unsigned level = 0; n > 0 && level < kMaxLevels; ++level) {
    if (emit && (level == 8 || level == 16 || level == 24)) {
      for (std::size_t i = 0; i < n; ++i) emit(level, h[i]);
    }
    std::size_t used = 0, made = 0;
    if ((old >> level & 1) != 0) {
      h[0] = node_hash(at_[level], h[0]);
      used = made = 1;
    }
    const std::size_t pairs = (n - used) / 2;
    const bool waits = (n - used) % 2 != 0;
    if (waits) at_[level] = h[n - 1];
    node_hashes(h + used, pairs, h + made);
    n = made + pairs;
  }
}

Hash Frontier::root() const noexcept {
  if (size_ == 0) return sha256({});
  unsigned level = static_cast<unsigned>(std::countr_zero(size_));
  Hash root = at_[level];
  for (++level; level < kMaxLevels; ++level) {
    if ((size_ >> level & 1) != 0) root = node_hash(at_[level], root);
  }
  return root;
}

std::vector<Hash> Frontier::peaks() const {
  std::vector<Hash> out;
  for (unsigned level = kMaxLevels; level-- > 0;) {
    if ((size_ >> level & 1) != 0) out.push_back(at_[level]);
  }
  return out;
}

std::optional<Frontier> Frontier::of(std::uint64_t size, std::span<const Hash> peaks) {
  if (static_cast<std::size_t>(std::popcount(size)) != peaks.size()) return std::nullopt;
  Frontier f;
  f.size_ = size;
  std::size_t next = 0;
  for (unsigned level = kMaxLevels; level-- > 0;) {
    if ((size >> level & 1) != 0) f.at_[level] = peaks[next++];
  }
  return f;
}

namespace {

// The largest power of two below n, n > 1.
std::uint64_t split_of(std::uint64_t n) noexcept { return std::bit_floor(n - 1); }

bool add(std::vector<Hash>& out, const std::optional<Hash>& hash) {
  if (hash) out.push_back(*hash);
  return hash.has_value();
}

}  // namespace

std::optional<Hash> range_root(const SubtreeHash& hash, std::uint64_t from, std::uint64_t to) {
  const std::uint64_t n = to - from;
  if (n == 0) return std::nullopt;
  if (std::has_single_bit(n)) {
    const unsigned level = static_cast<unsigned>(std::countr_zero(n));
    return hash(level, from >> level);
  }
  const std::uint64_t k = split_of(n);
  const auto left = range_root(hash, from, from + k);
  const auto right = range_root(hash, from + k, to);
  if (!left || !right) return std::nullopt;
  return node_hash(*left, *right);
}

std::optional<std::vector<Hash>> inclusion_proof(const SubtreeHash& hash, std::uint64_t index,
                                                 std::uint64_t size) {
  if (index >= size) return std::nullopt;
  std::vector<Hash> out;
  std::uint64_t from = 0, to = size;
  while (to - from > 1) {
    const std::uint64_t middle = from + split_of(to - from);
    const bool left = index < middle;
    if (!add(out, left ? range_root(hash, middle, to) : range_root(hash, from, middle)))
      return std::nullopt;
    (left ? to : from) = middle;
  }
  std::reverse(out.begin(), out.end());
  return out;
}

std::optional<std::vector<Hash>> consistency_proof(const SubtreeHash& hash, std::uint64_t old_size,
                                                   std::uint64_t size) {
  if (old_size > size) return std::nullopt;
  std::vector<Hash> out;
  if (old_size == 0 || old_size == size) return out;
  // SUBPROOF(m, D[from:to], whole) unrolled: from the outside inwards, so the proof is its reverse.
  std::uint64_t from = 0, to = size;
  bool whole = true;
  while (old_size != to) {
    const std::uint64_t middle = from + split_of(to - from);
    const bool left = old_size <= middle;
    if (!add(out, left ? range_root(hash, middle, to) : range_root(hash, from, middle)))
      return std::nullopt;
    if (!left) whole = false;
    (left ? to : from) = middle;
  }
  if (!whole && !add(out, range_root(hash, from, to))) return std::nullopt;
  std::reverse(out.begin(), out.end());
  return out;
}

bool check_inclusion(std::uint64_t index, std::uint64_t size, const Hash& leaf,
                     std::span<const Hash> path, const Hash& root) noexcept {
  if (index >= size) return false;
  std::uint64_t fn = index, sn = size - 1;
  Hash r = leaf;
  for (const Hash& p : path) {
    if (sn == 0) return false;
    if ((fn & 1) != 0 || fn == sn) {
      r = node_hash(p, r);
      while ((fn & 1) == 0 && fn != 0) {
        fn >>= 1;
        sn >>= 1;
      }
    } else {
      r = node_hash(r, p);
    }
    fn >>= 1;
    sn >>= 1;
  }
  return sn == 0 && r == root;
}

bool check_consistency(std::uint64_t old_size, std::uint64_t size, const Hash& old_root,
                       const Hash& root, std::span<const Hash> path) noexcept {
  if (old_size > size) return false;
  if (old_size == size) return path.empty() && old_root == root;
  if (old_size == 0) return path.empty() && old_root == sha256({});
  std::uint64_t fn = old_size - 1, sn = size - 1;
  while ((fn & 1) != 0) {
    fn >>= 1;
    sn >>= 1;
  }
  std::size_t next = 0;
  Hash fr, sr;
  if (std::has_single_bit(old_size)) {
    fr = sr = old_root;
  } else {
    if (path.empty()) return false;
    fr = sr = path[next++];
  }
  for (; next < path.size(); ++next) {
    if (sn == 0) return false;
    const Hash& c = path[next];
    if ((fn & 1) != 0 || fn == sn) {
      fr = node_hash(c, fr);
      sr = node_hash(c, sr);
      while ((fn & 1) == 0 && fn != 0) {
        fn >>= 1;
        sn >>= 1;
      }
    } else {
      sr = node_hash(sr, c);
    }
    fn >>= 1;
    sn >>= 1;
  }
  return sn == 0 && fr == old_root && sr == root;
}

}  // namespace bulkhead::audit
