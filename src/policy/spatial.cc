#include "policy/spatial.h"

namespace bulkhead::policy {

bool parse_percentage(const char* text, std::uint32_t* x100) noexcept {
  if (text == nullptr) return false;
  std::uint32_t value = 0, scale = 100;
  bool digits = false, point = false;
  for (const char* c = text; *c != '\0'; ++c) {
    if (*c == '.' && !point) {
      point = true;
      continue;
    }
    if (*c < '0' || *c > '9') return false;
    digits = true;
    const auto digit = static_cast<std::uint32_t>(*c - '0');
    if (!point) {
      value = value * 10 + digit * 100;
      if (value > 10'000) return false;
    } else {
      scale /= 10;  // 10, 1, then 0: further digits count for nothing
      value += digit * scale;
    }
  }
  if (!digits || value == 0 || value > 10'000) return false;
  *x100 = value;
  return true;
}

const char* format_percentage(std::uint32_t x100, char (&out)[kPercentageText]) noexcept {
  if (x100 == 0) x100 = 1;
  if (x100 > 10'000) x100 = 10'000;
  char* to = out;
  const std::uint32_t whole = x100 / 100, part = x100 % 100;
  if (whole >= 100) *to++ = '1';
  if (whole >= 10) *to++ = static_cast<char>('0' + whole / 10 % 10);
  *to++ = static_cast<char>('0' + whole % 10);
  if (part != 0) {
    *to++ = '.';
    *to++ = static_cast<char>('0' + part / 10);
    if (part % 10 != 0) *to++ = static_cast<char>('0' + part % 10);
  }
  *to = '\0';
  return out;
}

}  // namespace bulkhead::policy
