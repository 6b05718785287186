#include "cli/demo_stage.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "cli/install.h"
#include "cli/say.h"
#include "policy/size.h"

namespace bulkhead::cli {
namespace {

constexpr int kPatience_ms = 60'000;
constexpr std::size_t kBar = 30;

[[noreturn]] void become_run(const std::vector<std::string>& words, int in, int out) {
  ::dup2(in, STDIN_FILENO);
  ::dup2(out, STDOUT_FILENO);
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (const std::string& w : words) argv.push_back(const_cast<char*>(w.c_str()));
  argv.push_back(nullptr);
  ::execv(own_path().c_str(), argv.data());
  ::_exit(kExitOurs);
}

}  // namespace

std::unique_ptr<DemoWorker> DemoWorker::begin(const std::string& tenant, std::uint64_t memory_bytes,
                                              const std::string& simulator, std::string& problem) {
  std::vector<std::string> words = {"bulkhead", "run",  "-q",       "--no-daemon",
                                    "--tenant", tenant, "--memory", exact_text(memory_bytes)};
  if (!simulator.empty()) words.push_back("--sim=" + simulator);
  words.insert(words.end(), {"--", own_path(), "__demo-worker"});
  int in[2];
  int out[2];
  if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0) {
    problem = "no pipe for a worker";
    return nullptr;
  }
  const UniqueFd child_in{in[0]};
  UniqueFd child_out{out[1]};
  std::unique_ptr<DemoWorker> w{new DemoWorker};
  w->tenant_ = tenant;
  w->to_.reset(in[1]);
  w->from_.reset(out[0]);
  w->run_ = ::fork();
  if (w->run_ == 0) become_run(words, child_in.get(), child_out.get());
  child_out.reset();
  const auto said = w->answer();
  if (said.size() == 2 && said[0] == "ready") {
    w->worker_ = std::atoi(said[1].c_str());
    return w;
  }
  problem = "a worker of tenant " + tenant + " did not come up";
  for (const std::string& word : said) problem += " " + word;
  return nullptr;
}

DemoWorker::~DemoWorker() {
  to_.reset();  // end of its orders: it leaves by itself
  while (run_ > 0 && ::waitpid(run_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void DemoWorker::order(const char* what) {
  const std::string line = std::string{what} + "\n";
  [[maybe_unused]] const ssize_t n = ::write(to_.get(), line.data(), line.size());
}

bool DemoWorker::has_answer(int wait_ms) {
  if (said_.find('\n') != std::string::npos) return true;
  pollfd ready{from_.get(), POLLIN, 0};
  return ::poll(&ready, 1, wait_ms) > 0;
}

std::vector<std::string> DemoWorker::answer() {
  while (said_.find('\n') == std::string::npos) {
    char part[256];
    if (!has_answer(kPatience_ms)) return {};
    const ssize_t n = ::read(from_.get(), part, sizeof part);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return {};
    said_.append(part, static_cast<std::size_t>(n));
  }
  const auto end = said_.find('\n');
  std::istringstream line{said_.substr(0, end)};
  said_.erase(0, end + 1);
  std::vector<std::string> words;
  for (std::string word; line >> word;) words.push_back(word);
  return words;
}

int DemoWorker::kill_and_wait() {
  ::kill(worker_, SIGKILL);
  int status = 0;
  while (::waitpid(run_, &status, 0) < 0 && errno == EINTR) {
  }
  run_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::uint64_t held_by(const TenantBooks& tenant, pid_t pid) {
  for (const ProcessBooks& p : tenant.processes) {
    if (p.our_namespace && p.pid == static_cast<std::uint32_t>(pid)) return p.held_bytes[0];
  }
  return 0;
}

DemoScreen::DemoScreen()
    : colour_(::isatty(STDOUT_FILENO) == 1 && env_or_empty("NO_COLOR").empty() &&
              env_or_empty("TERM") != "dumb") {
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
}

std::string DemoScreen::paint(const char* code, const std::string& text) const {
  return colour_ ? fmt::format("\033[{}m{}\033[0m", code, text) : text;
}
void DemoScreen::title(const std::string& text) const { fmt::print("{}\n", paint("1", text)); }
void DemoScreen::step(const std::string& text) const { fmt::print("\n{}\n", paint("1", text)); }

bool DemoScreen::check(bool held, const std::string& text) {
  ++checks_;
  failed_ += held ? 0 : 1;
  fmt::print("  {}  {}\n", held ? paint("32", "ok") : paint("31", "NO"), text);
  return held;
}

void DemoScreen::bar(const TenantBooks& t) const {
  if (t.devices.empty()) return;
  const DeviceBooks& d = t.devices[0];
  const std::uint64_t used = std::min(d.used_bytes, d.limit_bytes);
  const std::size_t full = d.limit_bytes != 0 ? used * kBar / d.limit_bytes : 0;
  fmt::print("  {:<6} [{}{}] {:>11} of {:>9}   {} process{}\n", t.name,
             paint("36", std::string(full, '#')), std::string(kBar - full, '.'),
             short_size(d.used_bytes), short_size(d.limit_bytes), t.processes.size(),
             t.processes.size() == 1 ? "" : "es");
}

void DemoScreen::verdict() const {
  if (failed_ == 0) {
    fmt::print("\n{}\n", paint("1;32", fmt::format("All {} checks held.", checks_)));
  } else {
    fmt::print("\n{}\n", paint("1;31", fmt::format("{} of {} checks failed.", failed_, checks_)));
  }
}

}  // namespace bulkhead::cli
