// The admission protocol alone, over shared memory and real processes, no driver: ours beside the seeds' counter.
// atomics: the board counts what the processes did, across processes
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <random>

#include "base/clock.h"
#include "base/mapping.h"
#include "bench/crew.h"
#include "bench/rival_counter.h"
#include "bench/suites.h"
#include "shm/quota.h"
#include "shm/tenant.h"

namespace bulkhead::bench {
namespace {

constexpr unsigned kMostProcesses = 64;

struct alignas(64) Tally {
  std::uint64_t calls, refused;
  double cpu_ns;
};
// What the processes of one case share beside the protocol. A process's tally is read after its end.
struct Board {
  RivalCounter rival;
  alignas(
      64) std::atomic<std::int64_t> surely_held;  // raised after a grant, lowered before the return
  alignas(64) std::atomic<std::int64_t> most_held;
  Tally tally[kMostProcesses];
};

// One side: prepared by the parent, joined by each process.
class Ours {
 public:
  static constexpr const char* kName = "bulkhead";
  Ours(Board&, const std::string& dir, std::uint64_t limit) : path_(dir + "/admission") {
    std::filesystem::create_directory(path_);
    std::filesystem::permissions(path_, std::filesystem::perms::owner_all);
    auto dir_opened = open();
    shm::TenantSpec spec;
    spec.name = "admission";
    spec.owner_uid = ::geteuid();
    spec.device_count = 1;
    spec.devices[0].uuid[0] = 1;
    spec.devices[0].limit_bytes = spec.devices[0].total_bytes = limit;
    shm::Arithmetic sums;
    ok_ = dir_opened.ok() && shm::create_tenant(*dir_opened, spec, sums).ok();
  }
  ~Ours() { std::filesystem::remove_all(path_); }
  [[nodiscard]] bool join() {
    auto dir = open();
    if (!ok_ || !dir.ok()) return false;
    auto tenant = shm::attach_tenant(*dir, "admission");
    if (!tenant.ok()) return false;
    tenant_ = std::move(*tenant);
    if (!shm::join(tenant_, member_).ok()) return false;
    region_ = &tenant_.region();
    slot_ = member_.seat.slot;
    return true;
  }
  [[nodiscard]] bool take(std::uint64_t n) { return shm::charge(*region_, slot_, 0, n); }
  void give(std::uint64_t n) { shm::give_back(*region_, slot_, 0, n); }
  // All its processes are dead: what the books still hold once a newcomer has reaped them.
  [[nodiscard]] std::uint64_t left() {
    if (!join()) return ~0ull;
    shm::reap_dead(*region_, member_.world, member_.seat);
    return shm::held_bytes(*region_, 0);
  }

 private:
  [[nodiscard]] Result<shm::Dir> open() const {
    shm::DirOptions options;
    options.asked = path_.c_str();
    options.euid = ::geteuid();
    options.simulated = true;  // a private directory, whatever the node's own rules are
    return shm::open_dir(options);
  }
  std::string path_;
  bool ok_ = false;
  shm::Tenant tenant_;
  shm::Member member_;
  shm::Region* region_ = nullptr;
  unsigned slot_ = 0;
};

class Rival {
 public:
  static constexpr const char* kName = "global counter";
  Rival(Board& board, const std::string&, std::uint64_t limit) : c_(board.rival) {
    c_.limit.store(limit, std::memory_order_relaxed);  // before any process starts
  }
  [[nodiscard]] bool join() { return true; }
  [[nodiscard]] bool take(std::uint64_t n) { return c_.take(n); }
  void give(std::uint64_t n) { c_.give(n); }
  // There is no record of who held what: nothing to reap by.
  [[nodiscard]] std::uint64_t left() { return c_.held.load(std::memory_order_relaxed); }

 private:
  RivalCounter& c_;
};

struct Case {
  unsigned processes;
  std::uint64_t limit;
  std::uint64_t size[3];  // process k asks for size[k % sizes]
  unsigned sizes;
  bool truth;  // keep the board's sum (its own contended line: not for timing)
};

// The work of process k until `stop_ns` of CLOCK_MONOTONIC, or for ever (0).
template <class Side>
void work(Side& side, Board& board, const Case& c, unsigned k, std::uint64_t length_ns) {
  const std::uint64_t n = c.size[k % c.sizes];
  Tally& tally = board.tally[k];
  const std::uint64_t stop = length_ns == 0 ? ~0ull : monotonic_ns() + length_ns;
  const std::uint64_t cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);
  while (monotonic_ns() < stop) {
    for (int i = 0; i < 256; ++i) {
      ++tally.calls;
      if (!side.take(n)) {
        ++tally.refused;
        continue;
      }
      if (c.truth) {
        // relaxed: a sum of what is surely held; its maximum is read after all have ended
        const std::int64_t held =
            board.surely_held.fetch_add(static_cast<std::int64_t>(n), std::memory_order_relaxed) +
            static_cast<std::int64_t>(n);
        std::int64_t most = board.most_held.load(std::memory_order_relaxed);
        while (held > most &&
               !board.most_held.compare_exchange_weak(most, held, std::memory_order_relaxed)) {
        }
        board.surely_held.fetch_sub(static_cast<std::int64_t>(n), std::memory_order_relaxed);
      }
      side.give(n);
    }
  }
  tally.cpu_ns = static_cast<double>(clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu);
}

struct BoardMap {
  Mapping map;
  BoardMap() {
    void* at =
        ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at != MAP_FAILED) map = Mapping{new (at) Board{}, sizeof(Board)};
  }
};

// Process k on core k modulo their number: two processes contend only if they run at the same time.
void pin(unsigned k) {
  cpu_set_t allowed, one;
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  int nth = static_cast<int>(k) % CPU_COUNT(&allowed), cpu = 0;
  while (!CPU_ISSET(cpu, &allowed) || nth-- > 0) ++cpu;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  ::sched_setaffinity(0, sizeof one, &one);
}

// Starts the processes; each joins, tells so, and waits for the pipe to close. Returns their pids.
template <class Side>
std::vector<pid_t> start(Side& side, Board& board, const Case& c, std::uint64_t length_ns) {
  int ready[2], go[2];
  std::vector<pid_t> pids;
  if (::pipe(ready) != 0 || ::pipe(go) != 0) return pids;
  for (unsigned k = 0; k < c.processes; ++k) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::close(go[1]);
      pin(k);
      char byte = 'r';
      if (!side.join() || ::write(ready[1], &byte, 1) != 1) ::_exit(1);
      (void)!::read(go[0], &byte, 1);  // end of file starts all at once
      work(side, board, c, k, length_ns);
      ::_exit(0);
    }
    pids.push_back(pid);
  }
  ::close(ready[1]);
  char byte;
  unsigned joined = 0;
  while (joined < c.processes && ::read(ready[0], &byte, 1) == 1) ++joined;
  ::close(ready[0]), ::close(go[0]), ::close(go[1]);
  if (joined == c.processes) return pids;
  for (const pid_t pid : pids) ::kill(pid, SIGKILL), ::waitpid(pid, nullptr, 0);
  return {};
}

template <class Side>
void timed(Bench& b, const std::string& name, const Case& c) {
  BoardMap map;
  Board& board = *map.map.template as<Board>();
  Side side(board, b.lab.scratch, c.limit);
  const auto pids = start(side, board, c, b.lab.quick ? 60'000'000 : 300'000'000);
  if (pids.empty()) return b.results.failed(name, Side::kName, "a process could not join");
  for (const pid_t pid : pids) ::waitpid(pid, nullptr, 0);
  double calls = 0, cpu = 0, refused = 0;
  for (unsigned k = 0; k < c.processes; ++k)
    calls += static_cast<double>(board.tally[k].calls), cpu += board.tally[k].cpu_ns,
        refused += static_cast<double>(board.tally[k].refused);
  b.results.add(name, "CPU a call", "ns", Side::kName, cpu / calls);
  b.results.add(name, "refused", "%", Side::kName, refused / calls * 100);
  if (c.sizes == 3)  // the third always fits beside one of the others
    b.results.add(name, "false refusals of the one that fits", "per 10^6", Side::kName,
                  static_cast<double>(board.tally[2].refused) /
                      static_cast<double>(board.tally[2].calls) * 1e6);
  if (c.truth) {
    const double over = static_cast<double>(board.most_held.load(std::memory_order_relaxed)) -
                        static_cast<double>(c.limit);
    b.results.add(name, "overshoot", "B", Side::kName, over > 0 ? over : 0);
  }
}

// Kills at random moments, four processes at a time; then everybody is dead, and what the books hold has leaked.
template <class Side>
void killed(Bench& b) {
  const unsigned kills = b.lab.quick ? 40 : 1000;
  const std::string name = std::to_string(kills) + " SIGKILLs";
  const Case c{4, 1000 * kMiB, {7 * kMiB}, 1, false};
  BoardMap map;
  Board& board = *map.map.template as<Board>();
  Side side(board, b.lab.scratch, c.limit);
  std::mt19937_64 random(11);
  for (unsigned done = 0; done < kills;) {
    const auto pids = start(side, board, c, 0);
    if (pids.empty()) return b.results.failed(name, Side::kName, "a process could not join");
    for (const pid_t pid : pids) {
      timespec nap{0, static_cast<long>(random() % 2'000'000)};
      ::nanosleep(&nap, nullptr);
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
      ++done;
    }
  }
  b.results.add(name, "leaked", "B", Side::kName, static_cast<double>(side.left()), "seed 11");
}

template <class Side>
void all(Bench& b) {
  std::vector<unsigned> many = {1, 2, 8};
  if (!b.lab.quick) many.push_back(64);
  for (const unsigned n : many)
    timed<Side>(b,
                std::to_string(n) + (n == 1 ? " process" : " processes") + ", far from the limit",
                {n, 1ull << 40, {kMiB}, 1, false});
  timed<Side>(b, "8 processes, limit fits them exactly", {8, 8 * kMiB, {kMiB}, 1, false});
  timed<Side>(b, "60 + 60 + 20 of 100",
              {3, 100 * kMiB, {60 * kMiB, 60 * kMiB, 20 * kMiB}, 3, false});
  timed<Side>(b, "4 processes, limit holds two", {4, 5 * kMiB, {2 * kMiB}, 1, true});
}

}  // namespace

void suite_admission(Bench& b) {
  b.results.begin(0, "admission");
  for (unsigned repeat = 0; repeat < b.lab.repeats; ++repeat) {
    all<Rival>(b);
    all<Ours>(b);
  }
  killed<Rival>(b);
  killed<Ours>(b);
  b.results.print(b.lab, stdout);
}

}  // namespace bulkhead::bench
