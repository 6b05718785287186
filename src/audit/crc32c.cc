#include "audit/crc32c.h"

#include <array>
#include <cstring>
#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace bulkhead::audit {
namespace {

constexpr std::array<std::uint32_t, 256> make_table() noexcept {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i;
    for (int k = 0; k < 8; ++k) c = (c & 1) != 0 ? 0x82f63b78u ^ c >> 1 : c >> 1;
    table[i] = c;
  }
  return table;
}
constexpr std::array<std::uint32_t, 256> kTable = make_table();

#if defined(__x86_64__)
[[gnu::target("sse4.2")]] std::uint32_t with_instruction(Bytes data, std::uint32_t c) noexcept {
  std::size_t i = 0;
  std::uint64_t wide = c;
  for (; i + 8 <= data.size(); i += 8) {
    std::uint64_t v;
    std::memcpy(&v, data.data() + i, 8);
    wide = _mm_crc32_u64(wide, v);
  }
  c = static_cast<std::uint32_t>(wide);
  for (; i < data.size(); ++i) c = _mm_crc32_u8(c, data[i]);
  return c;
}
#endif

}  // namespace

std::uint32_t crc32c(Bytes data, std::uint32_t before) noexcept {
  std::uint32_t c = ~before;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("sse4.2")) return ~with_instruction(data, c);
#endif
  for (const std::uint8_t byte : data) c = kTable[(c ^ byte) & 0xff] ^ c >> 8;
  return ~c;
}

}  // namespace bulkhead::audit
