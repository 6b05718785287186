#include "audit/sha256.h"

#include <bit>
#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace bulkhead::audit {
namespace detail {

alignas(64) const std::uint32_t kRoundConstants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

namespace {

std::uint32_t big32(const std::uint8_t* p) noexcept {
  std::uint32_t v;
  std::memcpy(&v, p, 4);
  return __builtin_bswap32(v);
}

void compress1_portable(std::uint32_t* state, const std::uint8_t* block,
                        std::size_t blocks) noexcept {
  for (; blocks > 0; --blocks, block += 64) {
    std::uint32_t w[64];
    for (std::size_t i = 0; i < 16; ++i) w[i] = big32(block + 4 * i);
    for (std::size_t i = 16; i < 64; ++i) {
      const std::uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + w[i - 7] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) +
             (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
    }
    std::uint32_t v[8];
    std::memcpy(v, state, sizeof v);
    for (std::size_t i = 0; i < 64; ++i) {
      const std::uint32_t s1 = std::rotr(v[4], 6) ^ std::rotr(v[4], 11) ^ std::rotr(v[4], 25);
      const std::uint32_t t1 =
          v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + kRoundConstants[i] + w[i];
      const std::uint32_t s0 = std::rotr(v[0], 2) ^ std::rotr(v[0], 13) ^ std::rotr(v[0], 22);
      const std::uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
      for (std::size_t k = 7; k > 0; --k) v[k] = v[k - 1];
      v[4] += t1;
      v[0] = t1 + t2;
    }
    for (std::size_t i = 0; i < 8; ++i) state[i] += v[i];
  }
}

void compress2_portable(std::uint32_t* a, const std::uint8_t* block_a, std::uint32_t* b,
                        const std::uint8_t* block_b) noexcept {
  compress1_portable(a, block_a, 1);
  compress1_portable(b, block_b, 1);
}

bool machine_has_sha_ni() noexcept {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_SSE4_1) == 0 || (c & bit_SSSE3) == 0)
    return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & bit_SHA) != 0;
#else
  return false;
#endif
}

struct Code {
  Compress1 one = compress1_portable;
  Compress2 two = compress2_portable;
  Sha256Kind kind = Sha256Kind::kPortable;
};

Code code_of(Sha256Kind kind) noexcept {
#if defined(__x86_64__)
  if (kind == Sha256Kind::kShaNi) return {compress1_ni, compress2_ni, kind};
#endif
  static_cast<void>(kind);
  return {};
}

Code code = code_of(machine_has_sha_ni() ? Sha256Kind::kShaNi : Sha256Kind::kPortable);

constexpr std::uint32_t kStart[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

void finish(const std::uint32_t* state, Hash& out) noexcept {
  for (std::size_t i = 0; i < 8; ++i) {
    const std::uint32_t v = __builtin_bswap32(state[i]);
    std::memcpy(out.data() + 4 * i, &v, 4);
  }
}

void put_bit_length(std::uint8_t* block, std::uint64_t bytes) noexcept {
  const std::uint64_t bits = __builtin_bswap64(bytes * 8);
  std::memcpy(block + 56, &bits, 8);
}

// `head` bytes (0 or 1) of `prefix`, then data.
Hash hash_with_prefix(std::size_t head, std::uint8_t prefix, Bytes data) noexcept {
  std::uint32_t state[8];
  std::memcpy(state, kStart, sizeof state);
  std::uint8_t block[128];
  std::size_t at = 0;
  if (head == 1 && data.size() >= 63) {
    block[0] = prefix;
    std::memcpy(block + 1, data.data(), 63);
    code.one(state, block, 1);
    at = 63;
  } else if (head == 1) {
    block[0] = prefix;
  }
  const std::size_t in_block = head == 1 && at == 0 ? 1 : 0;
  const std::size_t whole = in_block == 0 ? (data.size() - at) / 64 : 0;
  if (whole > 0) code.one(state, data.data() + at, whole);
  at += whole * 64;
  const std::size_t rest = data.size() - at;
  if (rest > 0) std::memcpy(block + in_block, data.data() + at, rest);
  std::size_t used = in_block + rest;
  block[used++] = 0x80;
  const std::size_t blocks = used <= 56 ? 1 : 2;
  std::memset(block + used, 0, blocks * 64 - used);
  put_bit_length(block + (blocks - 1) * 64, head + data.size());
  code.one(state, block, blocks);
  Hash out;
  finish(state, out);
  return out;
}

// The two blocks of 0x01 || left || right; `in` is left and right.
void fill_node(const std::uint8_t* in, std::uint8_t* blocks) noexcept {
  blocks[0] = 1;
  std::memcpy(blocks + 1, in, 64);
  blocks[65] = 0x80;
  std::memset(blocks + 66, 0, 54);
  put_bit_length(blocks + 64, 65);
}

}  // namespace
}  // namespace detail

Sha256Kind sha256_kind() noexcept { return detail::code.kind; }
bool use_sha256(Sha256Kind kind) noexcept {
  if (kind == Sha256Kind::kShaNi && !detail::machine_has_sha_ni()) return false;
  detail::code = detail::code_of(kind);
  return detail::code.kind == kind;
}

Hash sha256(Bytes data) noexcept { return detail::hash_with_prefix(0, 0, data); }
Hash leaf_hash(Bytes entry) noexcept { return detail::hash_with_prefix(1, 0, entry); }

Hash node_hash(const Hash& left, const Hash& right) noexcept {
  const Hash both[2] = {left, right};
  Hash out;
  node_hashes(both, 1, &out);
  return out;
}

void leaf_hashes_54(const std::uint8_t* entries, std::size_t stride, std::size_t count,
                    Hash* out) noexcept {
  std::uint8_t block[2][64] = {};
  for (auto& b : block) {
    b[55] = 0x80;
    detail::put_bit_length(b, 55);
  }
  for (std::size_t i = 0; i < count; i += 2) {
    std::uint32_t a[8], b[8];
    std::memcpy(a, detail::kStart, sizeof a);
    std::memcpy(block[0] + 1, entries + i * stride, 54);
    if (i + 1 == count) {
      detail::code.one(a, block[0], 1);
      detail::finish(a, out[i]);
      return;
    }
    std::memcpy(b, detail::kStart, sizeof b);
    std::memcpy(block[1] + 1, entries + (i + 1) * stride, 54);
    detail::code.two(a, block[0], b, block[1]);
    detail::finish(a, out[i]);
    detail::finish(b, out[i + 1]);
  }
}

void node_hashes(const Hash* in, std::size_t count, Hash* out) noexcept {
  std::uint8_t block[2][128];
  for (std::size_t i = 0; i < count; i += 2) {
    std::uint32_t a[8], b[8];
    std::memcpy(a, detail::kStart, sizeof a);
    detail::fill_node(in[2 * i].data(), block[0]);
    if (i + 1 == count) {
      detail::code.one(a, block[0], 2);
      detail::finish(a, out[i]);
      return;
    }
    std::memcpy(b, detail::kStart, sizeof b);
    detail::fill_node(in[2 * i + 2].data(), block[1]);
    detail::code.two(a, block[0], b, block[1]);
    detail::code.two(a, block[0] + 64, b, block[1] + 64);
    detail::finish(a, out[i]);
    detail::finish(b, out[i + 1]);
  }
}

}  // namespace bulkhead::audit
