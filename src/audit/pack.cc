#include "audit/pack.h"

#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "audit/segment.h"

namespace bulkhead::audit {
namespace {

constexpr char kMagic[8] = {'B', 'H', 'C', 'O', 'L', 'S', '1', 0};
constexpr std::uint32_t kFrameEntries = 65'536;
constexpr std::size_t kMostFrame = 64u << 20, kFrameHead = 16;
constexpr int kLevel = 1;

struct Head {
  std::uint32_t data_bytes, packed_bytes, entries, longs;
};
static_assert(sizeof(Head) == kFrameHead);

// Time (bytes 20-27) and sequence (12-17) as differences to the plain entry before, modulo their widths.
struct Differences {
  std::uint64_t time = 0, sequence = 0;
  static constexpr std::uint64_t kMask = (1ull << 48) - 1;

  void encode(std::uint8_t* entry) noexcept {
    std::uint64_t t, s = 0;
    std::memcpy(&t, entry + 20, 8);
    std::memcpy(&s, entry + 12, 6);
    const std::uint64_t dt = t - time, ds = (s - sequence) & kMask;
    std::memcpy(entry + 20, &dt, 8);
    std::memcpy(entry + 12, &ds, 6);
    time = t;
    sequence = s;
  }
  void decode(std::uint8_t* entry) noexcept {
    std::uint64_t dt, ds = 0;
    std::memcpy(&dt, entry + 20, 8);
    std::memcpy(&ds, entry + 12, 6);
    time += dt;
    sequence = (sequence + ds) & kMask;
    std::memcpy(entry + 20, &time, 8);
    std::memcpy(entry + 12, &sequence, 6);
  }
};

void put32(Buffer& out, std::uint32_t v) {
  const auto* p = reinterpret_cast<const std::uint8_t*>(&v);
  out.insert(out.end(), p, p + 4);
}

// Columns of the entries in `data` (length prefixes and entries).
Buffer to_columns(const std::vector<Bytes>& entries, std::uint32_t& longs) {
  std::vector<std::array<std::uint8_t, kEntryBytes>> plain;
  Buffer bitmap((entries.size() + 7) / 8), rest;
  Differences d;
  longs = 0;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].size() == kEntryBytes && !is_record(entries[i])) {
      std::memcpy(plain.emplace_back().data(), entries[i].data(), kEntryBytes);
      d.encode(plain.back().data());
    } else {
      ++longs;
      bitmap[i / 8] = static_cast<std::uint8_t>(bitmap[i / 8] | 1u << i % 8);
      put32(rest, static_cast<std::uint32_t>(entries[i].size()));
      rest.insert(rest.end(), entries[i].begin(), entries[i].end());
    }
  }
  Buffer out(kEntryBytes * plain.size());
  for (std::size_t i = 0; i < plain.size(); ++i) {
    for (std::size_t k = 0; k < kEntryBytes; ++k) out[k * plain.size() + i] = plain[i][k];
  }
  out.insert(out.end(), bitmap.begin(), bitmap.end());
  out.insert(out.end(), rest.begin(), rest.end());
  return out;
}

// The inverse; false if the bytes are not columns of `head`.
bool from_columns(const Head& head, Bytes raw, Buffer& data) {
  if (head.longs > head.entries || head.entries > kFrameEntries) return false;
  const std::size_t n = head.entries - head.longs, map = (head.entries + 7) / 8;
  if (raw.size() < n * kEntryBytes + map) return false;
  const Bytes bitmap = raw.subspan(n * kEntryBytes, map);
  Bytes rest = raw.subspan(n * kEntryBytes + map);
  data.clear();
  data.reserve(head.data_bytes);
  Differences d;
  std::size_t plain = 0;
  for (std::uint32_t i = 0; i < head.entries; ++i) {
    if ((bitmap[i / 8] >> i % 8 & 1) == 0) {
      if (plain == n) return false;
      std::uint8_t entry[kEntryBytes];
      for (std::size_t k = 0; k < kEntryBytes; ++k) entry[k] = raw[k * n + plain];
      ++plain;
      d.decode(entry);
      data.insert(data.end(), {0, kEntryBytes});
      data.insert(data.end(), entry, entry + kEntryBytes);
      continue;
    }
    std::uint32_t length = 0;
    if (rest.size() < 4) return false;
    std::memcpy(&length, rest.data(), 4);
    if (length > 0xffff || rest.size() < 4 + length) return false;
    data.insert(data.end(),
                {static_cast<std::uint8_t>(length >> 8), static_cast<std::uint8_t>(length)});
    data.insert(data.end(), rest.begin() + 4, rest.begin() + 4 + length);
    rest = rest.subspan(4 + length);
  }
  return rest.empty() && data.size() == head.data_bytes;
}

// .data as it was, one frame decoded at a time.
class PackedFile final : public File {
 public:
  struct Frame {
    Head head;
    std::uint64_t at, raw_at;
  };
  PackedFile(std::unique_ptr<File> file, std::vector<Frame> frames, std::uint64_t size)
      : file_(std::move(file)), frames_(std::move(frames)), size_(size) {}
  long write_at(const void*, std::size_t, std::uint64_t) noexcept override { return -EROFS; }
  int sync() noexcept override { return EROFS; }
  int truncate(std::uint64_t) noexcept override { return EROFS; }
  std::uint64_t size() noexcept override { return size_; }
  long read_at(void* out, std::size_t n, std::uint64_t at) noexcept override {
    if (at >= size_) return 0;
    const auto after =
        std::upper_bound(frames_.begin(), frames_.end(), at,
                         [](std::uint64_t v, const Frame& f) { return v < f.raw_at; });
    const std::size_t which = static_cast<std::size_t>(after - frames_.begin()) - 1;
    if (which != decoded_ && !decode(which)) return -EIO;
    const std::size_t from = static_cast<std::size_t>(at - frames_[which].raw_at);
    n = std::min(n, data_.size() - from);
    std::memcpy(out, data_.data() + from, n);
    return static_cast<long>(n);
  }

 private:
  bool decode(std::size_t which) {
    const Frame& f = frames_[which];
    decoded_ = SIZE_MAX;
    Buffer packed(f.head.packed_bytes);
    if (read_exactly(*file_, packed.data(), packed.size(), f.at) != 0) return false;
    const unsigned long long raw_bytes = ZSTD_getFrameContentSize(packed.data(), packed.size());
    if (raw_bytes > kMostFrame) return false;  // also unknown and error
    Buffer raw(static_cast<std::size_t>(raw_bytes));
    if (ZSTD_decompress(raw.data(), raw.size(), packed.data(), packed.size()) != raw.size())
      return false;
    if (!from_columns(f.head, raw, data_)) return false;
    decoded_ = which;
    return true;
  }
  std::unique_ptr<File> file_;
  std::vector<Frame> frames_;
  std::uint64_t size_;
  std::size_t decoded_ = SIZE_MAX;
  Buffer data_;
};

std::string because(const std::string& what, int error) {
  return what + ": " + std::strerror(error);
}

// Entries of at most one frame from `at` on; 0: the end or not entries.
std::uint32_t read_frame(File& data, std::uint64_t at, Buffer& bytes) {
  bytes.resize(kFrameEntries * (2 + kEntryBytes));
  const std::uint64_t size = data.size();
  const std::size_t n = static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), size - at));
  if (n == 0 || read_exactly(data, bytes.data(), n, at) != 0) return 0;
  std::size_t used = 0;
  std::uint32_t count = 0;
  while (count < kFrameEntries && n - used >= 2) {
    const std::size_t length = static_cast<std::size_t>(bytes[used]) << 8 | bytes[used + 1];
    if (length == 0 || n - used < 2 + length) break;
    used += 2 + length;
    ++count;
  }
  bytes.resize(used);
  return count;
}

int write_frames(Files& files, File& data, File& out, PackResult& result,
                 const std::function<bool()>& stop) {
  std::uint64_t out_at = sizeof kMagic, at = 0;
  const std::uint64_t size = data.size();
  int error =
      write_all(out, Bytes{reinterpret_cast<const std::uint8_t*>(kMagic), sizeof kMagic}, 0);
  Buffer bytes;
  while (error == 0 && at < size) {
    if (stop && stop()) return ECANCELED;
    if (files.room() < kPackReserve) return ENOSPC;  // others take it, too
    const std::uint32_t count = read_frame(data, at, bytes);
    const auto entries = count == 0 ? std::nullopt : split_entries(bytes, count);
    if (!entries) return EILSEQ;
    Head head{static_cast<std::uint32_t>(bytes.size()), 0, count, 0};
    const Buffer raw = to_columns(*entries, head.longs);
    Buffer frame(kFrameHead + ZSTD_compressBound(raw.size()));
    const std::size_t packed = ZSTD_compress(frame.data() + kFrameHead, frame.size() - kFrameHead,
                                             raw.data(), raw.size(), kLevel);
    if (ZSTD_isError(packed) != 0) return ENOMEM;
    head.packed_bytes = static_cast<std::uint32_t>(packed);
    std::memcpy(frame.data(), &head, sizeof head);
    error = write_all(out, Bytes{frame}.first(kFrameHead + packed), out_at);
    out_at += kFrameHead + packed;
    at += bytes.size();
  }
  result = {size, out_at, false};
  return error;
}

// Byte for byte, in blocks.
bool same(File& a, File& b, const std::function<bool()>& stop) {
  if (a.size() != b.size()) return false;
  Buffer x(1u << 20), y(1u << 20);
  for (std::uint64_t at = 0; at < a.size();) {
    const std::size_t n =
        static_cast<std::size_t>(std::min<std::uint64_t>(x.size(), a.size() - at));
    if ((stop && stop()) || read_exactly(a, x.data(), n, at) != 0 ||
        read_exactly(b, y.data(), n, at) != 0 || std::memcmp(x.data(), y.data(), n) != 0)
      return false;
    at += n;
  }
  return true;
}

}  // namespace

std::unique_ptr<File> open_packed(Files& files, const std::string& name, std::string& problem) {
  int error = 0;
  auto file = files.open(name, OpenMode::kRead, error);
  char magic[sizeof kMagic] = {};
  if (file == nullptr || read_exactly(*file, magic, sizeof magic, 0) != 0 ||
      std::memcmp(magic, kMagic, sizeof magic) != 0) {
    problem = file == nullptr ? because(name, error) : name + " is not a packed segment";
    return nullptr;
  }
  std::vector<PackedFile::Frame> frames;
  std::uint64_t at = sizeof kMagic, raw_at = 0;
  const std::uint64_t size = file->size();
  while (at < size) {
    Head head{};
    if (read_exactly(*file, &head, sizeof head, at) != 0 ||
        head.packed_bytes > size - at - kFrameHead || head.data_bytes > kMostFrame ||
        head.data_bytes == 0 || head.entries > kFrameEntries) {
      problem = name + " is damaged at byte " + std::to_string(at);
      return nullptr;
    }
    frames.push_back({head, at + kFrameHead, raw_at});
    at += kFrameHead + head.packed_bytes;
    raw_at += head.data_bytes;
  }
  if (frames.empty()) {
    problem = name + " is empty";
    return nullptr;
  }
  return std::make_unique<PackedFile>(std::move(file), std::move(frames), raw_at);
}

std::string pack_segment(Files& files, std::uint64_t first, PackResult& result,
                         const std::function<bool()>& stop) {
  const std::string name = segment_name(first);
  int error = 0;
  const auto data = files.open(name + ".data", OpenMode::kRead, error);
  if (data == nullptr) return because(name + ".data", error);
  if (const std::uint64_t room = files.room();
      room < kPackReserve || room - kPackReserve < data->size()) {
    result.no_room = true;
    return because("pack " + name, ENOSPC);
  }
  const std::string fresh = name + ".zst.new";
  auto out = files.open(fresh, OpenMode::kFresh, error);
  if (out != nullptr) error = write_frames(files, *data, *out, result, stop);
  if (error == 0) error = out->sync();
  out.reset();
  std::string problem = error == 0 ? "" : because("pack " + name, error);
  // Read back through a new descriptor, decoded, and compared.
  if (problem.empty()) {
    const auto back = open_packed(files, fresh, problem);
    if (back != nullptr && !same(*data, *back, stop))
      problem = name + ": the packed file is not the same";
  }
  if (problem.empty()) {
    error = files.rename(fresh, name + ".zst");
    if (error == 0) error = files.sync_directory("segment");
    if (error == 0) error = files.remove(name + ".data");
    if (error == 0) error = files.sync_directory("segment");
    if (error != 0) problem = because(name, error);
  } else {
    static_cast<void>(files.remove(fresh));
  }
  return problem;
}

}  // namespace bulkhead::audit
