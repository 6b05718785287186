// Reading single entries and proofs out of a log's directory. Shows what is there; whether it is what was signed is the
// verifier's word, so `show` and `prove` compare the entry with a signed root before they print it.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "audit/files.h"
#include "audit/host_key.h"
#include "audit/segment.h"
#include "audit/tree.h"
#include "base/outcome.h"

namespace bulkhead::audit {

class LogReader {
 public:
  static Outcome<std::unique_ptr<LogReader>> open(std::unique_ptr<Files> files);
  [[nodiscard]] std::uint64_t first() const noexcept { return segments_.front().first; }
  // Leaves behind the last journal record that is whole; looks again at the last segment.
  [[nodiscard]] std::uint64_t size();
  [[nodiscard]] std::optional<Buffer> entry(std::uint64_t index);
  // A complete subtree of the stored log: from tree/ where it is stored, from the entries below that.
  [[nodiscard]] std::optional<Hash> hash(unsigned level, std::uint64_t index);
  [[nodiscard]] SubtreeHash hashes() {
    return [this](unsigned level, std::uint64_t index) { return hash(level, index); };
  }
  // The last whole checkpoint, as a note; "" if there is none.
  [[nodiscard]] std::string last_checkpoint(const std::string& origin);
  [[nodiscard]] Files& files() noexcept { return *files_; }
  // Of the leaves before .. found - 1: those that somebody handed to the writer. Keys, starts, clocks and what retention says
  // stand between them.
  [[nodiscard]] std::uint64_t handed_over(std::uint64_t before, std::uint64_t found);

 private:
  struct Batch {
    std::uint64_t first, offset;
    std::uint32_t count, bytes;
  };
  struct Segment {
    std::uint64_t first = 0;
    std::uint64_t journal_at = 0;  // read up to here
    std::vector<Batch> batches;
    std::unique_ptr<File> data, journal;
  };
  bool open_files(Segment& segment, std::string& problem);
  bool load(Segment& segment);
  Segment* segment_of(std::uint64_t index);

  std::unique_ptr<Files> files_;
  std::vector<Segment> segments_;
  std::vector<Buffer> cached_;  // entries of one batch
  std::uint64_t cached_first_ = UINT64_MAX;
  std::map<std::uint64_t, std::vector<Hash>> bundles_;  // leaves of a few bundles
};

// A proof that needs nothing but the keys (docs/formats/log.md): one JSON object. A problem: there is no such entry, or the
// log does not fit its own checkpoint.
[[nodiscard]] Outcome<std::string> make_proof(LogReader& log, const std::string& origin,
                                              std::uint64_t index);
// "" if the entry of the proof was in the log that the policy's key signed; otherwise why not. `shown`: the entry in words.
[[nodiscard]] std::string check_proof(const std::string& json, const TrustPolicy& policy,
                                      std::string& shown);
// An entry as JSON, for people and for `export`. Addresses are shown only if asked for.
[[nodiscard]] std::string entry_json(std::uint64_t index, Bytes entry, bool addresses);

}  // namespace bulkhead::audit
