// What a log's directory holds after any crash: read only, nothing is changed here (writer_open.cc does).
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "audit/note.h"
#include "audit/records.h"
#include "audit/segment.h"

namespace bulkhead::audit {

struct Recovered {
  std::vector<std::uint64_t> segments;  // first indices, oldest first; the last is the open one
  Frontier frontier;
  std::uint64_t data_bytes = 0,
                journal_bytes = 0;       // of the last segment, up to the last good batch
  std::uint64_t made_ns = 0;             // the last segment's
  std::uint64_t drained_ns = 0;          // the last batch's
  std::uint64_t cut_bytes = 0;           // behind them
  std::uint64_t tree_from[3] = {};       // hashes of tree/1..3 that are kept as they are
  std::vector<Hash> tree[3];             // those behind them, computed again
  std::optional<Checkpoint> checkpoint;  // the last signed one
  std::string checkpoint_note;
  std::uint64_t checkpoints_bytes = 0;  // up to the end of that note
  std::optional<KeyRecord> key;         // the last in what was read again
  std::uint64_t key_index = 0;
  Hash key_root{};  // of the tree behind it
  std::string boot_id;
};

// Reads everything from the segment that holds the last signed size on. A problem is a reason not to start.
[[nodiscard]] std::string recover_log(Files& files, const std::string& origin, Recovered& out);

// The last whole checkpoint of the file `checkpoints`; "" if there is none.
[[nodiscard]] std::string read_last_checkpoint(Files& files, const std::string& origin);

}  // namespace bulkhead::audit
