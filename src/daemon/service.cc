#include "daemon/service.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace bulkhead::daemon {

namespace {
sigset_t operators_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, signal);
  return set;
}
}  // namespace

void block_signals() {
  ::signal(SIGPIPE, SIG_IGN);
  const sigset_t set = operators_signals();
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
}

Status Signals::open(Poller& poller, SignalHandlers handlers) {
  handlers_ = std::move(handlers);
  block_signals();
  const sigset_t set = operators_signals();
  fd_.reset(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd_.ok()) return Status{Errc::kIo, errno, "cannot take signals"};
  return poller.add(fd_.get(), EPOLLIN, [this](std::uint32_t) {
    signalfd_siginfo info{};
    while (::read(fd_.get(), &info, sizeof info) == sizeof info) {
      const auto& handler = info.ssi_signo == SIGHUP ? handlers_.reload : handlers_.stop;
      if (handler) handler();
    }
  });
}

void notify(const std::string& state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un at{};
  if (path == nullptr || std::strlen(path) >= sizeof at.sun_path) return;
  at.sun_family = AF_UNIX;
  const std::size_t length = std::strlen(path);
  std::memcpy(at.sun_path, path, length);
  if (at.sun_path[0] == '@') at.sun_path[0] = 0;  // the abstract namespace
  const UniqueFd fd{::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
  (void)!::sendto(fd.get(), state.data(), state.size(), MSG_NOSIGNAL,
                  reinterpret_cast<const sockaddr*>(&at), bytes);
}

Watchdog::Watchdog() {
  const char* text = std::getenv("WATCHDOG_USEC");
  const char* pid = std::getenv("WATCHDOG_PID");
  if (text == nullptr || (pid != nullptr && std::atol(pid) != ::getpid())) return;
  every_ns_ = std::strtoull(text, nullptr, 10) * 1000 / 2;
}

int Watchdog::tick(const Now& now) {
  if (every_ns_ == 0) return -1;
  if (now.mono_ns >= next_ns_) {
    notify("WATCHDOG=1");
    next_ns_ = now.mono_ns + every_ns_;
  }
  return static_cast<int>(std::max<std::uint64_t>(1, (next_ns_ - now.mono_ns) / 1'000'000));
}

Outcome<UniqueFd> lock_directory_for_daemon(int dir, const std::string& path) {
  using Out = Outcome<UniqueFd>;
  const std::string file = path + "/daemon.lock";
  UniqueFd fd{::openat(dir, "daemon.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)};
  // Nobody else may open it, not even to read: that is enough for flock(), and would keep us out.
  if (!fd.ok() || ::fchmod(fd.get(), 0600) != 0) {
    return Out::because(file + ": " + std::strerror(errno));
  }
  char text[32] = {};
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return Out::because(file + ": " + std::strerror(errno));
    const long pid = ::pread(fd.get(), text, sizeof text - 1, 0) > 0 ? std::atol(text) : 0;
    return Out::because("a daemon serves " + path + " already" +
                        (pid > 0 ? ", pid " + std::to_string(pid) : "") +
                        ": end it first, or name another directory with --dir");
  }
  const std::string mine = std::to_string(::getpid()) + "\n";
  if (::ftruncate(fd.get(), 0) != 0 ||
      ::pwrite(fd.get(), mine.data(), mine.size(), 0) != static_cast<ssize_t>(mine.size())) {
    return Out::because(file + ": " + std::strerror(errno));
  }
  return Out{std::move(fd)};
}

std::uint64_t raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  limit.rlim_cur = limit.rlim_max;
  (void)!::setrlimit(RLIMIT_NOFILE, &limit);
  (void)!::getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

}  // namespace bulkhead::daemon
