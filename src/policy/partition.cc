#include "policy/partition.h"

#include <algorithm>

namespace bulkhead::policy {
namespace {

constexpr std::size_t kMostRows = 4096;
constexpr std::size_t kMostLine = 120;

// The next line without its end; false: there is none.
bool next_line(std::string_view& text, std::string_view& line) {
  if (text.empty()) return false;
  const std::size_t end = text.find('\n');
  line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return true;
}

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> out;
  constexpr std::string_view kBlank = " \t\r";
  for (std::size_t at = line.find_first_not_of(kBlank); at != std::string_view::npos;) {
    const std::size_t end = line.find_first_of(kBlank, at);
    out.push_back(line.substr(at, end == std::string_view::npos ? end : end - at));
    at = end == std::string_view::npos ? end : line.find_first_not_of(kBlank, end);
  }
  return out;
}

bool number(std::string_view word, std::uint32_t& out) {
  if (word.empty() || word.size() > 4) return false;
  out = 0;
  for (const char c : word) {
    if (c < '0' || c > '9') return false;
    out = out * 10 + static_cast<std::uint32_t>(c - '0');
  }
  return out <= kMostChunks;
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool begins(std::string_view whole, std::string_view part) {
  return part.size() <= whole.size() &&
         std::equal(part.begin(), part.end(), whole.begin(),
                    [](char a, char b) { return lower(a) == lower(b); });
}

bool same(std::string_view a, std::string_view b) { return a.size() == b.size() && begins(a, b); }

// GPU-xx, of a UUID's characters.
bool is_gpu(std::string_view word) {
  if (!word.starts_with("GPU-") || word.size() > 40) return false;
  word.remove_prefix(4);
  return std::all_of(word.begin(), word.end(), [](char c) {
    const char l = lower(c);
    return (l >= '0' && l <= '9') || (l >= 'a' && l <= 'f') || l == '-';
  });
}

// The two lines of headings: no digit in them, and every word known.
bool is_heading(const std::vector<std::string_view>& words) {
  return std::all_of(words.begin(), words.end(), [](std::string_view w) {
    for (const std::string_view known :
         {"gpu", "partition", "free", "used", "chunk", "chunks", "sm", "sms", "clients"}) {
      if (same(w, known)) return true;
    }
    return false;
  });
}

bool read_gpu(const std::vector<std::string_view>& words, PartitionedGpu& out) {
  if (words.size() != 5) return false;
  out.gpu = words[0];
  return number(words[1], out.free_chunks) && number(words[2], out.used_chunks) &&
         number(words[3], out.free_sms) && number(words[4], out.used_sms);
}

bool read_partition(const std::vector<std::string_view>& words, PartitionRow& out) {
  if (words.size() != 5 || !valid_partition_id(words[1])) return false;
  out.id = words[1];
  out.in_use = words[4] == "Yes";
  return (out.in_use || words[4] == "No") && number(words[2], out.chunks) &&
         number(words[3], out.sms) && out.chunks != 0 && out.sms != 0;
}

// One row of the table; false: it is not understood.
bool take_row(std::vector<std::string_view> words, std::vector<PartitionedGpu>& gpus) {
  std::erase(words, std::string_view{"-"});
  if (words.empty() || !is_gpu(words[0])) return false;
  PartitionRow partition;
  if (read_partition(words, partition)) {
    const auto gpu = std::find_if(gpus.begin(), gpus.end(),
                                  [&](const PartitionedGpu& g) { return same(g.gpu, words[0]); });
    if (gpu == gpus.end() || partition_of(*gpu, partition.id) != nullptr) return false;
    gpu->partitions.push_back(std::move(partition));
    return true;
  }
  PartitionedGpu gpu;
  const bool twice = std::any_of(gpus.begin(), gpus.end(),
                                 [&](const PartitionedGpu& g) { return same(g.gpu, words[0]); });
  if (twice || !read_gpu(words, gpu)) return false;
  gpus.push_back(std::move(gpu));
  return true;
}

}  // namespace

bool valid_partition_id(std::string_view id) noexcept {
  if (id.empty() || id.size() > kMostPartitionId) return false;
  return std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'z') || c == '+' || c == '/' ||
           c == '=' || c == '_' || c == '-';
  });
}

std::string quoted_line(std::string_view text) {
  std::string_view line;
  while (next_line(text, line)) {
    std::string out;
    for (const char c : line.substr(0, kMostLine)) out += c >= ' ' && c <= '~' ? c : ' ';
    const std::size_t first = out.find_first_not_of(' ');
    if (first == std::string::npos) continue;
    return out.substr(first, out.find_last_not_of(' ') - first + 1);
  }
  return "nothing";
}

const PartitionedGpu* PartitionTable::of(std::string_view uuid) const {
  const PartitionedGpu* found = nullptr;
  for (const PartitionedGpu& g : gpus) {
    if (!begins(uuid, g.gpu)) continue;
    if (found != nullptr) return nullptr;
    found = &g;
  }
  return found;
}

const PartitionRow* partition_of(const PartitionedGpu& gpu, std::string_view id) {
  for (const PartitionRow& p : gpu.partitions) {
    if (p.id == id) return &p;
  }
  return nullptr;
}

PartitionTable parse_lspart(std::string_view text) {
  PartitionTable out;
  std::string_view line;
  std::size_t rows = 0;
  while (next_line(text, line)) {
    const auto words = words_of(line);
    if (words.empty() || is_heading(words)) continue;
    if (++rows <= kMostRows && take_row(words, out.gpus)) continue;
    out.gpus.clear();
    out.problem = "lspart said '" + quoted_line(line) + "', which is not understood";
    return out;
  }
  for (const PartitionedGpu& g : out.gpus) {
    std::uint64_t chunks = 0, sms = 0;
    for (const PartitionRow& p : g.partitions) chunks += p.chunks, sms += p.sms;
    if (chunks <= g.used_chunks && sms <= g.used_sms) continue;
    out.problem = "lspart shows " + g.gpu + " with more in its partitions than is used of it";
    out.gpus.clear();
    return out;
  }
  return out;
}

AddedPartition parse_added(std::string_view text, std::string_view uuid) {
  const std::string said = quoted_line(text);
  std::string id;
  std::string_view rest = text, line;
  while (next_line(rest, line)) {
    const auto words = words_of(line);
    if (words.empty()) continue;
    const bool sentence = words.size() == 3 && words[0] == "Partition" && words[2] == "created";
    const std::string_view word = sentence ? words[1] : words[0];
    // the first slash ends the UUID: an id may have some of its own
    const bool good = (sentence || words.size() == 1) && word.size() > uuid.size() + 1 &&
                      same(word.substr(0, uuid.size()), uuid) && word[uuid.size()] == '/' &&
                      valid_partition_id(word.substr(uuid.size() + 1));
    if (!good || !id.empty()) return {{}, said};
    id = word.substr(uuid.size() + 1);
  }
  return id.empty() ? AddedPartition{{}, said} : AddedPartition{id, {}};
}

}  // namespace bulkhead::policy
