// For tests: the server over a fake node, with connections whose peers a test makes up.
#pragma once
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <map>

#include "daemon/audit_lanes.h"
#include "daemon/server.h"
#include "daemon/test_node.h"

namespace bulkhead::daemon {

// Calls each handler whose events are pending, as poll(2) says.
class FakePoller : public Poller {
 public:
  Status add(int fd, std::uint32_t events, Handler handler) override {
    all_[fd] = {events, std::move(handler)};
    return {};
  }
  Status change(int fd, std::uint32_t events) override {
    all_.at(fd).events = events;
    return {};
  }
  void remove(int fd) override { all_.erase(fd); }
  // Its handler, as if it were ready: for a test that is out of descriptors.
  void call(int fd, std::uint32_t events) { Handler{all_.at(fd).handler}(events); }
  int only_fd() const { return all_.size() == 1 ? all_.begin()->first : -1; }
  std::uint32_t events_of(int fd) const { return all_.at(fd).events; }
  // Until nothing is ready, but at most `turns`.
  void turn(int turns = 32) {
    for (bool any = true; any && turns-- > 0;) {
      any = false;
      std::vector<int> fds;
      for (const auto& [fd, w] : all_) fds.push_back(fd);
      for (const int fd : fds) {
        const auto at = all_.find(fd);
        if (at == all_.end()) continue;
        const int ep = ::epoll_create1(EPOLL_CLOEXEC);
        epoll_event e{at->second.events, {}};
        ::epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
        const int n = ::epoll_wait(ep, &e, 1, 0);
        ::close(ep);
        if (n != 1) continue;
        any = true;
        const Handler handler = at->second.handler;
        handler(e.events);
      }
    }
  }

 private:
  struct Watched {
    std::uint32_t events;
    Handler handler;
  };
  std::map<int, Watched> all_;
};

class ServerTest : public testing::Test {
 protected:
  explicit ServerTest(const char* config = "[policy]\nusers_may_create = true")
      : node(config), server(poller, node.ledger, options(), providers()) {}

  ServerOptions options() {
    ServerOptions o;
    o.clock = [n = &node] {
      return n->now;
    };  // asked in ~Server too, when this is no ServerTest any more
    o.identify = [this](int) -> Result<Identified> {
      Identified i;
      i.peer = next_peer;
      i.pidfd = UniqueFd{::dup(0)};
      return i;
    };
    return o;
  }
  ServerProviders providers() {
    ServerProviders p;
    p.tenants = [this] {
      std::vector<wire::TenantView> out;
      for (const auto& [name, f] : node.regions.all) {
        out.emplace_back();
        node.regions.view(name, out.back());
      }
      return out;
    };
    p.events = [this](std::uint64_t after, std::size_t most, std::uint32_t& lost) {
      std::vector<wire::EventView> out;
      lost = 0;
      for (const wire::EventView& e : events) {
        if (e.id > after && out.size() < most) out.push_back(e);
      }
      return out;
    };
    p.next_event_id = [this] { return std::uint64_t{events.size() + 1}; };
    p.reload = [this](std::function<void(const Answer&)> done) {
      reloads.push_back(std::move(done));
    };
    p.lane = [this](const Peer&, const wire::LaneRequest&, UniqueFd) {
      ++lanes_asked;
      LaneAnswer a;
      a.session = 7;
      return a;
    };
    p.lane_known = [this](const Peer&, const wire::LaneRequest&, std::function<void()> again) {
      if (lane_known) return true;
      lanes_wait.push_back(std::move(again));
      return false;
    };
    p.condition = [] { return std::string{"needs a restart: x"}; };
    return p;
  }
  UniqueFd connect(const Peer& who) {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    next_peer = who;
    server.take(UniqueFd{ends[0]});
    return UniqueFd{ends[1]};
  }
  template <class Q>
  void send(const UniqueFd& to, const Q& q) {
    ASSERT_EQ(::send(to.get(), &q, sizeof q, MSG_NOSIGNAL), static_cast<ssize_t>(sizeof q));
    poller.turn();
    server.tick(node.now);
  }
  // -1: nothing there; 0: closed.
  ssize_t hear(const UniqueFd& from) {
    return ::recv(from.get(), reply, sizeof reply, MSG_DONTWAIT);
  }
  const wire::Verdict& verdict() const { return *reinterpret_cast<const wire::Verdict*>(reply); }
  Errc ask(const UniqueFd& to, const wire::RegisterRequest& q) {
    send(to, q);
    if (hear(to) != sizeof(wire::Verdict)) return Errc::kIo;
    return static_cast<Errc>(verdict().header.result);
  }
  wire::Empty empty(wire::Kind kind) {
    wire::Empty e{};
    wire::begin(e, kind, 5);
    return e;
  }
  void later(std::uint64_t seconds) {
    node.now.mono_ns += seconds * 1'000'000'000;
    server.tick(node.now);
    poller.turn();
  }

  TestNode node;
  FakePoller poller;
  Peer next_peer;
  std::vector<wire::EventView> events;
  std::vector<std::function<void(const Answer&)>> reloads;  // asked for, not answered yet
  bool lane_known = true;
  int lanes_asked = 0;
  std::vector<std::function<void()>> lanes_wait;
  Server server;
  alignas(8) char reply[wire::kMaxMessage];
};

}  // namespace bulkhead::daemon
