#include "daemon/siem/follower.h"

#include <algorithm>
#include <cstring>

#include "audit/crc32c.h"
#include "audit/pack.h"

namespace bulkhead::daemon::siem {

// One batch, or one long record behind as much as one may hold.
constexpr std::size_t kMostData = audit::kMaxBatchBytes + (128u << 10);

using audit::BatchRecord;
using audit::Buffer;
using audit::Bytes;

std::vector<std::uint64_t> Follower::segments() const {
  std::vector<std::uint64_t> out;
  for (const std::string& name : files_.list("segment")) {
    if (const auto first = audit::segment_first(name, ".journal")) out.push_back(*first);
  }
  std::sort(out.begin(), out.end());
  return out;
}

bool Follower::open(std::uint64_t first) {
  open_ = false;
  const std::string name = audit::segment_name(first);
  int error = 0;
  journal_ = files_.open(name + ".journal", audit::OpenMode::kRead, error);
  if (journal_ == nullptr) {
    problem_ = name + ".journal: " + std::strerror(error);
    return false;
  }
  data_ = files_.open(name + ".data", audit::OpenMode::kRead, error);
  std::string packed;
  if (data_ == nullptr) data_ = audit::open_packed(files_, name + ".zst", packed);
  if (data_ == nullptr) {
    problem_ = name + ".data: " + std::strerror(error) + (packed.empty() ? "" : "; " + packed);
    return false;
  }
  Buffer head(audit::kJournalHeader + 64 * 32);
  const long n = journal_->read_at(head.data(), head.size(), 0);
  head.resize(static_cast<std::size_t>(std::max(n, 0L)));
  const auto header = audit::parse_journal_header(head);
  if (!header || header->first != first) {
    problem_ = name + ".journal: its header is damaged";
    return false;
  }
  before_ = audit::Frontier::of(first, header->peaks);
  segment_ = next_ = first;
  journal_at_ = header->bytes();
  batch_ = {};
  open_ = true;
  problem_.clear();
  return true;
}

bool Follower::seek(std::uint64_t& at, std::optional<audit::Frontier>& before) {
  before.reset();
  const std::vector<std::uint64_t> all = segments();
  if (all.empty()) {
    problem_ = "there is no segment of a log";
    return false;
  }
  auto after = std::upper_bound(all.begin(), all.end(), at);
  const std::uint64_t first = after == all.begin() ? all.front() : *(after - 1);
  if (!open(first)) return false;
  at = std::max(at, first);
  if (at == first) before = before_;
  return true;
}

bool Follower::read_record(BatchRecord& record) {
  record_.resize(audit::batch_record_bytes(audit::kMaxBatch));
  const long n = journal_->read_at(record_.data(), record_.size(), journal_at_);
  if (n <= 0) return false;
  const auto r = audit::parse_batch_record(Bytes{record_}.first(static_cast<std::size_t>(n)));
  if (!r || r->first != next_) return false;
  record = *r;
  journal_at_ += audit::batch_record_bytes(r->count);
  next_ = r->first + r->count;
  return true;
}

bool Follower::read_data(const BatchRecord& r) {
  // A journal that somebody changed may name any length.
  const bool sane = r.data_bytes <= kMostData;
  bytes_.resize(sane ? r.data_bytes : 0);
  batch_.entries.clear();
  batch_.good = sane && audit::read_exactly(*data_, bytes_.data(), bytes_.size(), r.offset) == 0 &&
                audit::crc32c(bytes_) == r.data_crc;
  auto entries = audit::split_entries(bytes_, r.count);
  if (entries) batch_.entries = std::move(*entries);
  batch_.good = batch_.good && entries.has_value();
  batch_.first = r.first;
  batch_.count = r.count;
  batch_.drained_ns = r.drained_ns;
  return true;
}

const LeafBatch* Follower::batch(std::uint64_t index) {
  if (!open_) return nullptr;
  if (batch_.count != 0 && index >= batch_.first && index < batch_.first + batch_.count)
    return &batch_;
  for (;;) {
    BatchRecord record;
    if (read_record(record)) {
      if (index >= next_) continue;
      read_data(record);
      return &batch_;
    }
    // The end of this segment: another may have begun at exactly the next leaf.
    if (next_ == segment_) return nullptr;
    const std::vector<std::uint64_t> all = segments();
    if (!std::binary_search(all.begin(), all.end(), next_) || !open(next_)) return nullptr;
  }
}

}  // namespace bulkhead::daemon::siem
