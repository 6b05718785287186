// NCCL between real processes on the timed simulator, reached in each way; and a program without it.
#include <cstring>

#include "shm/tenant.h"
#include "tests/hook/process.h"

namespace bulkhead::test {
namespace {

constexpr std::uint64_t kTotal = 150109880320;  // of the simulator's profile

class Nccl : public HookTest {
 protected:
  void SetUp() override {
    HookTest::SetUp();
    env["LD_LIBRARY_PATH"] = kSim + ":" + kClients + "nccl";
    env["BULKHEAD_SIM_TIMED"] = "1";
    env["TMPDIR"] = dir;
    env.erase("BULKHEAD_MEMORY");
  }
  // A tenant with this share of the first simulated device's time; 0: no limit.
  shm::Tenant make(const char* name, std::uint32_t percent) {
    Env plain{{"LD_LIBRARY_PATH", kSim}, {"BULKHEAD_DIR", dir}};
    Client c({kClients + "launch_client", "uuid", "0", "0"}, plain);
    EXPECT_EQ(c.finish(), 0) << c.errors;
    shm::DirOptions o;
    o.asked = dir.c_str();
    o.euid = geteuid();
    Result<shm::Dir> d = shm::open_dir(o);
    EXPECT_TRUE(d.ok());
    shm::TenantSpec spec;
    spec.name = name;
    spec.owner_uid = geteuid();
    spec.device_count = 1;
    const Said said = parse(c.text);
    for (std::size_t i = 0; i < 16; ++i)
      spec.devices[0].uuid[i] = static_cast<std::uint8_t>(said.lines.at("byte").at(i));
    spec.devices[0].total_bytes = kTotal;
    spec.devices[0].limit_bytes = 4 * kGiB;
    spec.devices[0].compute.floor_x100 = percent * 100;
    spec.devices[0].compute.ceiling_x100 = percent * 100;
    shm::Arithmetic sums;
    EXPECT_TRUE(shm::create_tenant(*d, spec, sums).ok());
    Result<shm::Tenant> t = shm::attach_tenant(*d, name);
    EXPECT_TRUE(t.ok()) << t.status().text();
    return std::move(*t);
  }
  Env as(const char* tenant) {
    Env e = env;
    e["BULKHEAD_TENANT"] = tenant;
    return e;
  }
  static Args user(std::string program, int rank, int ranks, int n, int us, std::string id = "") {
    Args a{kClients + program};
    if (program == "nccl_client") a.push_back("bundled");
    for (const int v : {rank, ranks, n, us}) a.push_back(std::to_string(v));
    if (!id.empty()) a.push_back(id);
    return a;
  }
  // What rank 0 says first.
  static std::string id_from(Client& c) {
    while (c.text.find("id ") == std::string::npos ||
           c.text.find('\n', c.text.find("id ")) == std::string::npos) {
      if (!c.read_some()) return "";
    }
    const std::size_t at = c.text.find("id ") + 3;
    return c.text.substr(at, c.text.find('\n', at) - at);
  }
  static unsigned communicators(const shm::Tenant& t) {
    unsigned n = 0;
    for (const shm::CommEntry& c : t.region().header.comms) n += c.id.load() != 0 ? 1 : 0;
    return n;
  }
  static std::uint64_t collectives(const shm::Tenant& t) {
    return t.region().compute[0].stream_ops[2].load();
  }
};

TEST_F(Nccl, IsForwardedHoweverItIsReached) {
  int n = 0;
  for (const char* program : {"nccl_linked_client", "nccl_asked_client", "nccl_client"}) {
    const std::string name = "t" + std::to_string(n++);
    const shm::Tenant t = make(name.c_str(), 25);
    Client c(user(program, 0, 1, 40, 100), as(name.c_str()));
    ASSERT_EQ(c.finish(), 0) << program << ": " << c.errors;
    EXPECT_EQ(parse(c.text)["inits"], 1u) << program;
    EXPECT_EQ(communicators(t), 1u) << program << ": ncclCommInitRank did not come through us";
    EXPECT_EQ(collectives(t), 40u) << program;
  }
}

TEST_F(Nccl, TwoCopiesInOneProcessStayApart) {
  const shm::Tenant t = make("two", 25);
  Client c({kClients + "nccl_client", "two"}, as("two"));
  ASSERT_EQ(c.finish(), 0) << c.errors;
  const Said said = parse(c.text);
  ASSERT_EQ(said.lines.at("inits").size(), 2u);
  EXPECT_EQ(said.lines.at("inits")[0], 1u);
  EXPECT_EQ(said.lines.at("inits")[1], 1u) << "the second library's calls went to the first copy";
  EXPECT_EQ(collectives(t), 40u);
}

TEST_F(Nccl, AProgramWithoutItHearsTheTruth) {
  env["BULKHEAD_MEMORY"] = "1GiB";
  Said with = run({kClients + "nccl_client", "probe"});
  EXPECT_EQ(with["default"], 0u) << "loaded nowhere yet";
  EXPECT_EQ(with["handle"], 1u);
  EXPECT_EQ(with["unknown"], 0u);
  env["LD_LIBRARY_PATH"] = kSim;
  Said without = run({kClients + "nccl_client", "probe", "libnccl-absent.so.2"});
  EXPECT_EQ(without["default"], 0u);
  EXPECT_EQ(without["handle"], 0u);
}

TEST_F(Nccl, TenThousandCollectivesOfTwoTenantsUnderUnequalCapsDoNotHang) {
  const shm::Tenant blue = make("blue", 30), red = make("red", 70);
  Client a(user("nccl_linked_client", 0, 2, 10'000, 50), as("blue"));
  const std::string id = id_from(a);
  ASSERT_FALSE(id.empty()) << a.errors;
  Client b(user("nccl_client", 1, 2, 10'000, 50, id), as("red"));
  EXPECT_EQ(a.finish(), 0) << a.errors;
  EXPECT_EQ(b.finish(), 0) << b.errors;
  EXPECT_EQ(collectives(blue), 10'000u);
  EXPECT_EQ(collectives(red), 10'000u);
}

TEST_F(Nccl, RanksOfOneTenantMeetInOneWord) {
  const shm::Tenant t = make("both", 50);
  Client a(user("nccl_linked_client", 0, 2, 2'000, 50), as("both"));
  const std::string id = id_from(a);
  ASSERT_FALSE(id.empty()) << a.errors;
  Client b(user("nccl_asked_client", 1, 2, 2'000, 50, id), as("both"));
  EXPECT_EQ(a.finish(), 0) << a.errors;
  EXPECT_EQ(b.finish(), 0) << b.errors;
  EXPECT_EQ(communicators(t), 1u);
  std::uint64_t word = 0;
  for (const shm::CommEntry& c : t.region().header.comms) word |= c.word.load();
  EXPECT_NE(word, 0u) << "no collective was agreed on";
}

}  // namespace
}  // namespace bulkhead::test
