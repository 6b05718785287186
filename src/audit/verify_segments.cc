#include "audit/verify_segments.h"

#include <algorithm>

#include "audit/crc32c.h"
#include "audit/pack.h"

namespace bulkhead::audit {
namespace {

std::string index_text(std::uint64_t index) { return std::to_string(index); }

}  // namespace

std::string LeafStream::open() {
  for (const std::string& name : files_.list("segment")) {
    auto first = segment_first(name, ".data");
    if (!first) first = segment_first(name, ".zst");
    if (first) segments_.push_back(*first);
  }
  std::sort(segments_.begin(), segments_.end());
  segments_.erase(std::unique(segments_.begin(), segments_.end()), segments_.end());
  if (segments_.empty()) return "there is no segment";
  index_ = first_ = segments_[0];
  if (first_ > 0) {
    const auto text = read_small(files_, segment_name(first_) + ".journal", std::size_t{1} << 32);
    const auto header = text ? parse_journal_header(bytes_of(*text)) : std::nullopt;
    const auto frontier = header ? Frontier::of(first_, header->peaks) : std::nullopt;
    if (!frontier || header->first != first_)
      return "the first segment does not begin the log, and its journal has no good header";
    before_ = *frontier;
  }
  return {};
}

bool LeafStream::open_segment() {
  const std::uint64_t first = segments_[segment_];
  const std::string name = segment_name(first);
  if (first != index_) {
    findings_.add(Check::kSegments, index_,
                  first > index_ ? index_text(first - index_) +
                                       " entries are missing: the next segment begins at index " +
                                       index_text(first)
                                 : "a segment begins at index " + index_text(first) +
                                       ", where there are entries already");
    index_ = first;
  }
  int error = 0;
  data_ = files_.open(name + ".data", OpenMode::kRead, error);
  if (data_ == nullptr) {
    std::string problem;
    data_ = open_packed(files_, name + ".zst", problem);
    if (data_ == nullptr) {
      findings_.add(Check::kSegments, index_, name + " cannot be read: " + problem);
      return false;
    }
  }
  at_ = 0;
  data_size_ = data_->size();
  journal_ = files_.open(name + ".journal", OpenMode::kRead, error);
  journal_good_ = journal_ != nullptr;
  journal_size_ = journal_good_ ? journal_->size() : 0;
  Buffer head(kJournalHeader + 64 * 32);
  if (journal_good_) {
    const long n = journal_->read_at(head.data(), head.size(), 0);
    head.resize(static_cast<std::size_t>(std::max(n, 0L)));
    const auto header = parse_journal_header(head);
    journal_good_ = header && header->first == first;
    if (journal_good_) journal_at_ = header->bytes();
  }
  if (!journal_good_) findings_.add(Check::kJournal, index_, name + ".journal has no good header");
  open_ = true;
  return true;
}

// Fast where all entries are plain: they are hashed where they lie, two at a time.
void LeafStream::hash(LeafBatch& batch, std::uint32_t count) {
  constexpr std::size_t kStride = 2 + kEntryBytes;
  batch.entries.clear();
  batch.leaves.resize(count);
  batch.plain = bytes_.size() == count * kStride;
  for (std::size_t at = 0; batch.plain && at < bytes_.size(); at += kStride)
    batch.plain =
        bytes_[at] == 0 && bytes_[at + 1] == kEntryBytes && bytes_[at + 2] != abi::kRecordByte;
  batch.entries.reserve(count);
  if (batch.plain) {
    for (std::uint32_t i = 0; i < count; ++i)
      batch.entries.emplace_back(bytes_.data() + i * kStride + 2, kEntryBytes);
    leaf_hashes_54(bytes_.data() + 2, kStride, count, batch.leaves.data());
    return;
  }
  Bytes rest = bytes_;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::size_t n = rest.size() < 2 ? 0 : static_cast<std::size_t>(rest[0]) << 8 | rest[1];
    const bool good =
        n > 0 && rest.size() >= 2 + n && (n == kEntryBytes || rest[2] == abi::kRecordByte);
    if (!good && !batch.damaged) {
      batch.damaged = true;
      findings_.add(Check::kEntryForm, batch.first + i, "what stands here is not an entry");
    }
    batch.entries.push_back(good ? rest.subspan(2, n) : Bytes{});
    batch.leaves[i] = good ? leaf_hash(batch.entries.back()) : Hash{};
    rest = good ? rest.subspan(2 + n) : Bytes{};
  }
  if (!rest.empty() && !batch.damaged) {
    batch.damaged = true;
    findings_.add(Check::kEntryForm, batch.first + count, "bytes between two batches");
  }
}

bool LeafStream::by_journal(LeafBatch& batch) {
  record_.resize(batch_record_bytes(kMaxBatch));
  const long n = journal_->read_at(record_.data(), record_.size(), journal_at_);
  const auto record =
      parse_batch_record(Bytes{record_}.first(static_cast<std::size_t>(std::max(n, 0L))));
  const bool follows = record && record->first == index_ && record->offset == at_;
  if (!follows) {
    // At the log's end this is what a crash leaves; anywhere else it is damage, and the data's own prefixes are followed.
    const bool last = segment_ + 1 == segments_.size();
    if (last && journal_at_ == journal_size_) return false;
    journal_good_ = false;
    if (journal_at_ < journal_size_ || at_ < data_size_)
      findings_.add(Check::kJournal, index_,
                    "the journal's record of the batch that begins here is damaged");
    return by_prefixes(batch);
  }
  bytes_.resize(record->data_bytes);
  const bool there = read_exactly(*data_, bytes_.data(), bytes_.size(), at_) == 0;
  if (!there) {
    journal_good_ = false;
    findings_.add(Check::kJournal, index_,
                  "the segment ends before the batch that the journal has here");
    return by_prefixes(batch);
  }
  batch.first = index_;
  batch.marks = record->marks;
  batch.crc_held = crc32c(bytes_) == record->data_crc;
  batch.drained_ns = record->drained_ns;
  batch.damaged = false;
  hash(batch, record->count);
  if (!batch.crc_held) {
    std::uint64_t at = batch.first;
    for (std::uint32_t i = 0; i < record->count; ++i) {
      if (batch.leaves[i][0] != batch.marks[i][0] || batch.leaves[i][1] != batch.marks[i][1]) {
        at = batch.first + i;
        break;
      }
    }
    Finding f;
    f.check = Check::kJournal;
    f.index = at;
    f.text = "this entry is not the one the journal has (batch from index " +
             index_text(batch.first) + ")";
    const Bytes entry = batch.entries[at - batch.first];
    if (entry.size() == kEntryBytes && !is_record(entry)) {
      const abi::AuditEntry e = entry_of(entry);
      f.has_lane = true;
      f.session = e.session;
      f.lane = e.lane;
      f.sequence = abi::sequence_of(e);
    }
    findings_.add(std::move(f));
  }
  index_ += record->count;
  at_ += record->data_bytes;
  journal_at_ += batch_record_bytes(record->count);
  return true;
}

// Without a journal: entries by their own lengths, up to the segment's end.
bool LeafStream::by_prefixes(LeafBatch& batch) {
  if (at_ >= data_size_) return false;
  bytes_.resize(
      static_cast<std::size_t>(std::min<std::uint64_t>(data_size_ - at_, kMaxBatchBytes)));
  if (read_exactly(*data_, bytes_.data(), bytes_.size(), at_) != 0) return false;
  std::size_t used = 0;
  std::uint32_t count = 0;
  while (count < kMaxBatch && bytes_.size() - used >= 2) {
    const std::size_t n = static_cast<std::size_t>(bytes_[used]) << 8 | bytes_[used + 1];
    if (n == 0 || bytes_.size() - used < 2 + n) break;
    used += 2 + n;
    ++count;
  }
  batch.first = index_;
  batch.marks.clear();
  batch.crc_held = true;
  batch.drained_ns = 0;
  batch.damaged = false;
  if (count == 0) {
    findings_.add(Check::kEntryForm, index_, "what stands here is not an entry");
    at_ = data_size_;
    return false;
  }
  bytes_.resize(used);
  hash(batch, count);
  index_ += count;
  at_ += used;
  return true;
}

void LeafStream::segment_ends() {
  const std::uint64_t rest = data_size_ - std::min(at_, data_size_);
  if (segment_ + 1 == segments_.size()) {
    rest_ = rest;
  } else if (rest > 0) {
    findings_.add(Check::kJournal, index_,
                  index_text(rest) + " bytes of a closed segment are in no batch");
  }
  open_ = false;
  ++segment_;
}

bool LeafStream::next(LeafBatch& batch) {
  while (segment_ < segments_.size()) {
    if (!open_ && !open_segment()) {
      ++segment_;
      continue;
    }
    if (journal_good_ ? by_journal(batch) : by_prefixes(batch)) return true;
    segment_ends();
  }
  return false;
}

}  // namespace bulkhead::audit
