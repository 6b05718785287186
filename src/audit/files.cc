#include "audit/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "base/clock.h"
#include "base/fd.h"

namespace bulkhead::audit {
namespace {

class PosixFile final : public File {
 public:
  explicit PosixFile(int fd) noexcept : fd_(fd) {}
  long write_at(const void* data, std::size_t n, std::uint64_t at) noexcept override {
    const ssize_t done = ::pwrite(fd_.get(), data, n, static_cast<off_t>(at));
    return done < 0 ? -errno : done;
  }
  long read_at(void* data, std::size_t n, std::uint64_t at) noexcept override {
    const ssize_t done = ::pread(fd_.get(), data, n, static_cast<off_t>(at));
    return done < 0 ? -errno : done;
  }
  int sync() noexcept override { return ::fdatasync(fd_.get()) == 0 ? 0 : errno; }
  int truncate(std::uint64_t size) noexcept override {
    return ::ftruncate(fd_.get(), static_cast<off_t>(size)) == 0 ? 0 : errno;
  }
  std::uint64_t size() noexcept override {
    struct stat st {};
    return ::fstat(fd_.get(), &st) == 0 ? static_cast<std::uint64_t>(st.st_size) : 0;
  }

 private:
  UniqueFd fd_;
};

int flags_of(OpenMode mode) noexcept {
  switch (mode) {
    case OpenMode::kRead:
      return O_RDONLY;
    case OpenMode::kWrite:
      return O_RDWR;
    case OpenMode::kCreate:
      return O_RDWR | O_CREAT;
    case OpenMode::kFresh:
      return O_RDWR | O_CREAT | O_TRUNC;
  }
  return O_RDONLY;
}

}  // namespace

std::uint64_t SystemClock::utc_ns() noexcept { return clock_ns(CLOCK_REALTIME); }
std::uint64_t SystemClock::steady_ns() noexcept { return clock_ns(CLOCK_BOOTTIME); }

PosixFiles::PosixFiles(const std::string& directory)
    : directory_(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {}
PosixFiles::~PosixFiles() {
  if (lock_ >= 0) ::close(lock_);
  if (directory_ >= 0) ::close(directory_);
}

std::unique_ptr<File> PosixFiles::open(const std::string& name, OpenMode mode,
                                       int& error_number) noexcept {
  const int fd = ::openat(directory_, name.c_str(), flags_of(mode) | O_CLOEXEC | O_NOFOLLOW, 0600);
  error_number = fd < 0 ? errno : 0;
  return fd < 0 ? nullptr : std::make_unique<PosixFile>(fd);
}
int PosixFiles::rename(const std::string& from, const std::string& to) noexcept {
  return ::renameat(directory_, from.c_str(), directory_, to.c_str()) == 0 ? 0 : errno;
}
int PosixFiles::remove(const std::string& name) noexcept {
  return ::unlinkat(directory_, name.c_str(), 0) == 0 ? 0 : errno;
}
int PosixFiles::make_directory(const std::string& name) noexcept {
  return ::mkdirat(directory_, name.c_str(), 0700) == 0 || errno == EEXIST ? 0 : errno;
}
int PosixFiles::sync_directory(const std::string& name) noexcept {
  const UniqueFd fd{::openat(directory_, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  return fd.ok() && ::fsync(fd.get()) == 0 ? 0 : errno;
}
std::vector<std::string> PosixFiles::list(const std::string& directory) noexcept {
  std::vector<std::string> out;
  const int fd = ::openat(directory_, directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* const d = fd < 0 ? nullptr : ::fdopendir(fd);
  if (d == nullptr) {
    if (fd >= 0) ::close(fd);
    return out;
  }
  while (const dirent* e = ::readdir(d)) {
    if (e->d_name[0] != '.') out.emplace_back(e->d_name);
  }
  ::closedir(d);
  std::sort(out.begin(), out.end());
  return out;
}
std::uint64_t PosixFiles::room() noexcept {
  struct statvfs st {};
  if (::fstatvfs(directory_, &st) != 0) return UINT64_MAX;
  return std::uint64_t{st.f_bavail} * st.f_frsize;
}
int PosixFiles::lock() noexcept {
  lock_ = ::openat(directory_, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (lock_ < 0) return errno;
  return ::flock(lock_, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
}

int write_all(File& file, Bytes data, std::uint64_t at) noexcept {
  while (!data.empty()) {
    const long n = file.write_at(data.data(), data.size(), at);
    if (n == -EINTR) continue;
    if (n < 0) return static_cast<int>(-n);
    if (n == 0) return ENOSPC;
    data = data.subspan(static_cast<std::size_t>(n));
    at += static_cast<std::uint64_t>(n);
  }
  return 0;
}

int read_exactly(File& file, void* data, std::size_t n, std::uint64_t at) noexcept {
  auto* out = static_cast<std::uint8_t*>(data);
  while (n > 0) {
    const long got = file.read_at(out, n, at);
    if (got == -EINTR) continue;
    if (got < 0) return static_cast<int>(-got);
    if (got == 0) return ENODATA;
    out += got;
    at += static_cast<std::uint64_t>(got);
    n -= static_cast<std::size_t>(got);
  }
  return 0;
}

std::optional<std::string> read_small(Files& files, const std::string& name,
                                      std::size_t most_bytes) noexcept {
  int error = 0;
  const auto file = files.open(name, OpenMode::kRead, error);
  if (file == nullptr || file->size() > most_bytes) return std::nullopt;
  std::string text(file->size(), '\0');
  if (read_exactly(*file, text.data(), text.size(), 0) != 0) return std::nullopt;
  return text;
}

int replace_file(Files& files, const std::string& name, const std::string& text) noexcept {
  const std::string fresh = name + ".new";
  int error = 0;
  auto file = files.open(fresh, OpenMode::kFresh, error);
  if (file == nullptr) return error;
  error = write_all(*file, bytes_of(text), 0);
  if (error == 0) error = file->sync();
  file.reset();
  if (error == 0) error = files.rename(fresh, name);
  if (error != 0) {
    static_cast<void>(files.remove(fresh));
    return error;
  }
  const std::size_t slash = name.rfind('/');
  return files.sync_directory(slash == std::string::npos ? "." : name.substr(0, slash));
}

}  // namespace bulkhead::audit
