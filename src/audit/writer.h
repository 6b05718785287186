// The log's writer (docs/formats/log.md): entries and records become leaves, batches are in the page cache when entries()
// returns, sync() makes them durable, tick() signs what is durable and changes the epoch's key.
//
// Claim  no size is ever signed that is not durable, and what a crash leaves is a prefix of what was appended.
// Proof  signing reads durable_size_ and its root, which sync() sets after both fdatasync calls returned; recovery takes
//        batches in order as long as both CRCs and the root hold, and compares with the last checkpoint. Model:
//        tests/model/log.pml, a crash before each step.
// Price  two fdatasync a group, and at an epoch's end (each minute) appending waits for five more.
//
// Threads: entries() and record() from one; sync() and tick() from one other (SyncThread); the rest from any.
#pragma once
#include <memory>
#include <mutex>
#include <string>

#include "audit/host_key.h"
#include "audit/records.h"
#include "audit/segment.h"
#include "audit/sink.h"
#include "base/outcome.h"

namespace bulkhead::audit {

// A difference between the wall clock and the steady one that is no drift: a record says so.
inline constexpr std::uint64_t kStepNs = 50'000'000;

struct WriterOptions {
  std::string origin;   // of a new log: default_origin() if empty
  std::string boot_id;  // read from the kernel if empty
  std::uint64_t epoch_s = 60;
  std::uint64_t segment_bytes = 1ull << 30;
  std::uint64_t segment_s =
      0;                       // a segment also ends when it is older, at the next border; 0: never
  bool host_lines = true;      // sign checkpoints with the host key too
  bool make_host_key = true;   // at the first start
  std::uint64_t sync_ms = 10;  // only said in the boot record
};

struct WriterState {
  std::uint64_t size = 0, durable = 0, signed_size = 0, recovered = 0, epoch = 0;
  bool full = false;        // the last append found no room
  std::string failed;       // final: why nothing is written any more
  std::string last_signed;  // the whole note
};

class Writer final : public Sink {
 public:
  // Recovers, writes the boot record and signs. Refused with the reason: nothing was changed.
  static Outcome<std::unique_ptr<Writer>> open(std::unique_ptr<Files> files,
                                               std::unique_ptr<WallClock> clock,
                                               WriterOptions options);
  ~Writer() override;

  // kFull: part of the batch may have been taken over; the same call, repeated, goes on behind it. size() counts it.
  Status entries(std::span<const abi::AuditEntry> batch) noexcept override;
  Status record(std::string_view json) noexcept override;
  std::uint64_t size() const noexcept override;
  std::uint64_t durable() const noexcept override;
  // Leaves that a crash had left, before this start's boot record: what a caller's own intent is compared with.
  [[nodiscard]] std::uint64_t recovered() const noexcept;
  // UTC ns of the last batch among them; 0: none.
  [[nodiscard]] std::uint64_t recovered_ns() const noexcept;

  // Everything appended before the call is durable after it. An error of fsync is final; kFull is not.
  [[nodiscard]] Status sync() noexcept;
  // Ends the epoch if its time has come; signs if durable entries are not signed yet.
  [[nodiscard]] Status tick() noexcept;
  // sync() and tick(): a last checkpoint over everything.
  [[nodiscard]] Status finish() noexcept;
  // Removes whole segments that end at or below `index`, after a record that says so is durable. Counts them.
  [[nodiscard]] Status retain_from(std::uint64_t index, const std::string& why,
                                   std::uint64_t& removed) noexcept;
  // First indices of the segments that are closed, oldest first.
  [[nodiscard]] std::vector<std::uint64_t> closed_segments() const;
  [[nodiscard]] std::uint64_t open_segment_first() const;
  [[nodiscard]] const std::string& origin() const noexcept { return origin_; }
  [[nodiscard]] WriterState state() const;
  // Sizes as they were told last: waits for no file.
  SinkFigures figures() const noexcept override;
  [[nodiscard]] Files& files() noexcept { return *files_; }

 private:
  struct Segment {
    std::uint64_t first = 0;
    std::uint64_t made_ns = 0;
    std::uint64_t data_bytes = 0, journal_bytes = 0;
    std::shared_ptr<File> data, journal;
  };
  struct Batch {  // room for one, kept between calls
    Buffer data, record;
    std::vector<Hash> leaves;
    BatchRecord head;
  };
  struct Pending {  // an epoch that begins
    PrivateKey key;
    KeyRecord record;
    std::uint64_t size = 0;  // behind its record; 0: not appended yet
    Hash root{};
    bool stored = false, sealed = false;
  };

  Writer(std::unique_ptr<Files> files, std::unique_ptr<WallClock> clock, WriterOptions options);
  // writer_open.cc
  std::string recover();
  std::string take_epoch_key(const struct Recovered& found, bool& sealed);
  std::string apply(const struct Recovered& found);
  std::string start(const struct Recovered& found);
  // writer.cc, under mutex_
  Status append_entries(std::span<const abi::AuditEntry> batch) noexcept;
  Status append_record(std::string_view json) noexcept;
  Status write_batch(Frontier& next) noexcept;
  Status open_segment() noexcept;
  Status close_segment() noexcept;
  Status flush_tree() noexcept;
  Status sync_locked() noexcept;
  Status fail(int error_number, const char* what) noexcept;
  [[nodiscard]] bool segment_over() noexcept;
  Status note_clock() noexcept;
  Status put_clock_record(std::uint64_t utc_ns, std::int64_t step_ns) noexcept;
  void show() noexcept;
  // writer_sign.cc, under sign_mutex_ (and mutex_ where they append)
  Status begin_epoch(std::uint64_t epoch, bool by_host) noexcept;
  Status change_epoch() noexcept;
  Status write_checkpoint(std::uint64_t size, const Hash& root, const PrivateKey& epoch_key,
                          std::uint64_t epoch) noexcept;
  Status store_epoch_key(const std::string& name, const PrivateKey& key, std::uint64_t epoch,
                         std::uint64_t index) noexcept;
  Status adopt_next_key() noexcept;

  std::unique_ptr<Files> files_;
  std::unique_ptr<WallClock> clock_;
  WriterOptions options_;
  std::string origin_;
  std::optional<HostKey> host_;

  std::mutex sign_mutex_;  // taken before mutex_
  std::optional<PrivateKey> epoch_key_;
  std::optional<Pending> pending_;
  std::uint64_t epoch_ = 0, epoch_began_ns_ = 0;
  std::uint64_t checkpoints_bytes_ = 0;

  mutable std::mutex mutex_;  // all below
  Frontier frontier_;
  Segment segment_;
  std::vector<std::uint64_t> closed_;
  Batch batch_;
  struct TreeFile {
    std::unique_ptr<File> file;
    std::uint64_t hashes = 0;  // written
    std::vector<Hash> waiting;
  } tree_[3];
  std::uint64_t durable_ = 0, signed_ = 0, recovered_ = 0, recovered_ns_ = 0, has_checkpoint_ = 0;
  Hash durable_root_{};
  bool full_ = false;
  int failed_errno_ = 0;
  const char* failed_ = nullptr;
  std::string last_signed_;
  // Of an entries() call that ended as kFull: how much of it is in the log, and what that was.
  std::size_t taken_ = 0;
  std::uint32_t taken_crc_ = 0;
  std::int64_t clock_offset_ns_ = 0;  // utc - steady at the last look
  std::uint64_t clock_looked_ns_ = 0;
  std::uint64_t clock_steps_ = 0;
  std::int64_t last_step_ns_ = 0;

  mutable std::mutex shown_mutex_;  // held for no call
  SinkFigures shown_;
};

}  // namespace bulkhead::audit
