// Reads the log's leaves forwards, batch by batch, while it grows. Only whole batches behind a journal record are seen; how far
// one may read is the caller's word (a signed checkpoint).
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "audit/files.h"
#include "audit/segment.h"
#include "audit/tree.h"

namespace bulkhead::daemon::siem {

struct LeafBatch {
  std::uint64_t first = 0;  // of the batch; entries[i] is leaf first + i
  std::uint64_t drained_ns = 0;
  std::vector<audit::Bytes>
      entries;  // empty if the bytes are no entries; `count` holds all the same
  std::uint32_t count = 0;
  bool good = true;  // its checksum holds
};

class Follower {
 public:
  explicit Follower(audit::Files& files) : files_(files) {}
  // Goes to a leaf. Where segments below are gone: to the oldest leaf there is, and `at` says which; then, and at a segment's
  // first leaf, `before` is the tree up to it. False: there is no segment, or it cannot be read (problem()).
  bool seek(std::uint64_t& at, std::optional<audit::Frontier>& before);
  // The batch that holds leaf `index`, which must lie at or behind where seek() went, and not before an earlier call's. Null: not
  // there yet. Its bytes stay until the next call.
  const LeafBatch* batch(std::uint64_t index);
  // The tree before that leaf, if it is the first of the segment that is read: its header's word.
  [[nodiscard]] std::optional<audit::Frontier> before(std::uint64_t index) const {
    return open_ && index == segment_ ? before_ : std::nullopt;
  }
  [[nodiscard]] const std::string& problem() const noexcept { return problem_; }

 private:
  bool open(std::uint64_t first);
  bool read_record(audit::BatchRecord& record);
  bool read_data(const audit::BatchRecord& record);
  [[nodiscard]] std::vector<std::uint64_t> segments() const;

  audit::Files& files_;
  std::unique_ptr<audit::File> data_, journal_;
  std::uint64_t segment_ = 0, journal_at_ = 0, next_ = 0;  // next_: first leaf of the next record
  bool open_ = false;
  std::optional<audit::Frontier> before_;
  LeafBatch batch_;
  audit::Buffer bytes_, record_;
  std::string problem_;
};

}  // namespace bulkhead::daemon::siem
