// How descriptors travel: the child finds the picture at 3, its orders at 4 (a sealed memfd, one "key value" a line: the token must not
// be in an environment or on a command line), listening sockets from 5 on in the order of the `listen` lines.
#include "daemon/sight/child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <sstream>

#include "base/clock.h"

namespace bulkhead::daemon {
namespace {

constexpr int kPictureFd = 3;
constexpr int kOrdersFd = 4;
constexpr int kFirstSocketFd = 5;
constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kMostPause_ns = 60 * kSecond;

std::string because(const char* what) { return fmt::format("{}: {}", what, std::strerror(errno)); }

std::string orders_text(const SightOptions& o, const std::vector<Listener>& listeners) {
  std::string out = fmt::format("parent {}\nhami {}\ndcgm {}\n", ::getpid(), o.hami_names ? 1 : 0,
                                o.dcgm_names ? 1 : 0);
  if (!o.token.empty()) out += fmt::format("token {}\n", o.token);
  for (const Listener& l : listeners)
    out += fmt::format("listen {} {}\n", static_cast<int>(l.door), l.port);
  return out;
}

UniqueFd orders_fd(const std::string& text) {
  UniqueFd fd{::memfd_create("bulkhead-sight", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  if (!fd.ok() || ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return UniqueFd{};
  (void)::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
  return fd;
}

// Reopened read-only: a mapping made from it can never be made writable.
UniqueFd read_only(int fd) {
  return UniqueFd{::open(fmt::format("/proc/self/fd/{}", fd).c_str(), O_RDONLY | O_CLOEXEC)};
}

// Between fork and exec: only async-signal-safe calls. `fds` go to 3, 4, ...; all else is closed.
[[noreturn]] void become_child(const std::vector<int>& fds, const char* program) {
  constexpr int kHigh = 200;  // above every target, so that no dup2 overwrites a source
  const int count = static_cast<int>(fds.size());
  for (int i = 0; i < count; ++i) {
    if (::dup2(fds[static_cast<std::size_t>(i)], kHigh + i) < 0) ::_exit(126);
  }
  for (int i = 0; i < count; ++i) {
    if (::dup2(kHigh + i, kPictureFd + i) < 0) ::_exit(126);
  }
  if (::close_range(static_cast<unsigned>(kPictureFd + count), ~0u, 0) != 0) ::_exit(126);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  char name[] = "bulkheadd";
  char flag[] = "--sight";
  char* const words[] = {name, flag, nullptr};
  char* const environment[] = {nullptr};
  ::execve(program, words, environment);
  ::_exit(127);
}

}  // namespace

SightChild::~SightChild() { stop(); }

Outcome<bool> SightChild::start(const Setup& setup, int picture_fd) {
  using Out = Outcome<bool>;
  auto prepared = prepare(setup);
  if (!prepared.ok()) return Out::because(prepared.problem);
  picture_ = read_only(picture_fd);
  if (!picture_.ok()) return Out::because(because("picture"));
  adopt(std::move(*prepared));
  stopped_ = false;
  return launch();
}

Outcome<SightChild::Prepared> SightChild::prepare(const Setup& setup) const {
  using Out = Outcome<Prepared>;
  if (setup.metrics_port != 0 && setup.metrics_port == setup.console_port)
    return Out::because("[daemon] metrics and console both name port " +
                        std::to_string(setup.console_port));
  Prepared out;
  out.setup = setup;
  out.options.hami_names = setup.hami_names;
  out.options.dcgm_names = setup.dcgm_names;
  std::string problem;
  const auto add = [&](Door door, std::uint16_t port) {
    const auto same = [&](const Listener& l) {
      return l.port == port && (l.door == Door::kMetricsUnix) == (door == Door::kMetricsUnix);
    };
    const auto has = std::find_if(listeners_.begin(), listeners_.end(), same);
    Outcome<UniqueFd> made =
        has != listeners_.end() ? Outcome<UniqueFd>{UniqueFd{::fcntl(has->fd, F_DUPFD_CLOEXEC, 3)}}
        : door == Door::kMetricsUnix ? listen_unix(setup.directory + "/metrics.sock")
                                     : listen_loopback(port);
    if (!made.ok() || !made->ok()) {
      if (problem.empty()) problem = made.ok() ? because("sockets") : made.problem;
      return;
    }
    out.changes |= has == listeners_.end() || has->door != door;
    out.listeners.push_back({door, made->get(), port});
    out.sockets.push_back(std::move(*made));
  };
  add(Door::kMetricsUnix, 0);
  if (setup.metrics_port != 0) add(Door::kMetricsTcp, setup.metrics_port);
  if (setup.console_port != 0) add(Door::kConsole, setup.console_port);
  if (problem.empty() && setup.console_port != 0) {
    auto token = console_token(setup.directory, setup.console_port);
    if (!token.ok()) return Out::because(token.problem);
    out.options.token = *token;
  }
  if (!problem.empty()) return Out::because(problem);
  out.changes |= out.listeners.size() != listeners_.size() || out.options.token != options_.token ||
                 setup.hami_names != setup_.hami_names || setup.dcgm_names != setup_.dcgm_names;
  return Out{std::move(out)};
}

void SightChild::adopt(Prepared prepared) {
  setup_ = std::move(prepared.setup);
  options_ = std::move(prepared.options);
  sockets_ = std::move(prepared.sockets);
  listeners_ = std::move(prepared.listeners);
}

void SightChild::take(Prepared prepared) {
  if (!prepared.changes || stopped_) return;
  adopt(std::move(prepared));
  if (pid_ != 0) {
    ::kill(pid_, SIGKILL);  // it has nothing to save; a stopped one would keep its sockets
    leaving_.push_back(pid_);
    pid_ = 0;
  }
  pause_ns_ = due_ns_ = 0;
  if (!launch().ok()) due_ns_ = monotonic_ns() + kSecond;  // tick() tries again
}

Outcome<bool> SightChild::launch() {
  using Out = Outcome<bool>;
  const UniqueFd orders = orders_fd(orders_text(options_, listeners_));
  if (!orders.ok()) return Out::because(because("orders of the sight child"));
  std::vector<int> fds{picture_.get(), orders.get()};
  for (const Listener& l : listeners_) fds.push_back(l.fd);
  const pid_t pid = ::fork();
  if (pid < 0) return Out::because(because("fork"));
  if (pid == 0) become_child(fds, setup_.program.c_str());
  pid_ = pid;
  started_ns_ = monotonic_ns();
  return true;
}

int SightChild::tick(const Now& now) {
  std::erase_if(leaving_, [](pid_t pid) { return ::waitpid(pid, nullptr, WNOHANG) != 0; });
  if (stopped_) return -1;
  if (pid_ != 0) {
    int how = 0;
    if (::waitpid(pid_, &how, WNOHANG) != pid_) return 1000;
    pid_ = 0;
    const bool lived = now.mono_ns - started_ns_ >= kMostPause_ns;
    pause_ns_ = lived || pause_ns_ == 0 ? kSecond : std::min(pause_ns_ * 2, kMostPause_ns);
    due_ns_ = now.mono_ns + pause_ns_;
  }
  if (now.mono_ns < due_ns_) return static_cast<int>((due_ns_ - now.mono_ns) / 1'000'000 + 1);
  ++restarts_;
  if (!launch().ok()) due_ns_ = now.mono_ns + kMostPause_ns;
  return 1000;
}

void SightChild::stop() {
  stopped_ = true;
  if (pid_ == 0) return;
  ::kill(pid_, SIGKILL);
  (void)::waitpid(pid_, nullptr, WNOHANG);
  pid_ = 0;
}

int sight_child_main() {
  std::array<char, 4096> text{};
  const ssize_t n = ::pread(kOrdersFd, text.data(), text.size() - 1, 0);
  if (n <= 0) return 2;
  ::close(kOrdersFd);
  SightOptions options;
  std::vector<Listener> listeners;
  std::istringstream in{std::string(text.data(), static_cast<std::size_t>(n))};
  std::string key;
  int parent = 0;
  while (in >> key) {
    unsigned a = 0;
    unsigned b = 0;
    if (key == "token") {
      in >> options.token;
    } else if (key == "listen") {
      in >> a >> b;
      listeners.push_back({static_cast<Door>(a),
                           kFirstSocketFd + static_cast<int>(listeners.size()),
                           static_cast<std::uint16_t>(b)});
    } else {
      in >> a;
      if (key == "parent") parent = static_cast<int>(a);
      if (key == "hami") options.hami_names = a != 0;
      if (key == "dcgm") options.dcgm_names = a != 0;
    }
  }
  options.parent_pid = parent;
  return sight_main(kPictureFd, listeners, options);
}

}  // namespace bulkhead::daemon
