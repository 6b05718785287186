// Client programs under the library, each test in a fresh BULKHEAD_DIR.
#pragma once
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace bulkhead::test {

using Env = std::map<std::string, std::string>;
using Args = std::vector<std::string>;

// Beside the test's own file, so that a copied tree (bin, lib, sim, tests) runs where it lies.
inline const std::string kClients = [] {
  char self[4096];
  const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  const std::string path(self, n > 0 ? static_cast<std::size_t>(n) : 0);
  return path.substr(0, path.rfind('/') + 1);
}();
inline const std::string kLibrary = kClients + "../lib/libbulkhead.so";
inline const std::string kSim = kClients + "../sim";

// What a client printed, by key; several values of one key in order.
struct Said {
  std::map<std::string, std::vector<unsigned long long>> lines;
  unsigned long long operator[](const std::string& key) const {
    const auto at = lines.find(key);
    return at == lines.end() ? ~0ull : at->second.back();
  }
};
inline Said parse(const std::string& text) {
  Said said;
  std::istringstream in(text);
  std::string key;
  unsigned long long value = 0;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    if (words >> key >> value) said.lines[key].push_back(value);
  }
  return said;
}

// One running client: its standard streams are pipes.
class Client {
 public:
  Client(const Args& args, const Env& env, int extra_fd = -1) {
    int in[2], out[2], err[2];
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) abort();
    std::vector<std::string> vars;
    for (const auto& [k, v] : env) vars.push_back(k + "=" + v);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(in[0], 0);
      dup2(out[1], 1);
      dup2(err[1], 2);
      if (extra_fd >= 0) fcntl(extra_fd, F_SETFD, 0);
      std::vector<char*> argv, envp;
      for (const auto& a : args) argv.push_back(const_cast<char*>(a.c_str()));
      for (const auto& v : vars) envp.push_back(const_cast<char*>(v.c_str()));
      argv.push_back(nullptr);
      envp.push_back(nullptr);
      execve(argv[0], argv.data(), envp.data());
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    close(err[1]);
    in_ = in[1];
    out_ = out[0];
    err_ = err[0];
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  ~Client() {
    if (pid_ > 0) kill(pid_, SIGKILL);
    finish();
    for (int fd : {out_, err_}) close(fd);
  }
  pid_t pid() const { return pid_; }
  // Reads on until the line `mark` has come; false: the stream ended before.
  bool wait_for(const std::string& mark) {
    while (text.find(mark + "\n") == std::string::npos) {
      char c = 0;
      if (read(out_, &c, 1) != 1) return false;
      text += c;
    }
    return true;
  }
  // One read of what there is; false: the stream ended.
  bool read_some() {
    char buffer[256];
    const ssize_t n = read(out_, buffer, sizeof buffer);
    if (n > 0) text.append(buffer, static_cast<size_t>(n));
    return n > 0;
  }
  bool readable(int timeout_ms) {
    pollfd p{out_, POLLIN, 0};
    return poll(&p, 1, timeout_ms) > 0;
  }
  void tell(const std::string& line) { static_cast<void>(!write(in_, line.data(), line.size())); }
  // Closes its input, reads the rest, waits. The wait status.
  int finish() {
    if (pid_ <= 0) return status_;
    if (in_ >= 0) close(in_);
    in_ = -1;
    char buffer[4096];
    for (ssize_t n; (n = read(out_, buffer, sizeof buffer)) > 0;) {
      text.append(buffer, static_cast<size_t>(n));
    }
    for (ssize_t n; (n = read(err_, buffer, sizeof buffer)) > 0;) {
      errors.append(buffer, static_cast<size_t>(n));
    }
    waitpid(pid_, &status_, 0);
    pid_ = -1;
    return status_;
  }
  std::string text, errors;

 private:
  pid_t pid_ = -1;
  int in_ = -1, out_ = -1, err_ = -1, status_ = -1;
};

class HookTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char path[] = "/tmp/bulkhead-hook-XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    dir = path;
    env = {{"LD_PRELOAD", BH_LIBRARY},
           {"LD_LIBRARY_PATH", BH_TESTS "/fake"},
           {"BULKHEAD_DIR", dir},
           {"BULKHEAD_MEMORY", "1GiB"}};
  }
  void TearDown() override {
    const std::string remove = "rm -rf " + dir;
    EXPECT_EQ(std::system(remove.c_str()), 0);
  }
  // Runs a client to its end; its exit status must be 0 and its standard error empty.
  Said run(const Args& args) {
    Client client(args, env);
    EXPECT_EQ(client.finish(), 0) << client.errors;
    EXPECT_EQ(client.errors, "");
    return parse(client.text);
  }
  Said doors(const std::string& way) { return run({kClients + "doors_client", way}); }
  Said linked() { return run({kClients + "linked_client"}); }
  std::string dir;
  Env env;
};

inline constexpr unsigned long long kGiB = 1ull << 30;

}  // namespace bulkhead::test
