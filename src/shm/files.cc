#include "shm/files.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <utility>

namespace bulkhead::shm {

// The system call itself: glibc's stat family got new symbol versions in 2.33.
bool stat_fd(int fd, struct stat& out) noexcept {
  return ::syscall(SYS_newfstatat, fd, "", &out, AT_EMPTY_PATH) == 0;
}
bool stat_at(int dir, const char* name, struct stat& out) noexcept {
  return ::syscall(SYS_newfstatat, dir, name, &out, AT_SYMLINK_NOFOLLOW) == 0;
}

bool valid_name(const char* name) noexcept {
  const auto alphanumeric = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  if (name == nullptr || !alphanumeric(name[0])) return false;
  std::size_t length = 1;
  for (; name[length] != 0; ++length) {
    const char c = name[length];
    if (length >= 63 || (!alphanumeric(c) && c != '.' && c != '_' && c != '-')) return false;
  }
  return true;
}

Result<UniqueFd> open_directory(int at, const char* path, uid_t euid) noexcept {
  UniqueFd fd{::openat(at, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
  if (!fd.ok()) {
    if (errno == ENOENT) return Status{Errc::kNotFound, errno, "no such directory"};
    if (errno == ELOOP || errno == ENOTDIR) {
      return Status{Errc::kUntrusted, errno, "not a directory, or a symbolic link to one"};
    }
    return Status{Errc::kIo, errno, "cannot open the directory"};
  }
  struct stat st {};
  if (!stat_fd(fd.get(), st)) return Status{Errc::kIo, errno, "cannot look at the directory"};
  if (st.st_uid != 0 && st.st_uid != euid) {
    return Status{Errc::kUntrusted, 0, "the directory belongs to another user"};
  }
  if ((st.st_mode & 022) != 0) {
    return Status{Errc::kUntrusted, 0, "others may write in the directory"};
  }
  return fd;
}

Result<UniqueFd> open_file(int dir, const char* name, int flags, uid_t owner,
                           std::uint64_t bytes) noexcept {
  // O_NONBLOCK: a FIFO put in the file's place must not make us wait
  UniqueFd fd{::openat(dir, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  if (!fd.ok()) {
    if (errno == ENOENT) return Status{Errc::kNotFound, errno, "no such file"};
    if (errno == ELOOP) return Status{Errc::kUntrusted, errno, "the file is a symbolic link"};
    return Status{Errc::kIo, errno, "cannot open the file"};
  }
  struct stat st {};
  if (!stat_fd(fd.get(), st)) return Status{Errc::kIo, errno, "cannot look at the file"};
  if (!S_ISREG(st.st_mode)) return Status{Errc::kUntrusted, 0, "not a regular file"};
  if (st.st_nlink != 1) return Status{Errc::kUntrusted, 0, "the file has several links"};
  if (owner != kAnyOwner && st.st_uid != owner) {
    return Status{Errc::kUntrusted, 0, "the file belongs to another user"};
  }
  if ((st.st_mode & 022) != 0) return Status{Errc::kUntrusted, 0, "others may write the file"};
  if (static_cast<std::uint64_t>(st.st_size) != bytes) {
    return Status{Errc::kBadSize, 0, "the file is not of its format's size"};
  }
  return fd;
}

UniqueFd out_of_the_way(UniqueFd fd) noexcept {
  if (!fd.ok() || fd.get() >= kFarFd) return fd;
  UniqueFd far{::fcntl(fd.get(), F_DUPFD_CLOEXEC, kFarFd)};
  if (far.ok()) return far;
  // a small RLIMIT_NOFILE: at least not where programs print
  return fd.get() > STDERR_FILENO ? std::move(fd)
                                  : UniqueFd{::fcntl(fd.get(), F_DUPFD_CLOEXEC, STDERR_FILENO + 1)};
}

bool read_exactly(int fd, void* to, std::size_t bytes, std::uint64_t offset) noexcept {
  auto* at = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t got = ::pread(fd, at, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    offset += static_cast<std::uint64_t>(got);
    bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

Status for_each_entry(int dir, bool (*fn)(void*, const char*), void* arg) noexcept {
  // linux_dirent64 of getdents64(2): ino 8, off 8, reclen 2, type 1, name
  alignas(8) char buffer[4096];
  if (::lseek(dir, 0, SEEK_SET) != 0) return Status{Errc::kIo, errno, "cannot list the directory"};
  for (;;) {
    const long got = ::syscall(SYS_getdents64, dir, buffer, sizeof buffer);
    if (got < 0) return Status{Errc::kIo, errno, "cannot list the directory"};
    if (got == 0) return Status{};
    for (long at = 0; at < got;) {
      std::uint16_t length = 0;
      std::memcpy(&length, buffer + at + 16, sizeof length);
      const char* name = buffer + at + 19;
      at += length;
      if (std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0) continue;
      if (!fn(arg, name)) return Status{};
    }
  }
}

bool join_path(char (&out)[kPathBytes], const char* a, const char* b, const char* c) noexcept {
  std::size_t at = 0;
  for (const char* part : {a, b, c}) {
    const std::size_t length = std::strlen(part);
    if (at + length >= kPathBytes) return false;
    std::memcpy(out + at, part, length);
    at += length;
  }
  out[at] = 0;
  return true;
}

}  // namespace bulkhead::shm
