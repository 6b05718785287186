#include "daemon/server.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <map>

#include "daemon/test_server.h"
#include "wire/client.h"

namespace bulkhead::daemon {
namespace {

TEST_F(ServerTest, AnswersWithTheRequestsSequence) {
  const UniqueFd c = connect(peer(1000));
  send(c, empty(wire::Kind::kHello));
  ASSERT_EQ(hear(c), static_cast<ssize_t>(sizeof(wire::HelloReply)));
  EXPECT_TRUE(wire::check_reply(reply, sizeof(wire::HelloReply), wire::Kind::kHello, 5).ok());
  EXPECT_EQ(ask(c, request(record("a", kGib))), Errc::kOk);
  EXPECT_STREQ(verdict().name, "a");
}

TEST_F(ServerTest, AReloadIsAnsweredWhenItIsDoneAndNobodyElseWaits) {
  const UniqueFd root = connect(peer(0)), user = connect(peer(1000));
  send(user, empty(wire::Kind::kReload));
  ASSERT_EQ(hear(user), static_cast<ssize_t>(sizeof(wire::Verdict)));
  EXPECT_EQ(static_cast<Errc>(verdict().header.result), Errc::kUntrusted);
  EXPECT_TRUE(reloads.empty());
  send(root, empty(wire::Kind::kReload));
  send(root, empty(wire::Kind::kHello));  // its next: after the answer
  EXPECT_EQ(hear(root), -1);
  send(user, empty(wire::Kind::kHello));
  EXPECT_EQ(hear(user), static_cast<ssize_t>(sizeof(wire::HelloReply)));
  {
    const UniqueFd gone = connect(peer(0));
    send(gone, empty(wire::Kind::kReload));
  }
  poller.turn();
  server.tick(node.now);
  ASSERT_EQ(reloads.size(), 2u);
  Answer a;
  a.text = "done";
  for (const auto& done : reloads) done(a);  // the second has nobody any more
  poller.turn();
  server.tick(node.now);
  ASSERT_EQ(hear(root), static_cast<ssize_t>(sizeof(wire::Verdict)));
  EXPECT_STREQ(verdict().text, "done");
  poller.turn();
  ASSERT_EQ(hear(root), static_cast<ssize_t>(sizeof(wire::HelloReply)));
}

TEST_F(ServerTest, WhatIsNotInForceIsForOperators) {
  const UniqueFd root = connect(peer(0)), user = connect(peer(1000));
  send(root, empty(wire::Kind::kCondition));
  ASSERT_EQ(hear(root), static_cast<ssize_t>(sizeof(wire::Verdict)));
  EXPECT_STREQ(verdict().text, "needs a restart: x");
  send(user, empty(wire::Kind::kCondition));
  ASSERT_EQ(hear(user), static_cast<ssize_t>(sizeof(wire::Verdict)));
  EXPECT_STREQ(verdict().text, "");
}

TEST_F(ServerTest, OneUserKeepsNoOtherOut) {
  std::vector<UniqueFd> greedy;
  for (unsigned i = 0; i < Server::kMostConnections + 44; ++i)
    greedy.push_back(connect(peer(1000)));
  const UniqueFd other = connect(peer(1001));
  send(other, empty(wire::Kind::kHello));
  EXPECT_EQ(hear(other), static_cast<ssize_t>(sizeof(wire::HelloReply)));
}

TEST_F(ServerTest, TheListenerRestsWhileThereAreNoDescriptors) {
  char path[] = "/tmp/bulkhead-test-XXXXXX";
  ASSERT_NE(::mkdtemp(path), nullptr);
  const UniqueFd dir{::open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  ASSERT_TRUE(server.listen(dir.get()).ok());
  next_peer = peer(0);
  const int listener = poller.only_fd();
  const auto client = wire::Client::connect(dir.get(), ::geteuid(), 1000);
  ASSERT_TRUE(client.ok());
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{3, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  poller.call(listener, EPOLLIN);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(server.counts().connections, 0u);
  server.tick(node.now);                      // of the same turn
  EXPECT_EQ(poller.events_of(listener), 0u);  // else the loop spins
  later(1);
  EXPECT_EQ(poller.events_of(listener), std::uint32_t{EPOLLIN});
  EXPECT_EQ(server.counts().connections, 1u);
  server.stop();
  ::rmdir(path);
}

TEST_F(ServerTest, AMalformedMessageCostsItsSenderTheConnection) {
  const UniqueFd bystander = connect(peer(1000));
  const UniqueFd c = connect(peer(1001));
  wire::Empty e = empty(wire::Kind::kHello);
  e.header.bytes += 1;
  send(c, e);
  EXPECT_EQ(hear(c), 0);
  EXPECT_EQ(server.counts().malformed, 1u);
  send(bystander, empty(wire::Kind::kHello));
  EXPECT_GT(hear(bystander), 0);
}

TEST_F(ServerTest, AnotherProtocolIsToldSo) {
  const UniqueFd c = connect(peer(1000));
  wire::Empty e = empty(wire::Kind::kHello);
  e.header.protocol = 2;
  send(c, e);
  ASSERT_EQ(hear(c), static_cast<ssize_t>(sizeof(wire::Header)));
  EXPECT_EQ(verdict().header.result, static_cast<std::uint32_t>(Errc::kBadVersion));
  EXPECT_EQ(hear(c), 0);
}

// What is answered survives our SIGKILL: the answer leaves only when the store has it. (Answered at once, this fails.)
TEST_F(ServerTest, NothingIsAnsweredBeforeItIsStored) {
  const UniqueFd c = connect(peer(0));
  node.stored.clear();
  const wire::RegisterRequest q = request(record("kept", kGib));
  ASSERT_EQ(::send(c.get(), &q, sizeof q, MSG_NOSIGNAL), static_cast<ssize_t>(sizeof q));
  poller.turn();
  EXPECT_TRUE(node.regions.all.contains("kept"));
  EXPECT_EQ(node.stored, "");
  EXPECT_EQ(hear(c), -1);
  server.tick(node.now);
  EXPECT_NE(node.stored.find("\"kept\""), std::string::npos);
  EXPECT_EQ(hear(c), static_cast<ssize_t>(sizeof(wire::Verdict)));
}

TEST_F(ServerTest, SixteenRequestsASecondOfOneUser) {
  const UniqueFd c = connect(peer(1000));
  const UniqueFd root = connect(peer(0));
  unsigned answered = 0;
  for (int i = 0; i < 20; ++i) send(c, empty(wire::Kind::kHello));
  while (hear(c) > 0) ++answered;
  EXPECT_EQ(answered, Server::kRequestsPerSecond);
  later(1);  // the rest waited; nothing is lost
  while (hear(c) > 0) ++answered;
  EXPECT_EQ(answered, 20u);
  for (int i = 0; i < 20; ++i) send(root, empty(wire::Kind::kHello));
  for (answered = 0; hear(root) > 0;) ++answered;
  EXPECT_EQ(answered, 20u);
}

TEST_F(ServerTest, FourConnectionsOfOneUserThenTheyWait) {
  std::vector<UniqueFd> four;
  for (int i = 0; i < 4; ++i) four.push_back(connect(peer(1000)));
  const UniqueFd fifth = connect(peer(1000));
  const UniqueFd sixth = connect(peer(1000));
  const UniqueFd other = connect(peer(1001));
  send(fifth, empty(wire::Kind::kHello));
  EXPECT_EQ(hear(fifth), -1);
  send(other, empty(wire::Kind::kHello));
  EXPECT_GT(hear(other), 0);
  four.pop_back();
  poller.turn();
  later(1);
  EXPECT_GT(hear(fifth), 0);  // its turn
  later(6);
  EXPECT_EQ(hear(sixth), 0);  // waited in vain
}

TEST_F(ServerTest, TheLastPlacesAreKeptForOperators) {
  std::vector<UniqueFd> all;
  for (unsigned i = 0; i < Server::kMostConnections; ++i) all.push_back(connect(peer(1000 + i)));
  EXPECT_EQ(hear(all[0]), -1);                            // open, and nothing to say
  EXPECT_EQ(hear(all[Server::kMostConnections - 1]), 0);  // closed at once
  const UniqueFd root = connect(peer(0));
  send(root, empty(wire::Kind::kHello));
  EXPECT_GT(hear(root), 0);
}

TEST_F(ServerTest, AnIdleConnectionIsClosedAFollowerIsNot) {
  const UniqueFd idle = connect(peer(1000));
  const UniqueFd follower = connect(peer(1001));
  wire::EventsRequest q{};
  wire::begin(q, wire::Kind::kEvents, 1);
  q.follow = 1;
  send(follower, q);
  EXPECT_GT(hear(follower), 0);
  later(61);
  EXPECT_EQ(hear(idle), 0);
  EXPECT_EQ(hear(follower), -1);
}

TEST_F(ServerTest, AFollowerSeesItsOwnTenantsOnlyRootAll) {
  const UniqueFd user = connect(peer(1000));
  const UniqueFd root = connect(peer(0));
  ASSERT_EQ(ask(user, request(record("mine", kGib))), Errc::kOk);
  ASSERT_EQ(ask(root, request(record("roots", kGib))), Errc::kOk);
  wire::EventsRequest q{};
  wire::begin(q, wire::Kind::kEvents, 1);
  q.follow = 1;
  for (const UniqueFd* c : {&user, &root}) {
    send(*c, q);
    ASSERT_GT(hear(*c), 0);
  }
  for (const char* tenant : {"roots", "mine", ""}) {
    events.emplace_back();
    events.back().id = events.size();
    wire::put_text(events.back().tenant, tenant);
  }
  later(1);
  const auto* r = reinterpret_cast<const wire::EventsReply*>(reply);
  ASSERT_GT(hear(root), 0);
  EXPECT_EQ(r->events, 3u);
  ASSERT_GT(hear(user), 0);
  EXPECT_EQ(r->events, 1u);
  EXPECT_STREQ(reinterpret_cast<const wire::EventView*>(r + 1)->tenant, "mine");
}

TEST_F(ServerTest, APeerThatDoesNotReadIsDropped) {
  const UniqueFd root = connect(peer(0));
  for (int i = 0; i < 600; ++i) {
    const std::string name = "t" + std::to_string(i);
    node.regions.all[name].record = record(name.c_str(), kGib);
  }
  wire::NameRequest q{};
  wire::begin(q, wire::Kind::kList, 1);
  send(root, q);
  send(root, q);
  later(1);
  EXPECT_EQ(server.counts().dropped, 0u);
  later(3);
  EXPECT_EQ(server.counts().dropped, 1u);
}

TEST_F(ServerTest, AListIsCutIntoMessagesAndShowsOnesOwn) {
  for (int i = 0; i < 100; ++i) {
    const std::string name = "t" + std::to_string(100 + i);
    ASSERT_TRUE(node.ledger
                    .enrol(peer(1000 + static_cast<unsigned>(i % 2)),
                           request(record(name.c_str(), 64u << 20)), node.now, nullptr)
                    .ok());
  }
  const auto count = [&](const Peer& who) {
    const UniqueFd c = connect(who);
    wire::NameRequest q{};
    wire::begin(q, wire::Kind::kList, 1);
    send(c, q);
    const auto* r = reinterpret_cast<const wire::ListReply*>(reply);
    unsigned tenants = 0;
    for (bool more = true; more; more = (r->header.flags & wire::kMore) != 0) {
      const ssize_t n = hear(c);
      if (n <= 0 ||
          !wire::check_reply(reply, static_cast<std::size_t>(n), wire::Kind::kList, 1).ok())
        return ~0u;
      tenants += r->tenants;
      poller.turn();
    }
    return tenants;
  };
  EXPECT_EQ(count(peer(0)), 100u);
  EXPECT_EQ(count(peer(1000)), 50u);
  EXPECT_EQ(count(peer(1005)), 0u);
}

TEST_F(ServerTest, TheQueueIsFirstComeFirstServed) {
  const UniqueFd root = connect(peer(0));
  ASSERT_EQ(ask(root, request(record("big", 100 * kGib))), Errc::kOk);
  const UniqueFd first = connect(peer(1000));
  const UniqueFd second = connect(peer(1001));
  const UniqueFd elsewhere = connect(peer(1002));
  ASSERT_EQ(ask(first, request(record("f", 80 * kGib), 0, ~0ull)), Errc::kOk);
  EXPECT_EQ(verdict().queued, 1u);
  EXPECT_EQ(verdict().place, 1u);
  ASSERT_EQ(ask(second, request(record("s", 10 * kGib), 0, ~0ull)), Errc::kOk);
  EXPECT_EQ(verdict().place, 2u);
  EXPECT_EQ(verdict().waiting, 2u);
  ASSERT_GT(hear(first), 0);  // told that one more waits
  EXPECT_EQ(ask(elsewhere, request(record("e", 10 * kGib, 1))), Errc::kOk);  // another device
  EXPECT_EQ(verdict().queued, 0u);
  // 30 GiB come free: the second would fit, but the first was there before
  wire::UpdateRequest u{};
  wire::begin(u, wire::Kind::kUpdate, 2);
  u.record = record("big", 70 * kGib);
  u.mask = wire::kSetMemory;
  send(root, u);
  ASSERT_GT(hear(root), 0);
  EXPECT_EQ(hear(second), -1);
  EXPECT_EQ(ask(elsewhere, request(record("e2", kGib))), Errc::kFull);  // nor who has just come
  wire::put_text(u.record.name, "big");
  u.record.devices[0].memory_bytes = 10 * kGib;
  send(root, u);
  ASSERT_GT(hear(root), 0);
  ASSERT_GT(hear(first), 0);
  EXPECT_EQ(verdict().header.result, 0u);
  EXPECT_EQ(verdict().queued, 0u);
  EXPECT_STREQ(verdict().name, "f");
  ASSERT_GT(hear(second), 0);
  EXPECT_STREQ(verdict().name, "s");
  EXPECT_EQ(server.waiting(), 0u);
}

TEST_F(ServerTest, WhoClosesLeavesTheQueueAndWhoseTimeIsUpIsTold) {
  const UniqueFd root = connect(peer(0));
  ASSERT_EQ(ask(root, request(record("big", 95 * kGib))), Errc::kOk);
  UniqueFd first = connect(peer(1000));
  const UniqueFd second = connect(peer(1001));
  const UniqueFd third = connect(peer(1002));
  ASSERT_EQ(ask(first, request(record("f", 80 * kGib), 0, ~0ull)), Errc::kOk);
  ASSERT_EQ(ask(second, request(record("s", 20 * kGib), 0, 2000)), Errc::kOk);
  ASSERT_EQ(ask(third, request(record("t", 5 * kGib), 0, ~0ull)), Errc::kOk);
  EXPECT_EQ(verdict().place, 3u);
  first.reset();
  poller.turn();
  later(1);
  ASSERT_GT(hear(third), 0);
  EXPECT_EQ(verdict().place, 2u);
  later(2);
  while (hear(second) > 0 && verdict().queued == 1) {
  }
  EXPECT_EQ(verdict().header.result, static_cast<std::uint32_t>(Errc::kFull));
  while (hear(third) > 0 && verdict().queued == 1) {
  }
  EXPECT_STREQ(verdict().name, "t");  // it fits now that nobody is ahead
  EXPECT_EQ(verdict().header.result, 0u);
}

TEST_F(ServerTest, WhatCanNeverFitDoesNotWait) {
  const UniqueFd c = connect(peer(1000));
  EXPECT_EQ(ask(c, request(record("f", 101 * kGib), 0, ~0ull)), Errc::kTooLarge);
  EXPECT_EQ(server.waiting(), 0u);
}

TEST(PeerOf, ASocketPairIsOurselves) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd a{ends[0]}, b{ends[1]};
  auto who = identify(a.get());
  ASSERT_TRUE(who.ok()) << who.status().text();
  EXPECT_EQ(who->peer.pid, static_cast<std::uint32_t>(::getpid()));
  EXPECT_EQ(who->peer.uid, ::geteuid());
  EXPECT_NE(who->peer.start_ticks, 0u);
  EXPECT_TRUE(who->pidfd.ok());
}

TEST(PeerOf, NamesWithBracketsAndHierarchiesOfBothKinds) {
  std::string stat = "12 (a) b (c) R";
  for (int field = 4; field <= 30; ++field) stat += " " + std::to_string(field * 10);
  EXPECT_EQ(start_ticks_of(stat), 220u);
  EXPECT_EQ(start_ticks_of("12 no brackets"), 0u);
  EXPECT_EQ(start_ticks_of("12 (a) R 1 2"), 0u);
  EXPECT_EQ(cgroup_of("0::/user.slice/a\n"), "/user.slice/a");
  EXPECT_EQ(cgroup_of("5:cpu:/x\n0::/u\n"), "/u");
  EXPECT_EQ(cgroup_of("5:cpu,memory:/x\n4:pids:/y\n"), "/x");
  EXPECT_EQ(cgroup_of(""), "");
}

}  // namespace
}  // namespace bulkhead::daemon
