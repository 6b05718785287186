// A lane whose answer rests on something that is looked at beside the loop.
#include "daemon/test_server.h"

namespace bulkhead::daemon {
namespace {

class ServerLaneTest : public ServerTest {
 protected:
  wire::LaneRequest first_lane() {
    wire::LaneRequest q{};
    wire::put_text(q.name, "a");
    q.flags = wire::kLaneFirst;
    wire::begin(q, wire::Kind::kLane, 9);
    return q;
  }
  Errc heard_lane(const UniqueFd& from) {
    if (hear(from) != static_cast<ssize_t>(sizeof(wire::LaneReply))) return Errc::kIo;
    const auto& r = *reinterpret_cast<const wire::LaneReply*>(reply);
    EXPECT_EQ(r.session, r.header.result == 0 ? 7u : 0u);
    return static_cast<Errc>(r.header.result);
  }
  void turn() {
    poller.turn();
    server.tick(node.now);
  }
};

TEST_F(ServerLaneTest, IsAnsweredWhenItIsKnownAndNobodyElseWaits) {
  const UniqueFd one = connect(peer(1000)), other = connect(peer(1000));
  ASSERT_EQ(ask(one, request(record("a", kGib))), Errc::kOk);
  lane_known = false;
  send(one, first_lane());
  send(one, empty(wire::Kind::kHello));  // its next: after the answer
  EXPECT_EQ(hear(one), -1);
  EXPECT_EQ(lanes_asked, 0);
  send(other, empty(wire::Kind::kHello));
  EXPECT_EQ(hear(other), static_cast<ssize_t>(sizeof(wire::HelloReply)));
  ASSERT_EQ(lanes_wait.size(), 1u);
  lane_known = true;
  lanes_wait[0]();
  turn();
  EXPECT_EQ(heard_lane(one), Errc::kOk);
  EXPECT_EQ(lanes_asked, 1);
  turn();
  EXPECT_EQ(hear(one), static_cast<ssize_t>(sizeof(wire::HelloReply)));
}

TEST_F(ServerLaneTest, WhoHasGoneIsNotAnswered) {
  lane_known = false;
  {
    const UniqueFd one = connect(peer(1000));
    ASSERT_EQ(ask(one, request(record("a", kGib))), Errc::kOk);
    send(one, first_lane());
  }
  turn();
  ASSERT_EQ(lanes_wait.size(), 1u);
  lane_known = true;
  lanes_wait[0]();
  EXPECT_EQ(lanes_asked, 0);
}

// What was so when it asked need not be so when it is answered.
TEST_F(ServerLaneTest, WhetherItBelongsIsAskedAgain) {
  const UniqueFd one = connect(peer(1000)), root = connect(peer(0));
  ASSERT_EQ(ask(one, request(record("a", kGib))), Errc::kOk);
  lane_known = false;
  send(one, first_lane());
  wire::NameRequest gone{};
  wire::put_text(gone.name, "a");
  wire::begin(gone, wire::Kind::kUnregister, 3);
  send(root, gone);
  ASSERT_EQ(hear(root), static_cast<ssize_t>(sizeof(wire::Verdict)));
  ASSERT_EQ(static_cast<Errc>(verdict().header.result), Errc::kOk);
  ASSERT_EQ(lanes_wait.size(), 1u);
  lane_known = true;
  lanes_wait[0]();
  turn();
  EXPECT_NE(heard_lane(one), Errc::kOk);
  EXPECT_EQ(lanes_asked, 0);
}

}  // namespace
}  // namespace bulkhead::daemon
