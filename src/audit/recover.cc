#include "audit/recover.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "audit/crc32c.h"
#include "audit/pack.h"

namespace bulkhead::audit {
namespace {

constexpr std::size_t kTail = 1u << 20;

struct Replay {
  Files& files;
  const std::string& origin;
  Recovered& out;
  bool matched = false;  // the signed root was met

  std::string segment(std::uint64_t first, bool last);
  std::string batch(File& data, const BatchRecord& r, bool& torn);
  void note_records(const std::vector<Bytes>& entries, std::uint64_t first);
};

std::string at_index(std::uint64_t index) { return " at index " + std::to_string(index); }

void Replay::note_records(const std::vector<Bytes>& entries, std::uint64_t first) {
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (!is_record(entries[i])) continue;
    std::string problem;
    const std::string_view text{reinterpret_cast<const char*>(entries[i].data()) + 1,
                                entries[i].size() - 1};
    const auto record = parse_record(text, origin, problem);
    if (!record) continue;
    if (const auto* boot = std::get_if<BootRecord>(&*record)) out.boot_id = boot->boot_id;
    if (const auto* key = std::get_if<KeyRecord>(&*record)) {
      out.key = *key;
      out.key_index = first + i;
      out.key_root = out.frontier.root();  // a key record is a batch of its own
    }
  }
}

// Torn: this batch and all behind it never were (their CRCs do not hold). A problem: CRCs hold and the tree does not.
std::string Replay::batch(File& data, const BatchRecord& r, bool& torn) {
  Buffer bytes(r.data_bytes);
  torn =
      read_exactly(data, bytes.data(), bytes.size(), r.offset) != 0 || crc32c(bytes) != r.data_crc;
  if (torn) return {};
  const auto entries = split_entries(bytes, r.count);
  if (!entries) return "a batch whose CRC holds is not made of entries" + at_index(r.first);
  std::vector<Hash> leaves;
  leaves.reserve(r.count);
  for (const Bytes entry : *entries) leaves.push_back(leaf_hash(entry));
  out.frontier.append(leaves, [this](unsigned level, const Hash& hash) {
    out.tree[level / 8 - 1].push_back(hash);
  });
  if (out.frontier.root() != r.root)
    return "the journal's root is not that of its entries" + at_index(r.first);
  note_records(*entries, r.first);
  if (out.checkpoint && out.frontier.size() == out.checkpoint->size) {
    if (out.frontier.root() != out.checkpoint->root)
      return "the last signed checkpoint (size " + std::to_string(out.checkpoint->size) +
             ") has another root than the entries";
    matched = true;
  }
  return {};
}

std::string Replay::segment(std::uint64_t first, bool last) {
  const std::string name = segment_name(first);
  const auto text = read_small(files, name + ".journal", std::size_t{8} << 30);
  if (!text) return name + ".journal cannot be read";
  const Bytes all = bytes_of(*text);
  const auto header = parse_journal_header(all);
  if (!header || header->first != first) return name + ".journal has no good header";
  if (out.frontier.size() == 0) {
    const auto before = Frontier::of(first, header->peaks);
    if (!before) return name + ".journal has another number of peaks";
    out.frontier = *before;
    if (out.checkpoint && out.checkpoint->size == first)
      matched = out.frontier.root() == out.checkpoint->root;
  }
  if (out.frontier.size() != first)
    return "segments do not follow one another: one begins" + at_index(first) +
           " and the one before ends" + at_index(out.frontier.size());
  int error = 0;
  auto data = files.open(name + ".data", OpenMode::kRead, error);
  if (data == nullptr && error == ENOENT && !last) {
    std::string problem;
    data = open_packed(files, name + ".zst", problem);
    if (data == nullptr) return problem;
  }
  if (data == nullptr) return name + ".data: " + std::strerror(error);
  out.made_ns = header->made_ns;
  out.data_bytes = 0;
  out.journal_bytes = header->bytes();
  while (out.journal_bytes < all.size()) {
    const auto record = parse_batch_record(all.subspan(out.journal_bytes));
    if (!record || record->first != out.frontier.size() || record->offset != out.data_bytes) break;
    bool torn = false;
    std::string problem = batch(*data, *record, torn);
    if (!problem.empty()) return problem;
    if (torn) break;
    out.drained_ns = std::max(out.drained_ns, record->drained_ns);
    out.data_bytes += record->data_bytes;
    out.journal_bytes += batch_record_bytes(record->count);
  }
  const std::uint64_t rest =
      data->size() - std::min(data->size(), out.data_bytes) + all.size() - out.journal_bytes;
  if (!last && rest != 0) return "a segment that is not the last is torn: " + name;
  out.cut_bytes = rest;
  return {};
}

// The last whole note of `checkpoints`.
std::string last_checkpoint(Files& files, const std::string& origin, Recovered& out) {
  int error = 0;
  const auto file = files.open("checkpoints", OpenMode::kRead, error);
  if (file == nullptr) return error == ENOENT ? "" : std::string{"checkpoints: "} + strerror(error);
  const std::uint64_t size = file->size();
  const std::size_t n = static_cast<std::size_t>(std::min<std::uint64_t>(size, kTail));
  std::string tail(n, '\0');
  if (read_exactly(*file, tail.data(), n, size - n) != 0) return "checkpoints cannot be read";
  // A note begins with the origin's line, at the file's beginning or behind a signature's line.
  for (std::size_t at = tail.rfind(origin + "\n"); at != std::string::npos;
       at = at == 0 ? std::string::npos : tail.rfind(origin + "\n", at - 1)) {
    if (at != 0 && tail[at - 1] != '\n') continue;
    std::size_t used = 0;
    const auto note = parse_note(std::string_view{tail}.substr(at), used);
    const auto checkpoint = note ? parse_checkpoint(note->text) : std::nullopt;
    if (!checkpoint || checkpoint->origin != origin) continue;
    // The epoch's line comes last: a note without it was torn between two lines.
    if (!note->lines.back().name.starts_with(origin + "/epoch/")) continue;
    out.checkpoint = checkpoint;
    out.checkpoint_note = note->whole();
    out.checkpoints_bytes = size - n + at + used;
    return {};
  }
  if (size > n) return "no whole checkpoint in the last MiB of checkpoints";
  return {};
}

std::uint64_t tree_hashes(Files& files, unsigned level) {
  int error = 0;
  const auto file = files.open(tree_name(level), OpenMode::kRead, error);
  return file == nullptr ? 0 : file->size() / 32;
}

// From which segment reading begins: the one that holds the signed size, or an older one if tree/ is short.
std::size_t replay_from(Files& files, const Recovered& out) {
  std::size_t from = out.segments.empty() ? 0 : out.segments.size() - 1;
  const std::uint64_t must = out.checkpoint ? out.checkpoint->size : 0;
  while (from > 0 && out.segments[from] > must) --from;
  for (const unsigned level : {8u, 16u, 24u}) {
    const std::uint64_t have = tree_hashes(files, level);
    while (from > 0 && out.segments[from] >> level > have) --from;
  }
  // Without the epoch's key the last key record says which epoch it was: it may lie anywhere.
  const auto key = read_small(files, "epoch.key", 1u << 16);
  return key && key->starts_with("epoch ") ? from : 0;
}

}  // namespace

std::string read_last_checkpoint(Files& files, const std::string& origin) {
  Recovered out;
  return last_checkpoint(files, origin, out).empty() ? out.checkpoint_note : "";
}

std::string recover_log(Files& files, const std::string& origin, Recovered& out) {
  for (const std::string& name : files.list("segment")) {
    auto first = segment_first(name, ".data");
    if (!first) first = segment_first(name, ".zst");
    if (first) out.segments.push_back(*first);
  }
  std::sort(out.segments.begin(), out.segments.end());
  out.segments.erase(std::unique(out.segments.begin(), out.segments.end()), out.segments.end());
  std::string problem = last_checkpoint(files, origin, out);
  if (!problem.empty()) return problem;
  if (out.segments.empty())
    return out.checkpoint && out.checkpoint->size > 0
               ? "there are checkpoints up to size " + std::to_string(out.checkpoint->size) +
                     " and no segment"
               : "";
  const std::size_t from = replay_from(files, out);
  for (unsigned i = 0; i < 3; ++i) {
    out.tree_from[i] = out.segments[from] >> (8 * (i + 1));
    if (out.tree_from[i] > tree_hashes(files, 8 * (i + 1)))
      return tree_name(8 * (i + 1)) + " is too short, and the segments it was made from are gone";
  }
  Replay replay{files, origin, out};
  for (std::size_t i = from; i < out.segments.size(); ++i) {
    problem = replay.segment(out.segments[i], i + 1 == out.segments.size());
    if (!problem.empty()) return problem;
  }
  if (out.checkpoint && out.checkpoint->size > out.frontier.size())
    return "the last signed checkpoint is of size " + std::to_string(out.checkpoint->size) +
           ", and only " + std::to_string(out.frontier.size()) + " entries are there";
  if (out.checkpoint && out.checkpoint->size > 0 && !replay.matched)
    return "the last signed checkpoint does not lie at the end of a batch of the journal";
  return {};
}

}  // namespace bulkhead::audit
