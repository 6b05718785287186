// The exporter as a process of its own, for tests that kill it: siem_exporter LOG STATE URL [ca=FILE] [cert=FILE] [key=FILE] [name=NAME]
// [overlap=BYTES] [answer_ms=N] [early]. `early` is the variant that keeps a position before the receiver confirmed it. With it: siem_exporter
// --fill LOG SEED SECONDS ENTRIES writes a log of random entries (SECONDS of its own clock, ENTRIES each) through the log's own writer.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "audit/writer.h"
#include "daemon/siem/siem.h"

using namespace bulkhead;

namespace {

constexpr std::uint64_t kSecond_ns = 1'000'000'000;

class LogClock final : public audit::WallClock {
 public:
  explicit LogClock(std::uint64_t& now) : now_(now) {}
  std::uint64_t utc_ns() noexcept override { return now_; }

 private:
  std::uint64_t& now_;
};

abi::AuditEntry random_entry(std::mt19937_64& random, std::uint64_t sequence,
                             std::uint64_t utc_ns) {
  using abi::Decision;
  using abi::EntryKind;
  constexpr EntryKind kKinds[] = {EntryKind::kGeometry, EntryKind::kMap, EntryKind::kFailure,
                                  EntryKind::kMark, EntryKind::kGap};
  abi::AuditEntry e{};
  e.version_kind =
      abi::version_kind(random() % 10 != 0 ? EntryKind::kTransfer : kKinds[random() % 5]);
  e.operation = static_cast<std::uint8_t>(1 + random() % 5);
  const auto decision = static_cast<Decision>(random() % 20 == 0 ? 1 + random() % 3 : 0);
  e.direction_decision_flags =
      abi::pack_verdict(static_cast<abi::Direction>(1 + random() % 7), decision, 0);
  e.reason = decision == Decision::kDenied ? 2 : 0;
  e.session = static_cast<std::uint32_t>(1 + random() % 2);
  e.grant = static_cast<std::uint32_t>(random() % 3);
  abi::set_sequence(e, sequence);
  e.utc_ns = utc_ns;
  e.source_device = random() % 2 == 0 ? abi::kHostDevice : std::uint8_t{0};
  e.destination_device = static_cast<std::uint8_t>(random() % 2);
  abi::set_bytes(e, random() % 100'000);
  return e;
}

// Closes the log as a daemon does: everything is signed.
int fill(const char* directory, unsigned seed, unsigned seconds, unsigned entries) {
  ::mkdir(directory, 0700);
  std::uint64_t now = 1'800'000'000 * kSecond_ns;
  audit::WriterOptions options;
  options.origin = "test/bulkhead";
  options.segment_bytes = 256u << 10;
  auto opened = audit::Writer::open(std::make_unique<audit::PosixFiles>(directory),
                                    std::make_unique<LogClock>(now), options);
  if (!opened.ok()) {
    std::fprintf(stderr, "%s\n", opened.problem.c_str());
    return 1;
  }
  audit::Writer& log = **opened;
  bool good = true;
  for (int i = 1; i <= 2; ++i) {
    const std::string tenant = i == 1 ? "trade" : "risk", n = std::to_string(i);
    good &=
        log.record(R"({"devices":["GPU-a","GPU-b"],"exe":"/opt/)" + tenant +
                   R"(","mode":"enforce","pid":4)" + n + R"(,"record":"session","serial":)" + n +
                   R"(,"tenant":")" + tenant + R"(","uid":1000,"utc":)" + std::to_string(now) + "}")
            .ok();
  }
  std::mt19937_64 random{seed};
  std::uint64_t sequence = 0;
  for (unsigned s = 0; s < seconds && good; ++s) {
    std::vector<abi::AuditEntry> batch;
    for (unsigned i = 0; i < entries; ++i) batch.push_back(random_entry(random, sequence++, now));
    good = log.entries(batch).ok() && log.sync().ok() && log.tick().ok();
    now += kSecond_ns;
  }
  return good && log.finish().ok() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 6 && std::strcmp(argv[1], "--fill") == 0)
    return fill(argv[2], static_cast<unsigned>(std::atoi(argv[3])),
                static_cast<unsigned>(std::atoi(argv[4])),
                static_cast<unsigned>(std::atoi(argv[5])));
  if (argc < 4) return 2;
  daemon::siem::Orders orders;
  daemon::siem::ExporterOptions how;
  orders.log = argv[1];
  orders.state = argv[2];
  orders.settings.url = argv[3];
  orders.host = "node";
  orders.version = "0.1.0";
  orders.parent_pid = ::getppid();
  how.most_pause_ms = 100;
  for (int i = 4; i < argc; ++i) {
    const std::string word = argv[i];
    const std::string value = word.substr(word.find('=') + 1);
    if (word.starts_with("ca=")) orders.settings.ca = value;
    if (word.starts_with("cert=")) orders.settings.cert = value;
    if (word.starts_with("key=")) orders.settings.key = value;
    if (word.starts_with("name=")) orders.settings.name = value;
    if (word.starts_with("overlap=")) orders.settings.overlap_bytes = std::stoull(value);
    if (word.starts_with("answer_ms=")) how.link.answer_timeout_ms = std::stoi(value);
    if (word == "early") how.keep_before_confirmation = true;
  }
  // The page of the daemon's child, as a file that the test reads.
  const std::string page = orders.state + "/page";
  const int status = ::open(page.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  return daemon::siem::siem_main(orders, status, std::move(how));
}
