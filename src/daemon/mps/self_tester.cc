#include "daemon/mps/self_tester.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

namespace bulkhead::daemon {

SelfTester::~SelfTester() {
  if (pid_ > 0) ::kill(pid_, SIGTERM);
}

void SelfTester::start() {
  std::vector<std::string> words{outside_.program, "doctor", "--self-test", "--json"};
  if (const std::string control = outside_.mps_control(); control.empty()) {
    words.emplace_back("--no-mps");
  } else {
    words.insert(words.end(), {"--mps-control", control});
  }
  std::vector<char*> argv, env;
  for (std::string& w : words) argv.push_back(w.data());
  for (std::string& v : outside_.environment) env.push_back(v.data());
  argv.push_back(nullptr);
  env.push_back(nullptr);
  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  for (const int fd : {1, 2})
    ::posix_spawn_file_actions_addopen(&files, fd, "/dev/null", O_WRONLY, 0);
  posix_spawnattr_t how;
  ::posix_spawnattr_init(&how);
  sigset_t none;
  ::sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&how, &none);  // ours are blocked
  ::posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSIGMASK);
  pid_t pid = -1;
  if (::posix_spawn(&pid, outside_.program.c_str(), &files, &how, argv.data(), env.data()) == 0)
    pid_ = pid;
  ::posix_spawnattr_destroy(&how);
  ::posix_spawn_file_actions_destroy(&files);
}

int SelfTester::tick(const Now& now) {
  if (pid_ > 0) {
    int how = 0;
    if (::waitpid(pid_, &how, WNOHANG) != pid_) return 1000;
    pid_ = -1;
    // whatever came of it: what is still missing is not tried again at once
    not_before_ns_ = now.mono_ns + kAgain_ns;
    outside_.ended(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    return 1000;
  }
  if (now.mono_ns < not_before_ns_ || !outside_.wanted() || !outside_.idle()) {
    quiet_since_ns_ = 0;
    return 1000;
  }
  if (quiet_since_ns_ == 0) quiet_since_ns_ = now.mono_ns;
  if (now.mono_ns - quiet_since_ns_ < kQuiet_ns) return 1000;
  quiet_since_ns_ = 0;
  start();
  if (pid_ <= 0) not_before_ns_ = now.mono_ns + kAgain_ns;
  return 1000;
}

}  // namespace bulkhead::daemon
