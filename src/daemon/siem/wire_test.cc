// What goes over the wire, and what may come back.
#include <gtest/gtest.h>

#include "daemon/siem/frame.h"
#include "daemon/siem/relp.h"
#include "daemon/siem/siem.h"

namespace bulkhead::daemon::siem {
namespace {

TEST(SiemTarget, FourProtocols) {
  auto a = parse_target("relp+tls://siem.example:2514");
  ASSERT_TRUE(a.value);
  EXPECT_TRUE(a.value->relp && a.value->tls);
  EXPECT_EQ(a.value->host, "siem.example");
  EXPECT_EQ(a.value->port, 2514);
  EXPECT_EQ(parse_target("tcp://[::1]")->port, 601);
  EXPECT_EQ(parse_target("tls://[fe80::1%eth0]:7000")->host, "fe80::1%eth0");
  EXPECT_EQ(parse_target("tls://h")->port, 6514);
  for (const char* bad : {"", "udp://h", "tcp:/h", "tcp://", "tcp://h:0", "tcp://h:65536",
                          "tcp://h:", "tcp://h:1x", "tcp://[::1", "tcp://[::1]x", "tcp://a b"})
    EXPECT_FALSE(parse_target(bad).ok()) << bad;
}

TEST(SiemFrame, IsRfc5424) {
  const Event e{"o/\"1]", "DENY", 4, 1'800'000'000'123'456'789, "{\"a\":1}"};
  const std::string text = syslog_message(e, header_host("a b"), 4711);
  EXPECT_EQ(text,
            "<108>1 2027-01-15T08:00:00.123456Z a?b bulkheadd - DENY "
            "[bulkhead@4711 uid=\"o/\\\"1\\]\"] {\"a\":1}");
  EXPECT_EQ(octet_counted("abc"), "3 abc");
  EXPECT_EQ(header_host(""), "-");
  Event far = e;
  far.utc_ns = ~std::uint64_t{0};
  EXPECT_NE(syslog_message(far, "h", 1).find("2554-"), std::string::npos);
}

TEST(SiemRelp, ConfirmsInOrderOnly) {
  RelpClient c;
  EXPECT_EQ(c.open().substr(0, 7), "1 open ");
  EXPECT_FALSE(c.room());
  const std::string offer =
      "200 OK\nrelp_version=0\nrelp_software=librelp,1.2.14,http://librelp.adiscon.com\n"
      "commands=syslog";
  ASSERT_TRUE(c.feed("1 rsp " + std::to_string(offer.size()) + " " + offer + "\n")) << c.problem();
  ASSERT_TRUE(c.room());
  EXPECT_EQ(c.syslog("ab"), "2 syslog 2 ab\n");
  (void)c.syslog("b");
  (void)c.syslog("c");
  ASSERT_TRUE(c.feed("3 rsp 6 200 OK\n4 rsp 6 20"));
  EXPECT_EQ(c.confirmed(), 0u);  // the first has no answer yet
  ASSERT_TRUE(c.feed("0 OK\n"));
  EXPECT_EQ(c.confirmed(), 0u);
  ASSERT_TRUE(c.feed("2 rsp 6 200 OK\n"));
  EXPECT_EQ(c.confirmed(), 3u);
  EXPECT_FALSE(c.waits());
}

TEST(SiemRelp, NeverMoreThanItsWindow) {
  RelpClient c;
  (void)c.open();
  ASSERT_TRUE(c.feed("1 rsp 6 200 OK\n"));
  for (std::size_t i = 0; i < RelpClient::kMostOpen; ++i) {
    ASSERT_TRUE(c.room());
    (void)c.syslog("x");
  }
  EXPECT_FALSE(c.room());
  ASSERT_TRUE(c.feed("2 rsp 6 200 OK\n"));
  EXPECT_TRUE(c.room());
}

TEST(SiemRelp, RubbishEndsTheSession) {
  for (const char* bad :
       {"HTTP/1.1 400 Bad Request\r\n\r\n", "1 rsp 6 500 no\n", "1 rsp 99999999 x",
        "2 rsp 6 200 OK\n", "0 serverclose 0\n", "1 rsp 6 200 OKx", "1 rsp -1 x\n", "1 rsp 0\n",
        "99999999999999999999 rsp 0\n", "\n\n\n   ", "1 rsp 6 2000OK\n"}) {
    RelpClient c;
    (void)c.open();
    EXPECT_FALSE(c.feed(bad)) << bad;
    EXPECT_FALSE(c.problem().empty());
  }
  RelpClient c;  // without an end: bounded
  (void)c.open();
  EXPECT_FALSE(c.feed(std::string(100, '1')));
}

TEST(SiemRelp, AnAnswerCountsOnce) {
  RelpClient c;
  (void)c.open();
  ASSERT_TRUE(c.feed("1 rsp 6 200 OK\n"));
  (void)c.syslog("a");
  (void)c.syslog("b");
  ASSERT_TRUE(c.feed("3 rsp 6 200 OK\n"));
  EXPECT_FALSE(c.feed("3 rsp 6 200 OK\n"));
  EXPECT_EQ(c.confirmed(), 0u);
}

TEST(SiemOrders, TravelWhole) {
  Orders o;
  o.settings = {"relp://h", "/ca", "/cert", "/key", "n", 4711, 123};
  o.log = "/l";
  o.state = "/s";
  o.host = "h";
  o.version = "v";
  o.parent_pid = 7;
  Orders back;
  ASSERT_TRUE(parse_orders(orders_text(o), back));
  EXPECT_TRUE(back.settings == o.settings);
  EXPECT_EQ(orders_text(back), orders_text(o));
  EXPECT_FALSE(parse_orders("rubbish", back));
}

}  // namespace
}  // namespace bulkhead::daemon::siem
