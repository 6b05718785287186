#include "wire/parse.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace bulkhead::wire {
namespace {

TenantRecord record() {
  TenantRecord r{};
  put_text(r.name, "a-tenant");
  r.device_count = 2;
  r.devices[0].uuid[0] = 1;
  r.devices[0].memory_bytes = 1u << 30;
  r.devices[1].uuid[0] = 2;
  r.match_uid = r.match_gid = kNoId;
  return r;
}
RegisterRequest registration() {
  RegisterRequest r{};
  begin(r, Kind::kRegister, 7);
  r.record = record();
  return r;
}
template <class T>
Errc ask(const T& message) {
  return check_request(&message, sizeof message).code();
}

TEST(WireNames, OnlyTheGrammarPaddedWithZeros) {
  char name[kNameBytes];
  for (const char* good : {"a", "0", "a.b_c-d9", "run-12-345"}) {
    put_text(name, good);
    EXPECT_TRUE(valid_name(name)) << good;
  }
  for (const char* wrong : {"", ".a", "-a", "_", "A", "a/b", "../x", "a b", "a\n", "\xc3\xa4"}) {
    put_text(name, wrong);
    EXPECT_FALSE(valid_name(name)) << wrong;
  }
  put_text(name, "a");
  name[63] = 'x';  // something behind the end
  EXPECT_FALSE(valid_name(name));
  std::memset(name, 'a', sizeof name);  // no end at all
  EXPECT_FALSE(valid_name(name));
  name[63] = '\0';
  EXPECT_TRUE(valid_name(name));
}

TEST(WireRequests, AWellFormedOneOfEachKindIsTaken) {
  for (const Kind kind : {Kind::kHello, Kind::kWhoAmI, Kind::kReload, Kind::kCondition}) {
    Empty e{};
    begin(e, kind, 1);
    EXPECT_EQ(ask(e), Errc::kOk);
  }
  EXPECT_EQ(ask(registration()), Errc::kOk);
  NameRequest n{};
  begin(n, Kind::kUnregister, 1);
  EXPECT_EQ(ask(n), Errc::kInvalid);  // of nobody
  put_text(n.name, "a");
  n.flags = kForce;
  EXPECT_EQ(ask(n), Errc::kOk);
  NameRequest list{};
  begin(list, Kind::kList, 1);
  EXPECT_EQ(ask(list), Errc::kOk);
  UpdateRequest u{};
  begin(u, Kind::kUpdate, 1);
  u.record = record();
  EXPECT_EQ(ask(u), Errc::kInvalid);  // changes nothing
  u.mask = kSetMemory;
  EXPECT_EQ(ask(u), Errc::kOk);
  JoinRequest j{};
  begin(j, Kind::kJoin, 1);
  put_text(j.name, "a");
  EXPECT_EQ(ask(j), Errc::kInvalid);  // no pid
  j.pid = 12;
  EXPECT_EQ(ask(j), Errc::kOk);
  EventsRequest e{};
  begin(e, Kind::kEvents, 1);
  e.follow = 1;
  EXPECT_EQ(ask(e), Errc::kOk);
  UsageRequest s{};
  begin(s, Kind::kUsage, 1);
  EXPECT_EQ(ask(s), Errc::kOk);
}

TEST(WireRequests, AHeaderThatDoesNotFitItsMessageIsRefused) {
  const auto refused = [](const std::function<void(Header&)>& change, std::size_t bytes) {
    RegisterRequest r = registration();
    change(r.header);
    return check_request(&r, bytes).code();
  };
  const std::size_t whole = sizeof(RegisterRequest);
  EXPECT_EQ(refused([](Header&) {}, whole), Errc::kOk);
  for (const std::size_t bytes : {std::size_t{0}, sizeof(Header) - 1, sizeof(Header), whole - 1}) {
    EXPECT_EQ(refused([](Header&) {}, bytes), Errc::kInvalid) << bytes;
    EXPECT_EQ(refused([&](Header& h) { h.bytes = static_cast<std::uint32_t>(bytes); }, bytes),
              Errc::kInvalid)
        << bytes;
  }
  EXPECT_EQ(refused([](Header& h) { h.magic ^= 1; }, whole), Errc::kInvalid);
  EXPECT_EQ(refused([](Header& h) { h.bytes += 1; }, whole), Errc::kInvalid);
  EXPECT_EQ(refused([](Header& h) { h.kind = 0; }, whole), Errc::kInvalid);
  EXPECT_EQ(refused([](Header& h) { h.kind = 11; }, whole), Errc::kInvalid);
  EXPECT_EQ(refused([](Header& h) { h.kind |= kReplyBit; }, whole), Errc::kInvalid);
  EXPECT_EQ(refused([](Header& h) { h.flags = kMore; }, whole), Errc::kInvalid);
  EXPECT_EQ(refused([](Header& h) { h.result = 1; }, whole), Errc::kInvalid);
  EXPECT_EQ(refused([](Header& h) { h.reserved = 1; }, whole), Errc::kInvalid);
  EXPECT_EQ(refused([](Header& h) { h.protocol = 2; }, whole), Errc::kBadVersion);
}

TEST(WireRecords, EveryFieldHasItsRange) {
  const std::vector<std::pair<const char*, std::function<void(TenantRecord&)>>> wrong = {
      {"no devices", [](TenantRecord& r) { r.device_count = 0; }},
      {"17 devices", [](TenantRecord& r) { r.device_count = 17; }},
      {"a device behind the count", [](TenantRecord& r) { r.device_count = 1; }},
      {"the same device twice", [](TenantRecord& r) { r.devices[1].uuid[0] = 1; }},
      {"no UUID", [](TenantRecord& r) { r.devices[1].uuid[0] = 0; }},
      {"2^56 bytes", [](TenantRecord& r) { r.devices[0].memory_bytes = kMaxMemoryBytes + 1; }},
      {"101%", [](TenantRecord& r) { r.devices[0].compute_x100 = 10100; }},
      {"a ceiling below the share",
       [](TenantRecord& r) { r.devices[0].compute_x100 = 50, r.devices[0].ceiling_x100 = 49; }},
      {"burst", [](TenantRecord& r) { r.burst_us = kMostPace_us + 1; }},
      {"window", [](TenantRecord& r) { r.window_us = kMostPace_us + 1; }},
      {"dampening", [](TenantRecord& r) { r.dampening_x1000 = 1001; }},
      {"ceiling 101%", [](TenantRecord& r) { r.devices[0].ceiling_x100 = 10100; }},
      {"flag", [](TenantRecord& r) { r.flags = 8; }},
      {"on_fault", [](TenantRecord& r) { r.on_fault = static_cast<OnFault>(2); }},
      {"priority", [](TenantRecord& r) { r.priority = static_cast<Priority>(2); }},
      {"mode", [](TenantRecord& r) { r.compute_mode = static_cast<ComputeMode>(5); }},
      {"audit", [](TenantRecord& r) { r.audit_mode = static_cast<AuditMode>(3); }},
      {"reserved", [](TenantRecord& r) { r.reserved1[39] = 1; }},
      {"reserved", [](TenantRecord& r) { r.reserved0 = 1; }},
      {"class without an end", [](TenantRecord& r) { std::memset(r.reserve_class, 'a', 32); }},
      {"class", [](TenantRecord& r) { put_text(r.reserve_class, "a b"); }},
      {"group", [](TenantRecord& r) { put_text(r.mps_group, "\x1b[2J"); }},
      {"subject", [](TenantRecord& r) { put_text(r.grant_subject, "a\nb"); }},
      {"share", [](TenantRecord& r) { put_text(r.share_with[0], "../x"); }},
      {"a gap in shares", [](TenantRecord& r) { put_text(r.share_with[1], "b"); }},
      {"relative cgroup", [](TenantRecord& r) { put_text(r.match_cgroup, "a"); }},
      {"cgroup upwards", [](TenantRecord& r) { put_text(r.match_cgroup, "/a/../b"); }},
      {"cgroup upwards", [](TenantRecord& r) { put_text(r.match_cgroup, "/a/.."); }},
      {"name", [](TenantRecord& r) { put_text(r.name, "A"); }},
  };
  EXPECT_TRUE(check_record(record(), RecordUse::kRegister).ok());
  for (const auto& [what, change] : wrong) {
    TenantRecord r = record();
    change(r);
    EXPECT_EQ(check_record(r, RecordUse::kRegister).code(), Errc::kInvalid) << what;
  }
  TenantRecord r = record();
  put_text(r.match_cgroup, "/a/..b/...");
  put_text(r.share_with[0], "b");
  EXPECT_TRUE(check_record(r, RecordUse::kRegister).ok());
  put_text(r.name, "");
  EXPECT_TRUE(check_record(r, RecordUse::kRegister).ok());
  EXPECT_FALSE(check_record(r, RecordUse::kUpdate).ok());
}

TEST(WireReplies, CountsAndTextsStayWithinTheMessage) {
  Verdict v{};
  begin(v, Kind::kRegister, 9);
  v.header.kind |= kReplyBit;
  const auto check = [&] { return check_reply(&v, sizeof v, Kind::kRegister, 9).code(); };
  EXPECT_EQ(check(), Errc::kOk);
  std::memset(v.text, 'a', sizeof v.text);
  EXPECT_EQ(check(), Errc::kInvalid);
  std::memset(v.text, 0, sizeof v.text);
  v.header.sequence = 8;
  EXPECT_EQ(check(), Errc::kInvalid);

  struct {
    EventsReply head;
    EventView event[2];
  } e{};
  begin(e.head, Kind::kEvents, 1);
  e.head.header.kind |= kReplyBit;
  e.head.header.bytes = sizeof e;
  e.head.events = 2;
  EXPECT_TRUE(check_reply(&e, sizeof e, Kind::kEvents, 1).ok());
  e.head.events = 3;
  EXPECT_FALSE(check_reply(&e, sizeof e, Kind::kEvents, 1).ok());
  e.head.events = 2 + (1u << 31);  // times the size of one wraps in 32 bits
  EXPECT_FALSE(check_reply(&e, sizeof e, Kind::kEvents, 1).ok());
}

TEST(WireReplies, ARefusalMayBeAHeaderAlone) {
  Header h{kMagic,   kProtocol, static_cast<std::uint16_t>(Kind::kList) | kReplyBit,
           sizeof h, 3,         static_cast<std::uint32_t>(Errc::kBadVersion),
           0,        0};
  EXPECT_TRUE(check_reply(&h, sizeof h, Kind::kList, 3).ok());
  h.result = 0;
  EXPECT_FALSE(check_reply(&h, sizeof h, Kind::kList, 3).ok());
}

}  // namespace
}  // namespace bulkhead::wire
