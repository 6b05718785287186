// How a process comes to a slot, and what happens when it cannot.
#include <sys/stat.h>

#include <fstream>

#include "shm/tenant.h"
#include "tests/hook/process.h"

namespace bulkhead::test {
namespace {

class Bind : public HookTest {
 protected:
  shm::Dir open() {
    shm::DirOptions o;
    o.asked = dir.c_str();
    o.euid = geteuid();
    Result<shm::Dir> d = shm::open_dir(o);
    EXPECT_TRUE(d.ok()) << d.status().text();
    return std::move(*d);
  }
  // The tenant as `run` makes it, on the fake driver's devices.
  void make(const char* name, unsigned devices = 1, shm::OnFault fault = shm::kOnFaultDeny) {
    shm::TenantSpec spec;
    spec.name = name;
    spec.owner_uid = geteuid();
    spec.on_fault = fault;
    spec.device_count = devices;
    for (unsigned i = 0; i < devices; ++i) {
      std::fill_n(spec.devices[i].uuid, 16, static_cast<std::uint8_t>(0x20 + i));
      spec.devices[i].total_bytes = 8 * kGiB;
      spec.devices[i].limit_bytes = (2 + i) * kGiB;
    }
    shm::Arithmetic sums;
    const Status s = shm::create_tenant(open(), spec, sums);
    ASSERT_TRUE(s.ok()) << s.text();
    env.erase("BULKHEAD_MEMORY");
    env["BULKHEAD_TENANT"] = name;
  }
  unsigned live(const char* name) {
    Result<shm::Snapshot> shot = shm::snapshot_tenant(open(), name);
    EXPECT_TRUE(shot.ok()) << shot.status().text();
    return shot.ok() ? shot->live() : 0;
  }
  std::string region(const char* name) { return dir + "/tenants/" + name + "/region"; }
  // Overwrites bytes of the region's file.
  void damage(const char* name, long offset, const std::string& bytes) {
    std::fstream f(region(name), std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(offset);
    f << bytes;
    ASSERT_TRUE(f.good());
  }
  void expect_denied() {
    const Said s = linked();
    EXPECT_EQ(s["init"], 802u);
    EXPECT_EQ(s["alloc"], 2u);
  }
  void expect_unlimited() {
    const Said s = linked();
    EXPECT_EQ(s["init"], 0u);
    EXPECT_EQ(s["total"], 8 * kGiB);
    EXPECT_EQ(s["alloc"], 0u);
  }
};

TEST_F(Bind, ToANamedTenant) {
  make("blue");
  EXPECT_EQ(linked()["total"], 2 * kGiB);
}

TEST_F(Bind, LimitsAreByDevice) {
  make("blue", 2);
  env["FAKE_DEVICES"] = "3";
  const Said s = doors("totals");
  ASSERT_EQ(s.lines.at("total").size(), 3u);
  EXPECT_EQ(s.lines.at("total")[0], 2 * kGiB);
  EXPECT_EQ(s.lines.at("total")[1], 3 * kGiB);
}

TEST_F(Bind, VariablesByDevice) {
  env["FAKE_DEVICES"] = "3";
  env["BULKHEAD_MEMORY_1"] = "25%";
  const Said s = doors("totals");
  ASSERT_EQ(s.lines.at("total").size(), 3u);
  EXPECT_EQ(s.lines.at("total")[0], kGiB);
  EXPECT_EQ(s.lines.at("total")[1], 2 * kGiB);
  EXPECT_EQ(s.lines.at("total")[2], kGiB);
}

TEST_F(Bind, HamisVariablesOnlyWithoutOurs) {
  env["CUDA_DEVICE_MEMORY_LIMIT"] = "512m";
  EXPECT_EQ(linked()["total"], kGiB);
  env.erase("BULKHEAD_MEMORY");
  EXPECT_EQ(linked()["total"], 512u << 20) << "and the last run's limit is not kept";
  env["CUDA_DEVICE_MEMORY_LIMIT_0"] = "3g";
  EXPECT_EQ(linked()["total"], 3 * kGiB);
}

TEST_F(Bind, OneSlotAProcessWhateverItsThreads) {
  make("blue");
  Client one({kClients + "doors_client", "hold"}, env);
  ASSERT_TRUE(one.wait_for("ready"));
  EXPECT_EQ(live("blue"), 1u);
  Client two({kClients + "doors_client", "hold"}, env);
  ASSERT_TRUE(two.wait_for("ready"));
  EXPECT_EQ(live("blue"), 2u);
  one.finish();
  EXPECT_EQ(live("blue"), 1u) << "the dead are not counted";
}

TEST_F(Bind, AStormOfThreadsAtFirstUse) {
  for (int i = 0; i < 20; ++i) EXPECT_EQ(doors("storm")["right"], 32u);
}

TEST_F(Bind, ACancelledThreadIsNotUnwoundFromWithin) {
  EXPECT_EQ(doors("cancelled")["right"], 1u) << "cuInit returned, then the thread was cancelled";
}

TEST_F(Bind, AForksChildClaimsItsOwnSlot) {
  make("blue");
  for (const char* way : {"fork", "fork_first"}) {
    Client c({kClients + "doors_client", way}, env);
    ASSERT_TRUE(c.wait_for("ready"));
    ASSERT_TRUE(c.wait_for("total 2147483648"));
    EXPECT_EQ(live("blue"), 2u) << way;
    c.tell("on\n");
    EXPECT_EQ(c.finish(), 0);
    EXPECT_EQ(parse(c.text)["child_status"], 0u);
    EXPECT_EQ(live("blue"), 0u);
  }
}

TEST_F(Bind, VforkAndExec) {
  const Said s = doors("vfork");
  EXPECT_EQ(s["child_status"], 0u);
  for (const unsigned long long total : s.lines.at("total")) EXPECT_EQ(total, kGiB);
  EXPECT_EQ(s.lines.at("total").size(), 2u);
}

TEST_F(Bind, WithoutARegion) {
  env.erase("BULKHEAD_MEMORY");
  env["BULKHEAD_TENANT"] = "absent";
  expect_denied();
  env["BULKHEAD_ON_FAULT"] = "open";
  expect_unlimited();
}

TEST_F(Bind, WithoutADirectory) {
  env["BULKHEAD_TENANT"] = "absent";
  env.erase("BULKHEAD_MEMORY");
  env["BULKHEAD_DIR"] = dir + "/nowhere";
  expect_denied();
}

TEST_F(Bind, ADirectoryOthersMayWrite) {
  ASSERT_EQ(chmod(dir.c_str(), 0777), 0);
  expect_denied();
}

TEST_F(Bind, AnotherVersion) {
  make("blue");
  damage("blue", 8, std::string("\x07\x00", 2));
  expect_denied();
  env["BULKHEAD_ON_FAULT"] = "open";
  expect_unlimited();
}

TEST_F(Bind, CorruptHeader) {
  make("blue");
  damage("blue", 0, "garbage!");
  expect_denied();
}

TEST_F(Bind, ImpossibleDeviceCount) {
  make("blue");
  damage("blue", 24, std::string("\xff\xff\xff\xff", 4));
  expect_denied();
}

TEST_F(Bind, Truncated) {
  make("blue");
  ASSERT_EQ(truncate(region("blue").c_str(), 4096), 0);
  expect_denied();
  ASSERT_EQ(truncate(region("blue").c_str(), 0), 0);
  expect_denied();
}

TEST_F(Bind, MalformedVariables) {
  for (const char* bad : {"ten", "10XiB", "-1", "0", "200%"}) {
    env["BULKHEAD_MEMORY"] = bad;
    expect_denied();
  }
  env["BULKHEAD_MEMORY"] = "1GiB";
  env["BULKHEAD_TENANT"] = "../x";
  expect_denied();
  env["BULKHEAD_TENANT"] = std::string(64, 'a');
  expect_denied();
}

TEST_F(Bind, MoreThanTheDevice) {
  env["BULKHEAD_MEMORY"] = "9GiB";
  expect_denied();
}

TEST_F(Bind, ASetUserIdProgramIsLeftAlone) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to give a program away";
  const std::string copy = dir + "/secure";
  const std::string command = "cp " + kClients + "secure_client " + copy;
  ASSERT_EQ(std::system(command.c_str()), 0);
  ASSERT_EQ(run({copy})["total"], kGiB) << "the same program without the bit is limited";
  ASSERT_EQ(chmod(dir.c_str(), 0711), 0);
  ASSERT_EQ(chown(copy.c_str(), 65534, 65534), 0);
  ASSERT_EQ(chmod(copy.c_str(), 04755), 0);
  EXPECT_EQ(run({copy})["total"], 8 * kGiB);
}

TEST_F(Bind, ItSpeaksOnlyWhenAsked) {
  env["BULKHEAD_MEMORY"] = "ten";
  env["BULKHEAD_LOG"] = "stderr";
  Client c({kClients + "linked_client"}, env);
  EXPECT_EQ(c.finish(), 0);
  EXPECT_NE(c.errors.find("malformed"), std::string::npos) << c.errors;
}

}  // namespace
}  // namespace bulkhead::test
