// SHA-256 as the log needs it: leaves and nodes of an RFC 6962 tree, two at a time, and whole buffers. FIPS 180-4.
//
// The SHA-NI instructions have legacy SSE encodings only; one VEX instruction beside them costs a hundredfold. Hence
// sha256_ni.cc is compiled with -msha -msse4.1 alone (a test looks at its object), and is picked at run time.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace bulkhead::audit {

using Hash = std::array<std::uint8_t, 32>;
using Bytes = std::span<const std::uint8_t>;

// SHA-256 of one buffer.
[[nodiscard]] Hash sha256(Bytes data) noexcept;
// SHA-256(0x00 || entry), of any length.
[[nodiscard]] Hash leaf_hash(Bytes entry) noexcept;
// Leaves of exactly 54 bytes that lie one behind another, `stride` bytes apart: one compression each.
void leaf_hashes_54(const std::uint8_t* entries, std::size_t stride, std::size_t count,
                    Hash* out) noexcept;
// SHA-256(0x01 || left || right).
[[nodiscard]] Hash node_hash(const Hash& left, const Hash& right) noexcept;
// out[i] = node_hash(in[2i], in[2i + 1]) for i < count; out may be in.
void node_hashes(const Hash* in, std::size_t count, Hash* out) noexcept;

// Which code runs; for tests and the benchmark.
enum class Sha256Kind : std::uint8_t { kPortable, kShaNi };
[[nodiscard]] Sha256Kind sha256_kind() noexcept;
// Asks for a kind; false if this machine lacks it. Not thread-safe: before threads are started.
bool use_sha256(Sha256Kind kind) noexcept;

namespace detail {
// One 64-byte block into each of two states.
using Compress2 = void (*)(std::uint32_t* a, const std::uint8_t* block_a, std::uint32_t* b,
                           const std::uint8_t* block_b) noexcept;
using Compress1 = void (*)(std::uint32_t* state, const std::uint8_t* block,
                           std::size_t blocks) noexcept;
void compress2_ni(std::uint32_t* a, const std::uint8_t* block_a, std::uint32_t* b,
                  const std::uint8_t* block_b) noexcept;
void compress1_ni(std::uint32_t* state, const std::uint8_t* block, std::size_t blocks) noexcept;
extern const std::uint32_t kRoundConstants[64];
}  // namespace detail

}  // namespace bulkhead::audit
