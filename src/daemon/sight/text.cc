#include "daemon/sight/text.h"

namespace bulkhead::daemon {
namespace {

constexpr char kHex[] = "0123456789abcdef";

bool is_tail(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// Length of the well-formed sequence at the front (Unicode 15, table 3-7), 0 if there is none.
std::size_t sequence_length(std::string_view s) {
  const auto a = static_cast<unsigned char>(s[0]);
  if (a < 0x80) return 1;
  const auto b = s.size() > 1 ? static_cast<unsigned char>(s[1]) : 0u;
  if (a >= 0xc2 && a <= 0xdf) return s.size() > 1 && is_tail(s[1]) ? 2 : 0;
  if (a >= 0xe0 && a <= 0xef) {
    if (s.size() < 3 || !is_tail(s[1]) || !is_tail(s[2])) return 0;
    const bool overlong = a == 0xe0 && b < 0xa0;
    const bool surrogate = a == 0xed && b > 0x9f;
    return overlong || surrogate ? 0 : 3;
  }
  if (a >= 0xf0 && a <= 0xf4) {
    if (s.size() < 4 || !is_tail(s[1]) || !is_tail(s[2]) || !is_tail(s[3])) return 0;
    const bool outside = (a == 0xf0 && b < 0x90) || (a == 0xf4 && b > 0x8f);
    return outside ? 0 : 4;
  }
  return 0;
}

// C1 controls, and the marks that turn the direction of text around: a name must not rearrange its neighbours.
bool hidden_control(std::string_view s, std::size_t length) {
  if (length == 2) return s[0] == '\xc2' && static_cast<unsigned char>(s[1]) < 0xa0;
  if (length != 3 || s[0] != '\xe2') return false;
  const auto b = static_cast<unsigned char>(s[1]);
  const auto c = static_cast<unsigned char>(s[2]);
  return (b == 0x80 && ((c >= 0x8b && c <= 0x8f) || (c >= 0xa8 && c <= 0xae))) ||
         (b == 0x81 && c >= 0xa0 && c <= 0xaf);
}

}  // namespace

std::string clean_text(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::size_t n = sequence_length(text);
    const bool control = n == 1 && (text[0] < ' ' || text[0] == '\x7f');
    if (n == 0 || control || hidden_control(text, n)) {
      out += '?';
    } else {
      out.append(text.substr(0, n));
    }
    text.remove_prefix(n == 0 ? 1 : n);
  }
  return out;
}

std::string label_text(std::string_view text) {
  std::string out;
  for (const char c : clean_text(text)) {
    if (c == '\\' || c == '"') out += '\\';
    out += c;
  }
  return out;
}

std::string gpu_text(const std::uint8_t* uuid) {
  std::string out = "GPU-";
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) out += '-';
    out += kHex[uuid[i] >> 4];
    out += kHex[uuid[i] & 15];
  }
  return out;
}

bool same_secret(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned char differs = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    differs = static_cast<unsigned char>(differs | (a[i] ^ b[i]));
  }
  return differs == 0;
}

}  // namespace bulkhead::daemon
