#include "shm/partition.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "shm/files.h"

namespace bulkhead::shm {
namespace {

constexpr std::uint32_t kMostNumber = 65'535;

// The rest of a line that begins with `key` and a blank; null: another key.
const char* after(const char* line, const char* key) noexcept {
  const std::size_t length = std::strlen(key);
  return std::strncmp(line, key, length) == 0 && line[length] == ' ' ? line + length + 1 : nullptr;
}

bool number(const char* text, std::uint64_t most, std::uint32_t& out) noexcept {
  std::uint64_t value = 0;
  if (*text == '\0') return false;
  for (; *text != '\0'; ++text) {
    if (*text < '0' || *text > '9') return false;
    value = value * 10 + static_cast<std::uint64_t>(*text - '0');
    if (value > most) return false;
  }
  out = static_cast<std::uint32_t>(value);
  return true;
}

template <std::size_t N>
bool copy(const char* text, char (&out)[N]) noexcept {
  std::size_t i = 0;
  for (; text[i] != '\0'; ++i) {
    if (i + 1 >= N || text[i] < ' ' || text[i] > '~') return false;
    out[i] = text[i];
  }
  out[i] = '\0';
  return i != 0;
}

// GPU-..., a slash, an id of base64: nothing that could be more than one word of an environment.
bool is_value(const char* text) noexcept {
  if (std::strncmp(text, "GPU-", 4) != 0) return false;
  const char* const slash = std::strchr(text, '/');
  if (slash == nullptr || slash[1] == '\0') return false;
  for (const char* c = text; *c != '\0'; ++c) {
    const bool good = (*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z') ||
                      (*c >= 'A' && *c <= 'Z') || std::strchr("-/+=_", *c) != nullptr;
    if (!good) return false;
  }
  return true;
}

bool take_line(const char* line, PartitionBook& out) noexcept {
  if (const char* rest = after(line, "partition")) return is_value(rest) && copy(rest, out.value);
  if (const char* rest = after(line, "chunks")) return number(rest, kMostNumber, out.chunks);
  if (const char* rest = after(line, "sms")) return number(rest, kMostNumber, out.sms);
  if (const char* rest = after(line, "uid")) return number(rest, 0xffff'ffff, out.uid);
  if (const char* rest = after(line, "group")) return valid_name(rest) && copy(rest, out.group);
  if (const char* rest = after(line, "refused")) return copy(rest, out.refused);
  return false;
}

}  // namespace

bool parse_partition(const char* text, std::size_t bytes, PartitionBook& out) noexcept {
  out = {};
  PartitionBook made;
  char line[kPartitionBytes];
  std::size_t at = 0;
  for (std::size_t i = 0; i < bytes; ++i) {
    if (text[i] != '\n') {
      if (at + 1 >= sizeof line || text[i] == '\0') return false;
      line[at++] = text[i];
      continue;
    }
    line[at] = '\0';
    at = 0;
    if (!take_line(line, made)) return false;
  }
  // its last line is whole, and it says one of the two things
  if (at != 0 || made.group[0] == '\0' || (made.value[0] == '\0') == (made.refused[0] == '\0'))
    return false;
  if (made.value[0] != '\0' && (made.chunks == 0 || made.sms == 0)) return false;
  out = made;
  return true;
}

Result<PartitionBook> read_partition(const Dir& dir, const char* tenant) noexcept {
  if (!valid_name(tenant)) return Status{Errc::kInvalid, 0, "not a tenant's name"};
  auto at = open_directory(dir.fd.get(), kPartitionsDir, dir.euid);
  if (!at.ok()) return at.status();
  // O_NONBLOCK: a FIFO put in the file's place must not make us wait
  const UniqueFd fd{::openat(at->get(), tenant, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)};
  if (!fd.ok()) {
    return Status{errno == ENOENT ? Errc::kNotFound : Errc::kIo, errno,
                  "open the partition's file"};
  }
  struct stat st {};
  if (!stat_fd(fd.get(), st)) return Status{Errc::kIo, errno, "look at the partition's file"};
  if (!S_ISREG(st.st_mode) || (st.st_uid != 0 && st.st_uid != dir.euid) || (st.st_mode & 022) != 0)
    return Status{Errc::kUntrusted, 0, "the partition's file is not the daemon's"};
  char text[kPartitionBytes];
  const ssize_t n = ::read(fd.get(), text, sizeof text);  // renamed into place: it is whole
  PartitionBook out;
  if (n <= 0 || n == static_cast<ssize_t>(sizeof text) ||
      !parse_partition(text, static_cast<std::size_t>(n), out))
    return Status{Errc::kCorrupt, 0, "the partition's file is not understood"};
  return out;
}

}  // namespace bulkhead::shm
