#include "cli/when.h"

#include <time.h>

#include <charconv>
#include <cstdio>

namespace bulkhead::cli {
namespace {

std::optional<std::int64_t> parse_date(const std::string& text) {
  tm t{};
  int used = 0;
  const char* const at = text.c_str();
  if (std::sscanf(at, "%4d-%2d-%2d%n", &t.tm_year, &t.tm_mon, &t.tm_mday, &used) != 3 || used != 10)
    return std::nullopt;
  int time = 0, seconds = 0;
  if (at[used] == 'T' || at[used] == ' ') {
    if (std::sscanf(at + used + 1, "%2d:%2d%n", &t.tm_hour, &t.tm_min, &time) != 2)
      return std::nullopt;
    used += 1 + time;
    if (std::sscanf(at + used, ":%2d%n", &t.tm_sec, &seconds) == 1) used += seconds;
  }
  const bool utc = at[used] == 'Z';
  if (at[used + (utc ? 1 : 0)] != 0) return std::nullopt;
  if (t.tm_mon < 1 || t.tm_mon > 12 || t.tm_mday < 1 || t.tm_mday > 31 || t.tm_hour > 23 ||
      t.tm_min > 59 || t.tm_sec > 60) {
    return std::nullopt;
  }
  t.tm_year -= 1900;
  t.tm_mon -= 1;
  t.tm_isdst = -1;
  return utc ? ::timegm(&t) : ::mktime(&t);
}

}  // namespace

std::optional<std::int64_t> parse_since(const std::string& text, std::int64_t now_unix_s) {
  if (text.empty() || text[0] < '0' || text[0] > '9') return std::nullopt;
  std::int64_t count = 0;
  const char* const end = text.data() + text.size();
  const auto number = std::from_chars(text.data(), end, count);
  if (number.ec != std::errc{}) return std::nullopt;
  std::int64_t unit = 0;
  if (number.ptr + 1 == end) {
    unit = *number.ptr == 's'   ? 1
           : *number.ptr == 'm' ? 60
           : *number.ptr == 'h' ? 3600
           : *number.ptr == 'd' ? 86'400
                                : 0;
  }
  if (unit == 0) return parse_date(text);
  if (count > now_unix_s / unit) return 0;  // before everything
  return now_unix_s - count * unit;
}

std::string local_time(std::int64_t unix_s) {
  const time_t at = unix_s;
  tm t{};
  char text[32] = "";
  ::localtime_r(&at, &t);
  ::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &t);
  return text;
}

}  // namespace bulkhead::cli
