// The audit log for the gate, without a driver: entries that lie in a lane are drained by the daemon's writer into a log, or a log is
// verified; each by a thread of its own, whose instructions are counted.
#include <sys/eventfd.h>

#include <filesystem>
#include <thread>

#include "audit/verify.h"
#include "audit/writer.h"
#include "base/clock.h"
#include "base/fd.h"
#include "bench/audit_log.h"
#include "bench/worker.h"
#include "daemon/audit_writer.h"
#include "daemon/grant_book.h"

namespace bulkhead::bench {
namespace {

using daemon::AuditSession;

struct Memory {
  std::shared_ptr<AuditSession> session = std::make_shared<AuditSession>();
  daemon::Sealed bell, intent;
};

bool make(Memory& m, std::uint64_t entries) {
  AuditSession& s = *m.session;
  s.serial = 1;
  s.tenant = "bench";
  s.devices = {"GPU-0"};
  s.enforce = true;
  const auto take = [](std::size_t bytes, daemon::Sealed& out) {
    auto made = daemon::make_sealed("bench-log", bytes);
    if (made.ok()) out = std::move(*made);
    return made.ok();
  };
  if (!take(sizeof(shm::Bell), m.bell) || !take(sizeof(shm::Intent), m.intent) ||
      !take(sizeof(shm::LanePage), s.page) || !take(sizeof(shm::Lane), s.lanes[0]))
    return false;
  shm::format_bell(*m.bell.map.as<shm::Bell>(), shm::OnFull::kBlock, 60'000);
  shm::publish_page(s.words());
  auto& lane = *s.lanes[0].map.as<shm::Lane>();
  shm::format_lane(lane, 1, 0);
  shm::set_lane_state(s.words().cells[0], shm::kLaneOpen);
  shm::LaneEnd end = shm::adopt_lane(lane, s.words().cells[0]);
  abi::AuditEntry e{};
  e.version_kind = abi::version_kind(abi::EntryKind::kTransfer);
  e.operation = 1;
  e.direction_decision_flags =
      abi::pack_verdict(abi::Direction::kHostToDevice, abi::Decision::kAllowed, 0);
  e.grant = 1;
  e.source_device = abi::kHostDevice;
  abi::set_bytes(e, 4096);
  for (std::uint64_t i = 0; i < entries && shm::lane_has_room(end, 1); ++i) {
    e.utc_ns = clock_ns(CLOCK_REALTIME);
    e.destination = 0x700000000000 + i * 4096;
    shm::lane_publish(end, e);
  }
  return end.next == entries;
}

// Everything that lies there into the log at `dir`, by the writer's own thread.
bool drain(const std::string& dir, std::uint64_t entries) {
  std::filesystem::remove_all(dir);
  std::filesystem::create_directories(dir);
  audit::WriterOptions options;
  options.origin = "bench/bulkhead";
  auto log = audit::Writer::open(std::make_unique<audit::PosixFiles>(dir),
                                 std::make_unique<audit::SystemClock>(), options);
  Memory m;
  const UniqueFd done{::eventfd(0, EFD_CLOEXEC)};
  if (!log.ok() || !make(m, entries)) return false;
  daemon::GrantBook book;
  const auto now_ns = static_cast<std::int64_t>(clock_ns(CLOCK_REALTIME));
  book.add(1, {"bench", now_ns - 60'000'000'000, now_ns + 86'400'000'000'000, 0, 2, {"GPU-0"}});
  daemon::AuditWriter writer{**log, *m.bell.map.as<shm::Bell>(), *m.intent.map.as<shm::Intent>(),
                             done.get(), [&book](const AuditSession& s, const abi::AuditEntry& e) {
                               return book.check(s.tenant, s.devices, e);
                             }};
  writer.record(grant_record());
  writer.add(m.session);
  writer.add_lane(m.session, 0);
  writer.end(m.session);
  writer.start();
  std::uint64_t ended = 0;
  const bool good = ::read(done.get(), &ended, sizeof ended) == sizeof ended;
  writer.stop();
  return good && writer.figures().entries == entries && writer.figures().violations == 0 &&
         (*log)->finish().ok();
}

bool verify(const std::string& dir, std::uint64_t least) {
  audit::PosixFiles files{dir};
  auto policy = audit::parse_policy(audit::read_small(files, "host.pub", 1u << 16).value_or(""));
  if (!policy.ok()) return false;
  audit::VerifyOptions options;
  options.policy = std::move(*policy);
  const audit::VerifyReport report = audit::verify_log(files, options);
  return report.exit_code() == 0 && report.size > least;
}

}  // namespace

// "drain" makes the log of n entries that "verify" reads.
int work_log(Worker& w) {
  const std::string op = w.params.text("op");
  const std::uint64_t n = w.params.number("n");
  const std::string dir = w.params.text("dir") + "-" + std::to_string(n);
  bool good = false;
  if (op == "drain") good = drain(dir, n);
  if (op == "verify") std::thread([&] { good = verify(dir, n); }).join();
  return good ? 0 : w.fail(op.c_str(), CUDA_ERROR_UNKNOWN);
}

}  // namespace bulkhead::bench
