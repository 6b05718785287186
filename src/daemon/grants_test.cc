#include "daemon/grants.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <nlohmann/json.hpp>

#include "daemon/test_node.h"
#include "grant/test_token.h"

namespace bulkhead::daemon {
namespace {

using abi::DenyReason;
using wire::EventKind;
using wire::RevokeWhat;
constexpr const char* kConfig =
    "[[tenant]]\nname='trade'\nmatch={uid=1000}\nmemory='10GiB'\n"
    "grant_subject='spiffe://firm.example/trade'\n"
    "[[tenant]]\nname='plain'\nmatch={uid=1001}\nmemory='10GiB'\n";
constexpr const char* kGpu0 = "GPU-10101010-1010-1010-1010-101010101010";

class GrantsTest : public testing::Test {
 protected:
  grant::Issuer issuer;
  TestNode node{kConfig};
  std::vector<Posted> posted;
  std::vector<std::string> records;
  std::string here, state;
  std::unique_ptr<Grants> grants = make();

  GrantsOutside outside() {
    GrantsOutside o;
    o.post = [this](EventKind kind, const std::string& text, const EventFields&) {
      posted.push_back({kind, text});
    };
    o.record = [this](const std::string& json) { records.push_back(json); };
    o.keep_here = [this](const std::string& json) { here = json; };
    o.keep_state = [this](const std::string& json) { state = json; };
    return o;
  }
  std::unique_ptr<Grants> make() {
    node.now.unix_ns = grant::kNow * 1'000'000'000;
    auto g = std::make_unique<Grants>(node.ledger, outside());
    EXPECT_EQ(g->set_keys(trust(), jwks(), node.now), "");
    return g;
  }
  static Trust trust() { return {"jwks.json", "node1", ""}; }
  std::string jwks() const { return "{\"keys\":[" + grant::to_jwk(issuer.key, "k1") + "]}"; }
  static grant::Grant usual(const char* id = "AAAAAAAAAAAAAAAAAAAAAA") {
    grant::Grant g = grant::good_grant();
    g.locations = {kGpu0};
    g.id = id;
    return g;
  }
  std::string token(const grant::Grant& g) const { return grant::issue(g, issuer.key); }
  Answer give(const grant::Grant& g, const char* tenant = "trade", std::uint32_t uid = 1000) {
    return grants->present(peer(uid), tenant, token(g), node.now);
  }
  void pass(std::int64_t seconds) {
    node.now.mono_ns += static_cast<std::uint64_t>(seconds) * 1'000'000'000;
    node.now.unix_ns += seconds * 1'000'000'000;
    (void)grants->tick(node.now);
  }
  bool saw(EventKind kind) const {
    return std::any_of(posted.begin(), posted.end(),
                       [kind](const Posted& p) { return p.kind == kind; });
  }
  // What a process of the tenant has.
  struct Mapped {
    UniqueFd fd;
    Mapping map;
    const shm::GrantTable& table() const { return *map.as<const shm::GrantTable>(); }
  };
  Mapped mapped(const char* tenant = "trade", std::uint32_t uid = 1000) {
    Mapped m;
    const Answer a = grants->table(peer(uid), tenant, m.fd);
    EXPECT_TRUE(a.ok()) << a.text;
    void* at = ::mmap(nullptr, sizeof(shm::GrantTable), PROT_READ, MAP_SHARED, m.fd.get(), 0);
    EXPECT_NE(at, MAP_FAILED);
    if (at != MAP_FAILED) m.map = Mapping{at, sizeof(shm::GrantTable)};
    return m;
  }
  static std::vector<shm::GrantHandle> handles(const Mapped& m) {
    shm::GrantHandle all[shm::kMostLivingGrants];
    const unsigned n = shm::living_grants(m.table(), all);
    return {all, all + n};
  }
  DenyReason ask(const Mapped& m, shm::GrantHandle h, std::uint8_t directions = grant::kH2d,
                 std::uint32_t devices = 1) {
    shm::GrantNeed need;
    need.directions = directions;
    need.devices = devices;
    need.bytes = 4096;
    std::uint32_t serial = 0;
    return shm::check_grant(m.table(), h, need, node.now.mono_ns, &serial);
  }
};

TEST_F(GrantsTest, AGrantReachesTheTenantsTable) {
  const Mapped m = mapped();
  EXPECT_TRUE(handles(m).empty());
  const std::string one = token(usual());
  const Answer a = grants->present(peer(1000), "trade", one, node.now);
  ASSERT_TRUE(a.ok()) << a.text;
  EXPECT_NE(a.text.find("grant 1 for spiffe://firm.example/trade until"), std::string::npos);
  ASSERT_EQ(handles(m).size(), 1u);
  const shm::GrantHandle h = handles(m)[0];
  EXPECT_EQ(ask(m, h), DenyReason::kNone);
  EXPECT_EQ(ask(m, h, grant::kP2p), DenyReason::kDirection);
  EXPECT_EQ(ask(m, h, grant::kH2d, 2), DenyReason::kDevice);  // the tenant has it, the grant not
  EXPECT_TRUE(saw(EventKind::kGrantAccepted));
  // one token is one grant; another one of its id is none
  EXPECT_EQ(grants->present(peer(1000), "trade", one, node.now).text, a.text);
  EXPECT_FALSE(give(usual()).ok());
  EXPECT_EQ(grants->living(), 1u);
}

TEST_F(GrantsTest, NobodyWritesATableButTheDaemon) {
  const Mapped m = mapped();
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, m.fd.get(), 0), MAP_FAILED);
  EXPECT_NE(::mprotect(m.map.as<void>(), 4096, PROT_READ | PROT_WRITE), 0);
  EXPECT_LT(::write(m.fd.get(), "x", 1), 0);
  EXPECT_NE(::ftruncate(m.fd.get(), 0), 0);
  const std::string path = "/proc/self/fd/" + std::to_string(m.fd.get());
  const UniqueFd again{::open(path.c_str(), O_RDWR | O_CLOEXEC)};  // our own user's, so it opens
  if (again.ok()) {
    EXPECT_LT(::write(again.get(), "x", 1), 0);
    EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again.get(), 0),
              MAP_FAILED);
  }
  EXPECT_NE(::fcntl(m.fd.get(), F_GET_SEALS) & F_SEAL_SEAL, 0);
}

TEST_F(GrantsTest, EachRefusalIsNamedAndAnEvent) {
  const auto refused = [this](const grant::Grant& g, const char* tenant = "trade",
                              std::uint32_t uid = 1000) {
    posted.clear();
    const Answer a = give(g, tenant, uid);
    EXPECT_FALSE(a.ok());
    EXPECT_TRUE(saw(EventKind::kGrantRefused));
    EXPECT_EQ(grants->living(), 0u);
    const std::string lead = "grant refused: ";
    EXPECT_EQ(a.text.rfind(lead, 0), 0u) << a.text;
    return a.text.substr(lead.size(), a.text.find_first_of(":(", lead.size()) - lead.size());
  };
  grant::Grant g = usual();
  g.subject = "spiffe://firm.example/other";
  EXPECT_EQ(refused(g), "subject ");
  g = usual();
  g.audience = "node2";
  EXPECT_EQ(refused(g), "audience ");
  g = usual();
  g.expires_s = grant::kNow;
  EXPECT_EQ(refused(g), "expired ");
  g = usual();
  g.not_before_s = g.issued_s = grant::kNow + 60;
  EXPECT_EQ(refused(g), "not-yet-valid ");
  g = usual();
  g.kid = "k2";
  EXPECT_EQ(refused(g), "unknown-key");
  g = usual();
  g.locations = {"GPU-99999999-9999-9999-9999-999999999999"};
  EXPECT_EQ(refused(g), "location");
  g = usual();
  g.subject = "";
  EXPECT_EQ(refused(g), "claim ");
  EXPECT_EQ(refused(usual(), "plain", 1001), "no-subject");  // its grant_subject is empty
  EXPECT_EQ(refused(usual(), "trade", 1001), "not-yours");
  EXPECT_EQ(refused(usual(), "nobody", 0), "no-tenant");
  (void)grants->revoke(peer(0), RevokeWhat::kId, usual().id, node.now);
  EXPECT_EQ(refused(usual()), "denied");
}

TEST_F(GrantsTest, WithoutATrustFileNobodyIsBelieved) {
  Grants none{node.ledger, outside()};
  const Answer a = none.present(peer(1000), "trade", token(usual()), node.now);
  EXPECT_EQ(a.text.rfind("grant refused: no-trust", 0), 0u) << a.text;
}

TEST_F(GrantsTest, ATenantOfAnotherGetsNoTable) {
  UniqueFd fd;
  EXPECT_FALSE(grants->table(peer(1001), "trade", fd).ok());
  EXPECT_FALSE(fd.ok());
  EXPECT_FALSE(grants->table(peer(1000), "nobody", fd).ok());
}

TEST_F(GrantsTest, RevocationActsAtTheNextCheckAndStays) {
  const Mapped m = mapped();
  ASSERT_TRUE(give(usual()).ok());
  const shm::GrantHandle h = handles(m)[0];
  EXPECT_FALSE(grants->revoke(peer(1001), RevokeWhat::kId, usual().id, node.now).ok());
  EXPECT_EQ(ask(m, h), DenyReason::kNone);
  EXPECT_TRUE(grants->revoke(peer(1000), RevokeWhat::kId, usual().id, node.now).ok());
  EXPECT_EQ(ask(m, h), DenyReason::kRevoked);
  EXPECT_EQ(shm::ended_why(m.table(), h), DenyReason::kRevoked);
  EXPECT_FALSE(give(usual()).ok());
  EXPECT_TRUE(saw(EventKind::kGrantRevoked));
  grants = make();  // the daemon is killed and comes back
  grants->restore(here, state, node.now);
  EXPECT_EQ(grants->living(), 0u);
  EXPECT_FALSE(give(usual()).ok());
  grants = make();  // the machine is
  grants->restore("", state, node.now);
  EXPECT_FALSE(give(usual()).ok());
  pass(1000);  // nothing of that id can be valid any more
  EXPECT_EQ(give(usual()).text.rfind("grant refused: expired", 0), 0u);
}

TEST_F(GrantsTest, ATenantAndAKeyAreRevokedWhole) {
  const Mapped m = mapped();
  ASSERT_TRUE(give(usual("aaaaaaaaaaaaaaaaaaaaaa")).ok());
  ASSERT_TRUE(give(usual("bbbbbbbbbbbbbbbbbbbbbb")).ok());
  const auto two = handles(m);
  ASSERT_EQ(two.size(), 2u);
  const std::uint32_t epoch = m.table().header.epoch.load();
  EXPECT_FALSE(grants->revoke(peer(1000), RevokeWhat::kKey, "k1", node.now).ok());
  EXPECT_TRUE(grants->revoke(peer(1000), RevokeWhat::kTenant, "trade", node.now).ok());
  EXPECT_EQ(m.table().header.epoch.load(), epoch + 1);
  for (const auto& h : two) EXPECT_EQ(ask(m, h), DenyReason::kRevoked);
  ASSERT_TRUE(give(usual("cccccccccccccccccccccc")).ok());
  EXPECT_TRUE(grants->revoke(peer(0), RevokeWhat::kKey, "k1", node.now).ok());
  EXPECT_TRUE(handles(m).empty());
}

TEST_F(GrantsTest, AKeyThatIsTakenAwayEndsWhatItSigned) {
  const Mapped m = mapped();
  const grant::Issuer other{"k2"};
  const std::string both =
      "{\"keys\":[" + grant::to_jwk(issuer.key, "k1") + "," + grant::to_jwk(other.key, "k2") + "]}";
  ASSERT_EQ(grants->set_keys(trust(), both, node.now), "");
  ASSERT_TRUE(give(usual()).ok());
  grant::Grant second = usual("bbbbbbbbbbbbbbbbbbbbbb");
  second.kid = "k2";
  ASSERT_TRUE(grants->present(peer(1000), "trade", grant::issue(second, other.key), node.now).ok());
  const auto two = handles(m);
  ASSERT_EQ(two.size(), 2u);
  // a broken file changes nothing
  EXPECT_NE(grants->set_keys(trust(), "{", node.now), "");
  for (const auto& h : two) EXPECT_EQ(ask(m, h), DenyReason::kNone);
  ASSERT_EQ(
      grants->set_keys(trust(), "{\"keys\":[" + grant::to_jwk(other.key, "k2") + "]}", node.now),
      "");
  EXPECT_EQ(handles(m).size(), 1u);
  EXPECT_FALSE(give(usual("cccccccccccccccccccccc")).ok());
  // a new key under the old kid is another key
  const std::uint32_t epoch = m.table().header.epoch.load();
  const grant::Issuer third{"k2"};
  ASSERT_EQ(
      grants->set_keys(trust(), "{\"keys\":[" + grant::to_jwk(third.key, "k2") + "]}", node.now),
      "");
  EXPECT_TRUE(handles(m).empty());
  EXPECT_EQ(m.table().header.epoch.load(), epoch + 1);
}

TEST_F(GrantsTest, ExpiryEndsItAndTellsBefore) {
  const Mapped m = mapped();
  ASSERT_TRUE(give(usual()).ok());  // -10 s .. 600 s
  const shm::GrantHandle h = handles(m)[0];
  pass(470);
  EXPECT_FALSE(saw(EventKind::kGrantExpiring));
  pass(20);
  EXPECT_TRUE(saw(EventKind::kGrantExpiring));
  pass(109);
  EXPECT_EQ(ask(m, h), DenyReason::kNone);
  node.now.mono_ns += 1'000'000'000;  // before any tick
  EXPECT_EQ(ask(m, h), DenyReason::kExpired);
  pass(0);
  EXPECT_EQ(shm::ended_why(m.table(), h), DenyReason::kExpired);
  EXPECT_TRUE(saw(EventKind::kGrantExpired));
}

TEST_F(GrantsTest, RenewalOverlapsAndNothingIsTold) {
  const Mapped m = mapped();
  ASSERT_TRUE(give(usual()).ok());
  pass(300);
  grant::Grant later = usual("bbbbbbbbbbbbbbbbbbbbbb");
  later.not_before_s = later.issued_s = grant::kNow + 300;
  later.expires_s = grant::kNow + 900;
  ASSERT_TRUE(give(later).ok());
  const auto two = handles(m);
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(ask(m, two[0]), DenyReason::kNone);
  EXPECT_EQ(ask(m, two[1]), DenyReason::kNone);
  pass(250);
  EXPECT_FALSE(saw(EventKind::kGrantExpiring));  // of the first: a later one is there
  pass(60);
  ASSERT_EQ(handles(m).size(), 1u);
  EXPECT_EQ(ask(m, handles(m)[0]), DenyReason::kNone);
}

TEST_F(GrantsTest, AClockThatIsSetBackProlongsNothing) {
  const Mapped m = mapped();
  ASSERT_TRUE(give(usual()).ok());
  node.now.unix_ns -= 3600ll * 1'000'000'000;
  (void)grants->tick(node.now);
  EXPECT_EQ(handles(m).size(), 1u);
  node.now.mono_ns += 600ull * 1'000'000'000;
  node.now.unix_ns += 600ll * 1'000'000'000;
  (void)grants->tick(node.now);
  EXPECT_TRUE(handles(m).empty());
}

TEST_F(GrantsTest, ADaemonsEndLosesNothing) {
  ASSERT_TRUE(give(usual("aaaaaaaaaaaaaaaaaaaaaa")).ok());
  ASSERT_TRUE(give(usual("bbbbbbbbbbbbbbbbbbbbbb")).ok());
  grants = make();
  grants->restore(here, state, node.now);
  const Mapped m = mapped();
  ASSERT_EQ(handles(m).size(), 2u);
  const Answer a = give(usual("cccccccccccccccccccccc"));
  EXPECT_EQ(a.text.rfind("grant 3 ", 0), 0u) << a.text;
  grants = make();  // a reboot: serials are not used again
  grants->restore("", state, node.now);
  const Answer b = give(usual("dddddddddddddddddddddd"));
  EXPECT_EQ(b.text.rfind("grant 1002 ", 0), 0u) << b.text;
  grants = make();
  grants->restore("{\"schema\":1", "rubbish", node.now);
  EXPECT_EQ(grants->living(), 0u);
}

TEST_F(GrantsTest, ATenantThatChangesLosesItsGrants) {
  const Mapped m = mapped();
  ASSERT_TRUE(give(usual()).ok());
  std::string other = kConfig;
  other.replace(other.find("firm.example/trade"), 18, "firm.example/else_");
  ASSERT_EQ(node.configure(other), "");
  pass(1);
  EXPECT_TRUE(handles(m).empty());
  EXPECT_EQ(give(usual()).text.rfind("grant refused: subject", 0), 0u);
}

TEST_F(GrantsTest, RecordsSayWhatTheLogNeeds) {
  records.clear();
  ASSERT_TRUE(give(usual()).ok());
  ASSERT_EQ(records.size(), 1u);
  const auto j = nlohmann::json::parse(records[0]);
  EXPECT_EQ(j["record"], "grant");
  EXPECT_EQ(j["serial"], 1);
  EXPECT_EQ(j["session_tenant"], "trade");
  EXPECT_EQ(j["sub"], "spiffe://firm.example/trade");
  EXPECT_EQ(j["directions"], (nlohmann::json{"h2d", "d2h"}));
  EXPECT_EQ(j["devices"], nlohmann::json{kGpu0});
  EXPECT_EQ(j["bytes"], 0);
  EXPECT_EQ(j["exp"], grant::kNow + 600);
  EXPECT_TRUE(grant::verify(j["jwt"].get<std::string>(), issuer.keys,
                            {"node1", "", "spiffe://firm.example/trade", grant::kNow})
                  .ok());
  EXPECT_EQ(j.dump(), records[0]);  // canonical
  (void)grants->revoke(peer(0), RevokeWhat::kTenant, "trade", node.now);
  ASSERT_EQ(records.size(), 2u);
  const auto r = nlohmann::json::parse(records[1]);
  EXPECT_EQ(r["record"], "policy");
  EXPECT_EQ(r["revoked_grant"], 1);
  EXPECT_EQ(r["utc"], node.now.unix_ns);
}

abi::AuditEntry entry(std::uint32_t grant, std::int64_t utc_ns, std::uint64_t bytes = 4096) {
  abi::AuditEntry e{};
  e.version_kind = abi::version_kind(abi::EntryKind::kTransfer);
  e.direction_decision_flags =
      abi::pack_verdict(abi::Direction::kHostToDevice, abi::Decision::kAllowed, 0);
  e.grant = grant;
  e.utc_ns = static_cast<std::uint64_t>(utc_ns);
  e.source_device = abi::kHostDevice;
  e.destination_device = 0;
  abi::set_bytes(e, bytes);
  return e;
}

TEST_F(GrantsTest, TheDaemonChecksEntriesForItself) {
  grant::Grant g = usual();
  g.bytes = 10'000;
  ASSERT_TRUE(give(g).ok());
  GrantBook& book = grants->book();
  const std::vector<std::string> devices = {kGpu0, "GPU-11111111-1111-1111-1111-111111111111"};
  const std::int64_t now = node.now.unix_ns;
  constexpr std::int64_t kS = 1'000'000'000;
  const auto check = [&](const abi::AuditEntry& e, const char* tenant = "trade") {
    return book.check(tenant, devices, e);
  };
  EXPECT_EQ(check(entry(1, now)), DenyReason::kNone);
  EXPECT_EQ(check(entry(0, now)), DenyReason::kNoGrant);
  EXPECT_EQ(check(entry(9, now)), DenyReason::kNoGrant);
  EXPECT_EQ(check(entry(1, now), "plain"), DenyReason::kForeign);
  EXPECT_EQ(check(entry(1, now + 602 * kS)), DenyReason::kExpired);
  EXPECT_EQ(check(entry(1, now - 12 * kS)), DenyReason::kNotYetValid);
  abi::AuditEntry e = entry(1, now);
  e.direction_decision_flags =
      abi::pack_verdict(abi::Direction::kUnknown, abi::Decision::kAllowed, 0);
  EXPECT_EQ(check(e), DenyReason::kDirection);
  e = entry(1, now);
  e.version_kind = abi::version_kind(abi::EntryKind::kMap);
  EXPECT_EQ(check(e), DenyReason::kDirection);
  e = entry(1, now);
  e.destination_device = 1;
  EXPECT_EQ(check(e), DenyReason::kDevice);
  e.destination_device = 7;
  EXPECT_EQ(check(e), DenyReason::kDevice);
  e.destination_device = abi::kRemoteDevice;
  EXPECT_EQ(check(e), DenyReason::kNone);
  EXPECT_EQ(check(entry(1, now, 4000)), DenyReason::kBytes);
  const auto marked = book.recheck("trade", devices, entry(1, now, 1));
  EXPECT_EQ(marked.decision, abi::Decision::kViolation);
  EXPECT_EQ(marked.reason, DenyReason::kBytes);
  pass(0);  // over the sum: it ends for every process
  EXPECT_EQ(grants->living(), 0u);
  EXPECT_EQ(check(entry(1, now + 3 * kS, 0)), DenyReason::kRevoked);
}

}  // namespace
}  // namespace bulkhead::daemon
