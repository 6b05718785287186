#include "daemon/peer.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace bulkhead::daemon {
namespace {

constexpr int kPeerPidfd = 77;  // SO_PEERPIDFD, asm-generic/socket.h since Linux 6.5

UniqueFd open_pidfd(int socket, pid_t pid) {
  int fd = -1;
  socklen_t length = sizeof fd;
  if (::getsockopt(socket, SOL_SOCKET, kPeerPidfd, &fd, &length) == 0) return UniqueFd{fd};
  if (errno != ENOPROTOOPT) return UniqueFd{};  // it has ended
  return UniqueFd{static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))};
}

bool ended(const UniqueFd& pidfd) {
  pollfd p{pidfd.get(), POLLIN, 0};
  return ::poll(&p, 1, 0) != 0;
}

// A file of /proc, up to a page: what is asked for here is far shorter.
std::string read_at(int dir, const char* name) {
  const UniqueFd fd{::openat(dir, name, O_RDONLY | O_CLOEXEC)};
  char text[4096];
  const ssize_t n = fd.ok() ? ::read(fd.get(), text, sizeof text) : -1;
  return n <= 0 ? std::string{} : std::string(text, static_cast<std::size_t>(n));
}

}  // namespace

std::uint64_t start_ticks_of(const std::string& text) {
  // the command's name is in brackets and may hold anything, brackets too
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::size_t at = name_end;
  for (int field = 2; field < 22; ++field) {
    at = text.find(' ', at + 1);
    if (at == std::string::npos) return 0;
  }
  return std::strtoull(text.c_str() + at + 1, nullptr, 10);
}

std::string cgroup_of(const std::string& text) {
  const bool unified_first = text.starts_with("0::");
  std::size_t line = unified_first ? 0 : text.find("\n0::");
  if (!unified_first && line != std::string::npos) ++line;
  if (line == std::string::npos) line = 0;
  const std::size_t end = text.find('\n', line);
  const std::size_t first = text.find(':', line);
  const std::size_t second = first == std::string::npos ? first : text.find(':', first + 1);
  if (second == std::string::npos || end == std::string::npos || second > end) return {};
  return text.substr(second + 1, end - second - 1);
}

Result<Identified> identify(int socket) noexcept {
  ucred who{};
  socklen_t length = sizeof who;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &who, &length) != 0) {
    return Status{Errc::kIo, errno, "cannot tell who the peer is"};
  }
  Identified out;
  out.peer.uid = who.uid;
  out.peer.gid = who.gid;
  if (who.pid <= 0) return out;  // of a namespace that is no child of ours
  out.pidfd = open_pidfd(socket, who.pid);
  if (!out.pidfd.ok()) return Status{Errc::kNotFound, errno, "the peer has ended"};
  const std::string path = "/proc/" + std::to_string(who.pid);
  const UniqueFd proc{::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (proc.ok()) {
    out.peer.start_ticks = start_ticks_of(read_at(proc.get(), "stat"));
    out.peer.cgroup = cgroup_of(read_at(proc.get(), "cgroup"));
  }
  if (ended(out.pidfd)) return Status{Errc::kNotFound, 0, "the peer has ended"};
  out.peer.pid = static_cast<std::uint32_t>(who.pid);
  return out;
}

}  // namespace bulkhead::daemon
