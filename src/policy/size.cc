#include "policy/size.h"

namespace bulkhead::policy {
namespace {

constexpr unsigned kMaxFraction = 6;  // 10^6 * 2^40 fits 64 bits
constexpr std::uint64_t kMax = ~0ull;

constexpr char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }
constexpr bool digit(char c) { return c >= '0' && c <= '9'; }

bool same(const char* a, const char* b, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    if (lower(a[i]) != lower(b[i]) || a[i] == '\0') return a[i] == b[i];
  }
  return true;
}
std::size_t length(const char* s) {
  std::size_t n = 0;
  while (s[n] != '\0') ++n;
  return n;
}
bool equal(const char* a, const char* b) {
  const std::size_t n = length(a);
  return n == length(b) && same(a, b, n);
}

// 0: no such unit.
std::uint64_t unit_of(const char* s, std::size_t n) {
  if (n == 0 || (n == 1 && lower(s[0]) == 'b')) return 1;
  unsigned power = 0;
  switch (lower(s[0])) {
    case 'k':
      power = 1;
      break;
    case 'm':
      power = 2;
      break;
    case 'g':
      power = 3;
      break;
    case 't':
      power = 4;
      break;
    default:
      return 0;
  }
  const bool binary = n == 1 || (n == 2 && lower(s[1]) == 'i') || (n == 3 && same(s + 1, "ib", 2));
  const bool decimal = n == 2 && lower(s[1]) == 'b';
  if (!binary && !decimal) return 0;
  std::uint64_t unit = 1;
  while (power-- != 0) unit *= binary ? 1024u : 1000u;
  return unit;
}

struct Number {
  std::uint64_t whole = 0;
  std::uint64_t fraction = 0;  // / scale
  std::uint64_t scale = 1;
};

// Reads digits[.digits]; returns how many characters, 0 if that is not what is there.
std::size_t read_number(const char* s, std::size_t n, Number& out) {
  std::size_t i = 0;
  for (; i < n && digit(s[i]); ++i) {
    const auto d = static_cast<std::uint64_t>(s[i] - '0');
    if (out.whole > (kMax - d) / 10) return 0;
    out.whole = out.whole * 10 + d;
  }
  if (i == 0 || i == n || s[i] != '.') return i;
  const std::size_t first = ++i;
  for (; i < n && digit(s[i]); ++i) {
    if (i - first == kMaxFraction) return 0;
    out.fraction = out.fraction * 10 + static_cast<std::uint64_t>(s[i] - '0');
    out.scale *= 10;
  }
  return i == first ? 0 : i;
}

bool read_percent(const Number& v, Size* out) {
  if (v.scale > 100 || v.whole > 100) return false;
  const std::uint64_t hundredths = v.whole * 100 + v.fraction * (100 / v.scale);
  if (hundredths == 0 || hundredths > 10000) return false;
  out->percent_x100 = static_cast<std::uint32_t>(hundredths);
  out->is_percent = true;
  return true;
}

bool parse_range(const char* s, std::size_t n, Grammar grammar, Size* out) {
  Number v;
  std::size_t i = read_number(s, n, v);
  if (i == 0) return false;
  Size size;
  if (i + 1 < n && s[i] == ' ') ++i;
  if (i + 1 == n && s[i] == '%') {
    if (!read_percent(v, &size)) return false;
  } else {
    const std::uint64_t unit = unit_of(s + i, n - i);
    if (unit == 0 || v.whole > kMax / unit) return false;
    const std::uint64_t part = v.fraction * unit / v.scale;  // < unit
    if (v.whole * unit > kMax - part) return false;
    size.bytes = v.whole * unit + part;
    if (size.bytes == 0 && (grammar == Grammar::kOurs || v.fraction != 0)) return false;
  }
  *out = size;
  return true;
}

bool gpu_text_ok(const char* s, std::size_t n) {
  if (n == 0 || n >= kMaxGpuText) return false;
  bool number = n <= 4;
  for (std::size_t i = 0; i < n; ++i) number = number && digit(s[i]);
  if (number) return true;
  if (n < 5 || !(same(s, "GPU-", 4) || same(s, "MIG-", 4))) return false;
  for (std::size_t i = 4; i < n; ++i) {
    const char c = lower(s[i]);
    if (!digit(c) && !(c >= 'a' && c <= 'z') && c != '-' && c != '/') return false;
  }
  return true;
}

bool add_entry(MemorySpec& spec, const char* s, std::size_t gpu_n, std::size_t n, Grammar grammar) {
  if (spec.count == kMaxSpecGpus || !gpu_text_ok(s, gpu_n)) return false;
  MemorySpec::Entry& e = spec.entries[spec.count];
  for (std::size_t i = 0; i < gpu_n; ++i) e.gpu[i] = s[i];
  e.gpu[gpu_n] = '\0';
  for (unsigned i = 0; i < spec.count; ++i) {
    if (equal(spec.entries[i].gpu, e.gpu)) return false;
  }
  ++spec.count;
  return parse_range(s + gpu_n + 1, n - gpu_n - 1, grammar, &e.size);
}

char* put_number(char* at, std::uint64_t v) {
  char digits[20];
  unsigned n = 0;
  do digits[n++] = static_cast<char>('0' + v % 10);
  while ((v /= 10) != 0);
  while (n != 0) *at++ = digits[--n];
  return at;
}
char* put_text(char* at, const char* s) {
  while (*s != '\0') *at++ = *s++;
  *at = '\0';
  return at;
}
constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};

}  // namespace

bool parse_size(const char* text, Grammar grammar, Size* out) noexcept {
  return text != nullptr && parse_range(text, length(text), grammar, out);
}

bool parse_memory_spec(const char* text, Grammar grammar, MemorySpec* out) noexcept {
  if (text == nullptr) return false;
  *out = MemorySpec{};
  for (bool first = true;; first = false) {
    std::size_t n = 0;
    std::size_t equals = 0;
    bool named = false;
    for (; text[n] != '\0' && text[n] != ','; ++n) {
      if (text[n] == '=' && !named) {
        named = true;
        equals = n;
      }
    }
    if (named) {
      if (!add_entry(*out, text, equals, n, grammar)) return false;
    } else {
      if (!first || !parse_range(text, n, grammar, &out->every)) return false;
      out->has_every = true;
    }
    if (text[n] == '\0') return true;
    text += n + 1;
  }
}

bool gpu_matches(const char* gpu, unsigned index, const char* uuid) noexcept {
  if (!digit(gpu[0])) return uuid != nullptr && same(gpu, uuid, length(gpu));
  unsigned v = 0;
  for (; digit(*gpu) && v < 100000; ++gpu) v = v * 10 + static_cast<unsigned>(*gpu - '0');
  return *gpu == '\0' && v == index;
}

const Size* size_for(const MemorySpec& spec, unsigned index, const char* uuid) noexcept {
  for (int pass = 0; pass < 2; ++pass) {  // indices, then UUIDs
    for (unsigned i = 0; i < spec.count; ++i) {
      const MemorySpec::Entry& e = spec.entries[i];
      if (digit(e.gpu[0]) == (pass == 0) && gpu_matches(e.gpu, index, uuid)) return &e.size;
    }
  }
  return spec.has_every ? &spec.every : nullptr;
}

const char* format_size(std::uint64_t bytes, char (&out)[kSizeText]) noexcept {
  unsigned unit = 0;
  while (unit < 4 && (bytes >> (10 * (unit + 1))) != 0) ++unit;
  const std::uint64_t one = 1ull << (10 * unit);
  const std::uint64_t rest = bytes & (one - 1);
  // rest < 2^40, so times 100 fits; 40 bits are the TiB's
  const std::uint64_t hundredths = rest * 100 / one;
  char* at = put_number(out, bytes >> (10 * unit));
  if (hundredths != 0) {
    *at++ = '.';
    *at++ = static_cast<char>('0' + hundredths / 10);
    if (hundredths % 10 != 0) *at++ = static_cast<char>('0' + hundredths % 10);
  }
  *at++ = ' ';
  put_text(at, kUnits[unit]);
  return out;
}

const char* format_exact(std::uint64_t bytes, char (&out)[kSizeText]) noexcept {
  unsigned unit = 0;
  while (bytes != 0 && unit < 4 && (bytes & ((1ull << (10 * (unit + 1))) - 1)) == 0) ++unit;
  put_text(put_number(out, bytes >> (10 * unit)), kUnits[unit]);
  return out;
}

}  // namespace bulkhead::policy
