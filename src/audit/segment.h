// Names and records of a segment (docs/formats/log.md): bundles in .data, one journal record a batch.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "abi/audit_entry.h"
#include "audit/files.h"
#include "audit/tree.h"

namespace bulkhead::audit {

inline constexpr std::uint64_t kBundle = 256;
inline constexpr std::uint32_t kMaxBatch = 4096;
inline constexpr std::size_t kJournalHeader = 64, kJournalRecord = 80, kEntryBytes = 54;
// One batch: at most kMaxBatch plain entries, or long ones up to these bytes.
inline constexpr std::size_t kMaxBatchBytes = 1u << 20;

// "segment/000000000012" for the segment that begins at leaf 12 * 256.
[[nodiscard]] std::string segment_name(std::uint64_t first);
// The first index of a file's name in segment/, by its ending; none if it is not of ours.
[[nodiscard]] std::optional<std::uint64_t> segment_first(std::string_view file_name,
                                                         std::string_view ending);
// tree/1 holds level 8, and so on.
[[nodiscard]] std::string tree_name(unsigned level);

struct JournalHeader {
  std::uint64_t first = 0;
  std::uint64_t made_ns = 0;
  std::vector<Hash> peaks;
  [[nodiscard]] std::size_t bytes() const noexcept { return kJournalHeader + 32 * peaks.size(); }
};
[[nodiscard]] Buffer journal_header(std::uint64_t made_ns, const Frontier& before);
[[nodiscard]] std::optional<JournalHeader> parse_journal_header(Bytes all);

struct BatchRecord {
  std::uint32_t count = 0;
  std::uint32_t data_bytes = 0;
  std::uint32_t data_crc = 0;
  std::uint64_t first = 0;
  std::uint64_t offset = 0;
  std::uint64_t drained_ns = 0;
  Hash root{};
  std::vector<std::array<std::uint8_t, 2>> marks;
};
[[nodiscard]] constexpr std::size_t batch_record_bytes(std::uint32_t count) noexcept {
  return kJournalRecord + (2ull * count + 7) / 8 * 8;
}
void put_batch_record(const BatchRecord& record, Buffer& out);
// The record at the beginning of `all`; none if it is torn, or not one. Its own CRC was right.
[[nodiscard]] std::optional<BatchRecord> parse_batch_record(Bytes all);

// Splits bundle bytes at their length prefixes. None unless exactly `count` entries fill `data`, each of 54 bytes or a
// long record.
[[nodiscard]] std::optional<std::vector<Bytes>> split_entries(Bytes data, std::uint32_t count);
[[nodiscard]] bool is_record(Bytes entry) noexcept;
// The bytes of a 54-byte entry.
[[nodiscard]] abi::AuditEntry entry_of(Bytes entry) noexcept;

}  // namespace bulkhead::audit
