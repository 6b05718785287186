#include "audit/segment.h"

#include <bit>
#include <cstdio>
#include <cstring>

#include "audit/crc32c.h"
#include "audit/note.h"

namespace bulkhead::audit {
namespace {

constexpr std::uint64_t kJournalMagic = 0x00314c4e524a4842;  // "BHJRNL1\0"
constexpr std::uint32_t kBatchMagic = 0x52424842;            // "BHBR"
constexpr std::uint32_t kVersion = 1;

template <class T>
void put(std::uint8_t* at, T value) noexcept {
  std::memcpy(at, &value, sizeof value);
}
template <class T>
T get(const std::uint8_t* at) noexcept {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

std::uint32_t header_crc(Bytes all, std::size_t peaks) noexcept {
  return crc32c(all.subspan(kJournalHeader, 32 * peaks), crc32c(all.first(60)));
}
std::uint32_t record_crc(Bytes all, std::size_t bytes) noexcept {
  return crc32c(all.subspan(kJournalRecord, bytes - kJournalRecord), crc32c(all.first(76)));
}

}  // namespace

std::string segment_name(std::uint64_t first) {
  char text[48];
  std::snprintf(text, sizeof text, "segment/%012llu",
                static_cast<unsigned long long>(first / kBundle));
  return text;
}

std::optional<std::uint64_t> segment_first(std::string_view file_name, std::string_view ending) {
  if (file_name.size() != 12 + ending.size() || !file_name.ends_with(ending)) return std::nullopt;
  std::uint64_t n = 0;
  for (const char c : file_name.substr(0, 12)) {
    if (c < '0' || c > '9') return std::nullopt;
    n = n * 10 + static_cast<std::uint64_t>(c - '0');
  }
  return n * kBundle;
}

std::string tree_name(unsigned level) { return "tree/" + std::to_string(level / 8); }

Buffer journal_header(std::uint64_t made_ns, const Frontier& before) {
  const std::vector<Hash> peaks = before.peaks();
  Buffer out(kJournalHeader + 32 * peaks.size());
  put(out.data(), kJournalMagic);
  put(out.data() + 8, kVersion);
  put(out.data() + 12, static_cast<std::uint32_t>(peaks.size()));
  put(out.data() + 16, before.size());
  put(out.data() + 24, made_ns);
  for (std::size_t i = 0; i < peaks.size(); ++i)
    std::memcpy(out.data() + kJournalHeader + 32 * i, peaks[i].data(), 32);
  put(out.data() + 60, header_crc(out, peaks.size()));
  return out;
}

std::optional<JournalHeader> parse_journal_header(Bytes all) {
  if (all.size() < kJournalHeader || get<std::uint64_t>(all.data()) != kJournalMagic ||
      get<std::uint32_t>(all.data() + 8) != kVersion)
    return std::nullopt;
  const std::size_t peaks = get<std::uint32_t>(all.data() + 12);
  JournalHeader out;
  out.first = get<std::uint64_t>(all.data() + 16);
  out.made_ns = get<std::uint64_t>(all.data() + 24);
  if (peaks > 64 || all.size() < kJournalHeader + 32 * peaks ||
      header_crc(all, peaks) != get<std::uint32_t>(all.data() + 60) || out.first % kBundle != 0 ||
      static_cast<std::size_t>(std::popcount(out.first)) != peaks)
    return std::nullopt;
  out.peaks.resize(peaks);
  for (std::size_t i = 0; i < peaks; ++i)
    std::memcpy(out.peaks[i].data(), all.data() + kJournalHeader + 32 * i, 32);
  return out;
}

void put_batch_record(const BatchRecord& record, Buffer& out) {
  out.assign(batch_record_bytes(record.count), 0);
  put(out.data(), kBatchMagic);
  put(out.data() + 4, record.count);
  put(out.data() + 8, record.first);
  put(out.data() + 16, record.offset);
  put(out.data() + 24, record.data_bytes);
  put(out.data() + 28, record.data_crc);
  put(out.data() + 32, record.drained_ns);
  std::memcpy(out.data() + 40, record.root.data(), 32);
  if (!record.marks.empty())
    std::memcpy(out.data() + kJournalRecord, record.marks.data(), 2 * record.marks.size());
  put(out.data() + 76, record_crc(out, out.size()));
}

std::optional<BatchRecord> parse_batch_record(Bytes all) {
  if (all.size() < kJournalRecord || get<std::uint32_t>(all.data()) != kBatchMagic)
    return std::nullopt;
  BatchRecord r;
  r.count = get<std::uint32_t>(all.data() + 4);
  if (r.count == 0 || r.count > kMaxBatch) return std::nullopt;
  const std::size_t bytes = batch_record_bytes(r.count);
  if (all.size() < bytes || record_crc(all, bytes) != get<std::uint32_t>(all.data() + 76))
    return std::nullopt;
  r.first = get<std::uint64_t>(all.data() + 8);
  r.offset = get<std::uint64_t>(all.data() + 16);
  r.data_bytes = get<std::uint32_t>(all.data() + 24);
  r.data_crc = get<std::uint32_t>(all.data() + 28);
  r.drained_ns = get<std::uint64_t>(all.data() + 32);
  std::memcpy(r.root.data(), all.data() + 40, 32);
  r.marks.resize(r.count);
  std::memcpy(r.marks.data(), all.data() + kJournalRecord, 2ull * r.count);
  // What a batch can be at all: no reader makes room for more.
  if (r.data_bytes < 2 * r.count || r.data_bytes > kMaxBatchBytes) return std::nullopt;
  return r;
}

std::optional<std::vector<Bytes>> split_entries(Bytes data, std::uint32_t count) {
  std::vector<Bytes> out;
  out.reserve(count);
  while (out.size() < count) {
    if (data.size() < 2) return std::nullopt;
    const std::size_t n = static_cast<std::size_t>(data[0]) << 8 | data[1];
    if (data.size() < 2 + n || n == 0) return std::nullopt;
    const Bytes entry = data.subspan(2, n);
    if (!is_record(entry) && n != kEntryBytes) return std::nullopt;
    out.push_back(entry);
    data = data.subspan(2 + n);
  }
  if (!data.empty()) return std::nullopt;
  return out;
}

bool is_record(Bytes entry) noexcept { return !entry.empty() && entry[0] == abi::kRecordByte; }

abi::AuditEntry entry_of(Bytes entry) noexcept {
  abi::AuditEntry out{};
  std::memcpy(&out, entry.data(), sizeof out);
  return out;
}

}  // namespace bulkhead::audit
