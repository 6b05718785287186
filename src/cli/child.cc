#include "cli/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "base/clock.h"

namespace bulkhead::cli {
namespace {

int left_ms(std::uint64_t until_ns) {
  const std::uint64_t now = monotonic_ns();
  return now >= until_ns ? 0 : static_cast<int>((until_ns - now) / 1'000'000) + 1;
}

// After fork; this program has one thread here, or is about to exec.
[[noreturn]] void become(const std::vector<std::string>& command, const Variables& variables,
                         int in, int out) {
  ::dup2(in, 0);
  ::dup2(out, 1);
  ::dup2(out, 2);
  for (const auto& [name, value] : variables) {
    value.empty() ? ::unsetenv(name.c_str()) : ::setenv(name.c_str(), value.c_str(), 1);
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  std::vector<char*> words;
  words.reserve(command.size() + 1);
  for (const std::string& w : command) words.push_back(const_cast<char*>(w.c_str()));
  words.push_back(nullptr);
  ::execvp(words[0], words.data());
  ::_exit(127);
}

}  // namespace

Talk::Talk(const std::vector<std::string>& command, const Variables& variables) {
  int in[2], out[2];
  if (::pipe2(in, O_CLOEXEC) != 0) return;
  const UniqueFd in_read{in[0]};
  in_.reset(in[1]);
  if (::pipe2(out, O_CLOEXEC) != 0) return;
  out_.reset(out[0]);
  const UniqueFd out_write{out[1]};
  ::signal(SIGPIPE, SIG_IGN);
  pid_ = ::fork();
  if (pid_ == 0) become(command, variables, in_read.get(), out_write.get());
  if (pid_ < 0) return;
  ended_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0u)));
  ::fcntl(out_.get(), F_SETFL, O_NONBLOCK);
}

Talk::~Talk() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void Talk::say(const std::string& text) { (void)!::write(in_.get(), text.data(), text.size()); }

bool Talk::more(int timeout_ms) {
  std::array<pollfd, 2> fds{{{out_.get(), POLLIN, 0}, {ended_.get(), POLLIN, 0}}};
  if (::poll(fds.data(), out_.ok() ? 2 : 0, timeout_ms) <= 0) return false;
  std::array<char, 4096> part;
  const ssize_t n = ::read(out_.get(), part.data(), part.size());
  if (n > 0) said_.append(part.data(), static_cast<std::size_t>(n));
  if (n == 0) out_.reset();
  return n > 0;
}

std::string Talk::line(int patience_ms) {
  const std::uint64_t until = monotonic_ns() + static_cast<std::uint64_t>(patience_ms) * 1'000'000;
  for (;;) {
    if (const std::size_t end = said_.find('\n'); end != std::string::npos) {
      std::string out = said_.substr(0, end);
      said_.erase(0, end + 1);
      return out;
    }
    const int left = left_ms(until);
    if (left == 0 || !out_.ok() || !more(left)) return {};
  }
}

int Talk::wait(int patience_ms, std::string& said) {
  if (pid_ <= 0) return 127;
  in_.reset();
  const std::uint64_t until = monotonic_ns() + static_cast<std::uint64_t>(patience_ms) * 1'000'000;
  int how = 0;
  pid_t got = 0;
  // Its end counts, not that of its output: a daemon that it leaves behind may hold that open.
  while ((got = ::waitpid(pid_, &how, WNOHANG)) == 0) {
    const int left = left_ms(until);
    if (left == 0) break;
    if (out_.ok()) {
      (void)more(left < 100 ? left : 100);
    } else {
      pollfd fd{ended_.get(), POLLIN, 0};
      ::poll(&fd, 1, left < 100 ? left : 100);
    }
  }
  if (got == 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, &how, 0);
  }
  while (out_.ok() && more(0)) {
  }
  pid_ = -1;
  said = std::move(said_);
  if (got <= 0) return -1;
  return WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how);
}

}  // namespace bulkhead::cli
