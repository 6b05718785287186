#include "wire/client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "base/clock.h"

namespace bulkhead::wire {
namespace {

constexpr int kFarFd = 64;  // as shm/files.h: below it programs choose numbers themselves

UniqueFd far_away(UniqueFd fd) noexcept {
  if (!fd.ok() || fd.get() >= kFarFd) return fd;
  UniqueFd far{::fcntl(fd.get(), F_DUPFD_CLOEXEC, kFarFd)};
  if (far.ok()) return far;
  return fd.get() > STDERR_FILENO ? std::move(fd)
                                  : UniqueFd{::fcntl(fd.get(), F_DUPFD_CLOEXEC, STDERR_FILENO + 1)};
}

// There is no connectat(); the directory goes by its descriptor, so that nobody can put another in its place.
void name_socket(int dir_fd, sockaddr_un& at) noexcept {
  at.sun_family = AF_UNIX;
  char* to = at.sun_path;
  const auto put = [&to](const char* text) {
    while (*text != '\0') *to++ = *text++;
    *to = '\0';
  };
  put("/proc/self/fd/");
  char digits[12];
  unsigned n = 0;
  unsigned v = static_cast<unsigned>(dir_fd);
  do digits[n++] = static_cast<char>('0' + v % 10);
  while ((v /= 10) != 0);
  while (n != 0) *to++ = digits[--n];
  put("/");
  put(kSocketName);
}

// Until a monotonic time; ~0 = for ever.
struct Deadline {
  std::uint64_t at_ns;
  explicit Deadline(int timeout_ms) noexcept
      : at_ns(timeout_ms < 0
                  ? ~0ull
                  : monotonic_ns() + static_cast<std::uint64_t>(timeout_ms) * 1'000'000u) {}
  [[nodiscard]] int left_ms() const noexcept {
    if (at_ns == ~0ull) return -1;
    const std::uint64_t now = monotonic_ns();
    return now >= at_ns ? 0 : static_cast<int>((at_ns - now + 999'999u) / 1'000'000u);
  }
};

// False: the time is up.
bool wait_until(int fd, short events, const Deadline& deadline) noexcept {
  for (;;) {
    pollfd p{fd, events, 0};
    const int left = deadline.left_ms();
    const int ready = ::poll(&p, 1, left);
    if (ready > 0) return true;  // also for errors: the call itself tells them
    if (ready == 0 && left >= 0) return false;
    if (ready < 0 && errno != EINTR) return true;
  }
}

// What does not fit into `most` is closed.
unsigned take_descriptors(msghdr& m, UniqueFd* fds, unsigned most) noexcept {
  unsigned count = 0;
  for (cmsghdr* c = m.msg_controllen == 0 ? nullptr : CMSG_FIRSTHDR(&m); c != nullptr;
       c = CMSG_NXTHDR(&m, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < n; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
      UniqueFd owned{fd};
      if (count < most) fds[count++] = far_away(std::move(owned));
    }
  }
  return count;
}

}  // namespace

Result<Client> Client::connect(int dir_fd, uid_t dir_owner, int timeout_ms) noexcept {
  sockaddr_un at{};
  name_socket(dir_fd, at);
  Client client;
  client.fd_ = far_away(UniqueFd{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)});
  if (!client.fd_.ok()) return Status{Errc::kIo, errno, "cannot make a socket"};
  // connect() waits while the daemon's backlog is full; the kernel takes this as its patience
  const timeval patience{timeout_ms / 1000, timeout_ms % 1000 * 1000};
  ::setsockopt(client.fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (::connect(client.fd_.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0) {
    if (errno == ENOENT) return Status{Errc::kNotFound, errno, "no daemon serves the directory"};
    if (errno == ECONNREFUSED || errno == EAGAIN || errno == EINTR || errno == EPROTOTYPE) {
      return Status{Errc::kNotReady, errno, "the daemon's socket does not answer"};
    }
    return Status{Errc::kIo, errno, "cannot connect to the daemon"};
  }
  ucred peer{};
  socklen_t length = sizeof peer;
  if (::getsockopt(client.fd_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return Status{Errc::kIo, errno, "cannot tell who answers at the daemon's socket"};
  }
  if (peer.uid != 0 && peer.uid != dir_owner) {
    return Status{Errc::kUntrusted, 0, "another user answers at the daemon's socket"};
  }
  return client;
}

Status Client::send(const void* message, std::size_t bytes, int timeout_ms) noexcept {
  const Deadline deadline{timeout_ms};
  for (;;) {
    const ssize_t sent = ::send(fd_.get(), message, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent == static_cast<ssize_t>(bytes)) return {};
    if (sent >= 0 || (errno != EAGAIN && errno != EINTR)) {
      return Status{Errc::kIo, sent >= 0 ? 0 : errno, "cannot send to the daemon"};
    }
    if (!wait_until(fd_.get(), POLLOUT, deadline)) {
      return Status{Errc::kNotReady, 0, "the daemon does not read"};
    }
  }
}

Result<std::size_t> Client::receive(void* buffer, std::size_t room, Kind kind,
                                    std::uint32_t sequence, int timeout_ms) noexcept {
  unsigned none = 0;
  return receive_with(buffer, room, kind, sequence, timeout_ms, nullptr, 0, none);
}

Result<std::size_t> Client::receive_with(void* buffer, std::size_t room, Kind kind,
                                         std::uint32_t sequence, int timeout_ms, UniqueFd* fds,
                                         unsigned most, unsigned& count) noexcept {
  const Deadline deadline{timeout_ms};
  count = 0;
  for (;;) {
    iovec part{buffer, room};
    alignas(cmsghdr) char control[CMSG_SPACE(kMostDescriptors * sizeof(int))];
    msghdr m{};
    m.msg_iov = &part;
    m.msg_iovlen = 1;
    if (most > 0) {
      m.msg_control = control;
      m.msg_controllen = sizeof control;
    }
    // MSG_TRUNC: the length of the message, not of what fitted
    const ssize_t got = ::recvmsg(fd_.get(), &m, MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC);
    if (got > 0) count = take_descriptors(m, fds, most);
    if (got > 0) {
      const auto bytes = static_cast<std::size_t>(got);
      if (bytes > room) return Status{Errc::kInvalid, 0, "a reply longer than its kind"};
      if (const Status s = check_reply(buffer, bytes, kind, sequence); !s.ok()) return s;
      return bytes;
    }
    if (got == 0) return Status{Errc::kNotFound, 0, "the daemon closed the connection"};
    if (errno == ECONNRESET) {
      return Status{Errc::kNotFound, errno, "the daemon closed the connection"};
    }
    if (errno != EAGAIN && errno != EINTR)
      return Status{Errc::kIo, errno, "cannot hear the daemon"};
    if (!wait_until(fd_.get(), POLLIN, deadline)) {
      return Status{Errc::kNotReady, 0, "the daemon does not answer"};
    }
  }
}

}  // namespace bulkhead::wire
