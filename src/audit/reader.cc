#include "audit/reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "audit/pack.h"
#include "audit/records.h"
#include "audit/recover.h"

namespace bulkhead::audit {

Outcome<std::unique_ptr<LogReader>> LogReader::open(std::unique_ptr<Files> files) {
  using Result = Outcome<std::unique_ptr<LogReader>>;
  auto log = std::make_unique<LogReader>();
  log->files_ = std::move(files);
  std::vector<std::uint64_t> firsts;
  for (const std::string& name : log->files_->list("segment")) {
    auto first = segment_first(name, ".data");
    if (!first) first = segment_first(name, ".zst");
    if (first) firsts.push_back(*first);
  }
  std::sort(firsts.begin(), firsts.end());
  firsts.erase(std::unique(firsts.begin(), firsts.end()), firsts.end());
  if (firsts.empty()) return Result::because("there is no segment of a log");
  for (const std::uint64_t first : firsts) {
    Segment segment;
    segment.first = first;
    log->segments_.push_back(std::move(segment));
  }
  std::string problem;  // the others when they are asked for: there may be thousands
  if (!log->open_files(log->segments_.back(), problem)) return Result::because(problem);
  return log;
}

bool LogReader::open_files(Segment& segment, std::string& problem) {
  if (segment.journal != nullptr) return true;
  int error = 0;
  const std::string name = segment_name(segment.first);
  segment.data = files_->open(name + ".data", OpenMode::kRead, error);
  if (segment.data == nullptr) segment.data = open_packed(*files_, name + ".zst", problem);
  if (segment.data == nullptr) return false;
  segment.journal = files_->open(name + ".journal", OpenMode::kRead, error);
  if (segment.journal == nullptr) problem = name + ".journal: " + std::strerror(error);
  return segment.journal != nullptr;
}

std::uint64_t LogReader::handed_over(std::uint64_t before, std::uint64_t found) {
  std::uint64_t count = 0;
  for (std::uint64_t i = before; i < found; ++i) {
    const auto leaf = entry(i);
    const bool own =
        leaf && is_record(*leaf) &&
        is_writers_own({reinterpret_cast<const char*>(leaf->data()) + 1, leaf->size() - 1});
    count += own ? 0 : 1;
  }
  return count;
}

bool LogReader::load(Segment& segment) {
  std::string problem;
  if (!open_files(segment, problem)) return false;
  const std::uint64_t size = segment.journal->size();
  if (segment.journal_at == 0) {
    Buffer head(kJournalHeader + 64 * 32);
    const long n = segment.journal->read_at(head.data(), head.size(), 0);
    head.resize(static_cast<std::size_t>(std::max(n, 0L)));
    const auto header = parse_journal_header(head);
    if (!header || header->first != segment.first) return false;
    segment.journal_at = header->bytes();
  }
  std::uint64_t next = segment.batches.empty()
                           ? segment.first
                           : segment.batches.back().first + segment.batches.back().count;
  Buffer record(batch_record_bytes(kMaxBatch));
  while (segment.journal_at < size) {
    const long n = segment.journal->read_at(record.data(), record.size(), segment.journal_at);
    const auto r =
        parse_batch_record(Bytes{record}.first(static_cast<std::size_t>(std::max(n, 0L))));
    if (!r || r->first != next) break;
    segment.batches.push_back({r->first, r->offset, r->count, r->data_bytes});
    segment.journal_at += batch_record_bytes(r->count);
    next += r->count;
  }
  return true;
}

LogReader::Segment* LogReader::segment_of(std::uint64_t index) {
  const auto after =
      std::upper_bound(segments_.begin(), segments_.end(), index,
                       [](std::uint64_t v, const Segment& s) { return v < s.first; });
  return after == segments_.begin() ? nullptr : &*(after - 1);
}

std::uint64_t LogReader::size() {
  Segment& last = segments_.back();
  load(last);
  return last.batches.empty() ? last.first : last.batches.back().first + last.batches.back().count;
}

std::optional<Buffer> LogReader::entry(std::uint64_t index) {
  if (index < cached_first_ || index - cached_first_ >= cached_.size()) {
    Segment* const segment = segment_of(index);
    if (segment == nullptr || !load(*segment)) return std::nullopt;
    const auto after =
        std::upper_bound(segment->batches.begin(), segment->batches.end(), index,
                         [](std::uint64_t v, const Batch& b) { return v < b.first; });
    if (after == segment->batches.begin()) return std::nullopt;
    const Batch& batch = *(after - 1);
    if (index - batch.first >= batch.count) return std::nullopt;
    Buffer bytes(batch.bytes);
    if (read_exactly(*segment->data, bytes.data(), bytes.size(), batch.offset) != 0)
      return std::nullopt;
    const auto entries = split_entries(bytes, batch.count);
    if (!entries) return std::nullopt;
    cached_.clear();
    for (const Bytes one : *entries) cached_.emplace_back(one.begin(), one.end());
    cached_first_ = batch.first;
  }
  return cached_[index - cached_first_];
}

std::optional<Hash> LogReader::hash(unsigned level, std::uint64_t index) {
  if (level >= 8) {
    const unsigned stored = std::min(level / 8 * 8, 24u);
    if (level == stored) {
      int error = 0;
      Hash out;
      const auto file = files_->open(tree_name(level), OpenMode::kRead, error);
      if (file != nullptr && read_exactly(*file, out.data(), 32, 32 * index) == 0) return out;
      if (level == 8) {  // not flushed yet: from its entries
        std::vector<Hash> leaves;
        for (std::uint64_t i = index << 8; i < (index + 1) << 8; ++i) {
          const auto one = entry(i);
          if (!one) return std::nullopt;
          leaves.push_back(leaf_hash(*one));
        }
        Frontier f;
        f.append(leaves);
        return f.root();
      }
    }
    const auto left = hash(level - 1, 2 * index), right = hash(level - 1, 2 * index + 1);
    if (!left || !right) return std::nullopt;
    return node_hash(*left, *right);
  }
  const std::uint64_t from = index << level, bundle = from / kBundle;
  const std::size_t at = static_cast<std::size_t>(from % kBundle), n = std::size_t{1} << level;
  auto known = bundles_.find(bundle);
  if (known != bundles_.end() && at + n > known->second.size()) {
    bundles_.erase(known);  // the last one grows
    known = bundles_.end();
  }
  if (known == bundles_.end()) {
    if (bundles_.size() > 64) bundles_.clear();
    std::vector<Hash> leaves;
    for (std::uint64_t i = bundle * kBundle; i < (bundle + 1) * kBundle; ++i) {
      const auto one = entry(i);
      if (!one) break;
      leaves.push_back(leaf_hash(*one));
    }
    known = bundles_.emplace(bundle, std::move(leaves)).first;
  }
  if (at + n > known->second.size()) return std::nullopt;
  Frontier f;
  std::vector<Hash> leaves{known->second.begin() + static_cast<std::ptrdiff_t>(at),
                           known->second.begin() + static_cast<std::ptrdiff_t>(at + n)};
  f.append(leaves);
  return f.root();
}

std::string LogReader::last_checkpoint(const std::string& origin) {
  return read_last_checkpoint(*files_, origin);
}

}  // namespace bulkhead::audit
