// Identities of what is shared: hashes of opaque handles, and marks on open file descriptions.
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

#include "base/fd.h"
#include "shm/shares.h"

#ifndef F_OFD_SETLK
#define F_OFD_SETLK 37
#endif

namespace bulkhead::shm {
namespace {

constexpr std::uint64_t kLowest = std::uint64_t{1} << 61;  // of a mark's start; nobody locks there

std::uint64_t mix(
    std::uint64_t x) noexcept {  // splitmix64's finaliser: every bit reaches every bit
  x = (x ^ x >> 30) * 0xbf58'476d'1ce4'e5b9;
  x = (x ^ x >> 27) * 0x94d0'49bb'1331'11eb;
  return x ^ x >> 31;
}

// Finds in a text of locks (proc(5), /proc/locks and fdinfo: the last two fields are first and last byte) the
// lines of open-file-description locks that lie where marks do. Reads in pieces; no heap.
template <class Fn>
bool each_mark(const char* path, Fn fn) noexcept {
  const UniqueFd fd{::open(path, O_RDONLY | O_CLOEXEC)};
  if (!fd.ok()) return false;
  char line[256];
  std::size_t length = 0;
  char piece[2048];
  for (;;) {
    const ssize_t got = ::read(fd.get(), piece, sizeof piece);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got == 0;
    for (ssize_t i = 0; i < got; ++i) {
      if (piece[i] != '\n') {
        if (length < sizeof line - 1) line[length++] = piece[i];
        continue;
      }
      line[length] = 0;
      std::uint64_t number[2] = {0, 0};  // the last two fields
      std::size_t at = length;
      for (int n = 1; n >= 0; --n) {
        std::uint64_t scale = 1;
        while (at > 0 && line[at - 1] == ' ') --at;
        for (; at > 0 && line[at - 1] >= '0' && line[at - 1] <= '9'; --at, scale *= 10) {
          number[n] += scale * static_cast<std::uint64_t>(line[at - 1] - '0');
        }
      }
      length = 0;
      if (std::strstr(line, "OFDLCK") == nullptr || number[0] < kLowest || number[1] < number[0]) {
        continue;
      }
      if (fn(ShareKey{number[0], number[1] - number[0] + 1})) return true;
    }
  }
}

}  // namespace

ShareKey share_key_of(const void* bytes64) noexcept {
  std::uint64_t word[8];
  std::memcpy(word, bytes64, sizeof word);
  ShareKey k{0x9e37'79b9'7f4a'7c15, 0xc2b2'ae3d'27d4'eb4f};
  for (const std::uint64_t w : word) {
    k.a = mix(k.a ^ w);
    k.b = mix(k.b + w * 0x9e37'79b9'7f4a'7c15) ^ k.a >> 32;
  }
  return k;
}

bool new_mark(ShareKey& out) noexcept {
  std::uint64_t random[2];
  // the system call itself: glibc's wrapper is newer than the oldest glibc we name
  if (::syscall(SYS_getrandom, random, sizeof random, 0) != sizeof random) return false;
  out.a = kLowest | (random[0] & (kLowest - 1));
  out.b = (random[1] & (kLowest - 1)) | 1;  // start + length stays below 2^63
  return true;
}

bool put_mark(int fd, ShareKey mark) noexcept {
  struct flock l {};
  l.l_type = F_RDLCK;
  l.l_whence = SEEK_SET;
  l.l_start = static_cast<off_t>(mark.a);
  l.l_len = static_cast<off_t>(mark.b);
  return ::fcntl(fd, F_OFD_SETLK, &l) == 0;
}

bool read_mark(int fd, ShareKey& out) noexcept {
  if (fd < 0) return false;
  char path[40] = "/proc/self/fdinfo/";
  char digits[12];
  unsigned count = 0;
  for (unsigned n = static_cast<unsigned>(fd); count == 0 || n != 0; n /= 10) {
    digits[count++] = static_cast<char>('0' + n % 10);
  }
  char* to = path + std::strlen(path);
  while (count > 0) *to++ = digits[--count];
  *to = 0;
  bool found = false;
  static_cast<void>(each_mark(path, [&](ShareKey k) {
    out = k;
    found = true;
    return true;
  }));
  return found;
}

bool mark_exists(ShareKey mark) noexcept {
  bool found = false;
  static_cast<void>(each_mark("/proc/locks", [&](ShareKey k) { return found = k == mark; }));
  return found;
}

}  // namespace bulkhead::shm
