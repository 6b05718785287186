// The control loop, what it is made of, and what the service manager wants of it.
#include "daemon/loop.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "daemon/sealed.h"
#include "daemon/service.h"
#include "shm/beacon.h"

namespace bulkhead::daemon {
namespace {

struct Pipe {
  UniqueFd out, in;
  Pipe() {
    int fds[2];
    EXPECT_EQ(::pipe2(fds, O_CLOEXEC), 0);
    out.reset(fds[0]);
    in.reset(fds[1]);
  }
  void write() { EXPECT_EQ(::write(in.get(), "x", 1), 1); }
};

TEST(EpollPoller, AHandlerMayRemoveAnyOther) {
  EpollPoller poller;
  Pipe a, b;
  a.write();
  b.write();
  int calls = 0;
  const auto once = [&](std::uint32_t) {  // whichever comes first ends both
    ++calls;
    poller.remove(a.out.get());
    poller.remove(b.out.get());
  };
  ASSERT_TRUE(poller.add(a.out.get(), EPOLLIN, once).ok());
  ASSERT_TRUE(poller.add(b.out.get(), EPOLLIN, once).ok());
  EXPECT_EQ(poller.wait(1000), 2);
  poller.dispatch();
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(poller.wait(0), 0);
}

TEST(EpollPoller, AnEventOfAnOldRegistrationIsNotTheNewOnes) {
  EpollPoller poller;
  Pipe a, b;
  a.write();
  b.write();
  int fresh = 0;
  const auto replace = [&](int fd) {
    return [&, fd](std::uint32_t) {
      const int other = fd == a.out.get() ? b.out.get() : a.out.get();
      poller.remove(other);  // its event was fetched already; the number is registered anew
      (void)poller.add(other, EPOLLIN, [&](std::uint32_t) { ++fresh; });
    };
  };
  ASSERT_TRUE(poller.add(a.out.get(), EPOLLIN, replace(a.out.get())).ok());
  ASSERT_TRUE(poller.add(b.out.get(), EPOLLIN, replace(b.out.get())).ok());
  ASSERT_EQ(poller.wait(1000), 2);
  poller.dispatch();
  EXPECT_EQ(fresh, 0);
}

struct Counter : Duty {
  int ticks = 0, answer = 1000;
  std::vector<std::uint64_t> seen;
  int tick(const Now& now) override {
    ++ticks;
    seen.push_back(now.mono_ns);
    return answer;
  }
  const char* name() const override { return "counter"; }
};

TEST(Loop, RunsDutiesByAnInjectedClock) {
  Now now{.mono_ns = 5};
  Loop loop{[&] { return now; }};
  Counter counter;
  loop.add(counter);
  loop.turn(0);
  now.mono_ns = 9;
  loop.turn(0);
  EXPECT_EQ(counter.seen, (std::vector<std::uint64_t>{5, 9}));
  counter.answer = -1;  // nothing due: only a descriptor ends the wait
  loop.turn(0);
  Pipe p;
  p.write();
  ASSERT_TRUE(loop.poller().add(p.out.get(), EPOLLIN, [&](std::uint32_t) { loop.stop(); }).ok());
  loop.run();
  EXPECT_GE(counter.ticks, 4);
}

class Folder : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/bulkhead-loop-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    path = name;
    fd.reset(::open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  void TearDown() override { std::filesystem::remove_all(path); }
  std::string path;
  UniqueFd fd;
};

TEST_F(Folder, ASecondDaemonIsRefusedByThePidOfTheFirst) {
  auto first = lock_directory_for_daemon(fd.get(), path);
  ASSERT_TRUE(first.ok()) << first.problem;
  const auto second = lock_directory_for_daemon(fd.get(), path);
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.problem.find("pid " + std::to_string(::getpid())), std::string::npos)
      << second.problem;
  EXPECT_NE(second.problem.find(path), std::string::npos);
  (*first).reset();
  EXPECT_TRUE(lock_directory_for_daemon(fd.get(), path).ok());
}

TEST_F(Folder, AStalePidIsHarmless) {
  const UniqueFd stale{::openat(fd.get(), "daemon.lock", O_CREAT | O_WRONLY | O_CLOEXEC, 0644)};
  ASSERT_EQ(::write(stale.get(), "999999999 and more\n", 19), 19);
  const auto lock = lock_directory_for_daemon(fd.get(), path);
  ASSERT_TRUE(lock.ok()) << lock.problem;
  char text[64] = {};
  const UniqueFd again{::openat(fd.get(), "daemon.lock", O_RDONLY | O_CLOEXEC)};
  EXPECT_GT(::read(again.get(), text, sizeof text - 1), 0);
  EXPECT_EQ(std::string{text}, std::to_string(::getpid()) + "\n");
}

// Who can open it can hold it: flock() asks for no right to write.
TEST_F(Folder, NobodyElseCanHoldTheLock) {
  const UniqueFd older{::openat(fd.get(), "daemon.lock", O_CREAT | O_WRONLY | O_CLOEXEC, 0644)};
  ASSERT_EQ(::fchmod(older.get(), 0644), 0);
  ASSERT_TRUE(lock_directory_for_daemon(fd.get(), path).ok());
  struct stat st {};
  ASSERT_EQ(::fstat(older.get(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
}

TEST_F(Folder, TheServiceManagerIsTold) {
  const std::string at = path + "/notify";
  const UniqueFd manager{::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  at.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(manager.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ::setenv("NOTIFY_SOCKET", at.c_str(), 1);
  ::setenv("WATCHDOG_USEC", "4000000", 1);
  notify("READY=1");
  Watchdog watchdog;
  EXPECT_EQ(watchdog.tick({.mono_ns = 1'000'000}), 2000);
  EXPECT_EQ(watchdog.tick({.mono_ns = 501'000'000}), 1500);
  EXPECT_EQ(watchdog.tick({.mono_ns = 2'001'000'000}), 2000);
  ::unsetenv("NOTIFY_SOCKET");
  ::unsetenv("WATCHDOG_USEC");
  std::string got;
  char text[64];
  for (ssize_t n = 0; (n = ::read(manager.get(), text, sizeof text)) > 0; got += ';') {
    got.append(text, static_cast<std::size_t>(n));
  }
  EXPECT_EQ(got, "READY=1;WATCHDOG=1;WATCHDOG=1;");
  EXPECT_EQ(Watchdog{}.tick({}), -1);
}

TEST(Sealed, NobodyElseCanWriteOrResizeIt) {
  auto made = make_sealed("test", sizeof(shm::Beacon));
  ASSERT_TRUE(made.ok()) << made.status().text();
  shm::format_beacon(*made->map.as<shm::Beacon>(), "a");
  struct stat st {};
  ASSERT_EQ(::fstat(made->fd.get(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  EXPECT_NE(::ftruncate(made->fd.get(), 0), 0);
  EXPECT_NE(::ftruncate(made->fd.get(), 8192), 0);
  EXPECT_NE(::fcntl(made->fd.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
  auto reader = reopen_read_only(made->fd.get());
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, reader->get(), 0),
            MAP_FAILED);
  void* const at = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, reader->get(), 0);
  ASSERT_NE(at, MAP_FAILED);
  EXPECT_NE(::mprotect(at, 4096, PROT_READ | PROT_WRITE), 0);
  EXPECT_LT(::write(reader->get(), "x", 1), 0);
  EXPECT_EQ(static_cast<const shm::Beacon*>(at)->magic.load(), shm::kBeaconMagic);
  EXPECT_STREQ(static_cast<const shm::Beacon*>(at)->name, "a");
  ::munmap(at, 4096);
}

}  // namespace
}  // namespace bulkhead::daemon
