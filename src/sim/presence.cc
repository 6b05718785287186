#include "sim/presence.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

namespace bulkhead::sim {
namespace {

constexpr int kOutOfTheWay = 200;  // a program counts on low numbers

// Kept: closing any descriptor of the file drops all of a process's locks.
struct {
  int fd = -1;
  dev_t device = 0;
  ino_t inode = 0;
} constinit file{};

bool is_file(int fd) noexcept {
  struct stat st {};
  return fd >= 0 && ::fstat(fd, &st) == 0 && st.st_dev == file.device && st.st_ino == file.inode;
}

// The program may have closed ours and opened something else under its number.
int descriptor() noexcept {
  if (is_file(file.fd)) return file.fd;
  char path[320];
  std::snprintf(path, sizeof path, "%s/%s.processes", machine.directory, machine.profile.key);
  const int low = ::open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (low < 0) return -1;
  const int high = ::fcntl(low, F_DUPFD_CLOEXEC, kOutOfTheWay);
  if (high >= 0) ::close(low);  // before there is a lock
  file.fd = high >= 0 ? high : low;
  struct stat st {};
  ::fstat(file.fd, &st);
  file.device = st.st_dev;
  file.inode = st.st_ino;
  return file.fd;
}

struct flock on_byte(unsigned slot) noexcept {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = slot;
  lock.l_len = 1;
  return lock;
}

}  // namespace

std::uint64_t own_pid_namespace() noexcept {
  struct stat st {};
  return ::stat("/proc/self/ns/pid", &st) == 0 ? st.st_ino : 0;
}

void hold_presence(unsigned slot) noexcept {
  struct flock lock = on_byte(slot);
  static_cast<void>(::fcntl(descriptor(), F_SETLK, &lock));
}

// The lock first: it is one cheap question, and the kernel drops it with the process. Without it (not taken yet, or our
// own) a process of our namespace is known by its pid and start.
bool is_present(const ProcessLedger& process, unsigned slot, std::uint64_t own_namespace,
                std::uint32_t& pid_here) noexcept {
  pid_here = 0;
  const bool ours = process.pid_namespace == own_namespace;
  struct flock lock = on_byte(slot);
  const bool locked = ::fcntl(descriptor(), F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
  const std::uint32_t holder =
      locked && lock.l_pid > 0 ? static_cast<std::uint32_t>(lock.l_pid) : 0;
  if (ours) {
    pid_here = process.pid;
    return holder == process.pid || start_ticks_of(process.pid) == process.start_ticks;
  }
  pid_here = holder;
  return locked;
}

}  // namespace bulkhead::sim
