// The exporter in one process with its receiver: what is kept is what was confirmed, and a receiver that ends a session in any way ends
// nothing else. Against real receivers and with kills: tests/e2e/siem_*.py.
#include "daemon/siem/exporter.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>

#include "audit/log_fixture.h"
#include "daemon/siem/opener.h"

namespace bulkhead::daemon::siem {
namespace {

enum class Way { kAnswers, kRefuses, kCloses, kRubbish };

// One connection after another, each read to its end.
class Server {
 public:
  explicit Server(Way way) : way_(way), listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&at), size), 0);
    EXPECT_EQ(::listen(listener_.get(), 4), 0);
    EXPECT_EQ(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&at), &size), 0);
    port = ntohs(at.sin_port);
    thread_ = std::thread{[this] { serve(); }};
  }
  ~Server() {
    stop_.store(true, std::memory_order_relaxed);  // nothing is ordered by it
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }
  std::uint16_t port = 0;
  std::atomic<unsigned> messages{0}, connections{0};

 private:
  void serve() {
    for (;;) {
      const UniqueFd s{::accept(listener_.get(), nullptr, nullptr)};
      if (!s.ok()) return;
      connections.fetch_add(1, std::memory_order_relaxed);  // a statistic
      one(s.get());
    }
  }
  void one(int s) {
    std::string in;
    char part[65536];
    while (!stop_.load(std::memory_order_relaxed)) {  // looked at again soon
      pollfd p{s, POLLIN, 0};
      if (::poll(&p, 1, 20) == 0) continue;
      const ssize_t n = ::recv(s, part, sizeof part, 0);
      if (n <= 0 || way_ == Way::kCloses) return;
      in.append(part, static_cast<std::size_t>(n));
      for (std::size_t used = frame(s, in); used != 0; used = frame(s, in)) in.erase(0, used);
    }
  }
  // The bytes of a whole frame at the beginning, answered; 0: there is none.
  std::size_t frame(int s, const std::string& in) {
    unsigned number = 0, size = 0;
    char command[33] = {};
    int head = 0;
    if (std::sscanf(in.c_str(), "%u %32s %u %n", &number, command, &size, &head) < 3 || head == 0)
      return 0;
    const std::size_t all = static_cast<std::size_t>(head) + size + 1;
    if (in.size() < all) return 0;
    const bool open = std::string{command} == "open";
    std::string answer = std::to_string(number) + " rsp 6 200 OK\n";
    if (!open) {
      messages.fetch_add(1, std::memory_order_relaxed);  // a statistic
      if (way_ == Way::kRefuses) answer = std::to_string(number) + " rsp 6 500 no\n";
      if (way_ == Way::kRubbish) answer = "\x90\xff rubbish\n";
    }
    (void)!::send(s, answer.data(), answer.size(), MSG_NOSIGNAL);
    return all;
  }
  Way way_;
  UniqueFd listener_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

struct Bench {
  audit::test::TestLog log;
  std::string state;
  UniqueFd directory;
  Bench() {
    char name[] = "/tmp/bh-siem-XXXXXX";
    state = ::mkdtemp(name);
    directory = UniqueFd{::open(state.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    EXPECT_EQ(log.open(), "");
    for (unsigned i = 0; i < 5; ++i) {
      log.append(9, 0, i * 10, 10);
      EXPECT_TRUE(log.writer->record("{\"record\":\"finding\",\"what\":\"x\"}").ok());
      EXPECT_TRUE(log.writer->sync().ok() && log.writer->tick().ok());
      log.now += audit::test::kSecond;
    }
    EXPECT_TRUE(log.writer->finish().ok());
  }
  ~Bench() { std::filesystem::remove_all(state); }
  std::uint64_t kept() const {
    auto files = open_position_files(directory.get());
    bool damaged = false;
    const auto p = PositionStore{std::move(*files)}.load(damaged);
    return p ? p->next : 0;
  }
  // Turns until `done`; the watchdog only ends what hangs.
  template <class Done>
  Status run(const Server& server, Done done) const {
    audit::PosixFiles files{log.directory};
    auto position = open_position_files(directory.get());
    PositionStore store{std::move(*position)};
    ExporterOptions how;
    how.target = {false, true, "127.0.0.1", server.port};
    how.host = "host";
    how.most_pause_ms = 1;
    Exporter exporter{files, store, how};
    for (unsigned i = 0; !done(exporter) && i < 60'000; ++i) exporter.turn(1);
    EXPECT_TRUE(done(exporter));
    return exporter.status();
  }
};

TEST(SiemExporter, KeepsWhatWasAnswered) {
  Bench b;
  const Server server{Way::kAnswers};
  const Status s = b.run(server, [](const Exporter& e) { return e.settled(); });
  EXPECT_EQ(s.state, LinkState::kConnected);
  EXPECT_EQ(b.kept(), b.log.writer->size());
  EXPECT_GE(server.messages.load(std::memory_order_relaxed), 10u);  // read after the last answer
  EXPECT_EQ(s.events_sent, s.events_confirmed);
  // The next one has nothing to send.
  const Server next{Way::kAnswers};
  (void)b.run(next, [](const Exporter& e) { return e.settled(); });
  EXPECT_EQ(next.messages.load(std::memory_order_relaxed), 0u);  // likewise
}

TEST(SiemExporter, ASessionThatEndsBadlyKeepsNothing) {
  for (const Way way : {Way::kRefuses, Way::kCloses, Way::kRubbish}) {
    Bench b;
    const Server server{way};
    const Status s = b.run(server, [](const Exporter& e) {
      return e.status().connections >= 3 && e.status().state == LinkState::kAway;
    });
    EXPECT_NE(s.text[0], '\0');
    for (const char* c = s.text; *c != '\0'; ++c) EXPECT_TRUE(*c >= 0x20 && *c < 0x7f) << s.text;
    EXPECT_EQ(b.kept(), 0u);
  }
}

TEST(SiemOpener, OpensWhatHoldsNoSecret) {
  for (const char* good : {"checkpoints", "host.pub", "segment/000000000000.data",
                           "segment/000000000001.journal", "segment/123456789012.zst"})
    EXPECT_TRUE(may_open(good)) << good;
  for (const char* bad :
       {"host.key", "epoch.key", "epoch.key.next", "", "segment", "segment/", "segment/../host.key",
        "../x", "/etc/shadow", "segment/x.data", "segment/000000000000.new", "lock",
        "segment/000000000000.data/../../host.key"})
    EXPECT_FALSE(may_open(bad)) << bad;
  Bench b;
  auto socket = start_opener(b.log.directory);
  ASSERT_TRUE(socket.ok()) << socket.problem;
  const auto files = remote_files(std::move(*socket));
  int error = 0;
  EXPECT_NE(files->open("host.pub", audit::OpenMode::kRead, error), nullptr);
  EXPECT_EQ(files->open("host.key", audit::OpenMode::kRead, error), nullptr);
  EXPECT_EQ(error, EACCES);
  EXPECT_EQ(files->open("segment/000000000009.data", audit::OpenMode::kRead, error), nullptr);
  EXPECT_EQ(error, ENOENT);
  EXPECT_EQ(files->open("checkpoints", audit::OpenMode::kWrite, error), nullptr);
  EXPECT_EQ(files->list("segment"),
            (std::vector<std::string>{"000000000000.data", "000000000000.journal"}));
  // A link in the log's directory leads nowhere.
  ASSERT_EQ(::symlink("/etc/passwd", (b.log.directory + "/segment/000000000007.data").c_str()), 0);
  EXPECT_EQ(files->open("segment/000000000007.data", audit::OpenMode::kRead, error), nullptr);
}

}  // namespace
}  // namespace bulkhead::daemon::siem
