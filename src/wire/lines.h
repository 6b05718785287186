// Events and usage rows as the daemon writes them to disk: one flat JSON object a line (docs/formats/events.md,
// usage.md). Shared by the daemon, which writes, and the command line, which reads when no daemon answers.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "wire/messages.h"
#include "wire/view.h"

namespace bulkhead::wire {

inline constexpr std::uint64_t kNotMeasured = ~0ull;

// Appends `text` with quotes, escaped for JSON. A byte that is no valid UTF-8 becomes '?'.
void append_json_string(std::string& out, std::string_view text);
// Up to the first zero byte or `most` bytes.
[[nodiscard]] std::string_view text_of(const char* field, std::size_t most) noexcept;
// Control characters (C0, DEL, C1) and bytes that are no UTF-8 become '?'; cut to `most` bytes between characters.
[[nodiscard]] std::string clean_text(std::string_view text, std::size_t most);
[[nodiscard]] std::string uuid_text(const std::uint8_t* uuid);  // 8-4-4-4-12
[[nodiscard]] std::string utc_text(std::int64_t unix_ns);       // RFC 3339, nine digits, "Z"

// Without the newline.
[[nodiscard]] std::string event_line(const EventView& event);
// False: not a whole event line. Unknown keys are skipped; an unknown kind is false.
[[nodiscard]] bool parse_event_line(std::string_view line, EventView& event);

struct UsageLine {
  UsageRow row{};
  std::uint64_t serial = 0;   // "row"
  std::uint64_t rest_ns = 0;  // byte x ns that byte_seconds lacks; 0 in finished rows
  // The tenant's own sum of moved bytes up to which row.moved_bytes counts; only in running rows, 0 in finished ones.
  std::uint64_t moved_seen = 0;
};
[[nodiscard]] std::string usage_line(const UsageLine& line);
[[nodiscard]] bool parse_usage_line(std::string_view text, UsageLine& line);
// The whole of usage.open.json, and back. parse: false if it is no such file.
[[nodiscard]] std::string usage_open_text(const std::vector<UsageLine>& rows,
                                          std::uint64_t next_serial);
[[nodiscard]] bool parse_usage_open(std::string_view text, std::vector<UsageLine>& rows,
                                    std::uint64_t& next_serial);

}  // namespace bulkhead::wire
