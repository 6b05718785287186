// The compression function with the SHA extensions, one stream and two interleaved (the instructions' latency is twice
// their rate). Built with -msha -msse4.1 and nothing wider: see sha256.h.
#if defined(__x86_64__)
#include <immintrin.h>

#include "audit/sha256.h"

namespace bulkhead::audit::detail {
namespace {

struct State {
  __m128i abef, cdgh;
};

[[gnu::always_inline]] inline State load(const std::uint32_t* s) noexcept {
  const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(s));       // d c b a
  const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(s + 4));  // h g f e
  const __m128i cdab = _mm_shuffle_epi32(low, 0xb1);
  const __m128i efgh = _mm_shuffle_epi32(high, 0x1b);
  return {_mm_alignr_epi8(cdab, efgh, 8), _mm_blend_epi16(efgh, cdab, 0xf0)};
}

[[gnu::always_inline]] inline void store(const State& v, std::uint32_t* s) noexcept {
  const __m128i feba = _mm_shuffle_epi32(v.abef, 0x1b);
  const __m128i dchg = _mm_shuffle_epi32(v.cdgh, 0xb1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(s), _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(s + 4), _mm_alignr_epi8(dchg, feba, 8));
}

[[gnu::always_inline]] inline __m128i words(const std::uint8_t* at) noexcept {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  return _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)), swap);
}

// Four rounds with the message words `m` (round constants of group `g` added here).
[[gnu::always_inline]] inline void rounds(State& v, __m128i m, int g) noexcept {
  const __m128i wk =
      _mm_add_epi32(m, _mm_loadu_si128(reinterpret_cast<const __m128i*>(kRoundConstants + 4 * g)));
  v.cdgh = _mm_sha256rnds2_epu32(v.cdgh, v.abef, wk);
  v.abef = _mm_sha256rnds2_epu32(v.abef, v.cdgh, _mm_shuffle_epi32(wk, 0x0e));
}

// The next four message words, of those 16, 12, 8 and 4 back.
[[gnu::always_inline]] inline __m128i next(__m128i w16, __m128i w12, __m128i w8,
                                           __m128i w4) noexcept {
  const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w16, w12), _mm_alignr_epi8(w4, w8, 4));
  return _mm_sha256msg2_epu32(sum, w4);
}

}  // namespace

void compress1_ni(std::uint32_t* state, const std::uint8_t* block, std::size_t blocks) noexcept {
  State v = load(state);
  for (; blocks > 0; --blocks, block += 64) {
    const State before = v;
    __m128i m[4];
    for (int g = 0; g < 4; ++g) rounds(v, m[g] = words(block + 16 * g), g);
#pragma GCC unroll 12
    for (int g = 4; g < 16; ++g) {
      m[g & 3] = next(m[g & 3], m[(g + 1) & 3], m[(g + 2) & 3], m[(g + 3) & 3]);
      rounds(v, m[g & 3], g);
    }
    v.abef = _mm_add_epi32(v.abef, before.abef);
    v.cdgh = _mm_add_epi32(v.cdgh, before.cdgh);
  }
  store(v, state);
}

void compress2_ni(std::uint32_t* a, const std::uint8_t* block_a, std::uint32_t* b,
                  const std::uint8_t* block_b) noexcept {
  State va = load(a), vb = load(b);
  const State before_a = va, before_b = vb;
  __m128i ma[4], mb[4];
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    rounds(va, ma[g] = words(block_a + 16 * g), g);
    rounds(vb, mb[g] = words(block_b + 16 * g), g);
  }
#pragma GCC unroll 12
  for (int g = 4; g < 16; ++g) {
    ma[g & 3] = next(ma[g & 3], ma[(g + 1) & 3], ma[(g + 2) & 3], ma[(g + 3) & 3]);
    mb[g & 3] = next(mb[g & 3], mb[(g + 1) & 3], mb[(g + 2) & 3], mb[(g + 3) & 3]);
    rounds(va, ma[g & 3], g);
    rounds(vb, mb[g & 3], g);
  }
  va.abef = _mm_add_epi32(va.abef, before_a.abef);
  va.cdgh = _mm_add_epi32(va.cdgh, before_a.cdgh);
  vb.abef = _mm_add_epi32(vb.abef, before_b.abef);
  vb.cdgh = _mm_add_epi32(vb.cdgh, before_b.cdgh);
  store(va, a);
  store(vb, b);
}

}  // namespace bulkhead::audit::detail
#endif
