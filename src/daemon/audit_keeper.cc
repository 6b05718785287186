#include "daemon/audit_keeper.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace bulkhead::daemon {

Status send_with(int socket, const void* data, std::size_t bytes, int fd) {
  iovec part{const_cast<void*>(data), bytes};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  msghdr m{};
  m.msg_iov = &part;
  m.msg_iovlen = 1;
  if (fd >= 0) {
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    cmsghdr* const c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  }
  ssize_t sent = 0;
  do sent = ::sendmsg(socket, &m, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent == static_cast<ssize_t>(bytes)
             ? Status{}
             : Status{Errc::kIo, errno, "cannot hand a descriptor over"};
}

Status receive_with(int socket, KeeperMessage& out, UniqueFd& fd) {
  iovec part{&out, sizeof out};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr m{};
  m.msg_iov = &part;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = sizeof control;
  ssize_t got = 0;
  do got = ::recvmsg(socket, &m, MSG_CMSG_CLOEXEC);
  while (got < 0 && errno == EINTR);
  if (got < 0) return Status{Errc::kIo, errno, "cannot hear the other end"};
  const cmsghdr* const c = m.msg_controllen == 0 ? nullptr : CMSG_FIRSTHDR(&m);
  if (c != nullptr && c->cmsg_type == SCM_RIGHTS) {
    int passed = -1;
    std::memcpy(&passed, CMSG_DATA(c), sizeof passed);
    fd.reset(passed);
  }
  if (got == 0) return Status{Errc::kNotFound, 0, "the other end has closed"};
  if (got != sizeof out || std::memchr(out.name, 0, sizeof out.name) == nullptr)
    return Status{Errc::kInvalid, 0, "not a message of the keeper"};
  return {};
}

namespace {

constexpr int kLook_ms = 2000;  // while there is no daemon

bool directory_gone() {
  struct stat s {};
  return ::fstat(kKeeperDirectory, &s) == 0 && s.st_nlink == 0;
}

class Keeper {
 public:
  void serve() {
    for (;;) {
      pollfd wait[2] = {{kKeeperListener, POLLIN, 0}, {client_.get(), POLLIN, 0}};
      const int ready = ::poll(wait, client_.ok() ? 2 : 1, client_.ok() ? -1 : kLook_ms);
      if (ready == 0 && directory_gone()) return;  // nobody can come any more
      if (ready <= 0) continue;
      if (client_.ok() && wait[1].revents != 0 && !one()) {
        client_.reset();
        if (held_.empty()) return;
      }
      // a daemon that comes while one is there is the newer one: daemon.lock lets only one serve
      if (wait[0].revents != 0) accept();
    }
  }

 private:
  void accept() {
    UniqueFd socket{::accept4(kKeeperListener, nullptr, nullptr, SOCK_CLOEXEC)};
    ucred peer{};
    socklen_t length = sizeof peer;
    if (!socket.ok() || ::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 ||
        (peer.uid != ::geteuid() && peer.uid != 0)) {
      return;
    }
    client_ = std::move(socket);
  }

  bool one() {
    KeeperMessage m;
    UniqueFd fd;
    if (!receive_with(client_.get(), m, fd).ok()) return false;
    const std::string name = m.name;
    const auto same = [&name](const Kept& kept) { return kept.name == name; };
    switch (m.op) {
      case KeeperOp::kPut:
        std::erase_if(held_, same);
        if (fd.ok()) held_.push_back({name, std::move(fd)});
        return true;
      case KeeperOp::kDrop:
        std::erase_if(held_, same);
        return true;
      case KeeperOp::kList:
        return list();
      case KeeperOp::kEnd:
        break;
    }
    return false;
  }

  bool list() {
    KeeperMessage m;
    for (const Kept& kept : held_) {
      m.op = KeeperOp::kPut;
      std::memset(m.name, 0, sizeof m.name);
      std::memcpy(m.name, kept.name.c_str(), kept.name.size());
      if (!send_with(client_.get(), &m, sizeof m, kept.fd.get()).ok()) return false;
    }
    m = KeeperMessage{};
    return send_with(client_.get(), &m, sizeof m, -1).ok();
  }

  UniqueFd client_;
  std::vector<Kept> held_;
};

}  // namespace

int keeper_main() {
  const pid_t child = ::fork();
  if (child != 0) return child > 0 ? 0 : 1;
  ::signal(SIGPIPE, SIG_IGN);
  ::prctl(PR_SET_NAME, "bulkhead-keeper");
  Keeper{}.serve();
  return 0;
}

}  // namespace bulkhead::daemon
