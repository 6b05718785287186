#include "daemon/mps/command.h"

#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "daemon/pidfd.h"

namespace bulkhead::daemon {
namespace {

constexpr gid_t kNoGroup = 65534;

// All that the child needs, made before the fork.
struct Words {
  std::string program, argument, root, home, pipe, log, pipe_variable, log_variable, path_variable;
  uid_t uid;
  bool change_user, partitions;
};

bool own_directory(const char* path) noexcept {
  return ::mkdir(path, 0700) == 0 || errno == EEXIST;
}

// Between fork and exec: only async-signal-safe calls. The directories are made as the user whose they are: a link put in the way
// leads nowhere that this user could not write himself.
[[noreturn]] void become(const Words& w, int in, int out) {
  if (w.change_user &&
      (::setgroups(0, nullptr) != 0 || ::setresgid(kNoGroup, kNoGroup, kNoGroup) != 0 ||
       ::setresuid(w.uid, w.uid, w.uid) != 0))
    ::_exit(126);
  ::umask(077);
  if (!own_directory(w.home.c_str()) || !own_directory(w.pipe.c_str()) ||
      !own_directory(w.log.c_str()))
    ::_exit(126);
  if (::dup2(in, 0) < 0 || ::dup2(out, 1) < 0 || ::dup2(out, 2) < 0) ::_exit(126);
  if (::close_range(3, ~0u, 0) != 0) ::_exit(126);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  (void)!::chdir("/");
  char partitions[] = "-S";
  char* const words[] = {const_cast<char*>(w.program.c_str()),
                         w.argument.empty() ? nullptr : const_cast<char*>(w.argument.c_str()),
                         w.argument == "-d" && w.partitions ? partitions : nullptr, nullptr};
  char* const environment[] = {const_cast<char*>(w.pipe_variable.c_str()),
                               const_cast<char*>(w.log_variable.c_str()),
                               const_cast<char*>(w.path_variable.c_str()), nullptr};
  ::execve(w.program.c_str(), words, environment);
  ::_exit(127);
}

int code_of(int how) { return WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how); }

}  // namespace

MpsCommand::~MpsCommand() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    if (ended_.ok()) poller_.remove(ended_.get());
    if (output_.ok()) poller_.remove(output_.get());
    (void)::waitpid(pid_, nullptr, WNOHANG);
  }
}

void MpsCommand::start(const MpsPlace& place, const std::string& argument, const std::string& input,
                       std::uint64_t now_ns, Done done) {
  done_ = std::move(done);
  text_.clear();
  const char* path = std::getenv("PATH");
  const Words words{place.program,
                    argument,
                    place.root,
                    place.home(),
                    place.pipe(),
                    place.log(),
                    "CUDA_MPS_PIPE_DIRECTORY=" + place.pipe(),
                    "CUDA_MPS_LOG_DIRECTORY=" + place.log(),
                    std::string{"PATH="} + (path != nullptr ? path : "/usr/bin:/bin"),
                    place.uid,
                    place.change_user,
                    place.partitions};
  int in[2], out[2];
  if (::pipe2(in, O_CLOEXEC) != 0) return finish(MpsReply::How::kNotStarted, 0, errno);
  const UniqueFd in_read{in[0]};
  UniqueFd in_write{in[1]};
  if (::pipe2(out, O_CLOEXEC) != 0) return finish(MpsReply::How::kNotStarted, 0, errno);
  UniqueFd out_read{out[0]};
  const UniqueFd out_write{out[1]};
  // a command is far below what a pipe holds: this never waits
  const auto size = static_cast<ssize_t>(input.size());
  if (::write(in_write.get(), input.data(), input.size()) != size)
    return finish(MpsReply::How::kNotStarted, 0, errno);
  in_write.reset();
  const pid_t pid = ::fork();
  if (pid < 0) return finish(MpsReply::How::kNotStarted, 0, errno);
  if (pid == 0) become(words, in_read.get(), out_write.get());
  pid_ = pid;
  deadline_ns_ = now_ns + kPatience_ns;
  ::fcntl(out_read.get(), F_SETFL, O_NONBLOCK);
  output_ = std::move(out_read);
  ended_ = open_pidfd(static_cast<std::uint32_t>(pid));
  // Its end counts, not that of its output: a daemon that it leaves behind may hold that open.
  if (!ended_.ok() ||
      !poller_.add(ended_.get(), EPOLLIN, [this](std::uint32_t) { on_end(); }).ok()) {
    const int why = errno;
    ::kill(pid_, SIGKILL);
    return finish(MpsReply::How::kNotStarted, 0, why);
  }
  (void)poller_.add(output_.get(), EPOLLIN, [this](std::uint32_t) { on_output(); });
}

void MpsCommand::on_output() {
  std::array<char, 4096> part;
  for (;;) {
    const ssize_t n = ::read(output_.get(), part.data(), part.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return;  // nothing there now
    if (n == 0) break;
    const std::size_t room = kMostText - text_.size();
    text_.append(part.data(), std::min(room, static_cast<std::size_t>(n)));
  }
  poller_.remove(output_.get());  // its end
}

void MpsCommand::on_end() {
  on_output();
  int how = 0;
  if (::waitpid(pid_, &how, WNOHANG) != pid_) return;
  finish(MpsReply::How::kEnded, code_of(how), 0);
}

void MpsCommand::finish(MpsReply::How how, int exit_code, int error_number) {
  if (ended_.ok()) poller_.remove(ended_.get());
  if (output_.ok()) poller_.remove(output_.get());
  ended_.reset();
  output_.reset();
  if (pid_ > 0 && how != MpsReply::How::kEnded) killed_.push_back(pid_);
  pid_ = -1;
  MpsReply reply{how, exit_code, error_number, std::move(text_)};
  text_.clear();
  const Done done = std::exchange(done_, nullptr);
  if (done) done(reply);
}

int MpsCommand::tick(std::uint64_t now_ns) {
  std::erase_if(killed_, [](pid_t pid) { return ::waitpid(pid, nullptr, WNOHANG) != 0; });
  if (pid_ <= 0) return killed_.empty() ? -1 : 1000;
  if (now_ns < deadline_ns_) return static_cast<int>((deadline_ns_ - now_ns) / 1'000'000) + 1;
  ::kill(pid_, SIGKILL);
  finish(MpsReply::How::kTimedOut, 0, 0);
  return 0;
}

std::string problem_of(const MpsReply& r) {
  switch (r.how) {
    case MpsReply::How::kTimedOut:
      return "it did not answer within 10 s";
    case MpsReply::How::kNotStarted:
      return std::string{"it could not be run: "} + std::strerror(r.error_number);
    case MpsReply::How::kEnded:
      break;
  }
  const std::string said = r.text.substr(0, std::min<std::size_t>(r.text.find('\n'), 80));
  return "exit code " + std::to_string(r.exit_code) + (said.empty() ? "" : ": " + said);
}

std::string find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) return ::access(name.c_str(), X_OK) == 0 ? name : "";
  const char* path = std::getenv("PATH");
  std::string rest = path != nullptr ? path : "/usr/local/bin:/usr/bin:/bin";
  while (!rest.empty()) {
    const std::size_t colon = rest.find(':');
    std::string at = rest.substr(0, colon) + "/" + name;
    if (at[0] == '/' && ::access(at.c_str(), X_OK) == 0) return at;
    if (colon == std::string::npos) break;
    rest = rest.substr(colon + 1);
  }
  return "";
}

std::vector<std::uint32_t> pids_of(const std::string& text) {
  std::vector<std::uint32_t> out;
  std::size_t at = 0;
  while (at < text.size() && out.size() < 4096) {
    std::size_t end = text.find('\n', at);
    if (end == std::string::npos) end = text.size();
    std::uint64_t value = 0;
    bool digits = end > at, blank = false;
    for (std::size_t i = at; i < end && digits; ++i) {
      const char c = text[i];
      if (c == ' ' || c == '\r' || c == '\t') {
        blank = true;
      } else if (c >= '0' && c <= '9' && !blank && value < 1u << 31) {
        value = value * 10 + static_cast<std::uint64_t>(c - '0');
      } else {
        digits = false;
      }
    }
    if (digits && value > 0 && value < 1u << 31) out.push_back(static_cast<std::uint32_t>(value));
    at = end + 1;
  }
  return out;
}

std::string status_of(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (!letter && !out.empty()) break;
    if (letter && out.size() < 32) out += static_cast<char>(c & ~0x20);
  }
  return out;
}

}  // namespace bulkhead::daemon
