#include "daemon/audit_keep.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "daemon/audit_keeper.h"
#include "daemon/service.h"

extern char** environ;

namespace bulkhead::daemon {
namespace {

constexpr int kFirstPassed = 3;  // SD_LISTEN_FDS_START
constexpr timeval kPatience{2, 0};

// sd_pid_notify_with_fds(3) and sd_listen_fds_with_names(3), by hand.
class FdStore final : public Keep {
 public:
  Status put(const std::string& name, int fd) override {
    return notify_with("FDSTORE=1\nFDPOLL=0\nFDNAME=" + name, fd);
  }
  void drop(const std::string& name) override { notify("FDSTOREREMOVE=1\nFDNAME=" + name); }
  const char* who() const override { return "the service manager's fd store"; }

  std::vector<Kept> take() override {
    std::vector<Kept> out;
    const char* pid = std::getenv("LISTEN_PID");
    const char* count = std::getenv("LISTEN_FDS");
    const char* names = std::getenv("LISTEN_FDNAMES");
    if (pid == nullptr || count == nullptr || names == nullptr || std::atol(pid) != ::getpid())
      return out;
    std::string rest = names;
    for (int i = 0, n = std::atoi(count); i < n; ++i) {
      const std::size_t end = rest.find(':');
      Kept kept{rest.substr(0, end), UniqueFd{kFirstPassed + i}};
      ::fcntl(kept.fd.get(), F_SETFD, FD_CLOEXEC);
      out.push_back(std::move(kept));
      rest = end == std::string::npos ? "" : rest.substr(end + 1);
    }
    for (const char* done : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) ::unsetenv(done);
    return out;
  }

 private:
  static Status notify_with(const std::string& state, int passed) {
    const char* path = std::getenv("NOTIFY_SOCKET");
    sockaddr_un at{};
    const std::size_t length = path == nullptr ? 0 : std::strlen(path);
    if (length == 0 || length >= sizeof at.sun_path)
      return Status{Errc::kIo, 0, "no service manager to keep descriptors"};
    at.sun_family = AF_UNIX;
    std::memcpy(at.sun_path, path, length);
    if (at.sun_path[0] == '@') at.sun_path[0] = 0;  // the abstract namespace
    const UniqueFd fd{::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
    const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&at), bytes) != 0)
      return Status{Errc::kIo, errno, "the service manager does not listen"};
    return send_with(fd.get(), state.data(), state.size(), passed);
  }
};

class KeeperKeep final : public Keep {
 public:
  KeeperKeep(int dir_fd, std::string path) : dir_(dir_fd), path_(std::move(path)) {}

  // A keeper that was killed is replaced, and gets everything again.
  Status put(const std::string& name, int fd) override {
    held_[name] = fd;
    if (socket_.ok() && tell(KeeperOp::kPut, name, fd).ok()) return {};
    if (const Status bad = open(); !bad.ok()) return bad;
    for (const auto& [each, its] : held_) {
      if (const Status bad = tell(KeeperOp::kPut, each, its); !bad.ok()) return bad;
    }
    return {};
  }
  void drop(const std::string& name) override {
    held_.erase(name);
    (void)tell(KeeperOp::kDrop, name, -1);
  }
  const char* who() const override { return "the keeper"; }

  std::vector<Kept> take() override {
    std::vector<Kept> out;
    if (!tell(KeeperOp::kList, "", -1).ok()) return out;
    for (;;) {
      KeeperMessage m;
      UniqueFd fd;
      if (!receive_with(socket_.get(), m, fd).ok() || m.op != KeeperOp::kPut || !fd.ok()) break;
      out.push_back({m.name, std::move(fd)});
    }
    for (const Kept& kept : out) held_[kept.name] = kept.fd.get();
    return out;
  }

  Status open() {
    if (connect().ok()) return {};
    if (const Status bad = start(); !bad.ok()) return bad;
    return connect();
  }

 private:
  Status tell(KeeperOp op, const std::string& name, int fd) {
    KeeperMessage m;
    m.op = op;
    std::strncpy(m.name, name.c_str(), sizeof m.name - 1);
    return send_with(socket_.get(), &m, sizeof m, fd);
  }

  static sockaddr_un address(int dir) {
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    const std::string name = "/proc/self/fd/" + std::to_string(dir) + "/" + kKeeperSocket;
    std::memcpy(at.sun_path, name.c_str(), name.size() + 1);
    return at;
  }

  Status connect() {
    socket_.reset(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
    const sockaddr_un at = address(dir_);
    if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0) {
      const int error = errno;
      socket_.reset();
      return Status{Errc::kNotFound, error, "no keeper"};
    }
    ucred peer{};
    socklen_t length = sizeof peer;
    if (::getsockopt(socket_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 ||
        (peer.uid != ::geteuid() && peer.uid != 0)) {
      socket_.reset();
      return Status{Errc::kUntrusted, 0, "another user's process answers at keeper.sock"};
    }
    return {};
  }

  // The child of a child, in a session of its own: nobody's signals but its own reach it.
  Status start() {
    const UniqueFd listener{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
    ::unlinkat(dir_, kKeeperSocket, 0);
    const sockaddr_un at = address(dir_);
    const mode_t old = ::umask(0177);
    const int bound = ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at);
    ::umask(old);
    if (bound != 0 || ::listen(listener.get(), 4) != 0)
      return Status{Errc::kIo, errno, "cannot bind keeper.sock"};
    posix_spawn_file_actions_t files;
    posix_spawnattr_t how;
    ::posix_spawn_file_actions_init(&files);
    ::posix_spawnattr_init(&how);
    for (const int fd : {0, 1, 2}) {
      ::posix_spawn_file_actions_addopen(&files, fd, "/dev/null", O_RDWR, 0);
    }
    // a copy first: a descriptor that is 3 already would keep its close-on-exec
    const UniqueFd copy{::fcntl(listener.get(), F_DUPFD_CLOEXEC, 10)};
    const UniqueFd dir{::fcntl(dir_, F_DUPFD_CLOEXEC, 10)};
    ::posix_spawn_file_actions_adddup2(&files, copy.get(), kKeeperListener);
    ::posix_spawn_file_actions_adddup2(&files, dir.get(), kKeeperDirectory);
    sigset_t none;
    sigemptyset(&none);
    ::posix_spawnattr_setsigmask(&how, &none);
    ::posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
    const char* const argv[] = {"bulkheadd-keeper", kKeeperFlag, nullptr};
    pid_t child = 0;
    const int error = ::posix_spawn(&child, "/proc/self/exe", &files, &how,
                                    const_cast<char* const*>(argv), environ);
    ::posix_spawn_file_actions_destroy(&files);
    ::posix_spawnattr_destroy(&how);
    if (error != 0) return Status{Errc::kIo, error, "cannot start the keeper"};
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return status == 0 ? Status{} : Status{Errc::kIo, 0, "the keeper did not start"};
  }

  const int dir_;
  const std::string path_;
  UniqueFd socket_;
  std::map<std::string, int> held_;
};

bool has_store() {
  const char* store = std::getenv("FDSTORE");
  const bool told = store != nullptr && std::atol(store) > 0;
  return std::getenv("NOTIFY_SOCKET") != nullptr &&
         (told || std::getenv("LISTEN_FDNAMES") != nullptr);
}

}  // namespace

Outcome<std::unique_ptr<Keep>> open_keep(int dir_fd, const std::string& path) {
  using Out = Outcome<std::unique_ptr<Keep>>;
  if (has_store()) return Out{std::make_unique<FdStore>()};
  auto keeper = std::make_unique<KeeperKeep>(dir_fd, path);
  if (const Status bad = keeper->open(); !bad.ok()) {
    return Out::because(path + "/" + kKeeperSocket + ": " + bad.text() +
                        (bad.error_number() != 0
                             ? std::string{": "} + std::strerror(bad.error_number())
                             : std::string{}));
  }
  return Out{std::move(keeper)};
}

}  // namespace bulkhead::daemon
