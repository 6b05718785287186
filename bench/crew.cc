#include "bench/crew.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/clock.h"

namespace bulkhead::bench {
namespace {

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (const std::string& s : strings) out.push_back(const_cast<char*>(s.c_str()));
  out.push_back(nullptr);
  return out;
}

// Starts `command` with the block and the socket at their agreed descriptors; its output goes to `log`.
pid_t spawn(const std::vector<std::string>& command, const std::vector<std::string>& environment,
            int block_in, int socket_in, const std::string& log) {
  // Above the agreed numbers, so that putting one in place cannot overwrite the other.
  const UniqueFd block{::fcntl(block_in, F_DUPFD_CLOEXEC, kSocketFd + 1)};
  const UniqueFd socket{::fcntl(socket_in, F_DUPFD_CLOEXEC, kSocketFd + 1)};
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, block.get(), kBlockFd);
  ::posix_spawn_file_actions_adddup2(&actions, socket.get(), kSocketFd);
  ::posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  ::posix_spawn_file_actions_adddup2(&actions, 1, 2);
  auto argv = pointers(command);
  auto envp = pointers(environment);
  pid_t pid = -1;
  const int rc = ::posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), envp.data());
  ::posix_spawn_file_actions_destroy(&actions);
  return rc == 0 ? pid : -1;
}

int open_pidfd(pid_t pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); }

}  // namespace

Crew::Crew(const Lab& lab, const Variant& variant, const Tenant& tenant, const std::string& launch)
    : lab_(lab),
      variant_(variant),
      tenant_(tenant),
      launch_(launch.empty() ? lab.launch : launch) {}

Crew::~Crew() {
  for (Member& m : members_)
    if (m.living && m.map.as<Block>()->pid > 0 && m.map.as<Block>()->pid != m.pid)
      ::kill(m.map.as<Block>()->pid, SIGKILL);  // the worker below `bulkhead run`
  for (Member& m : members_) reap(m, true);
}

unsigned Crew::start(const std::string& work, Params params) {
  return start(work, std::move(params), tenant_);
}

unsigned Crew::start(const std::string& work, Params params, const Tenant& tenant) {
  Member m;
  const UniqueFd memory{static_cast<int>(::syscall(SYS_memfd_create, "bench-block", MFD_CLOEXEC))};
  if (!memory.ok() || ::ftruncate(memory.get(), sizeof(Block)) != 0) error_ = "cannot make a block";
  void* at = ::mmap(nullptr, sizeof(Block), PROT_READ | PROT_WRITE, MAP_SHARED, memory.get(), 0);
  int pair[2] = {-1, -1};
  if (at == MAP_FAILED || ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
    error_ = "cannot make a block or a socket";
    std::abort();
  }
  m.map = Mapping{at, sizeof(Block)};
  m.socket = UniqueFd{pair[0]};
  const UniqueFd theirs{pair[1]};
  params.set("index", static_cast<std::uint64_t>(members_.size()));
  if (!lab_.sim.empty()) params.set("sim", 1);
  const auto command = lab_.command(variant_, tenant, work, params, launch_);
  const auto environment = lab_.environment(variant_, tenant, launch_);
  m.started_ns = monotonic_ns();
  m.pid = spawn(command, environment, memory.get(), theirs.get(), lab_.scratch + "/workers.log");
  if (m.pid < 0) {
    m.living = false;
    error_ = "cannot start " + command[0];
  }
  members_.push_back(std::move(m));
  return static_cast<unsigned>(members_.size() - 1);
}

void Crew::note_end(unsigned i) {
  Member& m = members_[i];
  m.living = false;
  if (!error_.empty()) return;
  const Block& b = *m.map.as<Block>();
  error_ = "worker " + std::to_string(i) + ": " +
           (b.error[0] != 0 ? std::string(b.error) + ", code " + std::to_string(b.code)
                            : std::string(b.pid == 0 ? "did not start" : "ended early"));
}

bool Crew::wait_all(int seconds, int poll_ms, void (*poll)(void*), void* context) {
  const std::uint64_t deadline =
      monotonic_ns() + static_cast<std::uint64_t>(seconds) * 1'000'000'000;
  for (Member& m : members_) m.said = false;
  for (;;) {
    std::vector<pollfd> fds;
    std::vector<unsigned> who;
    for (unsigned i = 0; i < size(); ++i) {
      if (!members_[i].living || members_[i].said) continue;
      fds.push_back({members_[i].socket.get(), POLLIN, 0});
      who.push_back(i);
    }
    if (fds.empty()) return error_.empty();
    if (monotonic_ns() > deadline) {
      error_ = "watchdog: " + std::to_string(fds.size()) + " workers silent for " +
               std::to_string(seconds) + " s";
      return false;
    }
    ::poll(fds.data(), fds.size(), poll_ms);
    if (poll != nullptr) poll(context);
    for (std::size_t k = 0; k < fds.size(); ++k) {
      if (fds[k].revents == 0) continue;
      char byte = 0;
      if (::read(fds[k].fd, &byte, 1) == 1)
        members_[who[k]].said = true;
      else
        note_end(who[k]);
    }
    if (!error_.empty()) return false;
  }
}

bool Crew::said_within(unsigned i, int ms) {
  pollfd one{members_[i].socket.get(), POLLIN, 0};
  char byte = 0;
  if (!members_[i].living || ::poll(&one, 1, ms) != 1) return false;
  if (::read(one.fd, &byte, 1) == 1) return true;
  note_end(i);
  return false;
}

bool Crew::said(unsigned i, int seconds) {
  if (said_within(i, seconds * 1000)) return true;
  if (error_.empty())
    error_ =
        "watchdog: worker " + std::to_string(i) + " silent for " + std::to_string(seconds) + " s";
  return false;
}

void Crew::pause(int ms) { ::poll(nullptr, 0, ms); }

void Crew::go() {
  for (unsigned i = 0; i < size(); ++i)
    if (members_[i].living) go(i);
}

void Crew::go(unsigned i) {
  const char byte = 'g';
  if (::send(members_[i].socket.get(), &byte, 1, MSG_NOSIGNAL) != 1) note_end(i);
}

std::uint64_t Crew::kill_timed(unsigned i) {
  Member& m = members_[i];
  const pid_t target = pid(i);
  const UniqueFd watch{open_pidfd(target)};
  ::kill(target, SIGKILL);
  pollfd one{watch.get(), POLLIN, 0};
  ::poll(&one, 1, 30'000);
  const std::uint64_t seen = monotonic_ns();
  m.living = false;
  reap(m, false);
  return seen;
}

void Crew::kill(unsigned i) { (void)kill_timed(i); }

void Crew::reap(Member& m, bool force) {
  if (m.pid <= 0) return;
  if (force) ::kill(m.pid, SIGKILL);
  int status = 0;
  while (::waitpid(m.pid, &status, 0) < 0 && errno == EINTR) {
  }
  m.pid = 0;
}

bool Crew::finish(int seconds) {
  const std::uint64_t deadline =
      monotonic_ns() + static_cast<std::uint64_t>(seconds) * 1'000'000'000;
  bool good = error_.empty();
  for (unsigned i = 0; i < size(); ++i) {
    Member& m = members_[i];
    if (m.pid <= 0) continue;
    const UniqueFd watch{open_pidfd(m.pid)};
    pollfd one{watch.get(), POLLIN, 0};
    const std::uint64_t now = monotonic_ns();
    const int left_ms = now < deadline ? static_cast<int>((deadline - now) / 1'000'000) : 0;
    if (::poll(&one, 1, left_ms) != 1) {
      if (error_.empty()) error_ = "watchdog: worker " + std::to_string(i) + " still runs";
      good = false;
      continue;  // ~Crew ends it
    }
    int status = 0;
    ::waitpid(m.pid, &status, 0);
    m.pid = 0;
    m.living = false;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      note_end(i);
      good = false;
    }
  }
  return good;
}

std::vector<pid_t> Crew::pids() {
  std::vector<pid_t> out;
  for (unsigned i = 0; i < size(); ++i)
    if (block(i).pid > 0) out.push_back(block(i).pid);
  return out;
}

}  // namespace bulkhead::bench
