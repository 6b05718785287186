// Points in time as people write them.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace bulkhead::cli {

// "90s", "10m", "2h", "7d" before `now_unix_s`; "2026-11-22" and "2026-11-22T07:05[:30]", local time or with "Z".
[[nodiscard]] std::optional<std::int64_t> parse_since(const std::string& text,
                                                      std::int64_t now_unix_s);
// "2026-11-22 07:05:40", local time.
[[nodiscard]] std::string local_time(std::int64_t unix_s);

}  // namespace bulkhead::cli
