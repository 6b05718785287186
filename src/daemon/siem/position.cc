#include "daemon/siem/position.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <vector>

#include "audit/base64.h"
#include "audit/crc32c.h"

namespace bulkhead::daemon::siem {
namespace {

constexpr std::uint64_t kMagic = 0x0031'534f'504d'4953;  // "SIMPOS1\0" in memory order
constexpr std::size_t kMostPeaks = 64, kMostNames = 64u << 20;

struct Slot {
  std::uint64_t magic, sequence, next, checkpoints_at;
  std::uint32_t names_file, names_bytes, names_crc, has_tree;
  char log[32];
  std::uint8_t peaks[kMostPeaks][32];  // as many as bits are set in next
  std::uint32_t reserved, crc;         // of all before it
};
constexpr off_t kSlotBytes = 4096;
static_assert(sizeof(Slot) <= kSlotBytes && offsetof(Slot, crc) == sizeof(Slot) - 4);

std::uint32_t crc_of(const Slot& s) {
  return audit::crc32c({reinterpret_cast<const std::uint8_t*>(&s), offsetof(Slot, crc)});
}

int write_all(int fd, const void* data, std::size_t n, off_t at) {
  const auto* from = static_cast<const char*>(data);
  while (n > 0) {
    const ssize_t done = ::pwrite(fd, from, n, at);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return done < 0 ? errno : EIO;
    from += done;
    at += done;
    n -= static_cast<std::size_t>(done);
  }
  return 0;
}

bool read_all(int fd, void* data, std::size_t n, off_t at) {
  auto* to = static_cast<char*>(data);
  while (n > 0) {
    const ssize_t done = ::pread(fd, to, n, at);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    to += done;
    at += done;
    n -= static_cast<std::size_t>(done);
  }
  return true;
}

}  // namespace

Outcome<PositionFiles> open_position_files(int directory) {
  using Out = Outcome<PositionFiles>;
  PositionFiles out;
  const auto open = [&](const char* name) {
    return UniqueFd{
        ::openat(directory, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600)};
  };
  out.slots = open("position");
  out.names[0] = open("names.0");
  out.names[1] = open("names.1");
  for (const UniqueFd* fd : {&out.slots, &out.names[0], &out.names[1]}) {
    struct stat st {};
    if (!fd->ok() || ::fstat(fd->get(), &st) != 0 || !S_ISREG(st.st_mode))
      return Out::because(std::string{"the exporter's position: "} + std::strerror(errno));
  }
  if (::fsync(directory) != 0)
    return Out::because(std::string{"the exporter's directory: "} + std::strerror(errno));
  return Out{std::move(out)};
}

std::optional<Position> PositionStore::load(bool& damaged) {
  damaged = false;
  std::optional<Position> best;
  for (int i = 0; i < 2; ++i) {
    Slot s{};
    if (!read_all(files_.slots.get(), &s, sizeof s, i * kSlotBytes)) continue;
    if (s.magic == 0 && s.sequence == 0) continue;  // never written
    damaged = true;
    if (s.magic != kMagic || s.crc != crc_of(s) || s.names_file > 1 || s.names_bytes > kMostNames)
      continue;
    if (best && s.sequence <= sequence_) continue;
    std::vector<std::uint8_t> names(s.names_bytes);
    if (!read_all(files_.names[s.names_file].get(), names.data(), names.size(), 0) ||
        audit::crc32c(names) != s.names_crc)
      continue;
    const auto context = Context::of({reinterpret_cast<const char*>(names.data()), names.size()});
    if (!context) continue;
    Position p;
    p.next = s.next;
    p.checkpoints_at = s.checkpoints_at;
    p.log.assign(s.log, ::strnlen(s.log, sizeof s.log));
    p.names = std::make_shared<Context>(*context);
    if (s.has_tree != 0) {
      std::vector<audit::Hash> peaks(static_cast<std::size_t>(__builtin_popcountll(s.next)));
      for (std::size_t k = 0; k < peaks.size(); ++k) std::memcpy(peaks[k].data(), s.peaks[k], 32);
      p.tree = audit::Frontier::of(s.next, peaks);
    }
    sequence_ = s.sequence;
    names_in_ = s.names_file;
    names_crc_ = s.names_crc;
    names_bytes_ = s.names_bytes;
    saved_names_ = p.names;
    best = std::move(p);
  }
  if (best) damaged = false;
  return best;
}

int PositionStore::save(const Position& p) {
  if (saved_names_ != p.names) {
    const std::string text = p.names->text();
    const audit::Bytes bytes = audit::bytes_of(text);
    const unsigned file = 1 - names_in_;
    const int fd = files_.names[file].get();
    if (const int error = write_all(fd, text.data(), text.size(), 0); error != 0) return error;
    if (::ftruncate(fd, static_cast<off_t>(text.size())) != 0 || ::fdatasync(fd) != 0) return errno;
    names_in_ = file;
    names_crc_ = audit::crc32c(bytes);
    names_bytes_ = static_cast<std::uint32_t>(text.size());
    saved_names_ = p.names;
  }
  Slot s{};
  s.magic = kMagic;
  s.sequence = sequence_ + 1;
  s.next = p.next;
  s.checkpoints_at = p.checkpoints_at;
  s.names_file = names_in_;
  s.names_bytes = names_bytes_;
  s.names_crc = names_crc_;
  p.log.copy(s.log, sizeof s.log - 1);
  if (p.tree) {
    s.has_tree = 1;
    const auto peaks = p.tree->peaks();
    for (std::size_t i = 0; i < peaks.size(); ++i) std::memcpy(s.peaks[i], peaks[i].data(), 32);
  }
  s.crc = crc_of(s);
  const off_t at = static_cast<off_t>(s.sequence % 2) * kSlotBytes;
  if (const int error = write_all(files_.slots.get(), &s, sizeof s, at); error != 0) return error;
  if (::fdatasync(files_.slots.get()) != 0) return errno;
  sequence_ = s.sequence;
  return 0;
}

}  // namespace bulkhead::daemon::siem
