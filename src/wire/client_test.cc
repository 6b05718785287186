#include "wire/client.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <string>
#include <thread>

namespace bulkhead::wire {
namespace {

class WireClient : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/bulkhead-wire-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    path_ = name;
    dir_ = UniqueFd{::open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  }
  void TearDown() override {
    ::unlink((path_ + "/control.sock").c_str());
    ::rmdir(path_.c_str());
  }
  UniqueFd bind_socket() {
    UniqueFd s{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    std::strcpy(at.sun_path, (path_ + "/control.sock").c_str());
    EXPECT_EQ(::bind(s.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
    return s;
  }
  Result<Client> connect() { return Client::connect(dir_.get(), ::geteuid(), 1000); }

  std::string path_;
  UniqueFd dir_;
};

TEST_F(WireClient, NoSocketIsNotASilentOne) {
  EXPECT_EQ(connect().status().code(), Errc::kNotFound);
  const UniqueFd bound = bind_socket();  // nobody listens: what a dead daemon leaves
  EXPECT_EQ(connect().status().code(), Errc::kNotReady);
}

TEST_F(WireClient, AsksAndIsAnsweredOutOfTheProgramsWay) {
  const UniqueFd server = bind_socket();
  ASSERT_EQ(::listen(server.get(), 4), 0);
  auto client = connect();
  ASSERT_TRUE(client.ok());
  EXPECT_GE(client->fd(), 64);
  EXPECT_NE(::fcntl(client->fd(), F_GETFD) & FD_CLOEXEC, 0);
  const UniqueFd peer{::accept(server.get(), nullptr, nullptr)};
  std::thread daemon([&] {
    Empty q{};
    ASSERT_EQ(::recv(peer.get(), &q, sizeof q, 0), static_cast<ssize_t>(sizeof q));
    EXPECT_TRUE(check_request(&q, sizeof q).ok());
    Verdict v{};
    begin(v, Kind::kWhoAmI, q.header.sequence);
    v.header.kind |= kReplyBit;
    put_text(v.name, "a");
    ASSERT_EQ(::send(peer.get(), &v, sizeof v, 0), static_cast<ssize_t>(sizeof v));
  });
  Empty q{};
  Verdict v{};
  EXPECT_TRUE(client->call(Kind::kWhoAmI, q, v, 10'000).ok());
  EXPECT_STREQ(v.name, "a");
  daemon.join();
}

TEST_F(WireClient, ASilentDaemonAClosedOneAndAWrongAnswerDiffer) {
  const UniqueFd server = bind_socket();
  ASSERT_EQ(::listen(server.get(), 4), 0);
  auto client = connect();
  ASSERT_TRUE(client.ok());
  UniqueFd peer{::accept(server.get(), nullptr, nullptr)};
  Empty q{};
  Verdict v{};
  EXPECT_EQ(client->call(Kind::kWhoAmI, q, v, 1).code(), Errc::kNotReady);
  char rubbish[2000] = {};
  ASSERT_GT(::send(peer.get(), rubbish, 200, 0), 0);
  EXPECT_EQ(client->receive(&v, sizeof v, Kind::kWhoAmI, 1, 1000).status().code(), Errc::kInvalid);
  ASSERT_GT(::send(peer.get(), rubbish, sizeof rubbish, 0), 0);  // longer than the buffer
  EXPECT_EQ(client->receive(&v, sizeof v, Kind::kWhoAmI, 1, 1000).status().code(), Errc::kInvalid);
  peer.reset();
  EXPECT_EQ(client->receive(&v, sizeof v, Kind::kWhoAmI, 1, 1000).status().code(), Errc::kNotFound);
}

TEST_F(WireClient, AnotherUsersSocketIsNotSpokenWith) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may answer anywhere";
  const UniqueFd server = bind_socket();
  ASSERT_EQ(::listen(server.get(), 4), 0);
  EXPECT_EQ(Client::connect(dir_.get(), ::geteuid() + 1, 1000).status().code(), Errc::kUntrusted);
}

}  // namespace
}  // namespace bulkhead::wire
