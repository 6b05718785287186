// The audit log alone: the writer fed with the batches of eight producers from memory, to disk and to memory, beside what the
// disk takes by itself; and the verifier. Lanes and the daemon's check are not in it. Rates are by the CPU time of the one
// thread that is measured ("a core"), and by the wall beside it.
#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <filesystem>

#include "audit/sync_thread.h"
#include "audit/verify.h"
#include "base/clock.h"
#include "base/fd.h"
#include "bench/audit_log.h"

namespace bulkhead::bench {

double per_second(std::uint64_t count, std::uint64_t ns) {
  return ns == 0 ? 0 : static_cast<double>(count) * 1e9 / static_cast<double>(ns);
}

std::string grant_record() {
  const std::uint64_t now_s = clock_ns(CLOCK_REALTIME) / 1'000'000'000;
  return "{\"bytes\":0,\"devices\":[\"GPU-0\"],\"directions\":[\"h2d\"],\"exp\":" +
         std::to_string(now_s + 86400) + ",\"jwt\":\"a.b.c\",\"nbf\":" + std::to_string(now_s - 5) +
         ",\"record\":\"grant\",\"serial\":1,\"session_tenant\":\"bench\",\"sub\":\"bench\"}";
}

std::uint64_t room_of(const std::string& dir, std::uint64_t seconds) {
  struct statvfs fs {};
  if (::statvfs(dir.c_str(), &fs) != 0) return 0;
  return std::min<std::uint64_t>(static_cast<std::uint64_t>(fs.f_bavail) * fs.f_frsize / 2,
                                 seconds * 10'000'000 * 58);
}

namespace {

using audit::WriterOptions;
constexpr unsigned kProducers = 8;
constexpr std::size_t kVisit = 256;  // entries a visit of a lane
constexpr std::uint64_t kSecond = 1'000'000'000, kSyncNs = 10'000'000;

struct Clocks {
  std::uint64_t wall = monotonic_ns(), cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);
};

// What eight producers have put into their lanes: a batch each, whose sequences and times go on at every visit.
class Producers {
 public:
  explicit Producers(std::uint32_t grant) {
    for (unsigned p = 0; p < kProducers; ++p) {
      for (std::size_t i = 0; i < kVisit; ++i) {
        abi::AuditEntry e{};
        e.version_kind = abi::version_kind(abi::EntryKind::kTransfer);
        e.operation = 1;
        e.direction_decision_flags =
            abi::pack_verdict(abi::Direction::kHostToDevice,
                              grant == 0 ? abi::Decision::kObserved : abi::Decision::kAllowed, 0);
        e.session = 1;
        e.lane = static_cast<std::uint16_t>(p);
        e.grant = grant;
        e.source = 0x7f0000000000 + p * 0x10000000ull + i * 4096;
        e.destination = 0x700000000000 + i * 4096;
        abi::set_bytes(e, 4096);
        e.source_device = abi::kHostDevice;
        batch_[p].push_back(e);
      }
    }
  }
  std::span<const abi::AuditEntry> visit(unsigned p) {
    const std::uint64_t now = clock_ns(CLOCK_REALTIME);
    for (abi::AuditEntry& e : batch_[p]) {
      abi::set_sequence(e, next_[p]++);
      e.utc_ns = now;
    }
    return batch_[p];
  }

 private:
  std::vector<abi::AuditEntry> batch_[kProducers];
  std::uint64_t next_[kProducers] = {};
};

std::string session_record(bool observe) {
  return "{\"devices\":[\"GPU-0\"],\"mode\":\"" + std::string{observe ? "observe" : "enforce"} +
         "\",\"record\":\"session\",\"serial\":1,\"tenant\":\"bench\",\"utc\":" +
         std::to_string(clock_ns(CLOCK_REALTIME)) + "}";
}
bool write_log(Bench& b, const std::string& where, const std::string& name, bool grants,
               std::uint64_t seconds) {
  std::filesystem::create_directories(where);
  const std::uint64_t room = room_of(where, seconds);
  if (room < (32u << 20)) {
    b.results.failed(name, "bulkhead", "no room in " + where);
    return false;
  }
  WriterOptions options;
  options.origin = "bench/bulkhead";
  auto opened = audit::Writer::open(std::make_unique<audit::PosixFiles>(where),
                                    std::make_unique<audit::SystemClock>(), options);
  if (!opened.ok()) {
    b.results.failed(name, "bulkhead", opened.problem);
    return false;
  }
  audit::Writer& writer = **opened;
  Producers producers{grants ? 1u : 0u};
  bool good = writer.record(session_record(!grants)).ok() &&
              (!grants || writer.record(grant_record()).ok());
  std::uint64_t entries = 0;
  Clocks from, to;
  {
    audit::SyncThread syncing{writer, {}, {}};
    from = to = {};
    while (good && to.wall - from.wall < seconds * kSecond && entries * 58 < room) {
      for (unsigned p = 0; good && p < kProducers; ++p) {
        good = writer.entries(producers.visit(p)).ok();
        entries += kVisit;
      }
      if (entries % (64 * kVisit) == 0) to = {};
    }
    to = {};
  }
  if (!good || writer.durable() != writer.size()) {
    b.results.failed(name, "bulkhead", "the log stopped: " + writer.state().failed);
    return false;
  }
  b.results.add(name, "entries a CPU second", "M/s", "bulkhead",
                per_second(entries, to.cpu - from.cpu) / 1e6, "goal >= 5");
  b.results.add(name, "entries a second", "M/s", "bulkhead",
                per_second(entries, to.wall - from.wall) / 1e6);
  b.results.add(name, "written", "MB/s", "bulkhead",
                per_second(entries * 56, to.wall - from.wall) / 1e6);
  return true;
}

}  // namespace

void write_bare(Bench& b, const std::string& where, const std::string& name,
                std::uint64_t seconds) {
  const std::string path = where + "/bare";
  const UniqueFd fd{::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
  const std::uint64_t room = room_of(where, seconds);
  const std::vector<char> block(kVisit * 56, 'x');
  std::uint64_t bytes = 0, synced_ns = monotonic_ns();
  const Clocks from;
  std::uint64_t now = from.wall;
  bool good = fd.ok() && room > 0;
  while (good && now - from.wall < seconds * kSecond && bytes < room) {
    good = ::write(fd.get(), block.data(), block.size()) == static_cast<ssize_t>(block.size());
    bytes += block.size();
    now = monotonic_ns();
    if (now - synced_ns < kSyncNs) continue;
    good = good && ::fdatasync(fd.get()) == 0;
    synced_ns = now = monotonic_ns();
  }
  ::unlink(path.c_str());
  if (!good) return b.results.failed(name, "bare", "the disk refused");
  b.results.add(name, "written", "MB/s", "write + fdatasync alone",
                per_second(bytes, now - from.wall) / 1e6);
}

void verify_written(Bench& b, const std::string& where, const std::string& name, const char* goal) {
  audit::PosixFiles files{where};
  auto policy = audit::parse_policy(audit::read_small(files, "host.pub", 1u << 16).value_or(""));
  if (!policy.ok()) return b.results.failed(name, "bulkhead", policy.problem);
  audit::VerifyOptions options;
  options.policy = std::move(*policy);
  const Clocks from;
  const audit::VerifyReport report = audit::verify_log(files, options);
  const Clocks to;
  if (report.exit_code() != 0)
    return b.results.failed(
        name, "bulkhead",
        report.findings.empty() ? report.could_not : audit::finding_text(report.findings[0]));
  b.results.add(name, "entries a CPU second", "M/s", "bulkhead",
                per_second(report.size, to.cpu - from.cpu) / 1e6, goal);
  b.results.add(name, "entries a second", "M/s", "bulkhead",
                per_second(report.size, to.wall - from.wall) / 1e6);
}

void suite_audit(Bench& b) {
  const std::uint64_t seconds = b.lab.quick ? 2 : b.lab.repeats == 1 ? 60 : 10;
  const std::string disk = b.lab.scratch + "/audit",
                    memory = "/dev/shm/bulkhead-bench-" + std::to_string(::getpid());
  b.results.begin(16, "audit");
  lanes_to_disk(b);
  for (unsigned repeat = 0; repeat < b.lab.repeats && !b.lab.late(); ++repeat) {
    for (const auto& [where, name] :
         {std::pair{disk, "writer to disk"}, std::pair{memory, "writer to memory"}}) {
      if (!b.lab.asked(name)) continue;
      if (write_log(b, where, name, false, seconds) && b.lab.asked("verify") && where == disk)
        verify_written(b, where, "verify: tree, signatures, sequences", "goal >= 8");
      std::filesystem::remove_all(where);
      std::filesystem::create_directories(where);
      write_bare(b, where, name, std::min<std::uint64_t>(seconds, 10));
      std::filesystem::remove_all(where);
    }
    if (b.lab.asked("grants") && write_log(b, disk, "writer to disk, with grants", true,
                                           std::min<std::uint64_t>(seconds, 10)))
      verify_written(b, disk, "verify: with every entry against its grant", "goal >= 5");
    std::filesystem::remove_all(disk);
  }
  b.results.print(b.lab, stdout);
}

}  // namespace bulkhead::bench
