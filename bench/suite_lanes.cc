// Row 16, the whole of it: producers in processes of their own fill lanes as fast as they are emptied, and the daemon's own writer
// (src/daemon/audit_writer.h) drains them, checks each entry against its grant, makes the tree, writes to the disk, with fdatasync each
// 10 ms and signed checkpoints each second by a thread beside it. The writer's thread is pinned to one core; its rate is by its own
// CPU time ("a core") and by the wall.
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "audit/sha256.h"
#include "audit/sync_thread.h"
#include "base/clock.h"
#include "bench/audit_log.h"
#include "daemon/audit_writer.h"
#include "daemon/grant_book.h"

namespace bulkhead::bench {
namespace {

using daemon::AuditSession;
using daemon::AuditWriter;
constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr timespec kLook{0, 100'000};  // as the library waits for room
constexpr unsigned kWriterCore = 0;
enum Word : unsigned { kGo, kStop, kWords };

struct Fleet {
  std::shared_ptr<AuditSession> session = std::make_shared<AuditSession>();
  daemon::Sealed bell, intent, words;  // words: what the producers are told
  std::vector<pid_t> producers;
  [[nodiscard]] std::atomic<std::uint64_t>& word(Word w) const {
    return words.map.as<std::atomic<std::uint64_t>>()[w];
  }
};

bool seal(const char* name, std::size_t bytes, daemon::Sealed& out) {
  auto made = daemon::make_sealed(name, bytes);
  if (made.ok()) out = std::move(*made);
  return made.ok();
}

// What a process of the tenant does at each transfer, without the transfer: room, clock, entry, commit.
[[noreturn]] void produce(const Fleet& f, unsigned lane) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  AuditSession& s = *f.session;
  shm::LaneEnd end = shm::adopt_lane(*s.lanes[lane].map.as<shm::Lane>(), s.words().cells[lane]);
  const auto& bell = *f.bell.map.as<shm::Bell>();
  // orders: relaxed, one word each that says go or stop
  while (f.word(kGo).load(std::memory_order_relaxed) == 0) ::nanosleep(&kLook, nullptr);
  abi::AuditEntry e{};
  e.version_kind = abi::version_kind(abi::EntryKind::kTransfer);
  e.operation = 1;
  e.direction_decision_flags =
      abi::pack_verdict(abi::Direction::kHostToDevice, abi::Decision::kAllowed, 0);
  e.grant = 1;
  e.source = 0x7f0000000000;
  e.source_device = abi::kHostDevice;
  abi::set_bytes(e, 4096);
  while (f.word(kStop).load(std::memory_order_relaxed) == 0) {
    if (!shm::lane_has_room(end, 1)) {
      ::nanosleep(&kLook, nullptr);
      continue;
    }
    e.utc_ns = clock_ns(CLOCK_REALTIME);
    e.destination = 0x700000000000 + (end.next & 4095) * 4096;
    shm::lane_publish(end, e);
    if (bell.asleep.load(std::memory_order_relaxed) != 0)
      shm::ring_bell(*f.bell.map.as<shm::Bell>());
  }
  ::_exit(0);
}

bool make(Fleet& f, unsigned producers) {
  AuditSession& s = *f.session;
  s.serial = 1;
  s.pid = static_cast<std::uint32_t>(::getpid());
  s.tenant = "bench";
  s.devices = {"GPU-0"};
  s.enforce = true;
  if (!seal("bench-bell", sizeof(shm::Bell), f.bell) ||
      !seal("bench-intent", sizeof(shm::Intent), f.intent) || !seal("bench-words", 4096, f.words) ||
      !seal("bench-page", sizeof(shm::LanePage), s.page))
    return false;
  shm::format_bell(*f.bell.map.as<shm::Bell>(), shm::OnFull::kBlock, 60'000);
  s.words().session = 1;
  shm::publish_page(s.words());
  for (unsigned i = 0; i < producers; ++i) {
    if (!seal("bench-lane", sizeof(shm::Lane), s.lanes[i])) return false;
    shm::format_lane(*s.lanes[i].map.as<shm::Lane>(), 1, i);
    shm::set_lane_state(s.words().cells[i], shm::kLaneOpen);
  }
  for (unsigned i = 0; i < producers; ++i) {
    const pid_t pid = ::fork();
    if (pid == 0) produce(f, i);
    if (pid < 0) return false;
    f.producers.push_back(pid);
  }
  return true;
}

void reap(const Fleet& f) {
  for (const pid_t pid : f.producers) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
}

// The writer's thread by its name; 0: it has not named itself yet.
pid_t writer_thread() {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream in(task.path() / "comm");
    std::string name;
    if (std::getline(in, name) && name == "bulkheadd-audit")
      return std::stoi(task.path().filename().string());
  }
  return 0;
}
// CPU time of a thread of ours, ns: the first number of schedstat.
std::uint64_t cpu_ns_of_thread(pid_t tid) {
  std::ifstream in("/proc/self/task/" + std::to_string(tid) + "/schedstat");
  std::uint64_t ns = 0;
  in >> ns;
  return ns;
}
void pin(pid_t tid, bool writer) {
  cpu_set_t set;
  CPU_ZERO(&set);
  const long cores = ::sysconf(_SC_NPROCESSORS_ONLN);
  for (long c = 0; c < cores; ++c) {
    if (cores == 1 || (c == kWriterCore) == writer) CPU_SET(static_cast<std::size_t>(c), &set);
  }
  ::sched_setaffinity(tid, sizeof set, &set);
}

struct Sample {
  std::uint64_t wall_ns = 0, cpu_ns = 0, entries = 0;
};

// "" or why not. What is measured lies between two looks, not at the ends.
std::string pipeline(const std::string& where, unsigned producers, std::uint64_t seconds,
                     Sample& out, daemon::AuditFigures& figures) {
  Fleet f;
  pin(0, false);  // producers and the syncing thread, which inherit it
  if (!make(f, producers)) {
    reap(f);
    return "no memory for lanes";
  }
  audit::WriterOptions options;
  options.origin = "bench/bulkhead";
  auto opened = audit::Writer::open(std::make_unique<audit::PosixFiles>(where),
                                    std::make_unique<audit::SystemClock>(), options);
  if (!opened.ok()) {
    reap(f);
    return opened.problem;
  }
  audit::Writer& log = **opened;
  daemon::GrantBook book;
  const auto now_ns = static_cast<std::int64_t>(clock_ns(CLOCK_REALTIME));
  book.add(1, {"bench", now_ns - 5'000'000'000, now_ns + 86'400'000'000'000, 0, 2, {"GPU-0"}});
  const UniqueFd done{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  const std::uint64_t room = room_of(where, seconds);
  std::string problem;
  {
    audit::SyncThread syncing{log, {}, {}};
    AuditWriter writer{log, *f.bell.map.as<shm::Bell>(), *f.intent.map.as<shm::Intent>(),
                       done.get(), [&book](const AuditSession& s, const abi::AuditEntry& e) {
                         return book.check(s.tenant, s.devices, e);
                       }};
    writer.start();
    writer.record(grant_record());
    writer.add(f.session);
    for (unsigned i = 0; i < producers; ++i) writer.add_lane(f.session, i);
    pid_t thread = 0;
    while ((thread = writer_thread()) == 0) ::nanosleep(&kLook, nullptr);
    pin(thread, true);
    // orders: relaxed, one word each
    f.word(kGo).store(1, std::memory_order_relaxed);
    const auto look = [&] {
      const std::uint64_t wall = monotonic_ns();
      return Sample{wall, cpu_ns_of_thread(thread), log.size()};
    };
    const auto rest = [](std::uint64_t ms) {
      const timespec t{static_cast<time_t>(ms / 1000), static_cast<long>(ms % 1000 * 1'000'000)};
      ::nanosleep(&t, nullptr);
    };
    rest(500);  // lanes have been written once: their pages are there
    const Sample from = look();
    Sample to = from;
    while (to.wall_ns - from.wall_ns < seconds * kSecond && log.size() * 58 < room) {
      rest(250);
      to = look();
      if (writer.figures().failed) break;
    }
    out = {to.wall_ns - from.wall_ns, to.cpu_ns - from.cpu_ns, to.entries - from.entries};
    f.word(kStop).store(1, std::memory_order_relaxed);
    for (const pid_t pid : f.producers) ::waitpid(pid, nullptr, 0);
    writer.end(f.session);
    std::uint64_t ended = 0;
    while (::read(done.get(), &ended, sizeof ended) < 0 && !writer.figures().failed) rest(10);
    writer.stop();
    figures = writer.figures();
    problem = figures.failure;
  }
  if (problem.empty() && log.durable() != log.size()) problem = "what was written is not durable";
  if (problem.empty() && (figures.violations | figures.malformed | figures.faulty_lanes) != 0)
    problem = "a good entry was called a violation";
  return problem;
}

}  // namespace

void lanes_to_disk(Bench& b) {
  const std::string name = "lanes to disk, tree, fdatasync, checkpoints";
  if (!b.lab.asked(name)) return;
  const unsigned producers = b.lab.quick ? 2 : 8;
  const std::uint64_t seconds = b.lab.quick ? 10 : 60;
  const std::string disk = b.lab.scratch + "/lanes",
                    memory = "/dev/shm/bulkhead-lanes-" + std::to_string(::getpid());
  cpu_set_t before;
  ::sched_getaffinity(0, sizeof before, &before);
  for (const std::string& where : {disk, memory}) {
    const std::string of_it =
        std::to_string(producers) + " " + (where == disk ? name : "to memory (tmpfs)");
    std::filesystem::create_directories(where);
    Sample s;
    daemon::AuditFigures figures;
    const std::uint64_t of_time = where == disk ? seconds : b.lab.quick ? 3 : 10;
    if (std::string why = pipeline(where, producers, of_time, s, figures); !why.empty()) {
      b.results.failed(of_it, "bulkhead", why);
    } else {
      const double wall_s = static_cast<double>(s.wall_ns) / 1e9;
      b.results.add(of_it, "entries a CPU second", "M/s", "bulkhead",
                    per_second(s.entries, s.cpu_ns) / 1e6, "goal >= 5");
      b.results.add(of_it, "entries a second", "M/s", "bulkhead",
                    per_second(s.entries, s.wall_ns) / 1e6);
      b.results.add(of_it, "written", "MB/s", "bulkhead",
                    per_second(s.entries * 56, s.wall_ns) / 1e6);
      b.results.add(of_it, "sustained", "s", "bulkhead", wall_s);
      b.results.add(of_it, "most that waited in a lane", "entries", "bulkhead",
                    static_cast<double>(figures.high_water), "of 131,072");
      if (where == disk) verify_written(b, where, "verify: what came through the lanes", "");
    }
    std::filesystem::remove_all(where);
    std::filesystem::create_directories(where);
    if (where == disk) write_bare(b, where, of_it, std::min<std::uint64_t>(seconds, 10));
    std::filesystem::remove_all(where);
  }
  ::sched_setaffinity(0, sizeof before, &before);
}

}  // namespace bulkhead::bench
