#include "audit/writer.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "audit/crc32c.h"
#include "base/kill_point.h"

namespace bulkhead::audit {
namespace {

constexpr std::uint32_t kDeviceFull[] = {ENOSPC, EDQUOT};

bool is_full(int error) noexcept {
  return std::find(std::begin(kDeviceFull), std::end(kDeviceFull),
                   static_cast<std::uint32_t>(error)) != std::end(kDeviceFull);
}

Bytes bytes_of_entries(std::span<const abi::AuditEntry> batch) noexcept {
  return {reinterpret_cast<const std::uint8_t*>(batch.data()), batch.size_bytes()};
}

}  // namespace

Writer::Writer(std::unique_ptr<Files> files, std::unique_ptr<WallClock> clock,
               WriterOptions options)
    : files_(std::move(files)), clock_(std::move(clock)), options_(std::move(options)) {
  batch_.data.reserve(kMaxBatch * (2 + kEntryBytes));
  batch_.leaves.reserve(kMaxBatch);
}
Writer::~Writer() = default;

std::uint64_t Writer::size() const noexcept {
  const std::lock_guard lock{mutex_};
  return frontier_.size();
}
std::uint64_t Writer::durable() const noexcept {
  const std::lock_guard lock{mutex_};
  return durable_;
}
std::uint64_t Writer::recovered() const noexcept {
  const std::lock_guard lock{mutex_};
  return recovered_;
}
std::uint64_t Writer::recovered_ns() const noexcept {
  const std::lock_guard lock{mutex_};
  return recovered_ns_;
}
std::vector<std::uint64_t> Writer::closed_segments() const {
  const std::lock_guard lock{mutex_};
  return closed_;
}
std::uint64_t Writer::open_segment_first() const {
  const std::lock_guard lock{mutex_};
  return segment_.first;
}
SinkFigures Writer::figures() const noexcept {
  const std::lock_guard lock{shown_mutex_};
  return shown_;
}
void Writer::show() noexcept {
  const std::lock_guard lock{shown_mutex_};
  shown_.size = frontier_.size();
  shown_.durable = durable_;
  shown_.signed_size = signed_;
  shown_.segments = closed_.size();
  shown_.clock_steps = clock_steps_;
  shown_.last_step_ns = last_step_ns_;
}

// Errors that mean "no room" are told apart; every other one is final.
Status Writer::fail(int error_number, const char* what) noexcept {
  if (is_full(error_number)) {
    full_ = true;
    return {Errc::kFull, error_number, what};
  }
  if (failed_ == nullptr) {
    failed_ = what;
    failed_errno_ = error_number;
  }
  return {Errc::kIo, error_number, what};
}

Status Writer::entries(std::span<const abi::AuditEntry> batch) noexcept {
  const std::lock_guard lock{mutex_};
  if (const Status status = note_clock(); !status.ok()) return status;
  if (taken_ > 0 && taken_ <= batch.size() &&
      crc32c(bytes_of_entries(batch.first(taken_))) == taken_crc_) {
    batch = batch.subspan(taken_);
  } else {
    taken_ = 0;
  }
  const std::span<const abi::AuditEntry> all{batch.data() - taken_, batch.size() + taken_};
  while (!batch.empty()) {
    // A segment ends at a bundle's border, so a batch that crosses it is cut there.
    std::size_t n = std::min<std::size_t>(batch.size(), kMaxBatch);
    const std::size_t to_border = kBundle - frontier_.size() % kBundle;
    if (segment_over()) n = std::min(n, to_border);
    const Status status = append_entries(batch.first(n));
    if (!status.ok()) {
      taken_ = all.size() - batch.size();
      taken_crc_ = crc32c(bytes_of_entries(all.first(taken_)));
      return status;
    }
    batch = batch.subspan(n);
  }
  taken_ = 0;
  return {};
}

Status Writer::record(std::string_view json) noexcept {
  if (json.empty() || json.size() > abi::kMaxRecordBytes)
    return {Errc::kTooLarge, 0, "a record has 1 to 65,534 bytes"};
  const std::lock_guard lock{mutex_};
  if (const Status status = note_clock(); !status.ok()) return status;
  return append_record(json);
}

Status Writer::append_entries(std::span<const abi::AuditEntry> batch) noexcept {
  constexpr std::size_t kStride = 2 + kEntryBytes;
  batch_.data.resize(batch.size() * kStride);
  std::uint8_t* at = batch_.data.data();
  for (const abi::AuditEntry& entry : batch) {
    at[0] = 0;
    at[1] = kEntryBytes;
    std::memcpy(at + 2, &entry, kEntryBytes);
    at += kStride;
  }
  batch_.leaves.resize(batch.size());
  leaf_hashes_54(batch_.data.data() + 2, kStride, batch.size(), batch_.leaves.data());
  Frontier next = frontier_;
  return write_batch(next);
}

Status Writer::append_record(std::string_view json) noexcept {
  const std::size_t n = json.size() + 1;
  batch_.data.resize(2 + n);
  batch_.data[0] = static_cast<std::uint8_t>(n >> 8);
  batch_.data[1] = static_cast<std::uint8_t>(n);
  batch_.data[2] = abi::kRecordByte;
  std::memcpy(batch_.data.data() + 3, json.data(), json.size());
  batch_.leaves.assign(1, leaf_hash(Bytes{batch_.data}.subspan(2)));
  Frontier next = frontier_;
  return write_batch(next);
}

// Data, then journal, then the frontier: until the last of them nothing was taken over.
Status Writer::write_batch(Frontier& next) noexcept {
  if (failed_ != nullptr) return {Errc::kIo, failed_errno_, failed_};
  if (segment_.data == nullptr || (frontier_.size() % kBundle == 0 && segment_over())) {
    if (const Status status = open_segment(); !status.ok()) return status;
  }
  BatchRecord& head = batch_.head;
  head.first = next.size();
  head.count = static_cast<std::uint32_t>(batch_.leaves.size());
  head.marks.resize(head.count);
  for (std::uint32_t i = 0; i < head.count; ++i)
    head.marks[i] = {batch_.leaves[i][0], batch_.leaves[i][1]};
  std::size_t made[3];
  for (std::size_t i = 0; i < 3; ++i) made[i] = tree_[i].waiting.size();
  next.append(batch_.leaves, [this](unsigned level, const Hash& hash) {
    tree_[level / 8 - 1].waiting.push_back(hash);
  });
  head.offset = segment_.data_bytes;
  head.data_bytes = static_cast<std::uint32_t>(batch_.data.size());
  head.data_crc = crc32c(batch_.data);
  head.drained_ns = clock_->utc_ns();
  head.root = next.root();
  put_batch_record(head, batch_.record);
  BH_KILL_POINT("log.hashed");
  int error = write_all(*segment_.data, batch_.data, segment_.data_bytes);
  BH_KILL_POINT("log.data");
  if (error == 0) error = write_all(*segment_.journal, batch_.record, segment_.journal_bytes);
  BH_KILL_POINT("log.journal");
  if (error != 0) {
    for (std::size_t i = 0; i < 3; ++i) tree_[i].waiting.resize(made[i]);
    return fail(error, "write to the audit log");
  }
  segment_.data_bytes += batch_.data.size();
  segment_.journal_bytes += batch_.record.size();
  frontier_ = next;
  full_ = false;
  show();
  return {};
}

bool Writer::segment_over() noexcept {
  if (segment_.data_bytes == 0) return false;
  return segment_.data_bytes >= options_.segment_bytes ||
         (options_.segment_s != 0 &&
          clock_->utc_ns() >= segment_.made_ns + options_.segment_s * 1'000'000'000);
}

// Derived files: written when a page is full or before a sync.
Status Writer::flush_tree() noexcept {
  for (TreeFile& tree : tree_) {
    if (tree.waiting.empty()) continue;
    const Bytes bytes{tree.waiting.front().data(), 32 * tree.waiting.size()};
    if (const int error = write_all(*tree.file, bytes, 32 * tree.hashes); error != 0)
      return fail(error, "write to the audit log's tree");
    tree.hashes += tree.waiting.size();
    tree.waiting.clear();
  }
  return {};
}

Status Writer::close_segment() noexcept {
  if (segment_.data == nullptr) return {};
  if (const Status status = sync_locked(); !status.ok()) return status;
  for (TreeFile& tree : tree_) {
    if (const int error = tree.file->sync(); error != 0) return fail(error, "sync of the tree");
  }
  return {};
}

// A name appears only after write, sync, rename and sync of the directory.
Status Writer::open_segment() noexcept {
  if (const Status status = close_segment(); !status.ok()) return status;
  Segment fresh;
  fresh.first = frontier_.size();
  fresh.made_ns = clock_->utc_ns();
  const std::string name = segment_name(fresh.first);
  const Buffer header = journal_header(fresh.made_ns, frontier_);
  int error = 0;
  fresh.data = files_->open(name + ".data.new", OpenMode::kFresh, error);
  if (fresh.data != nullptr)
    fresh.journal = files_->open(name + ".journal.new", OpenMode::kFresh, error);
  if (error == 0) error = write_all(*fresh.journal, header, 0);
  fresh.journal_bytes = header.size();
  if (error == 0) error = fresh.journal->sync();
  if (error == 0) error = fresh.data->sync();
  BH_KILL_POINT("log.segment.made");
  if (error == 0) error = files_->rename(name + ".journal.new", name + ".journal");
  BH_KILL_POINT("log.segment.half");
  if (error == 0) error = files_->rename(name + ".data.new", name + ".data");
  if (error == 0) error = files_->sync_directory("segment");
  BH_KILL_POINT("log.segment.named");
  if (error != 0) {
    static_cast<void>(files_->remove(name + ".data.new"));
    static_cast<void>(files_->remove(name + ".journal.new"));
    return fail(error, "make a segment of the audit log");
  }
  if (segment_.data != nullptr) closed_.push_back(segment_.first);
  segment_ = std::move(fresh);
  return {};
}

Status Writer::sync_locked() noexcept {
  if (failed_ != nullptr) return {Errc::kIo, failed_errno_, failed_};
  if (durable_ == frontier_.size() || segment_.data == nullptr) return {};
  if (const Status status = flush_tree(); !status.ok()) return status;
  int error = segment_.data->sync();
  if (error == 0) error = segment_.journal->sync();
  if (error != 0) {
    // What a failed fsync left behind is unknown, and a second one may lie: final, whatever the number.
    failed_ = "fsync of the audit log";
    failed_errno_ = error;
    return {Errc::kIo, error, failed_};
  }
  durable_ = frontier_.size();
  durable_root_ = frontier_.root();
  show();
  return {};
}

Status Writer::sync() noexcept {
  const std::lock_guard signing{sign_mutex_};
  std::shared_ptr<File> data, journal;
  std::uint64_t size = 0;
  Hash root{};
  {
    const std::lock_guard lock{mutex_};
    if (failed_ != nullptr) return {Errc::kIo, failed_errno_, failed_};
    if (durable_ == frontier_.size()) return {};
    if (const Status status = flush_tree(); !status.ok()) return status;
    data = segment_.data;  // earlier segments were synced when this one began
    journal = segment_.journal;
    size = frontier_.size();
    root = frontier_.root();
  }
  // Appending goes on meanwhile: only what was there before counts as durable.
  int error = data->sync();
  BH_KILL_POINT("log.synced.data");
  if (error == 0) error = journal->sync();
  BH_KILL_POINT("log.synced");
  const std::lock_guard lock{mutex_};
  if (error != 0) {
    failed_ = "fsync of the audit log";
    failed_errno_ = error;
    return {Errc::kIo, error, failed_};
  }
  if (size > durable_) {
    durable_ = size;
    durable_root_ = root;
  }
  show();
  return {};
}

Status Writer::retain_from(std::uint64_t index, const std::string& why,
                           std::uint64_t& removed) noexcept {
  removed = 0;
  std::vector<std::uint64_t> gone;
  {
    const std::lock_guard lock{mutex_};
    std::uint64_t kept = segment_.first;
    for (std::size_t i = closed_.size(); i-- > 0;) {
      const std::uint64_t end = i + 1 < closed_.size() ? closed_[i + 1] : segment_.first;
      if (end <= index) {
        gone.assign(closed_.begin(), closed_.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        kept = end;
        break;
      }
    }
    if (gone.empty()) return {};
    const Status status = append_record(retained_json(kept, clock_->utc_ns(), why));
    if (!status.ok()) return status;
  }
  // The record is signed before the first byte goes.
  if (const Status status = finish(); !status.ok()) return status;
  // Not under the lock: a large file takes its time to go, and appending does not wait for that.
  for (const std::uint64_t first : gone) {
    for (const char* ending : {".data", ".zst", ".journal"})
      static_cast<void>(files_->remove(segment_name(first) + ending));
    ++removed;
  }
  static_cast<void>(files_->sync_directory("segment"));
  const std::lock_guard lock{mutex_};
  closed_.erase(closed_.begin(), closed_.begin() + static_cast<std::ptrdiff_t>(gone.size()));
  show();
  return {};
}

WriterState Writer::state() const {
  const std::lock_guard lock{mutex_};
  WriterState s;
  s.size = frontier_.size();
  s.durable = durable_;
  s.signed_size = signed_;
  s.recovered = recovered_;
  s.epoch = epoch_;
  s.full = full_;
  if (failed_ != nullptr) s.failed = std::string{failed_} + ": " + std::strerror(failed_errno_);
  s.last_signed = last_signed_;
  return s;
}

}  // namespace bulkhead::audit
