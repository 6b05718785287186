#include "bench/daemon.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "base/clock.h"
#include "base/fd.h"

namespace bulkhead::bench {
namespace {

constexpr std::uint64_t kWatchdogNs = 60'000'000'000;

void write_config(const std::string& path, const std::vector<Tenant>& tenants,
                  const std::string& more) {
  std::ofstream out(path);
  for (const Tenant& t : tenants)
    if (t.audited) {
      out << "[audit]\n";
      break;
    }
  for (const Tenant& t : tenants) {
    out << "[[tenant]]\nname = \"" << t.name << "\"\nmemory = \"" << (t.quota_bytes >> 20)
        << "MiB\"\n";
    if (t.compute_percent != 0) out << "compute = \"" << t.compute_percent << "%\"\n";
    if (t.latency) out << "priority = \"latency\"\n";
    if (t.audited) out << "audit = \"observe\"\n";
  }
  out << more;
}

}  // namespace

Daemon::Daemon(const Lab& lab, const std::vector<Tenant>& tenants, const std::string& more)
    : directory_(lab.scratch) {
  const std::string config = lab.scratch + "/bench-daemon.toml";
  write_config(config, tenants, more);
  std::vector<std::string> words = {lab.daemon, "--config", config};
  if (!lab.sim.empty()) words.insert(words.end(), {"--sim", lab.sim_profile});
  auto variables = lab.environment(Variant{}, Tenant{}, "env");
  std::vector<char*> argv, envp;
  for (std::string& one : words) argv.push_back(one.data());
  for (std::string& one : variables) envp.push_back(one.data());
  argv.push_back(nullptr), envp.push_back(nullptr);
  const std::string log = lab.scratch + "/bench-daemon.log";
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ::posix_spawn_file_actions_adddup2(&actions, 1, 2);
  const int rc = ::posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), envp.data());
  ::posix_spawn_file_actions_destroy(&actions);
  if (rc != 0) {
    pid_ = 0;
    error_ = "cannot start " + words[0];
    return;
  }
  const std::uint64_t watchdog_ns = monotonic_ns() + kWatchdogNs;
  while (!answers()) {
    const bool gone = ended();
    if (!gone && monotonic_ns() < watchdog_ns) {
      ::poll(nullptr, 0, 20);
      continue;
    }
    std::string why = gone ? "bulkheadd ended" : "bulkheadd does not answer";
    std::ifstream said(log);
    if (std::string line; std::getline(said, line)) why += ": " + line;
    error_ = why;
    return;
  }
}

Daemon::~Daemon() {
  if (pid_ == 0) return;
  const UniqueFd watch{static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0))};
  ::kill(pid_, SIGTERM);
  pollfd one{watch.get(), POLLIN, 0};
  if (::poll(&one, 1, static_cast<int>(kWatchdogNs / 1'000'000)) != 1) ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

bool Daemon::answers() const {
  const UniqueFd s{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  std::snprintf(at.sun_path, sizeof at.sun_path, "%s/control.sock", directory_.c_str());
  return ::connect(s.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0;
}

bool Daemon::ended() {
  if (::waitpid(pid_, nullptr, WNOHANG) != pid_) return false;
  pid_ = 0;
  return true;
}

pid_t Daemon::sight() const {
  const std::string pid = std::to_string(pid_);
  std::ifstream in("/proc/" + pid + "/task/" + pid + "/children");
  pid_t child = 0;
  in >> child;
  return child;
}

void forget_promises(const Lab& lab) {
  std::error_code ignored;
  std::filesystem::remove_all(lab.scratch + "/state", ignored);
  std::filesystem::remove(lab.scratch + "/tenants.json", ignored);
}

std::uint64_t cpu_ns_of(pid_t pid) {
  clockid_t clock{};
  return ::clock_getcpuclockid(pid, &clock) == 0 ? clock_ns(clock) : 0;
}

std::uint64_t resident_bytes_of(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/status");
  for (std::string word; in >> word;)
    if (std::uint64_t kib = 0; word == "VmRSS:" && in >> kib) return kib << 10;
  return 0;
}

}  // namespace bulkhead::bench
