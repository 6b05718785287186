// What the tenant sees on the simulator: one consistent picture of its own quota and processes.
#include "shm/tenant.h"
#include "tests/hook/process.h"

namespace bulkhead::test {
namespace {

constexpr const char* kClient = BH_TESTS "/view_client";

class View : public HookTest {
 protected:
  void SetUp() override {
    HookTest::SetUp();
    env["LD_LIBRARY_PATH"] = BH_SIM;
    env["BULKHEAD_SIM"] = "h200";
    env["BULKHEAD_TENANT"] = "blue";
  }
  std::vector<std::string> uuids() {
    Env bare = env;
    bare.erase("LD_PRELOAD");
    Client c({kClient, "uuids"}, bare);
    EXPECT_EQ(c.finish(), 0);
    std::vector<std::string> all;
    std::istringstream in(c.text);
    for (std::string line; std::getline(in, line);) {
      if (line.starts_with("GPU-") || line.starts_with("MIG-")) all.push_back(line);
    }
    return all;
  }
  Said cuda(const std::string& mib = "0") {
    Client c({kClient, "cuda", mib}, env);
    EXPECT_EQ(c.finish(), 0) << c.errors;
    EXPECT_EQ(c.errors, "");
    return parse(c.text);
  }
  std::vector<unsigned long long> totals(const char* visible) {
    env["CUDA_VISIBLE_DEVICES"] = visible;
    return cuda().lines["total"];
  }
};

using Totals = std::vector<unsigned long long>;

TEST_F(View, NvmlAndTheDriverAgree) {
  env["BULKHEAD_MEMORY"] = "10GiB";
  const Said s = cuda("100");
  EXPECT_EQ(s["init"], 0u);
  EXPECT_EQ(s["info_total"], 10 * kGiB);
  EXPECT_EQ(s["alloc"], 0u);
  EXPECT_GE(s["info_total"] - s["info_free"], 100u << 20) << "the allocation counts";
  EXPECT_EQ(s["v1"], 0u);
  EXPECT_EQ(s["v1_total"], s["info_total"]);
  EXPECT_EQ(s["v1_free"], s["info_free"]);
  EXPECT_EQ(s["v1_used"], s["info_total"] - s["info_free"]);
  EXPECT_EQ(s["v2"], 0u);
  EXPECT_EQ(s["v2_total"], s["v1_total"]);
  EXPECT_EQ(s["v2_used"], s["v1_used"]);
  EXPECT_EQ(s["v2_reserved"], 0u);
}

TEST_F(View, TheSameDoorsOnTheSimulator) {
  env["BULKHEAD_MEMORY"] = "1GiB";
  for (const char* way : {"dlsym", "next", "default", "proc_address", "fork_first", "closing"}) {
    EXPECT_EQ(doors(way)["total"], kGiB) << way;
  }
  const Said s = doors("fork");
  EXPECT_EQ(s["parent_init"], 0u);
  EXPECT_NE(s["child_init"], 0u) << "a driver that was awake before the fork is of no use after it";
  EXPECT_EQ(s["child_status"], 0u);
}

TEST_F(View, ProcessesShareOneQuota) {
  env["BULKHEAD_MEMORY"] = "10GiB";
  Client first({kClient, "cuda", "6144"}, env);
  ASSERT_TRUE(first.wait_for("ready " + std::to_string(first.pid())));
  EXPECT_EQ(parse(first.text)["alloc"], 0u);
  const Said second = cuda("6144");
  EXPECT_EQ(second["alloc"], 2u);
  EXPECT_EQ(second["info_total"], 10 * kGiB);
  EXPECT_LT(second["info_free"], 4 * kGiB);
  kill(first.pid(), SIGKILL);
  first.finish();
  EXPECT_EQ(cuda("6144")["alloc"], 0u) << "what the dead held is free";
}

TEST_F(View, ALookerNeedsNoSlot) {
  env["BULKHEAD_MEMORY"] = "10GiB";
  const Said before = run({kClient, "nvml"});
  EXPECT_EQ(before["nvml_init"], 0u);
  EXPECT_EQ(before["v1_total"], 10 * kGiB) << "no process has met the driver yet";
  EXPECT_EQ(before["v1_used"], 0u);
  Client holder({kClient, "cuda", "100"}, env);
  ASSERT_TRUE(holder.wait_for("ready " + std::to_string(holder.pid())));
  const Said s = run({kClient, "nvml"});
  EXPECT_EQ(s["v1_total"], 10 * kGiB);
  EXPECT_EQ(s["v1_free"], parse(holder.text)["info_free"]);
  shm::DirOptions o;
  o.asked = dir.c_str();
  o.euid = geteuid();
  Result<shm::Dir> d = shm::open_dir(o);
  ASSERT_TRUE(d.ok());
  Result<shm::Snapshot> shot = shm::snapshot_tenant(*d, "blue");
  ASSERT_TRUE(shot.ok());
  EXPECT_EQ(shot->live(), 1u);
  EXPECT_EQ(shot->region().header.slots_high.load(std::memory_order_relaxed), 1u);
}

TEST_F(View, ALookerIsNotShownLimitsOfAnotherDay) {
  env["BULKHEAD_MEMORY"] = "10GiB";
  cuda();
  env["BULKHEAD_MEMORY"] = "20GiB";
  EXPECT_EQ(run({kClient, "nvml"})["v1_total"], 20 * kGiB);
  EXPECT_EQ(cuda()["v1_total"], 20 * kGiB);
}

TEST_F(View, OnlyTheTenantsProcessesAreListed) {
  Client blue({kClient, "cuda"}, env);
  ASSERT_TRUE(blue.wait_for("ready " + std::to_string(blue.pid())));
  env["BULKHEAD_TENANT"] = "red";
  Client red({kClient, "cuda"}, env);
  ASSERT_TRUE(red.wait_for("ready " + std::to_string(red.pid())));
  const Said s = run({kClient, "nvml"});
  for (const char* key : {"pid_v1", "pid_v3"}) {
    ASSERT_EQ(s.lines.count(key), 1u) << key;
    EXPECT_EQ(s.lines.at(key), Totals{static_cast<unsigned long long>(red.pid())});
  }
  EXPECT_EQ(s.lines.at("asked")[0], 7u) << "too little room is said as NVML says it";
  EXPECT_GT(s["process_used"], 0u);
  EXPECT_EQ(s["rates"], 0u);
  EXPECT_LE(s["rate"], 100u);
  env.erase("LD_PRELOAD");
  EXPECT_EQ(run({kClient, "nvml"}).lines.at("pid_v3").size(), 2u) << "there really are two";
}

TEST_F(View, LimitsFollowTheDeviceNotItsNumber) {
  env["BULKHEAD_SIM"] = "h200x2";
  const std::vector<std::string> u = uuids();
  ASSERT_EQ(u.size(), 2u);
  env["BULKHEAD_MEMORY"] = u[0] + "=1GiB," + u[1] + "=2GiB";
  EXPECT_EQ(totals("0,1"), (Totals{kGiB, 2 * kGiB}));
  EXPECT_EQ(totals("1,0"), (Totals{2 * kGiB, kGiB}));
  EXPECT_EQ(totals("1"), Totals{2 * kGiB});
  EXPECT_EQ(totals(u[1].c_str()), Totals{2 * kGiB});
  EXPECT_EQ(totals((u[1] + "," + u[0]).c_str()), (Totals{2 * kGiB, kGiB}));
  EXPECT_EQ(totals(u[1].substr(0, 12).c_str()), Totals{2 * kGiB}) << "the beginning of a UUID";
}

// A tenant made over all devices, met by processes that see them in another order.
TEST_F(View, ProcessesWithDifferentSubsetsShareTheLimits) {
  env["BULKHEAD_SIM"] = "h200x2";
  env["BULKHEAD_MEMORY"] = "0=1GiB,1=2GiB";
  Client first({kClient, "cuda"}, env);
  ASSERT_TRUE(first.wait_for("ready " + std::to_string(first.pid())));
  EXPECT_EQ(totals("1"), Totals{2 * kGiB}) << "the region's word, not this process's numbering";
  EXPECT_EQ(totals("1,0"), (Totals{2 * kGiB, kGiB}));
}

TEST_F(View, MigInstances) {
  env["BULKHEAD_SIM"] = "h200-mig";
  env["BULKHEAD_MEMORY"] = "50%";
  const Said s = cuda();
  EXPECT_EQ(s["init"], 0u);
  Env bare = env;
  bare.erase("LD_PRELOAD");
  Client c({kClient, "cuda"}, bare);
  EXPECT_EQ(c.finish(), 0);
  const unsigned long long real = parse(c.text)["total"];
  ASSERT_GT(real, 0u);
  EXPECT_EQ(s["total"], real / 2 / (2u << 20) * (2u << 20)) << "per cent of the instance";
  const std::size_t end = c.text.find("=uuid");
  ASSERT_NE(end, std::string::npos);
  std::string uuid = c.text.substr(end - 32, 32);
  for (const std::size_t at : {20u, 16u, 12u, 8u}) uuid.insert(at, "-");
  env["BULKHEAD_MEMORY"] = "MIG-" + uuid + "=1GiB";
  EXPECT_EQ(cuda()["total"], kGiB);
  env["CUDA_VISIBLE_DEVICES"] = "MIG-" + uuid;
  EXPECT_EQ(cuda()["total"], kGiB);
}

}  // namespace
}  // namespace bulkhead::test
