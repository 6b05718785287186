#include "daemon/store.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "wire/lines.h"

namespace bulkhead::daemon {
namespace {

namespace fs = std::filesystem;

struct TempDir {
  TempDir() {
    char text[] = "/tmp/bh_store_XXXXXX";
    path = ::mkdtemp(text);
  }
  ~TempDir() { fs::remove_all(path); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  [[nodiscard]] std::string operator/(const char* name) const { return path + "/" + name; }
  std::string path;
};

std::unique_ptr<Store> open_store(const std::string& path, std::uint64_t rotate = 8u << 20,
                                  std::size_t queue = 2u << 20) {
  auto store = Store::open({path, rotate, queue, 8u << 20, 1});
  EXPECT_TRUE(store.ok()) << store.problem;
  return std::move(*store);
}
std::vector<std::string> all_lines(const std::string& dir, const char* name) {
  return read_last_lines(dir, name, 1u << 20, 1u << 30);
}
std::string content(const std::string& path) {
  std::ifstream in{path};
  return {std::istreambuf_iterator<char>{in}, {}};
}
wire::EventView event(std::uint64_t id) {
  wire::EventView e{};
  e.id = id;
  e.kind = wire::EventKind::kProcessReaped;
  e.uid = wire::kNoId;
  return e;
}

TEST(Store, LinesAndFilesArriveInOrder) {
  TempDir dir;
  auto store = open_store(dir.path);
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(store->append_event("e" + std::to_string(i)));
  store->append_usage("u");
  store->replace(kUsageOpenFile, "old");
  store->replace(kUsageOpenFile, "new");
  ASSERT_TRUE(store->wait_idle(60'000));
  const auto lines = all_lines(dir.path, kEventsFile);
  ASSERT_EQ(lines.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(lines[static_cast<unsigned>(i)], "e" + std::to_string(i));
  EXPECT_EQ(content(dir / kUsageFile), "u\n");
  EXPECT_EQ(content(dir / kUsageOpenFile), "new");
  EXPECT_EQ(store->health().written_lines, 101u);
  struct stat st {};
  ASSERT_EQ(::stat((dir / kEventsFile).c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
}

TEST(Store, RotatesAndKeepsTheFileBefore) {
  TempDir dir;
  auto store = open_store(dir.path, 1000);
  for (int i = 0; i < 100; ++i) {
    store->append_event("line " + std::to_string(1000 + i));  // 10 bytes with its end
    ASSERT_TRUE(store->wait_idle(60'000));
  }
  EXPECT_EQ(fs::file_size(dir / kEventsFile), 1000u);
  store->append_event("one more");
  ASSERT_TRUE(store->wait_idle(60'000));
  EXPECT_EQ(content(dir / kEventsFile), "one more\n");
  EXPECT_EQ(fs::file_size(dir / kEventsBefore), 1000u);
}

TEST(Store, StopWritesWhatWaits) {
  TempDir dir;
  auto store = open_store(dir.path);
  for (int i = 0; i < 1000; ++i) store->append_event("x");
  store->stop();
  EXPECT_EQ(all_lines(dir.path, kEventsFile).size(), 1000u);
  EXPECT_FALSE(store->append_event("late"));
}

TEST(Store, ATornLastLineIsCut) {
  TempDir dir;
  for (const char* torn : {"whole\nto", "to"}) {
    std::ofstream{dir / kEventsFile} << torn;
    const auto seen = all_lines(dir.path, kEventsFile);
    EXPECT_EQ(seen.size(), std::string{torn}.find('\n') == std::string::npos ? 0u : 1u);
    auto store = open_store(dir.path);
    store->append_event("next");
    store->stop();
    EXPECT_EQ(content(dir / kEventsFile),
              std::string{torn}.substr(0, seen.empty() ? 0 : 6) + "next\n");
  }
}

TEST(Store, NeverFollowsALink) {
  TempDir dir;
  std::ofstream{dir / "target"} << "precious";
  fs::create_symlink(dir / "target", dir / kEventsFile);
  auto store = open_store(dir.path);
  store->append_event("x");
  store->stop();
  EXPECT_EQ(content(dir / "target"), "precious");
  EXPECT_EQ(store->health().error_number, ELOOP);
}

// A directory where the file should be: whatever the uid, nothing can be written.
TEST(Store, FailsTriesAgainAndRecoversWithNothingTwice) {
  TempDir dir;
  fs::create_directory(dir / kEventsFile);
  auto store = open_store(dir.path, 8u << 20, 100);
  int taken = 0;
  while (store->append_event("line")) ++taken;  // until the queue is full
  while (store->health().failures < 3) ::usleep(1000);
  StoreHealth health = store->health();
  EXPECT_TRUE(health.failing);
  EXPECT_EQ(health.error_number, EISDIR);
  EXPECT_EQ(health.file, kEventsFile);
  EXPECT_GE(health.lost_lines, 1u);
  EXPECT_EQ(health.written_lines, 0u);
  const auto taken_late = static_cast<std::uint64_t>(taken);
  fs::remove(dir / kEventsFile);
  ASSERT_TRUE(store->wait_idle(60'000));
  health = store->health();
  EXPECT_FALSE(health.failing);
  EXPECT_EQ(health.written_lines, taken_late);
  EXPECT_EQ(all_lines(dir.path, kEventsFile).size(), taken_late);
}

TEST(Store, AFullDiskLosesOnlyWhatIsCounted) {
  TempDir dir;
  if (::mount("tmpfs", dir.path.c_str(), "tmpfs", 0, "size=64k") != 0)
    GTEST_SKIP() << "mounting a small file system needs root";
  {
    std::ofstream{dir / "ballast"} << std::string(40'000, 'b');
    auto store = open_store(dir.path, 8u << 20, 8000);
    std::uint64_t taken = 0, lost = 0;
    for (int i = 0; store->health().failures < 3 || lost < 5; ++i) {
      const bool ok =
          store->append_event(wire::event_line(event(static_cast<std::uint64_t>(i + 1))));
      ok ? ++taken : ++lost;
      if (!ok) ::usleep(500);
    }
    EXPECT_EQ(store->health().error_number, ENOSPC);
    for (const auto& line : all_lines(dir.path, kEventsFile)) {
      wire::EventView e;
      EXPECT_TRUE(wire::parse_event_line(line, e)) << line;
    }
    fs::remove(dir / "ballast");
    ASSERT_TRUE(store->wait_idle(60'000));
    EXPECT_EQ(store->health().lost_lines, lost);
    const auto lines = all_lines(dir.path, kEventsFile);
    EXPECT_EQ(lines.size(), taken);
    std::uint64_t before = 0;
    for (const auto& line : lines) {
      wire::EventView e;
      ASSERT_TRUE(wire::parse_event_line(line, e));
      EXPECT_GT(e.id, before);  // in order, none twice
      before = e.id;
    }
  }
  ::umount(dir.path.c_str());
}

TEST(Store, ALimitOnTheFileIsAnErrorNotASignal) {
  TempDir dir;
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit{500, 500};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    auto store = Store::open({dir.path, 8u << 20, 2u << 20, 8u << 20, 1});
    for (int i = 0; i < 100; ++i) (*store)->append_event("0123456789");
    while ((*store)->health().failures == 0) ::usleep(1000);
    const bool right = (*store)->health().error_number == EFBIG;
    ::_exit(right ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

// Writes until it is killed. Says on `ready` when the first line is on disk.
[[noreturn]] void write_for_ever(const std::string& path, int ready) {
  auto store = Store::open({path, 20'000, 2u << 20, 8u << 20, 1});
  std::uint64_t id = 0;
  wire::UsageLine row;
  row.row.tenant[0] = 'a';
  const std::vector<wire::UsageLine> rows(50, row);
  for (const char* name : {kEventsBefore, kEventsFile}) {
    for (const auto& line : all_lines(path, name)) {
      wire::EventView e;
      if (wire::parse_event_line(line, e) && e.id > id) id = e.id;
    }
  }
  for (;;) {
    (*store)->append_event(wire::event_line(event(++id)));
    (*store)->replace(kUsageOpenFile, wire::usage_open_text(rows, id));
    if (id % 16 == 0 && (*store)->wait_idle(60'000) && ready >= 0) {
      if (::write(ready, "x", 1) != 1) ::_exit(1);
      ready = -1;
    }
  }
}

TEST(Store, KilledAtRandomItLeavesOnlyATornLastLine) {
  TempDir dir;
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random{seed};
  std::uint64_t durable = 0;
  for (int round = 0; round < 40; ++round) {
    int pipe[2];
    ASSERT_EQ(::pipe(pipe), 0);
    const pid_t child = ::fork();
    if (child == 0) write_for_ever(dir.path, pipe[1]);
    ::close(pipe[1]);
    char byte = 0;
    ASSERT_EQ(::read(pipe[0], &byte, 1), 1);
    ::usleep(static_cast<useconds_t>(random() % 8000));  // the moment of the kill, not a wait
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ::close(pipe[0]);
    std::uint64_t before = 0;
    for (const char* name : {kEventsBefore, kEventsFile}) {
      for (const auto& line : all_lines(dir.path, name)) {  // leaves only a torn last line out
        wire::EventView e;
        ASSERT_TRUE(wire::parse_event_line(line, e)) << name << ": " << line;
        // Across restarts and the rotation.
        ASSERT_TRUE(before == 0 || e.id == before + 1) << e.id << " after " << before;
        before = e.id;
      }
    }
    EXPECT_GT(before, durable) << "what was on disk before this run is gone";
    durable = before;
    std::vector<wire::UsageLine> rows;
    std::uint64_t next = 0;
    ASSERT_TRUE(wire::parse_usage_open(content(dir / kUsageOpenFile), rows, next));
    EXPECT_EQ(rows.size(), 50u);
  }
}

}  // namespace
}  // namespace bulkhead::daemon
