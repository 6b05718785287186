#include "policy/compute_spec.h"

#include <cstring>
#include <initializer_list>

namespace bulkhead::policy {
namespace {

constexpr std::uint64_t kMost = 1'000'000'000;  // more is out of every range

// digits[.digits], in hundredths; more than two digits after the point are counted only. False: no number.
struct Number {
  std::uint64_t x100 = 0;
  unsigned digits_after = 0;
  const char* end = nullptr;
};
bool read_number(const char* at, Number& out) noexcept {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  if (!digit(*at)) return false;
  for (; digit(*at); ++at) {
    if (out.x100 < kMost) out.x100 = out.x100 * 10 + static_cast<unsigned>(*at - '0');
  }
  out.x100 *= 100;
  if (*at == '.' && digit(at[1])) {
    unsigned scale = 10;
    for (++at; digit(*at); ++at, ++out.digits_after) {
      out.x100 += static_cast<unsigned>(*at - '0') * scale;
      scale /= 10;
    }
  }
  out.end = at;
  return true;
}

bool is_share(const char* end) noexcept {
  return std::strcmp(end, "%") == 0 || std::strcmp(end, "%+") == 0;
}

}  // namespace

bool parse_share(const char* text, Share* out) noexcept {
  Number n;
  if (!read_number(text, n) || !is_share(n.end) || n.digits_after > 2) return false;
  if (n.x100 == 0 || n.x100 > 10'000) return false;
  *out = {static_cast<std::uint32_t>(n.x100), n.end[1] == '+'};
  return true;
}

const char* share_problem(const char* text) noexcept {
  Number n;
  if (!read_number(text, n) || !is_share(n.end)) {
    return "is not a share; write it like 25%, or 25%+ to use idle time too";
  }
  if (n.digits_after > 2) return "has more than two digits after the point; write it like 12.5%";
  if (n.x100 == 0) return "would never run; a share is from 0.01% to 100%";
  return "is more than the whole device; a share is from 0.01% to 100%";
}

bool parse_pace(const char* text, std::uint32_t* us) noexcept {
  Number n;
  if (!read_number(text, n) || n.digits_after > 2) return false;
  const std::uint64_t scale = std::strcmp(n.end, "us") == 0   ? 1
                              : std::strcmp(n.end, "ms") == 0 ? 1'000
                              : std::strcmp(n.end, "s") == 0  ? 1'000'000
                                                              : 0;
  const std::uint64_t all = n.x100 * scale;  // below 10^13 x 10^6
  if (all == 0 || all % 100 != 0 || all / 100 > kMostPace_us) return false;
  *us = static_cast<std::uint32_t>(all / 100);
  return true;
}

const char* mode_problem(const char* mode) noexcept {
  for (const char* word : {"auto", "spatial", "slice", "temporal", "partition"}) {
    if (std::strcmp(mode, word) == 0) return "";
  }
  return "is no mode; there are auto, spatial, slice and temporal, and partition with a driver "
         "that "
         "has it";
}

const char* format_share(std::uint32_t x100, bool borrow, char (&out)[kShareText]) noexcept {
  char digits[12];
  unsigned count = 0;
  for (std::uint32_t whole = x100 / 100; count == 0 || whole != 0; whole /= 10) {
    digits[count++] = static_cast<char>('0' + whole % 10);
  }
  char* to = out;
  while (count > 0) *to++ = digits[--count];
  if (const std::uint32_t part = x100 % 100; part != 0) {
    *to++ = '.';
    *to++ = static_cast<char>('0' + part / 10);
    if (part % 10 != 0) *to++ = static_cast<char>('0' + part % 10);
  }
  *to++ = '%';
  if (borrow) *to++ = '+';
  *to = '\0';
  return out;
}

}  // namespace bulkhead::policy
