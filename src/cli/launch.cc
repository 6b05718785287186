#include "cli/launch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "cli/say.h"

namespace bulkhead::cli {
namespace {

constexpr int kPassedOn[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGTSTP, SIGCONT};

sigset_t waited_for() {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int s : kPassedOn) ::sigaddset(&set, s);
  return set;
}

// The mask our caller gave us, which is the command's too.
const sigset_t& original_mask() {
  static const sigset_t mask = [] {
    sigset_t old;
    const sigset_t set = waited_for();
    ::sigprocmask(SIG_BLOCK, &set, &old);
    return old;
  }();
  return mask;
}

[[noreturn]] void become(const std::vector<std::string>& command, const sigset_t& mask,
                         int report_fd) {
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const std::string& part : command) argv.push_back(const_cast<char*>(part.c_str()));
  argv.push_back(nullptr);
  ::sigprocmask(SIG_SETMASK, &mask, nullptr);
  ::execvp(argv[0], argv.data());
  const int why = errno;
  // Nobody reads a pipe whose parent died; then nobody needs the answer either.
  [[maybe_unused]] const ssize_t n = ::write(report_fd, &why, sizeof why);
  ::_exit(kExitNotFound);
}

void pass_on(const signalfd_siginfo& info, pid_t child) {
  const auto signal = static_cast<int>(info.ssi_signo);
  const bool from_process =
      info.ssi_code == SI_USER || info.ssi_code == SI_TKILL || info.ssi_code == SI_QUEUE;
  if (from_process && static_cast<pid_t>(info.ssi_pid) != child) ::kill(child, signal);
  // We stop with the child, so that the shell sees its job stopped.
  if (signal == SIGTSTP) ::raise(SIGSTOP);
}

void drain(int fd, std::string* into) {
  char part[16384];
  for (ssize_t n = 0; (n = ::read(fd, part, sizeof part)) > 0;) {
    into->append(part, static_cast<std::size_t>(n));
  }
}

}  // namespace

void block_signals() { (void)original_mask(); }

Child start(const std::vector<std::string>& command, int keep_fd) {
  Child child;
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Child{-1, errno};
  const UniqueFd from{ends[0]};
  UniqueFd to{ends[1]};
  const sigset_t& old = original_mask();
  ::signal(SIGCHLD, SIG_DFL);  // if it was ignored we would never learn of the end
  child.pid = ::fork();
  if (child.pid == 0) {
    if (keep_fd >= 0) ::fcntl(keep_fd, F_SETFD, 0);
    become(command, old, to.get());
  }
  if (child.pid < 0) return Child{-1, errno};
  to.reset();
  ssize_t n = 0;
  do n = ::read(from.get(), &child.exec_errno, sizeof child.exec_errno);
  while (n < 0 && errno == EINTR);
  if (n == static_cast<ssize_t>(sizeof child.exec_errno)) {
    while (::waitpid(child.pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  } else {
    child.exec_errno = 0;
  }
  return child;
}

int wait_for(const Child& child, int drain_fd, std::string* into) {
  const sigset_t set = waited_for();  // blocked by start()
  const UniqueFd signals{::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)};
  // Not SIGCHLD: a thread that a driver library started before the signals were blocked would eat
  // it. A kernel without pidfds (before 5.3) is asked again twenty times a second.
  const UniqueFd death{static_cast<int>(::syscall(SYS_pidfd_open, child.pid, 0))};
  const int timeout_ms = death.ok() ? -1 : 50;
  for (;;) {
    int status = 0;
    const pid_t done = ::waitpid(child.pid, &status, WNOHANG);
    if (drain_fd >= 0) drain(drain_fd, into);
    if (done == child.pid) {
      return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
    if ((done < 0 && errno != EINTR) || !signals.ok()) {
      return fail(kExitOurs, fmt::format("lost track of the command: {}", std::strerror(errno)));
    }
    pollfd ready[3] = {{signals.get(), POLLIN, 0}, {drain_fd, POLLIN, 0}, {death.get(), POLLIN, 0}};
    ::poll(ready, 3, timeout_ms);
    if (ready[1].revents == POLLHUP) drain_fd = -1;  // all writers are gone, and it is empty
    signalfd_siginfo info{};
    while (::read(signals.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
      pass_on(info, child.pid);
    }
  }
}

int say_not_started(const std::string& command, int exec_errno) {
  if (exec_errno == ENOENT) {
    return fail(kExitNotFound, fmt::format("{}: command not found", command));
  }
  const bool ours = exec_errno == EAGAIN || exec_errno == EMFILE || exec_errno == ENFILE;
  return fail(ours ? kExitOurs : kExitNotExecutable,
              fmt::format("{}: cannot be started: {}", command, std::strerror(exec_errno)));
}

}  // namespace bulkhead::cli
