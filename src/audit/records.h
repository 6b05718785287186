// The long records that the log's own writer makes and its verifier reads (docs/formats/log.md). What is read is
// hostile: nothing is taken for granted but that the text fits in memory.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "audit/sha256.h"

namespace bulkhead::audit {

struct BootRecord {
  std::uint64_t utc_ns = 0;
  std::string boot_id;
  std::string origin;
  std::uint64_t recovered = 0;
  std::uint64_t cut_bytes = 0;
  std::uint64_t signed_size = 0;
  std::string unknown;
};
struct KeyRecord {
  std::uint64_t epoch = 0;
  std::uint64_t utc_ns = 0;
  std::uint64_t length_s = 0;
  bool by_host = false;
  Hash public_key{};
  std::vector<std::uint8_t> signature;
  std::string signed_text;  // filled by the parser
};
struct SessionRecord {
  std::uint32_t serial = 0;
  std::uint64_t utc_ns = 0;
  std::string tenant;
  bool observe = false;
  std::vector<std::string> devices;
};
struct SessionEndRecord {
  std::uint32_t serial = 0;
  std::map<std::uint16_t, std::uint64_t> next;  // lane -> how many sequences it had
};
struct GrantRecord {
  std::uint32_t serial = 0;
  std::string tenant;
  std::int64_t not_before_s = 0, expires_s = 0;
  std::uint8_t directions = 0;  // bit d: Direction d; bit 0: map
  std::vector<std::string> devices;
  std::uint64_t bytes = 0;
  std::string text;  // the record as it stands
};
struct RevokedRecord {
  std::uint32_t grant = 0;
  std::uint64_t utc_ns = 0;
};
struct ClockRecord {
  std::int64_t step_ns = 0;
};
struct GapRecord {
  std::uint64_t session = 0, lane = 0, from = 0, to = 0, count = 0;
  std::string tenant;  // of session 0: no lane of any session took them
};
// The tenant's audit mode from here on.
struct ModeRecord {
  std::string tenant;
  std::uint32_t mode = 0;  // 0 off, 1 observe, 2 enforce
  std::uint64_t utc_ns = 0;
};
struct RetainedRecord {
  std::uint64_t from = 0;
};
struct OtherRecord {
  std::string kind;
};
using Record =
    std::variant<OtherRecord, BootRecord, KeyRecord, SessionRecord, SessionEndRecord, GrantRecord,
                 RevokedRecord, ClockRecord, GapRecord, ModeRecord, RetainedRecord>;

// The record in `json` (without its first byte 0x1f); none: `problem` says what is wrong with it. `origin` is the
// log's, for what a key record's signature covers.
[[nodiscard]] std::optional<Record> parse_record(std::string_view json, const std::string& origin,
                                                 std::string& problem);
[[nodiscard]] std::string boot_json(const BootRecord& record);
// Without a signature: its signed text; with one: the record.
[[nodiscard]] std::string key_json(const KeyRecord& record);
[[nodiscard]] std::string key_signed_text(const KeyRecord& record, const std::string& origin);
[[nodiscard]] std::string clock_json(std::uint64_t utc_ns, std::int64_t step_ns);
// A record that the log's writer makes by itself: nobody handed it over.
[[nodiscard]] bool is_writers_own(std::string_view json);
[[nodiscard]] std::string retained_json(std::uint64_t from, std::uint64_t utc_ns,
                                        const std::string& why);

}  // namespace bulkhead::audit
