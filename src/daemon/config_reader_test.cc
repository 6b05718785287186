// A configuration that does not come, or late, or not at all, stops nobody. The clock is the test's.
#include "daemon/config_reader.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>

namespace bulkhead::daemon {
namespace {

constexpr std::uint64_t kS = 1'000'000'000;

// A file system that answers when it is told to. Outlives the reader: its threads may.
struct SlowFile {
  std::mutex mutex;
  std::condition_variable changed;
  int begun = 0, allowed = 0;
  Outcome<Config> load(const std::string& file) {
    std::unique_lock lock{mutex};
    const int mine = ++begun;
    changed.notify_all();
    changed.wait(lock, [&] { return allowed >= mine; });
    Config c;
    c.file = file + " as of read " + std::to_string(mine);
    return c;
  }
  void wait_begun(int n) {
    std::unique_lock lock{mutex};
    ASSERT_TRUE(changed.wait_for(lock, std::chrono::seconds{60}, [&] { return begun >= n; }));
  }
  void allow(int n) {
    const std::lock_guard lock{mutex};
    allowed = n;
    changed.notify_all();
  }
};

class BellPoller : public Poller {
 public:
  Status add(int fd, std::uint32_t, Handler handler) override {
    all_[fd] = std::move(handler);
    return {};
  }
  Status change(int, std::uint32_t) override { return {}; }
  void remove(int fd) override { all_.erase(fd); }
  // Waits for the bell; false: a minute without.
  bool ring() {
    for (auto& [fd, handler] : all_) {
      pollfd p{fd, POLLIN, 0};
      if (::poll(&p, 1, 60'000) != 1) return false;
      handler(POLLIN);
    }
    return true;
  }

 private:
  std::map<int, Handler> all_;
};

class ReaderTest : public testing::Test {
 protected:
  ReaderTest()
      : file(std::make_shared<SlowFile>()),
        reader([f = file](const std::string& name) { return f->load(name); }) {
    EXPECT_TRUE(reader.open(poller).ok());
    reader.apply = [this](Outcome<Config> read) {
      ++applied;
      Answer a;
      if (!read.ok()) a.result = Errc::kInvalid;
      a.text = read.ok() ? read->file : read.problem;
      return a;
    };
  }
  ~ReaderTest() override { file->allow(100); }
  void ask() {
    reader.read(now, "f", [this](const Answer& a) { answers.push_back(a.text); });
  }
  void ring() {
    ASSERT_TRUE(poller.ring());
    reader.tick(now);
  }
  std::shared_ptr<SlowFile> file;
  BellPoller poller;
  ConfigReader reader;
  Now now{5 * kS, 5 * kS, 0};
  int applied = 0;
  std::vector<std::string> answers;
};

TEST_F(ReaderTest, NobodyWaitsForTheFile) {
  EXPECT_EQ(reader.tick(now), -1);
  ask();
  file->wait_begun(1);
  EXPECT_GT(reader.tick(now), 0);  // it is being read, and we are here
  EXPECT_TRUE(answers.empty());
  file->allow(1);
  ring();
  EXPECT_EQ(answers, (std::vector<std::string>{"f as of read 1"}));
  EXPECT_EQ(reader.tick(now), -1);
  EXPECT_FALSE(reader.reading());
}

// A turn's clock is that of its beginning; what begins in it is later.
TEST_F(ReaderTest, ATurnThatBeganBeforeTheReadGivesNothingUp) {
  const Now turn = now;
  now.mono_ns += 1000;
  ask();
  EXPECT_GT(reader.tick(turn), 0);
  EXPECT_TRUE(answers.empty());
}

TEST_F(ReaderTest, AnAnswerIsOfAReadThatBeganAfterTheQuestion) {
  ask();
  file->wait_begun(1);
  ask();  // the file may have changed since the first read it
  ask();
  file->allow(1);
  ring();
  EXPECT_EQ(answers.size(), 1u);
  file->wait_begun(2);
  file->allow(2);
  ring();
  EXPECT_EQ(answers,
            (std::vector<std::string>{"f as of read 1", "f as of read 2", "f as of read 2"}));
  EXPECT_EQ(applied, 2);  // each read once, whoever asked
}

TEST_F(ReaderTest, AFileThatHangsIsGivenUpAndTakesOneThread) {
  ask();
  file->wait_begun(1);
  now.mono_ns += ConfigReader::kPatience_ns - 1;
  ask();
  reader.tick(now);
  EXPECT_TRUE(answers.empty());
  now.mono_ns += 1;
  EXPECT_EQ(reader.tick(now), -1);
  ASSERT_EQ(answers.size(), 2u);
  for (const auto& a : answers)
    EXPECT_NE(a.find("not read within 10 s; nothing was changed"), a.npos);
  for (int i = 0; i < 100; ++i) ask();
  ASSERT_EQ(answers.size(), 102u);
  EXPECT_NE(answers.back().find("still hangs"), std::string::npos);
  EXPECT_EQ(file->begun, 1);
  // it comes after all: nobody asked for that any more
  const int before = applied;
  file->allow(1);
  ring();
  EXPECT_EQ(applied, before);
  EXPECT_EQ(answers.size(), 102u);
  ask();
  file->wait_begun(2);
  file->allow(2);
  ring();
  EXPECT_EQ(answers.back(), "f as of read 2");
}

TEST_F(ReaderTest, ItMayEndWhileAFileHangs) {
  ask();
  file->wait_begun(1);
}  // the thread goes on over what it owns

// The loader itself: what is no small regular file is refused without a wait.
TEST(LoadConfig, WhatIsNoFileIsRefusedAtOnce) {
  char text[] = "/tmp/bh_config_XXXXXX";
  const std::string dir = ::mkdtemp(text);
  ASSERT_EQ(::mkfifo((dir + "/fifo").c_str(), 0600), 0);
  std::ofstream{dir + "/big"} << "# no writer of a configuration made this\n";
  ASSERT_EQ(::truncate((dir + "/big").c_str(), off_t{1} << 40), 0);  // a TiB of nothing
  const auto problem = [](const std::string& file) {
    auto r = load_config(file);
    return r.ok() ? "" : r.problem;
  };
  EXPECT_NE(problem(dir + "/fifo").find("not a regular file"), std::string::npos);
  EXPECT_NE(problem("/dev/zero").find("not a regular file"), std::string::npos);
  EXPECT_NE(problem("/dev/tty").find("; "), std::string::npos);
  EXPECT_NE(problem(dir).find("not a regular file"), std::string::npos);
  EXPECT_NE(problem(dir + "/big").find("over 1 MiB"), std::string::npos);
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace bulkhead::daemon
