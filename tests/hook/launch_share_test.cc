// Shares of the simulated device's time between real processes. What a tenant may have at most is asserted: the share
// of the time, the burst, the window and one operation more. That it is also reached depends on the machine that runs
// the test: it is printed, and only a small part of it is asked for.
#include <algorithm>
#include <cstring>

#include "shm/tenant.h"
#include "tests/hook/process.h"

namespace bulkhead::test {
namespace {

constexpr std::uint64_t kTotal = 150109880320;  // of the simulator's profile
constexpr double kMs = 1e6;

class ComputeShare : public HookTest {
 protected:
  void SetUp() override {
    HookTest::SetUp();
    env["LD_LIBRARY_PATH"] = kSim;
    env["BULKHEAD_SIM_TIMED"] = "1";
    env.erase("BULKHEAD_MEMORY");
  }
  // A tenant with 4 GiB of the first simulated device and this share of its time.
  shm::Tenant make(const char* name, std::uint32_t percent) {
    shm::DirOptions o;
    o.asked = dir.c_str();
    o.euid = geteuid();
    Result<shm::Dir> d = shm::open_dir(o);
    EXPECT_TRUE(d.ok());
    shm::TenantSpec spec;
    spec.name = name;
    spec.owner_uid = geteuid();
    spec.device_count = 1;
    std::memcpy(spec.devices[0].uuid, uuid().data(), 16);
    spec.devices[0].total_bytes = kTotal;
    spec.devices[0].limit_bytes = 4 * kGiB;
    shm::Arithmetic sums;
    EXPECT_TRUE(shm::create_tenant(*d, spec, sums).ok());
    Result<shm::Tenant> t = shm::attach_tenant(*d, name);
    EXPECT_TRUE(t.ok()) << t.status().text();
    // what a governor does
    shm::ComputeEntry& e = t->region().compute[0];
    e.floor_x100.store(percent * 100, std::memory_order_relaxed);
    e.ceiling_x100.store(percent * 100, std::memory_order_relaxed);
    e.burst_us.store(5'000, std::memory_order_relaxed);
    e.window_us.store(2'000, std::memory_order_relaxed);
    e.rules.fetch_add(1, std::memory_order_release);  // pairs with the library
    return std::move(*t);
  }
  // The first simulated device's, from the simulator itself.
  std::string uuid() {
    if (!uuid_.empty()) return uuid_;
    Env plain{{"LD_LIBRARY_PATH", kSim}, {"BULKHEAD_DIR", dir}};
    Client c({kClients + "launch_client", "uuid", "0", "0"}, plain);
    EXPECT_EQ(c.finish(), 0) << c.errors;
    const Said said = parse(c.text);
    for (const unsigned long long byte : said.lines.at("byte"))
      uuid_.push_back(static_cast<char>(byte));
    return uuid_;
  }
  Env as(const char* tenant) {
    Env e = env;
    e["BULKHEAD_TENANT"] = tenant;
    return e;
  }
  static Args client(const char* how, int kernel_us, int time_ms) {
    return {kClients + "launch_client", how, std::to_string(kernel_us), std::to_string(time_ms)};
  }
  // Part of the device's time that the launches took.
  static double share(const Said& s, int kernel_us) {
    return static_cast<double>(s["launches"]) * kernel_us * 1000 / static_cast<double>(s["ns"]);
  }
  static void check(const char* what, const Said& s, int kernel_us, double percent,
                    const shm::Tenant& t) {
    const double ns = static_cast<double>(s["ns"]), q = percent / 100;
    const double got = static_cast<double>(s["launches"]) * kernel_us * 1000;
    const shm::ComputeEntry& e = t.region().compute[0];
    const double used = static_cast<double>(e.used_ns.load(std::memory_order_relaxed));
    GTEST_LOG_(INFO) << what << ": " << 100 * got / ns << " % of the time at " << percent
                     << " %; by the library's books " << 100 * used / ns << " %, held "
                     << static_cast<double>(e.held_ns.load(std::memory_order_relaxed)) / kMs
                     << " ms of " << ns / kMs;
    // W: four unknown launches or the window's own, whichever is more
    const double window = std::max(2.0 * kMs, 4.0 * kernel_us * 1000);
    EXPECT_LE(got, q * ns + 5 * kMs + window + kernel_us * 1000.0 + 0.02 * ns) << what;
    EXPECT_GE(got, q * ns / 10) << what;
  }
  std::string uuid_;
};

TEST_F(ComputeShare, AloneUnderACap) {
  int n = 0;
  for (const char* how : {"plain", "graph", "streams"}) {
    for (const int us : {200, 1'000, 10'000}) {
      const std::string name = "t" + std::to_string(n++);
      const shm::Tenant t = make(name.c_str(), 25);
      Client c(client(how, us, 600), as(name.c_str()));
      ASSERT_EQ(c.finish(), 0) << c.errors;
      check((std::string{how} + " " + std::to_string(us) + " us").c_str(), parse(c.text), us, 25,
            t);
    }
  }
}

TEST_F(ComputeShare, TwoTenantsBesideEachOther) {
  const shm::Tenant blue = make("blue", 30), red = make("red", 60);
  Client a(client("plain", 1'000, 1'500), as("blue"));
  Client b(client("plain", 1'000, 1'500), as("red"));
  ASSERT_EQ(a.finish(), 0) << a.errors;
  ASSERT_EQ(b.finish(), 0) << b.errors;
  check("blue", parse(a.text), 1'000, 30, blue);
  check("red", parse(b.text), 1'000, 60, red);
}

TEST_F(ComputeShare, WithoutALimitNobodyIsHeld) {
  const shm::Tenant t = make("free", 0);
  Client c(client("plain", 1'000, 200), as("free"));
  ASSERT_EQ(c.finish(), 0) << c.errors;
  const shm::ComputeEntry& e = t.region().compute[0];
  EXPECT_EQ(e.held_ns.load(std::memory_order_relaxed), 0u);
  EXPECT_EQ(e.launches.load(std::memory_order_relaxed), 0u);
  EXPECT_EQ(e.tat_ns.load(std::memory_order_relaxed), 0u);
}

}  // namespace
}  // namespace bulkhead::test
