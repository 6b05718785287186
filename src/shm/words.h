// The packed words of memory admission (docs/formats/region.md): how W, P and G are read and built.
// Pure arithmetic, any thread. A word that came from shared memory is copied to a local first.
#pragma once
#include <bit>
#include <cstdint>

#include "shm/region.h"

namespace bulkhead::shm {

// W: used 28 | slack 20 | version 15 | t 1, from the low bits.
inline constexpr std::uint64_t kUsedMask = (1u << 28) - 1;
inline constexpr std::uint64_t kSlackOne = 1ull << 28;
inline constexpr std::uint64_t kSlackMax = (1u << 20) - 1;
inline constexpr std::uint64_t kVersionOne = 1ull << 48;
inline constexpr std::uint64_t kVersionMask = (1u << 15) - 1;
inline constexpr std::uint64_t kTBit = 1ull << 63;

inline constexpr std::uint64_t used_of(std::uint64_t w) { return w & kUsedMask; }
inline constexpr std::uint64_t slack_of(std::uint64_t w) { return (w >> 28) & kSlackMax; }
inline constexpr std::uint64_t version_of(std::uint64_t w) { return (w >> 48) & kVersionMask; }
inline constexpr std::uint64_t next_version(std::uint64_t w) {
  // t turned to the low end: the version's carry falls off the top instead of reaching it
  return std::rotr(std::rotl(w, 1) + (kVersionOne << 1), 1);
}
static_assert(next_version(kTBit | kVersionMask << 48 | 5) == (kTBit | 5));
static_assert(next_version(kVersionMask << 48) == 0 && next_version(7) == (kVersionOne | 7));

// P: phase 2 | seq 62; only the low 48 bits of seq are used, for G holds no more.
enum Phase : std::uint64_t { kIdle = 0, kWish = 1, kGranted = 2, kRefused = 3 };
inline constexpr std::uint64_t kSeqMask = (1ull << 48) - 1;
inline constexpr std::uint64_t phase_of(std::uint64_t p) { return p & 3; }
inline constexpr std::uint64_t seq_of(std::uint64_t p) { return (p >> 2) & kSeqMask; }
inline constexpr std::uint64_t make_p(Phase phase, std::uint64_t seq) { return (seq << 2) | phase; }
// A grant that was decided and has not reached `used` yet: t says on which side of the move W is.
inline constexpr bool unmoved(std::uint64_t p, std::uint64_t w) {
  return phase_of(p) == kGranted && (w >> 63) != (seq_of(p) & 1);
}

// G: slot + 1 in 16 | seq 48; 0 = free.
inline constexpr std::uint64_t make_turn(unsigned slot, std::uint64_t seq) {
  return (seq << 16) | (slot + 1);
}
inline constexpr unsigned turn_slot(std::uint64_t g) {
  return static_cast<unsigned>(g & 0xffff) - 1;
}
inline constexpr std::uint64_t turn_seq(std::uint64_t g) { return g >> 16; }

// Bytes to units, rounded up; the shift is masked so that no value in a hostile region is
// undefined.
inline constexpr std::uint64_t units_up(std::uint64_t bytes, std::uint32_t shift) {
  const std::uint64_t part = (1ull << (shift & 31)) - 1;
  return (bytes >> (shift & 31)) + ((bytes & part) != 0 ? 1 : 0);
}
// The smallest unit, 512 << k, in which twice `bytes` fits 28 bits.
inline constexpr std::uint32_t unit_shift_for(std::uint64_t bytes) {
  std::uint32_t shift = 9;
  while ((bytes >> shift) >= (kUsedMask >> 1) && shift < 30) ++shift;
  return shift;
}

}  // namespace bulkhead::shm
