// Deaths with the daemon's regions and reaper at work, which dies itself, again and again. BH_STORM_SECONDS says how
// long (default 5), BH_STORM_SEED repeats a run's choices.
#include <fcntl.h>
#include <sys/prctl.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <random>
#include <regex>
#include <set>
#include <vector>

#include "base/clock.h"
#include "base/kill_point.h"
#include "daemon/loop.h"
#include "daemon/regions_impl.h"
#include "shm/governed.h"
#include "tests/storm/storm.h"

namespace bulkhead::daemon {
namespace {

using namespace bulkhead::shm;
constexpr std::uint64_t kLimit = 64 * kMiB;
constexpr unsigned kWorkers = 6;

// What bulkheadd is to the regions: start, adopt, scan, reap, until it is killed.
struct Daemon {
  Loop loop;
  TenantRegions regions;
  explicit Daemon(const Dir& dir)
      : regions({&dir,
                 &loop.poller(),
                 [this] { return loop.read_clock(); },
                 [this] { return loop.now(); },
                 {}}) {}
  bool start() {
    if (!regions.start(0).ok()) return false;
    loop.add(regions);
    return true;
  }
};
[[noreturn]] void serve(const Dir& dir) {
  Daemon daemon{dir};
  if (!daemon.start()) ::_exit(3);
  for (;;) daemon.loop.turn();
}

// Shared with the test: what a worker was about when it died.
struct Board {
  std::atomic<std::uint64_t> charges{0}, refused{0};
};

void work(const Dir& dir, std::uint64_t seed, Board& board) {
  std::mt19937_64 random{seed};
  Guest me;
  if (!me.join_to(dir, "t")) ::_exit(1);
  std::vector<std::uint64_t> mine;
  for (;;) {
    const std::uint64_t n = (1 + random() % 24) * kMiB / 2;
    if (random() % 2 == 0 || mine.empty()) {
      const bool fits = charge_or_reap(me.member, 0, n);
      (fits ? board.charges : board.refused).fetch_add(1);
      if (fits) mine.push_back(n);
    } else {
      give_back(me.region(), me.member.seat.slot, 0, mine.back());
      mine.pop_back();
    }
    if (random() % 64 == 0) ::usleep(100);
  }
}

std::uint64_t seed_of_run() {
  const char* chosen = std::getenv("BH_STORM_SEED");
  const std::uint64_t seed =
      chosen != nullptr ? std::strtoull(chosen, nullptr, 10) : std::random_device{}();
  std::printf("BH_STORM_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

void print_times(const char* what, std::vector<std::uint64_t>& ns) {
  if (ns.empty()) return;
  std::sort(ns.begin(), ns.end());
  const auto at = [&](double q) {
    return static_cast<double>(
               ns[static_cast<std::size_t>(q * static_cast<double>(ns.size() - 1))]) /
           1e6;
  };
  std::printf("%s, %zu deaths: p50 %.3f ms, p99 %.3f ms, max %.3f ms\n", what, ns.size(), at(0.5),
              at(0.99), at(1));
}

// Until nobody's books hold anything: only the daemon reaps here. A watchdog ends a wait that has no end.
bool comes_to(const Region& r, std::uint64_t bytes) {
  const std::uint64_t end_ns = monotonic_ns() + 30'000'000'000ull;
  while (held_bytes(r, 0) != bytes) {
    if (monotonic_ns() > end_ns) return false;
    ::usleep(200);
  }
  return true;
}

// One holds everything and is killed; how long until the books are empty, by the daemon alone. From the return of waitpid:
// the kernel has reported the death then, to us as to the daemon.
TEST(DaemonStorm, TimeToReuse) {
  const StormDir dir;
  ASSERT_TRUE(dir.create("t", kLimit).ok());
  const pid_t daemon = spawn([&] { serve(dir.get()); });
  Result<Tenant> look = attach_tenant(dir.get(), "t");
  ASSERT_TRUE(look.ok());
  Region& r = look->region();
  std::vector<std::uint64_t> times;
  for (int i = 0; i < 200; ++i) {
    const pid_t holder = spawn([&] {
      Guest me;
      if (!me.join_to(dir.get(), "t") || !charge_or_reap(me.member, 0, kLimit)) ::_exit(1);
      for (;;) ::pause();
    });
    ASSERT_TRUE(comes_to(r, kLimit));
    // the library's join tells the daemon at once; here the scan finds it, within a second
    if (i == 0) ::usleep(1'200'000);
    if (i % 20 != 0) ::usleep(static_cast<useconds_t>(i % 7) * 100);
    ::kill(holder, SIGKILL);
    ASSERT_TRUE(was_killed(wait_for(holder)));
    const std::uint64_t dead_ns = monotonic_ns();
    ASSERT_TRUE(comes_to(r, 0));
    times.push_back(monotonic_ns() - dead_ns);
    if (times.size() == 5) break;  // unwatched ones wait for the scan: a few show that it comes
  }
  print_times("from the death to the free slot, found by the scan", times);
  ::kill(daemon, SIGKILL);
  wait_for(daemon);
}

// The same with the pidfd in place before the death, as the library's join puts it there.
TEST(DaemonStorm, TimeToReuseOfAWatchedProcess) {
  const StormDir dir;
  ASSERT_TRUE(dir.create("t", kLimit).ok());
  Daemon daemon{dir.get()};
  ASSERT_TRUE(daemon.start());
  Result<Tenant> look = attach_tenant(dir.get(), "t");
  ASSERT_TRUE(look.ok());
  std::vector<std::uint64_t> times;
  for (int i = 0; i < 300; ++i) {
    const pid_t holder = spawn([&] {
      Guest me;
      if (!me.join_to(dir.get(), "t") || !charge_or_reap(me.member, 0, kLimit)) ::_exit(1);
      for (;;) ::pause();
    });
    ASSERT_TRUE(comes_to(look->region(), kLimit));
    const std::uint64_t s = look->region().slots[0].state.load();
    const int fd = static_cast<int>(::syscall(434 /* pidfd_open */, holder, 0));
    ASSERT_TRUE(daemon.regions
                    .watch("t", 0, static_cast<std::uint32_t>(gen_of(s)), UniqueFd{fd},
                           static_cast<std::uint32_t>(holder))
                    .ok());
    ::kill(holder, SIGKILL);
    const std::uint64_t before = daemon.regions.reaped().processes;
    siginfo_t info{};
    ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(holder), &info, WEXITED | WNOWAIT), 0);
    const std::uint64_t dead_ns = monotonic_ns();
    while (daemon.regions.reaped().processes == before) daemon.loop.turn();
    times.push_back(monotonic_ns() - dead_ns);
    ASSERT_EQ(held_bytes(look->region(), 0), 0u);
    wait_for(holder);
  }
  print_times("from the kernel's report to the free slot", times);
  EXPECT_EQ(daemon.regions.reaped().by_scan, 0u);
}

void stop_all(const std::vector<pid_t>& workers, pid_t but) {
  for (const pid_t worker : workers) {
    if (worker == but) continue;
    ::kill(worker, SIGSTOP);
    int status = 0;
    ASSERT_EQ(::waitpid(worker, &status, WUNTRACED), worker);
    ASSERT_TRUE(WIFSTOPPED(status));
  }
}

TEST(DaemonStorm, RandomDeathsOfTenantsAndOfTheDaemonLoseNothing) {
  std::mt19937_64 random{seed_of_run()};
  const StormDir dir;
  ASSERT_TRUE(dir.create("t", kLimit).ok());
  Board& board = *shared<Board>();
  Guest me;
  ASSERT_TRUE(me.join_to(dir.get(), "t"));
  Region& r = me.region();
  pid_t daemon = spawn([&] { serve(dir.get()); });
  std::vector<pid_t> workers(kWorkers);
  const auto start = [&](pid_t& worker) {
    worker = spawn([&, s = random()] { work(dir.get(), s, board); });
  };
  for (pid_t& worker : workers) start(worker);
  const std::uint64_t end_ns = monotonic_ns() + storm_seconds(5) * 1'000'000'000ull;
  unsigned deaths = 0, daemons = 0;
  while (monotonic_ns() < end_ns && !HasFailure()) {
    ::usleep(static_cast<useconds_t>(random() % 3000));
    if (random() % 12 == 0) {
      ::kill(daemon, SIGKILL);
      ASSERT_TRUE(was_killed(wait_for(daemon))) << "the daemon ended by itself";
      ++daemons;
      daemon = spawn([&] { serve(dir.get()); });
      continue;
    }
    pid_t& victim = workers[random() % kWorkers];
    ::kill(victim, SIGKILL);
    const int status = wait_for(victim);
    ASSERT_TRUE(was_killed(status)) << "a worker ended by itself, status " << status;
    ++deaths;
    if (deaths % 4 == 0) {
      // The sum reads one slot after the other: only while nobody moves is it of one moment. The daemon only lowers.
      ASSERT_NO_FATAL_FAILURE(stop_all(workers, victim));
      ASSERT_LE(held_bytes(r, 0), kLimit);
      for (const pid_t worker : workers) {
        if (worker != victim) ::kill(worker, SIGCONT);
      }
    }
    start(victim);
  }
  for (const pid_t worker : workers) {
    ::kill(worker, SIGKILL);
    wait_for(worker);
  }
  EXPECT_TRUE(comes_to(r, 0)) << "the daemon alone does not bring the books to nothing";
  ::kill(daemon, SIGKILL);
  wait_for(daemon);
  expect_whole(me, 0);
  for (unsigned j = 0; j < kMaxSlots; ++j) ASSERT_EQ(r.slots[j].faults.load(), 0u) << j;
  std::printf("%u deaths of tenants, %u of the daemon, %llu charges, %llu refusals\n", deaths,
              daemons, static_cast<unsigned long long>(board.charges.load()),
              static_cast<unsigned long long>(board.refused.load()));
  EXPECT_GT(deaths, 0u);
  EXPECT_GT(daemons, 0u);
}

// One tenant writes rubbish over its region, cuts it short and makes it long again, without end; the other one's dead
// are reaped all the same, and the daemon lives.
TEST(DaemonStorm, ATenantAtWarWithItsOwnRegionHarmsNobodyElse) {
  std::mt19937_64 random{seed_of_run()};
  const StormDir dir;
  ASSERT_TRUE(dir.create("bad", kLimit, 4 * kLimit).ok());
  ASSERT_TRUE(dir.create("t", kLimit, 4 * kLimit).ok());
  const std::string path = std::string{dir.get().path} + "/tenants/bad/region";
  const pid_t daemon = spawn([&] { serve(dir.get()); });
  const pid_t vandal = spawn([&, s = random()] {
    std::mt19937_64 mine{s};
    const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    std::vector<std::uint64_t> rubbish(4096);
    for (;;) {
      for (auto& word : rubbish) word = mine() >> (mine() % 64);
      (void)!::pwrite(fd, rubbish.data(), rubbish.size() * 8,
                      static_cast<off_t>(mine() % sizeof(Region)));
      (void)!::ftruncate(
          fd, static_cast<off_t>(mine() % 2 != 0 ? sizeof(Region) : mine() % sizeof(Region)));
      ::usleep(200);
    }
  });
  Result<Tenant> look = attach_tenant(dir.get(), "t");
  ASSERT_TRUE(look.ok());
  for (int i = 0; i < 5; ++i) {
    const pid_t holder = spawn([&] {
      Guest me;
      if (!me.join_to(dir.get(), "t") || !charge(me.region(), me.member.seat.slot, 0, kLimit))
        ::_exit(1);
      for (;;) ::pause();
    });
    ASSERT_TRUE(comes_to(look->region(), kLimit));
    ::kill(holder, SIGKILL);
    wait_for(holder);
    ASSERT_TRUE(comes_to(look->region(), 0));
    ASSERT_EQ(::kill(daemon, 0), 0);
    ASSERT_EQ(::waitpid(daemon, nullptr, WNOHANG), 0) << "the daemon died";
  }
  for (const pid_t p : {vandal, daemon}) {
    ::kill(p, SIGKILL);
    wait_for(p);
  }
}

#ifdef BH_KILL_POINTS
std::set<std::string> kill_points() {
  std::set<std::string> out;
  const std::regex pattern{"BH_KILL_POINT\\(\\s*\"([a-z_.]+)\"\\)"};
  for (const char* folder : {BH_SOURCE_DIR "/src/daemon", BH_SOURCE_DIR "/src/shm"}) {
    for (const auto& entry : std::filesystem::directory_iterator{folder}) {
      if (!entry.is_regular_file()) continue;
      std::ifstream file{entry.path()};
      const std::string text{std::istreambuf_iterator<char>{file}, {}};
      for (std::sregex_iterator it{text.begin(), text.end(), pattern}, end; it != end; ++it) {
        if (std::string{folder}.ends_with("daemon") || (*it)[1].str().rfind("node.", 0) == 0 ||
            (*it)[1].str().rfind("reap.", 0) == 0 || (*it)[1].str().rfind("create.", 0) == 0) {
          out.insert((*it)[1]);
        }
      }
    }
  }
  return out;
}

// All that the daemon does, over and over.
void govern(const Dir& dir) {
  Daemon daemon{dir};
  if (!daemon.start()) ::_exit(3);
  wire::TenantRecord made{};
  std::strcpy(made.name, "made");
  made.owner_uid = ::geteuid();
  made.device_count = 1;
  made.devices[0].uuid[0] = 2;
  made.devices[0].memory_bytes = kLimit;
  const std::uint8_t uuid[16] = {1};
  for (int i = 0;; ++i) {
    (void)daemon.regions.make(made);
    (void)daemon.regions.set_limit("t", uuid, i % 2 == 0 ? kLimit / 2 : kLimit);
    const std::uint32_t share = i % 2 == 0 ? 2500 : 5000;
    (void)daemon.regions.set_compute("t", uuid, {share, share});
    (void)daemon.regions.set_enforcer("t", i % 2 == 0 ? 0u : shm::kTenantSpatial,
                                      i % 2 == 0 ? "" : "g");
    if (shm::NodePage* const page = daemon.regions.page(); page != nullptr) {
      shm::Governed told{};
      told.beat_ns = monotonic_ns();
      shm::write_governed(*page, shm::add_governed(*page, uuid), told);
    }
    (void)daemon.regions.remove("made", false);
    // Every second one is watched and killed; the others end by themselves, and the scan finds them.
    const bool watched = i % 2 == 0;
    int told[2];
    if (::pipe2(told, O_CLOEXEC) != 0) ::_exit(5);
    const pid_t holder = spawn([&] {
      arm_kill_point("", 0);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      Guest me;
      if (!me.join_to(dir, "t") || !charge(me.region(), me.member.seat.slot, 0, kMiB)) return;
      const Seat seat = me.member.seat;
      if (::write(told[1], &seat, sizeof seat) != sizeof seat || !watched) return;
      for (;;) ::pause();
    });
    ::close(told[1]);
    Seat seat{};
    if (::read(told[0], &seat, sizeof seat) == sizeof seat && watched) {
      const int fd = static_cast<int>(::syscall(434 /* pidfd_open */, holder, 0));
      (void)daemon.regions.watch("t", seat.slot, static_cast<std::uint32_t>(seat.gen), UniqueFd{fd},
                                 static_cast<std::uint32_t>(holder));
      ::kill(holder, SIGKILL);
    }
    ::close(told[0]);
    while (::waitpid(holder, nullptr, WNOHANG) == 0) daemon.loop.turn(1);
    daemon.loop.turn(0);
    if (i % 8 == 7 && i < 64) {  // as a new start finds it
      Daemon again{dir};
      if (!again.start()) ::_exit(4);
    }
  }
}

TEST(DaemonStorm, KilledAtEveryPointTheNextDaemonGoesOn) {
  for (const std::string& point : kill_points()) {
    for (const std::uint64_t nth : {1u, 2u, 7u}) {
      SCOPED_TRACE(testing::Message() << point << " #" << nth);
      const StormDir dir;
      ASSERT_TRUE(dir.create("t", kLimit, 4 * kLimit).ok());
      const int status = wait_for(spawn([&] {
        arm_kill_point(point.c_str(), nth);
        govern(dir.get());
      }));
      ASSERT_TRUE(was_killed(status)) << "status " << status;
      Daemon next{dir.get()};
      ASSERT_TRUE(next.start());
      wire::TenantView view{};
      ASSERT_TRUE(next.regions.view("t", view));
      EXPECT_TRUE(view.devices[0].limit_bytes == kLimit ||
                  view.devices[0].limit_bytes == kLimit / 2);
      const std::uint8_t uuid[16] = {1};
      ASSERT_TRUE(next.regions.set_limit("t", uuid, kLimit).ok());
      (void)next.regions.remove("made", true);
      Guest me;
      ASSERT_TRUE(me.join_to(dir.get(), "t"));
      // A slot that the dead one was emptying is found by the next one's look at all slots, each second.
      const std::uint64_t until = monotonic_ns() + 30'000'000'000;
      while (held_bytes(me.region(), 0) != 0 && monotonic_ns() < until) next.loop.turn(10);
      expect_whole(me, 0);
    }
  }
}
#endif

}  // namespace
}  // namespace bulkhead::daemon
