#include "wire/lines.h"

#include <time.h>

#include <charconv>
#include <cstdio>
#include <cstring>

namespace bulkhead::wire {
namespace {

constexpr std::int64_t kNs = 1'000'000'000;

// Length of the valid UTF-8 character at `at`, 0 if there is none (RFC 3629: no overlong forms, no surrogates).
std::size_t utf8_length(std::string_view s, std::size_t at) noexcept {
  const auto byte = [&](std::size_t i) {
    return at + i < s.size() ? static_cast<unsigned char>(s[at + i]) : 0u;
  };
  const auto tail = [&](std::size_t i) { return (byte(i) & 0xc0u) == 0x80u; };
  const unsigned b = byte(0);
  if (b < 0x80) return 1;
  if (b >= 0xc2 && b <= 0xdf) return tail(1) ? 2 : 0;
  if (b >= 0xe0 && b <= 0xef) {
    if (!tail(1) || !tail(2)) return 0;
    if (b == 0xe0 && byte(1) < 0xa0) return 0;
    return b == 0xed && byte(1) >= 0xa0 ? 0 : 3;
  }
  if (b >= 0xf0 && b <= 0xf4) {
    if (!tail(1) || !tail(2) || !tail(3)) return 0;
    if (b == 0xf0 && byte(1) < 0x90) return 0;
    return b == 0xf4 && byte(1) >= 0x90 ? 0 : 4;
  }
  return 0;
}

// ---- writing --------------------------------------------------------------------------------------
void number(std::string& out, const char* key, std::uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof text, "%llu", static_cast<unsigned long long>(value));
  if (out.size() > 1) out += ',';
  (out += '"') += key;
  (out += "\":") += text;
}
void measured(std::string& out, const char* key, std::uint64_t value) {
  if (value != kNotMeasured) return number(out, key, value);
  ((out += ",\"") += key) += "\":null";
}
void text(std::string& out, const char* key, std::string_view value) {
  if (out.size() > 1) out += ',';
  ((out += '"') += key) += "\":";
  append_json_string(out, value);
}

// ---- reading: a flat object of strings, numbers, true, false and null -------------------------------
class Flat {
 public:
  explicit Flat(std::string_view s) : s_(s) {}
  // Calls use(key, text, is_string) for each member. False: not one flat object.
  template <class Use>
  bool each(Use use) {
    space();
    if (!take('{')) return false;
    space();
    if (take('}')) return end();
    for (;;) {
      std::string key, value;
      space();
      if (!string(key)) return false;
      space();
      if (!take(':')) return false;
      space();
      const bool is_string = at_ < s_.size() && s_[at_] == '"';
      if (is_string ? !string(value) : !word(value)) return false;
      if (!use(key, value, is_string)) return false;
      space();
      if (take('}')) return end();
      if (!take(',')) return false;
    }
  }

 private:
  void space() {
    while (at_ < s_.size() && (s_[at_] == ' ' || s_[at_] == '\t' || s_[at_] == '\r')) ++at_;
  }
  bool take(char c) {
    if (at_ >= s_.size() || s_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool end() {
    space();
    return at_ == s_.size();
  }
  bool word(std::string& out) {
    while (at_ < s_.size() && std::strchr("+-.0123456789abcdefghijklmnopqrstuvwxyzE", s_[at_]) &&
           s_[at_] != 0) {
      out += s_[at_++];
    }
    return !out.empty();
  }
  bool escape(std::string& out) {
    if (at_ >= s_.size()) return false;
    const char c = s_[at_++];
    constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
    if (const auto i = kFrom.find(c); i != std::string_view::npos) return out += kTo[i], true;
    if (c != 'u' || at_ + 4 > s_.size()) return false;
    unsigned code = 0;
    const auto r = std::from_chars(s_.data() + at_, s_.data() + at_ + 4, code, 16);
    if (r.ptr != s_.data() + at_ + 4) return false;
    at_ += 4;
    out += code < 0x80 ? static_cast<char>(code) : '?';  // we never write others in this form
    return true;
  }
  bool string(std::string& out) {
    if (!take('"')) return false;
    while (at_ < s_.size() && s_[at_] != '"') {
      const char c = s_[at_++];
      if (static_cast<unsigned char>(c) < 0x20) return false;
      if (c != '\\') {
        out += c;
      } else if (!escape(out)) {
        return false;
      }
    }
    return take('"');
  }
  std::string_view s_;
  std::size_t at_ = 0;
};

template <class T>
bool to_number(const std::string& s, T& out) {
  const auto r = std::from_chars(s.data(), s.data() + s.size(), out);
  return r.ec == std::errc{} && r.ptr == s.data() + s.size();
}
bool to_measured(const std::string& s, std::uint64_t& out) {
  if (s == "null") return out = kNotMeasured, true;
  return to_number(s, out);
}
template <std::size_t N>
void to_field(const std::string& s, char (&out)[N]) {
  std::memset(out, 0, N);
  std::memcpy(out, s.data(), s.size() < N ? s.size() : N - 1);
}
bool to_uuid(const std::string& s, std::uint8_t* out) {
  unsigned digits = 0;
  for (const char c : s) {
    if (c == '-') continue;
    unsigned d = 0;
    if (std::from_chars(&c, &c + 1, d, 16).ec != std::errc{} || digits == 32) return false;
    out[digits / 2] = static_cast<std::uint8_t>(out[digits / 2] << 4 | d);
    ++digits;
  }
  return digits == 32;
}
bool to_time(const std::string& s, std::int64_t& unix_ns) {
  tm t{};
  long ns = 0;
  int used = 0;
  if (std::sscanf(s.c_str(), "%4d-%2d-%2dT%2d:%2d:%2d.%9ldZ%n", &t.tm_year, &t.tm_mon, &t.tm_mday,
                  &t.tm_hour, &t.tm_min, &t.tm_sec, &ns, &used) != 7 ||
      used != 30 || s.size() != 30) {
    return false;
  }
  t.tm_year -= 1900;
  t.tm_mon -= 1;
  std::int64_t whole_ns = 0;  // years that 64 bits of nanoseconds cannot hold are no time of ours
  return !__builtin_mul_overflow(static_cast<std::int64_t>(::timegm(&t)), kNs, &whole_ns) &&
         !__builtin_add_overflow(whole_ns, ns, &unix_ns);
}
bool to_kind(const std::string& s, EventKind& out) {
  constexpr std::uint32_t kMost = 256;  // parts have numbers of their own: not all are in use
  for (std::uint32_t k = 1; k < kMost && s != "unknown"; ++k) {
    if (s == event_name(static_cast<EventKind>(k))) return out = static_cast<EventKind>(k), true;
  }
  return false;
}
bool to_severity(const std::string& s, Severity& out) {
  for (std::uint32_t k = 0; k < 4; ++k) {
    if (s == severity_name(static_cast<Severity>(k))) return out = static_cast<Severity>(k), true;
  }
  return false;
}

}  // namespace

void append_json_string(std::string& out, std::string_view s) {
  out += '"';
  for (std::size_t i = 0; i < s.size();) {
    const std::size_t n = utf8_length(s, i);
    const char c = s[i];
    if (n == 0) {
      out += '?';
    } else if (c == '"' || c == '\\') {
      (out += '\\') += c;
    } else if (n == 1 && static_cast<unsigned char>(c) < 0x20) {
      char text[8];
      std::snprintf(text, sizeof text, "\\u%04x", static_cast<unsigned>(c));
      out += text;
    } else {
      out += s.substr(i, n);
    }
    i += n == 0 ? 1 : n;
  }
  out += '"';
}

std::string_view text_of(const char* field, std::size_t most) noexcept {
  return {field, ::strnlen(field, most)};
}

std::string clean_text(std::string_view s, std::size_t most) {
  std::string out;
  for (std::size_t i = 0; i < s.size();) {
    const std::size_t n = utf8_length(s, i);
    const auto b = static_cast<unsigned char>(s[i]);
    const bool c1 = n == 2 && b == 0xc2 && static_cast<unsigned char>(s[i + 1]) < 0xa0;
    const bool keep = n != 0 && !c1 && b >= 0x20 && b != 0x7f;
    if (out.size() + (keep ? n : 1) > most) break;
    if (keep) {
      out += s.substr(i, n);
    } else {
      out += '?';
    }
    i += n == 0 ? 1 : n;
  }
  return out;
}

std::string uuid_text(const std::uint8_t* uuid) {
  std::string out;
  for (unsigned i = 0; i < kUuidBytes; ++i) {
    char text[4];
    std::snprintf(text, sizeof text, "%02x", static_cast<unsigned>(uuid[i]));
    if (i == 4 || i == 6 || i == 8 || i == 10) out += '-';
    out += text;
  }
  return out;
}

std::string utc_text(std::int64_t unix_ns) {
  std::int64_t s = unix_ns / kNs, ns = unix_ns % kNs;
  if (ns < 0) ns += kNs, --s;
  const time_t seconds = s;
  tm t{};
  char day[32] = "", out[48];
  ::gmtime_r(&seconds, &t);
  ::strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &t);
  std::snprintf(out, sizeof out, "%s.%09lldZ", day, static_cast<long long>(ns));
  return out;
}

std::string event_line(const EventView& e) {
  static constexpr std::uint8_t kNone[kUuidBytes] = {};
  std::string out = "{";
  number(out, "id", e.id);
  text(out, "time", utc_text(e.unix_ns));
  text(out, "kind", event_name(e.kind));
  text(out, "severity", severity_name(e.severity));
  if (e.tenant[0] != 0) text(out, "tenant", text_of(e.tenant, sizeof e.tenant));
  if (e.pid != 0) number(out, "pid", e.pid);
  if (e.uid != kNoId) number(out, "uid", e.uid);
  if (std::memcmp(e.uuid, kNone, sizeof kNone) != 0) text(out, "gpu", uuid_text(e.uuid));
  if (e.bytes != 0) number(out, "bytes", e.bytes);
  text(out, "text", text_of(e.text, sizeof e.text));
  return out += '}';
}

bool parse_event_line(std::string_view line, EventView& event) {
  EventView e{};
  e.uid = kNoId;
  unsigned seen = 0;
  const bool whole = Flat{line}.each([&](const std::string& k, const std::string& v, bool) {
    if (k == "id") return seen |= 1, to_number(v, e.id);
    if (k == "time") return seen |= 2, to_time(v, e.unix_ns);
    if (k == "kind") return seen |= 4, to_kind(v, e.kind);
    if (k == "severity") return seen |= 8, to_severity(v, e.severity);
    if (k == "pid") return to_number(v, e.pid);
    if (k == "uid") return to_number(v, e.uid);
    if (k == "bytes") return to_number(v, e.bytes);
    if (k == "gpu") return to_uuid(v, e.uuid);
    if (k == "tenant") to_field(v, e.tenant);
    if (k == "text") to_field(v, e.text);
    return true;
  });
  if (whole && seen == 15) event = e;
  return whole && seen == 15;
}

std::string usage_line(const UsageLine& line) {
  const UsageRow& r = line.row;
  std::string out = "{";
  number(out, "row", line.serial);
  number(out, "from", static_cast<std::uint64_t>(r.from_unix_s));
  number(out, "to", static_cast<std::uint64_t>(r.to_unix_s));
  text(out, "tenant", text_of(r.tenant, sizeof r.tenant));
  text(out, "gpu", uuid_text(r.uuid));
  number(out, "byte_seconds", r.byte_seconds);
  number(out, "held_ms", r.held_ms);
  measured(out, "gpu_ms", r.gpu_ms);
  if (r.counted_ms != 0) number(out, "counted_ms", r.counted_ms);
  measured(out, "moved_bytes", r.moved_bytes);
  number(out, "peak_bytes", r.peak_bytes);
  number(out, "refused", r.refused);
  if (line.rest_ns != 0) number(out, "rest", line.rest_ns);
  if (line.moved_seen != 0) number(out, "moved_seen", line.moved_seen);
  return out += '}';
}

bool parse_usage_line(std::string_view text, UsageLine& line) {
  UsageLine l;
  UsageRow& r = l.row;
  r.gpu_ms = r.moved_bytes = kNotMeasured;
  unsigned seen = 0;
  const bool whole = Flat{text}.each([&](const std::string& k, const std::string& v, bool) {
    if (k == "row") return seen |= 1, to_number(v, l.serial);
    if (k == "from") return seen |= 2, to_number(v, r.from_unix_s);
    if (k == "to") return seen |= 4, to_number(v, r.to_unix_s);
    if (k == "tenant") return seen |= 8, to_field(v, r.tenant), !v.empty();
    if (k == "gpu") return seen |= 16, to_uuid(v, r.uuid);
    if (k == "byte_seconds") return seen |= 32, to_number(v, r.byte_seconds);
    if (k == "held_ms") return to_number(v, r.held_ms);
    if (k == "gpu_ms") return to_measured(v, r.gpu_ms);
    if (k == "counted_ms") return to_number(v, r.counted_ms);
    if (k == "moved_bytes") return to_measured(v, r.moved_bytes);
    if (k == "peak_bytes") return to_number(v, r.peak_bytes);
    if (k == "refused") return to_number(v, r.refused);
    if (k == "rest") return to_number(v, l.rest_ns);
    if (k == "moved_seen") return to_number(v, l.moved_seen);
    return true;
  });
  if (whole && seen == 63) line = l;
  return whole && seen == 63;
}

std::string usage_open_text(const std::vector<UsageLine>& rows, std::uint64_t next_serial) {
  std::string out = "{\"schema\":1,\"next_row\":" + std::to_string(next_serial) + ",\"rows\":[\n";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    (out += usage_line(rows[i])) += i + 1 < rows.size() ? ",\n" : "\n";
  }
  return out += "]}\n";
}

// One row a line, as we write it: no general parser is needed for our own file.
bool parse_usage_open(std::string_view text, std::vector<UsageLine>& rows,
                      std::uint64_t& next_serial) {
  constexpr std::string_view kHead = "{\"schema\":1,\"next_row\":", kTail = "]}\n";
  if (!text.starts_with(kHead) || !text.ends_with(kTail)) return false;
  const auto r =
      std::from_chars(text.data() + kHead.size(), text.data() + text.size(), next_serial);
  if (r.ec != std::errc{}) return false;
  text = text.substr(0, text.size() - kTail.size());
  for (std::size_t at = text.find('\n'); at != std::string_view::npos && at + 1 < text.size();) {
    const std::size_t end = text.find('\n', at + 1);
    std::string_view line = text.substr(at + 1, end - at - 1);
    if (line.ends_with(',')) line.remove_suffix(1);
    UsageLine row;
    if (!parse_usage_line(line, row)) return false;
    rows.push_back(row);
    at = end;
  }
  return true;
}

}  // namespace bulkhead::wire
