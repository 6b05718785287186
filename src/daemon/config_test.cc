#include "daemon/config.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "shm/node.h"

namespace bulkhead::daemon {
namespace {

constexpr std::uint64_t kGib = 1ull << 30;

Config good(const char* text) {
  auto c = parse_config(text, "f.toml");
  EXPECT_TRUE(c.ok()) << c.problem;
  return c.ok() ? *c : Config{};
}
std::string problem(const char* text) {
  auto c = parse_config(text, "f.toml");
  EXPECT_FALSE(c.ok());
  EXPECT_EQ(c.problem.find('\n'), std::string::npos) << c.problem;
  return c.problem;
}
std::vector<Capacity> gpus(unsigned count = 1) {
  std::vector<Capacity> out(count);
  for (unsigned i = 0; i < count; ++i) {
    out[i].index = i;
    out[i].total_bytes = 100 * kGib;
    std::memset(out[i].uuid, static_cast<int>(0x10 + i), sizeof out[i].uuid);
  }
  return out;
}
std::string cannot(const char* text, unsigned count = 1) {
  auto r = resolve_tenants(good(text), gpus(count), 0);
  EXPECT_FALSE(r.ok());
  return r.problem;
}

TEST(Config, NothingIsTheDefaults) {
  const Config c = good("");
  EXPECT_EQ(c.console_port, 0);
  EXPECT_FALSE(c.users_may_create || c.private_dirs || c.has_users_may_create);
  EXPECT_EQ(c.bypass, OnBypass::kReport);
  EXPECT_TRUE(c.tenants.empty() && c.idle.empty());
}

TEST(Config, EveryKeyIsRead) {
  const Config c = good(R"(
[daemon]
console = true
metrics = 9999
log_level = "debug"
metrics_names = ["hami"]
self_test = true
[policy]
users_may_create = true
max_memory = "50%"
max_compute = "25%"
unmatched = "default:a"
private_dirs = true
bypass = "kill"
bypass_allow = ["nvidia-smi", "dcgm"]
[reserve]
class = "critical"
share = "15%"
[mps]
enabled = true
groups = ["g"]
[audit]
dir = "/var/lib/x"
full = "deny"
deadline_ms = 100
sync_ms = 10
lane_budget = "1GiB"
witnesses = ["/run/w"]
segment = "256MiB"
segment_s = 3600
pack = false
retain_days = 400
retain_size = "2TiB"
witness_s = 5
[siem]
url = "relp+tls://x"
ca = "/x.pem"
overlap = "1MiB"
enterprise = 4711
[[tenant]]
name = "a"
match = {uid = 1000, gid = 100, cgroup = "/user.slice"}
devices = ["GPU-1010"]
memory = "10GiB"
compute = "25%+"
ceiling = "50%"
mode = "temporal"
burst = "7ms"
window = "500us"
dampening = 0.9
copy_rate = 12.5
priority = "latency"
audit = "observe"
grant_subject = "svc:a"
reserve_class = "critical"
mps_group = "g"
share_with = ["b"]
on_fault = "open"
[[tenant]]
name = "b"
)");
  EXPECT_EQ(c.console_port, 9478);
  EXPECT_EQ(c.metrics_port, 9999);
  EXPECT_EQ(c.log_level, LogLevel::kDebug);
  EXPECT_TRUE(c.hami_names && !c.dcgm_names);
  EXPECT_TRUE(c.users_may_create && c.has_users_may_create && c.private_dirs);
  EXPECT_EQ(c.max_memory.percent_x100, 5000u);
  EXPECT_EQ(c.max_compute_x100, 2500u);
  EXPECT_EQ(c.default_tenant, "a");
  EXPECT_EQ(c.bypass, OnBypass::kKill);
  EXPECT_EQ(c.bypass_allow.size(), 2u);
  EXPECT_EQ(c.reserve_class, "critical");
  EXPECT_EQ(c.reserve_x100, 1500u);
  EXPECT_EQ(c.audit_full, "deny");
  EXPECT_EQ(c.audit_deadline_ms, 100u);
  EXPECT_EQ(c.audit_lane_budget.bytes, std::uint64_t{1} << 30);
  EXPECT_EQ(c.audit_witnesses, std::vector<std::string>{"/run/w"});
  EXPECT_EQ(c.audit_keep.segment.bytes, std::uint64_t{256} << 20);
  EXPECT_EQ(c.audit_keep.segment_s, 3600u);
  EXPECT_FALSE(c.audit_keep.pack);
  EXPECT_EQ(c.audit_keep.retain_days, 400u);
  EXPECT_EQ(c.audit_keep.retain_size.bytes, std::uint64_t{2} << 40);
  EXPECT_EQ(c.audit_keep.witness_s, 5u);
  EXPECT_EQ(c.siem.url, "relp+tls://x");
  EXPECT_EQ(c.siem.overlap_bytes, std::uint64_t{1} << 20);
  EXPECT_EQ(c.siem.enterprise, 4711u);
  EXPECT_EQ(c.idle.size(), 1u);  // log_level: said, not passed over
  ASSERT_EQ(c.tenants.size(), 2u);
  const wire::TenantRecord& r = c.tenants[0].record;
  EXPECT_STREQ(r.name, "a");
  EXPECT_EQ(r.match_uid, 1000u);
  EXPECT_EQ(r.match_gid, 100u);
  EXPECT_STREQ(r.match_cgroup, "/user.slice");
  EXPECT_EQ(c.tenants[0].compute_x100, 2500u);
  EXPECT_EQ(c.tenants[0].ceiling_x100, 5000u);
  EXPECT_NE(r.flags & wire::kRecordBorrow, 0u);
  EXPECT_EQ(r.compute_mode, wire::ComputeMode::kTemporal);
  EXPECT_EQ(r.burst_us, 7000u);
  EXPECT_EQ(r.window_us, 500u);
  EXPECT_EQ(r.dampening_x1000, 900u);
  EXPECT_EQ(r.copy_rate_mb_s, 12'500u);
  EXPECT_EQ(r.priority, wire::Priority::kLatency);
  EXPECT_EQ(r.audit_mode, wire::AuditMode::kObserve);
  EXPECT_EQ(r.on_fault, wire::OnFault::kOpen);
  EXPECT_STREQ(r.share_with[0], "b");
  EXPECT_EQ(c.tenants[1].record.match_uid, wire::kNoId);
}

TEST(Config, AProblemIsOneLineWithFileAndLine) {
  const std::pair<const char*, const char*> wrong[] = {
      {"[daemon\n", "f.toml:1: "},
      {"\n\t[!)", "f.toml:2: a name is missing"},
      {"\nE=[ }", "f.toml:2: a value is missing"},
      {"[[]]", "f.toml:1: a name is missing"},
      {"# \xc3\xa4\n\xcb\x80 T", "f.toml:2: a control character, or one beyond ASCII"},
      {"\nconsole = true", "f.toml:2: console: no such key; there are daemon"},
      {"[daemon]\nport = 1", "f.toml:2: [daemon] port: no such key; there are console"},
      {"[polcy]", "f.toml:1: polcy: no such key"},
      {"daemon = 1", "this is a number; write a table"},
      {"[daemon]\nconsole = 70000", "f.toml:2: [daemon] console: this is a number; write true"},
      {"[daemon]\nself_test = 1", "this is a number; write true or false"},
      {"[daemon]\nmetrics_names = ['prom']", "'prom' is neither \"hami\" nor \"dcgm\""},
      {"[daemon]\nlog_level = 'loud'", "'loud' is none of error, warning, info, debug"},
      {"[policy]\nmax_memory = '10 apples'", "f.toml:2: [policy] max_memory: '10 apples'"},
      {"[policy]\nmax_memory = 10", "this is a number; write a text in quotes"},
      {"[policy]\nmax_compute = '25%+'", "is not a share"},
      {"[policy]\nunmatched = 'default:../x'", "is neither"},
      {"[policy]\nunmatched = 'default:a'",
       "f.toml:2: [policy] unmatched names a, which is no [[tenant]]"},
      {"[policy]\nbypass_allow = [1]", "a list of texts"},
      {"[reserve]\nclass = 'c'", "[reserve] share: missing"},
      {"[reserve]\nclass = 'c'\nshare = '101%'", "'101%' is more than the whole device"},
      {"[audit]\nsync_ms = 0", "0 is out of range; write 1 to"},
      {"tenant = 1", "each under its own [[tenant]]"},
      {"[[tenant]]\nmemory = '1GiB'", "f.toml:1: [[tenant]] name: missing"},
      {"[[tenant]]\nname = 'A'", "f.toml:2: [[tenant]] name: 'A' is not a name"},
      {"[[tenant]]\nname = 'a'\nmemroy = '1GiB'", "f.toml:3: [[tenant]] memroy: no such key"},
      {"[[tenant]]\nname = 'a'\nmemory = '0'", "f.toml:3: [[tenant]] memory: '0' is not a size"},
      {"[[tenant]]\nname = 'a'\ncompute = '25'", "'25' is not a share"},
      {"[[tenant]]\nname = 'a'\ncompute = '50%+'\nceiling = '25%'", "below compute, 50%+"},
      {"[[tenant]]\nname = 'a'\ncompute = '25%'\nceiling = '50%'", "nothing is borrowed without"},
      {"[[tenant]]\nname = 'a'\ncompute = '0%'", "'0%' would never run"},
      {"[[tenant]]\nname = 'a'\ncompute = '101%'", "'101%' is more than the whole device"},
      {"[[tenant]]\nname = 'a'\ncompute = '25+'",
       "'25+' is not a share; write it like 25%, or 25%+"},
      {"[[tenant]]\nname = 'a'\nmode = 'spatial'",
       "f.toml:1: tenant a: mode spatial needs MPS, which the configuration does not allow"},
      {"[mps]\nenabled = true\ngroups = ['g']\n[[tenant]]\nname = 'a'\nmode = 'spatial'",
       "f.toml:4: tenant a: mode spatial needs an mps_group"},
      {"[mps]\nenabled = true\n[[tenant]]\nname = 'a'\nmps_group = 'g'",
       "g is not in [mps] groups"},
      {"[mps]\nenabled = true\ngroups = ['g']\n[[tenant]]\nname = 'a'\nmps_group = 'g'\nmode = "
       "'spatial'\ncompute = '25%+'",
       "leave the + out"},
      {"[mps]\ngroups = ['../g']", "f.toml:2: [mps] groups: '../g' is not a name"},
      {"[mps]\ngroups = ['g']\npartition_groups = ['h']",
       "f.toml:3: [mps] partition_groups: 'h' is not one of groups"},
      {"[mps]\nenabled = true\ngroups = ['g']\n[[tenant]]\nname = 'a'\nmps_group = 'g'\nmode = "
       "'partition'\ncompute = '25%'",
       "g is not in [mps] partition_groups: it has none"},
      {"[mps]\nenabled = true\ngroups = ['g']\npartition_groups = ['g']\n[[tenant]]\nname = "
       "'a'\nmps_group = 'g'\nmode = 'spatial'\ncompute = '25%'",
       "use mode partition, or another group"},
      {"[[tenant]]\nname = 'a'\nmode = 'slice'\npriority = 'latency'", "batch tenant's slices"},
      {"[[tenant]]\nname = 'a'\nmode = 'space'", "f.toml:3: [[tenant]] mode"},
      {"[[tenant]]\nname = 'a'\nburst = '5'", "'5' is not a time; write it like 5ms"},
      {"[[tenant]]\nname = 'a'\nwindow = '2s'", "'2s' is not a time"},
      {"[[tenant]]\nname = 'a'\ncopy_rate = 0", "write 0.001 to 100000"},
      {"[[tenant]]\nname = 'a'\ncopy_rate = '1'", "a number of GB a second"},
      {"[[tenant]]\nname = 'a'\ndampening = 0", "write 0.001 to 1"},
      {"[[tenant]]\nname = 'a'\ndampening = 1.5", "write 0.001 to 1"},
      {"[[tenant]]\nname = 'a'\ndampening = '1'", "a number, over 0"},
      {"[[tenant]]\nname = 'a'\npriority = 'high'", "'high' is none of batch, latency"},
      {"[[tenant]]\nname = 'a'\nmatch = {user = 1}", "[[tenant]] match user: no such key"},
      {"[[tenant]]\nname = 'a'\nmatch = {uid = -1}", "-1 is out of range"},
      {"[[tenant]]\nname = 'a'\nmatch = {cgroup = 'x'}", "not a path below the cgroup root"},
      {"[[tenant]]\nname = 'a'\ndevices = ['0']", "'0' is not a UUID"},
      {"[[tenant]]\nname = 'a'\nshare_with = ['../x']", "'../x' is not a name"},
      {"[[tenant]]\nname = 'a'\nreserve_class = 'c'", "reserve_class is 'c', and [reserve] class"},
      {"[[tenant]]\nname='a'\n\n[[tenant]]\nname='a'",
       "f.toml:4: a second tenant a (the first is in line 1); rename or remove one"},
  };
  for (const auto& [text, line] : wrong) {
    EXPECT_NE(problem(text).find(line), std::string::npos) << problem(text) << " <> " << line;
  }
  // the first in the file, whatever order it is read in
  EXPECT_EQ(problem("[[tenant]]\nname = 'A'\n[daemon]\nx = 1").substr(0, 9), "f.toml:2:");
}

TEST(Config, AMissingFileIsAProblem) {
  EXPECT_NE(load_config("/nonexistent.toml").problem.find("/nonexistent.toml: No such file"),
            std::string::npos);
}

TEST(Resolve, MoreTenantsThanANodeHasRoomForAreRefused) {
  std::string text;
  for (unsigned i = 0; i < shm::kMaxTenants; ++i)
    text += "[[tenant]]\nname='t" + std::to_string(i) + "'\nmemory='2MiB'\n";
  EXPECT_EQ(resolve_tenants(good(text.c_str()), gpus(), 0).problem, "");
  text += "[[tenant]]\nname='more'\nmemory='2MiB'\n";
  EXPECT_NE(cannot(text.c_str()).find(":3073: one [[tenant]] too many; a node has at most 1024"),
            std::string::npos);
}

TEST(Resolve, PercentsAndOwnersMeetTheDevices) {
  auto r = resolve_tenants(good("[[tenant]]\nname='a'\nmemory='50%'\nmatch={uid=7}\n"
                                "[[tenant]]\nname='b'\nmemory='1GiB,1=2GiB'\n"
                                "[[tenant]]\nname='c'\ndevices=['GPU-1111']\nmemory='1GiB'"),
                           gpus(2), 0);
  ASSERT_TRUE(r.ok()) << r.problem;
  EXPECT_EQ((*r)[0].owner_uid, 7u);
  EXPECT_EQ((*r)[0].devices[1].memory_bytes, 50 * kGib);
  EXPECT_EQ((*r)[1].owner_uid, 0u);
  EXPECT_EQ((*r)[1].devices[0].memory_bytes, kGib);
  EXPECT_EQ((*r)[1].devices[1].memory_bytes, 2 * kGib);
  ASSERT_EQ((*r)[2].device_count, 1u);
  EXPECT_EQ((*r)[2].devices[0].uuid[0], 0x11);
}

TEST(Resolve, LimitsOverTheDeviceNameTheLine) {
  EXPECT_EQ(cannot("[[tenant]]\nname='a'\nmemory='101GiB'"),
            "f.toml:1: tenant a: memory 101GiB is more than the 100 GiB of GPU 0 "
            "(GPU-10101010-1010-1010-1010-101010101010); lower it");
  const std::string sum =
      cannot("[[tenant]]\nname='a'\nmemory='60GiB'\n[[tenant]]\nname='b'\nmemory='60GiB'");
  EXPECT_NE(sum.find("f.toml:4: tenant b: 60 GiB asked + 60 GiB promised to others > 100 GiB"),
            std::string::npos)
      << sum;
  EXPECT_NE(cannot("[[tenant]]\nname='a'\nmemory='7'").find("less than the 2 MiB"),
            std::string::npos);
  EXPECT_NE(cannot("[[tenant]]\nname='a'\ndevices=['GPU-77']").find("there is no GPU GPU-77"),
            std::string::npos);
  EXPECT_NE(cannot("[[tenant]]\nname='a'\nmemory='1=1GiB'").find("there is no GPU 1"),
            std::string::npos);
}

TEST(Resolve, SharesOverTheDeviceNameTheLine) {
  const std::string sum = cannot(
      "[[tenant]]\nname='a'\nmemory='1GiB'\ncompute='75%'\n"
      "[[tenant]]\nname='b'\nmemory='1GiB'\ncompute='25.01%+'");
  EXPECT_EQ(sum,
            "f.toml:5: tenant b: 25.01% asked + 75% promised to others > 100% of the time of GPU 0 "
            "(GPU-10101010-1010-1010-1010-101010101010); lower a compute");
  EXPECT_TRUE(resolve_tenants(good("[[tenant]]\nname='a'\nmemory='1GiB'\ncompute='75%'\n"
                                   "[[tenant]]\nname='b'\nmemory='1GiB'\ncompute='25%+'\n"
                                   "[[tenant]]\nname='c'\nmemory='1GiB'"),
                              gpus(2), 0)
                  .ok());
}

TEST(Resolve, TheReserveIsItsClasss) {
  const char* const reserve = "[reserve]\nclass='c'\nshare='20%'\n";
  const auto resolved = [&](const std::string& tenants) {
    return resolve_tenants(good((reserve + tenants).c_str()), gpus(), 0).problem;
  };
  EXPECT_NE(resolved("[[tenant]]\nname='a'\nmemory='81GiB'"), "");
  EXPECT_EQ(resolved("[[tenant]]\nname='a'\nmemory='80GiB'"), "");
  EXPECT_EQ(resolved("[[tenant]]\nname='a'\nmemory='81GiB'\nreserve_class='c'"), "");
  EXPECT_EQ(resolved("[[tenant]]\nname='a'\nmemory='20GiB'\nreserve_class='c'\n"
                     "[[tenant]]\nname='b'\nmemory='80GiB'"),
            "");
}

TEST(Resolve, AUsersDaemonServesItsUserOnly) {
  const Config c = good("[[tenant]]\nname='a'\nmemory='1GiB'\nmatch={uid=7}");
  EXPECT_FALSE(resolve_tenants(c, gpus(), 1000).ok());
  EXPECT_TRUE(resolve_tenants(c, gpus(), 7).ok());
}

// A pipe reads as nothing: a reload of it would remove all tenants.
TEST(Config, OnlyARegularFileIsOne) {
  const std::string pipe = "/tmp/bulkhead-config-" + std::to_string(::getpid());
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const auto read = load_config(pipe);
  ::unlink(pipe.c_str());
  EXPECT_NE(read.problem.find("not a regular file"), std::string::npos) << read.problem;
}

TEST(Config, RootsDefaultTenantSaysWhoseItIs) {
  const char* const nobodys =
      "[policy]\nunmatched='default:a'\n[[tenant]]\nname='a'\nmemory='1GiB'";
  const std::string p = cannot(nobodys);
  EXPECT_EQ(p.find("f.toml:2: [policy] unmatched: "), 0u) << p;
  EXPECT_NE(p.find("match = {uid = N}"), p.npos) << p;
  EXPECT_EQ(default_problem(good(nobodys), 0), p);
  // all processes are one user's there
  EXPECT_TRUE(resolve_tenants(good(nobodys), gpus(1), 1000).ok());
  const std::string roots = std::string{nobodys} + "\nmatch={uid=0}";
  EXPECT_TRUE(resolve_tenants(good(roots.c_str()), gpus(1), 0).ok());
}

}  // namespace
}  // namespace bulkhead::daemon
