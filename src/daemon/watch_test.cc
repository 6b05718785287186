#include "daemon/watch.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>

namespace bulkhead::daemon {
namespace {

using wire::EventKind;

constexpr std::uint64_t kS = 1'000'000'000;
constexpr std::uint64_t kMiB = 1ull << 20;
constexpr policy::DeviceUuid kGpu{1};

// Regions that are what the test says.
class FakeRegions final : public Regions {
 public:
  Status make(const wire::TenantRecord&) override { return {}; }
  Status set_limit(const std::string&, const std::uint8_t*, std::uint64_t) override { return {}; }
  Status set_compute(const std::string&, const std::uint8_t*, const shm::ComputeRules&) override {
    return {};
  }
  Status set_on_fault(const std::string&, wire::OnFault) override { return {}; }
  Status set_share_with(const std::string&, const std::vector<std::string>&) override { return {}; }
  Status remove(const std::string&, bool) override { return {}; }
  std::uint64_t held(const std::string&, const std::uint8_t*) const override { return 0; }
  bool view(const std::string& name, wire::TenantView& out) const override {
    if (name != "a") return false;
    std::strcpy(out.name, "a");
    out.device_count = 1;
    out.refused = refused;
    std::copy(kGpu.begin(), kGpu.end(), out.devices[0].uuid);
    out.devices[0].used_bytes = used_bytes;
    out.devices[0].processes = used_bytes != 0 ? 1 : 0;
    out.devices[0].compute_x100 = compute_x100;
    out.devices[0].used_ns = used_ns;
    return true;
  }
  std::vector<std::string> names() const override { return {"a"}; }
  Status watch(const std::string&, std::uint32_t, std::uint32_t, UniqueFd, std::uint32_t) override {
    return {};
  }
  std::vector<Member> members() const override { return list; }
  void member(std::uint32_t pid, std::uint64_t start, std::uint64_t booked, std::uint64_t unseen) {
    list.push_back({pid, start, "a", 0, {booked}, {unseen}, {{kGpu.begin(), kGpu.end()}}});
  }
  void tell_samples(const Sample& s) override { sample = s; }
  std::string may_be_of_faulty(std::uint32_t uid, std::uint64_t) const override {
    return uid == 1000 ? faulty : "";
  }
  Sample sample;
  std::string faulty;
  std::vector<Member> list;
  std::uint64_t used_bytes = 0, refused = 0;
  std::uint32_t compute_x100 = 0;
  std::uint64_t used_ns = 0;
};

class CountingKills final : public KillWorld {
 public:
  UniqueFd open_process(std::uint32_t) override {
    return UniqueFd{::open("/dev/null", O_RDONLY | O_CLOEXEC)};
  }
  std::optional<policy::SeenProcess> read(std::uint32_t) override { return process; }
  int send_kill(int) override { return ++kills, error_number; }
  policy::SeenProcess process;
  int kills = 0, error_number = 0;
};

class WatchTest : public ::testing::Test {
 protected:
  WatchTest() {
    round.nvml = round.seen.uses_known = true;
    round.span_ns = kS;
    RoundDevice device;
    device.uuid = kGpu;
    device.name = "H200";
    device.used_bytes = 5;
    device.gpu_time_known = true;
    round.devices.push_back(device);
  }
  void process(std::uint32_t pid, std::uint64_t bytes) {
    policy::SeenProcess p;
    p.pid = pid;
    p.uid = 1000;
    p.start_ticks = pid * 10ull;
    p.exe = "/tmp/prog";
    p.command = "prog";
    round.seen.processes.push_back(p);
    if (bytes != 0) round.seen.uses.push_back({pid, kGpu, bytes});
  }
  void second(Watch& watch) {
    now.mono_ns += kS;
    now.boot_ns += kS;
    now.unix_ns += static_cast<std::int64_t>(kS);
    watch.next_round = [this] {
      ++round.number;
      return std::optional<Round>{round};
    };
    watch.tick(now);
  }
  std::vector<EventKind> kinds() const {
    std::uint32_t lost = 0;
    std::vector<EventKind> out;
    for (const auto& e : journal.after(0, 999, lost)) out.push_back(e.kind);
    return out;
  }
  wire::EventView last() const {
    std::uint32_t lost = 0;
    return journal.after(journal.next_id() - 2, 1, lost).at(0);
  }
  static policy::BypassRules rules() {
    policy::BypassRules r;
    r.own_pid = 999;
    return r;
  }

  FakeRegions regions;
  Journal journal;
  Usage usage{{[](std::string) {}, [](std::string) {}}};
  CountingKills kills;
  Round round;
  Now now{100 * kS, 100 * kS, 1'795'334'400 * static_cast<std::int64_t>(kS)};
};

TEST_F(WatchTest, ABypassIsOneEventAndAStrayUntilItIsGone) {
  Watch watch{regions, journal, usage, nullptr, rules(), kills};
  watch.tenant_of = [](const policy::SeenProcess&) { return std::string{"a"}; };
  process(10, 518 * kMiB);
  for (int i = 0; i < 4; ++i) second(watch);
  EXPECT_EQ(kinds(), std::vector{EventKind::kBypassFound});
  EXPECT_STREQ(last().text, "prog (pid 10, uid 1000) holds 518 MiB and is of no tenant: /tmp/prog");
  EXPECT_STREQ(last().tenant, "a");
  EXPECT_EQ(last().bytes, 518 * kMiB);
  const auto strays = watch.strays();
  ASSERT_EQ(strays.size(), 1u);
  EXPECT_EQ(strays[0].sightings, 4u);
  EXPECT_EQ(strays[0].kind, wire::StrayKind::kUnregistered);
  EXPECT_STREQ(strays[0].command, "prog");
  EXPECT_EQ(watch.overhead_bytes(kGpu.data()), 518 * kMiB);
  round.seen.uses.clear();
  round.seen.processes.clear();
  second(watch);
  EXPECT_EQ(last().kind, EventKind::kBypassGone);
  EXPECT_TRUE(watch.strays().empty());
  EXPECT_EQ(watch.overhead_bytes(kGpu.data()), 0u);
  EXPECT_EQ(kills.kills, 0);
}

TEST_F(WatchTest, DriftIsAgainstTheBooksLessWhatNvmlShowsForNobody) {
  Watch watch{regions, journal, usage, nullptr, rules(), kills};
  process(10, 500 * kMiB);
  regions.member(10, 100, 1000 * kMiB, 600 * kMiB);  // 400 MiB are shown: 100 are missing
  for (int i = 0; i < 2; ++i) second(watch);
  EXPECT_TRUE(kinds().empty());
  for (int i = 0; i < 3; ++i) second(watch);
  EXPECT_EQ(kinds(), std::vector{EventKind::kDrift});
  EXPECT_EQ(last().bytes, 100 * kMiB);
  EXPECT_STREQ(last().tenant, "a");
  regions.list[0].booked_bytes[0] += 100 * kMiB;  // the sampler corrected it
  second(watch);
  EXPECT_EQ(last().severity, wire::Severity::kInfo);
  EXPECT_EQ(kinds().size(), 2u);
}

TEST_F(WatchTest, KillsOnceAndSaysSo) {
  auto r = rules();
  r.kill = r.root_daemon = true;
  Watch watch{regions, journal, usage, nullptr, r, kills};
  process(10, kMiB);
  kills.process = round.seen.processes[0];
  for (int i = 0; i < 9; ++i) second(watch);
  EXPECT_EQ(kills.kills, 1);
  EXPECT_EQ(kinds(), (std::vector{EventKind::kBypassFound, EventKind::kBypassKilled}));
  EXPECT_EQ(watch.counters().killed, 1u);
}

// A member of a region that could not be read when the daemon began looks like a stranger.
TEST_F(WatchTest, DoesNotKillWhoMayBeOfAFaultyTenant) {
  auto r = rules();
  r.kill = r.root_daemon = true;
  Watch watch{regions, journal, usage, nullptr, r, kills};
  process(10, kMiB);
  kills.process = round.seen.processes[0];
  regions.faulty = "a";
  for (int i = 0; i < 9; ++i) second(watch);
  EXPECT_EQ(kills.kills, 0);
  EXPECT_EQ(kinds(), (std::vector{EventKind::kBypassFound, EventKind::kTenantFaulty}));
  EXPECT_STREQ(last().tenant, "a");
  EXPECT_EQ(watch.strays().size(), 1u);  // it is reported all the same
  regions.faulty.clear();                // removed
  second(watch);
  EXPECT_EQ(kills.kills, 1);
}

TEST_F(WatchTest, ARoundIsToldToTheRegionsWithItsBeginning) {
  Watch watch{regions, journal, usage, nullptr, rules(), kills};
  process(10, 500 * kMiB);
  process(11, 0);
  round.seen.uses.push_back({11, kGpu, 0});         // NVML does not know how much
  round.seen.uses.push_back({12, kGpu, 7 * kMiB});  // gone while it was looked at
  round.mono_ns = 77;
  second(watch);
  EXPECT_EQ(regions.sample.began_ns, 77u);
  ASSERT_EQ(regions.sample.uses.size(), 1u);
  EXPECT_EQ(regions.sample.uses[0].pid, 10u);
  EXPECT_EQ(regions.sample.uses[0].start_ticks, 100u);
  EXPECT_EQ(regions.sample.uses[0].bytes, 500 * kMiB);
  regions.sample = {};
  round.seen.uses_known = false;
  second(watch);
  EXPECT_EQ(regions.sample.began_ns, 0u);
}

TEST_F(WatchTest, DoesNotKillWhoChangedMeanwhile) {
  auto r = rules();
  r.kill = r.root_daemon = true;
  Watch watch{regions, journal, usage, nullptr, r, kills};
  process(10, kMiB);
  kills.process = round.seen.processes[0];
  kills.process.start_ticks += 1;
  for (int i = 0; i < 9; ++i) second(watch);
  EXPECT_EQ(kills.kills, 0);
}

TEST_F(WatchTest, UsageOfATenant) {
  Watch watch{regions, journal, usage, nullptr, rules(), kills};
  process(10, 100 * kMiB);
  process(11, 100 * kMiB);  // a stranger's GPU time is nobody's
  regions.member(10, 100, 100 * kMiB, 0);
  regions.used_bytes = 100 * kMiB;
  round.gpu_times = {{10, kGpu, 250, 25}, {11, kGpu, 500, 50}};
  for (int i = 0; i < 5; ++i) {
    regions.refused += 2;
    second(watch);
  }
  const auto rows = usage.rows(0);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].byte_seconds, 4 * 100 * kMiB);
  EXPECT_EQ(rows[0].held_ms, 4000u);
  EXPECT_EQ(rows[0].gpu_ms, 5 * 250u);
  EXPECT_EQ(rows[0].refused, 8u);
  wire::TenantView view{};
  regions.view("a", view);
  watch.fill(view);
  EXPECT_EQ(view.devices[0].byte_seconds, 4 * 100 * kMiB);
  EXPECT_EQ(view.devices[0].share_x100, 2500u);
  EXPECT_EQ(view.devices[0].gpu_ms, 5 * 250u);
}

// What the library counts is better than NVML's estimate; a row says how much of it is counted.
TEST_F(WatchTest, TheCountOfALimitedTenantGoesBeforeNvmls) {
  Watch watch{regions, journal, usage, nullptr, rules(), kills};
  process(10, 100 * kMiB);
  regions.member(10, 100, 100 * kMiB, 0);
  regions.used_bytes = 100 * kMiB;
  round.gpu_times = {{10, kGpu, 250, 25}};
  second(watch);  // no limit: NVML's
  regions.compute_x100 = 1000;
  second(watch);  // limited, and nothing was ever counted there: NVML's
  regions.used_ns = 100'400'000;
  second(watch);
  regions.used_ns += 100'400'000;
  regions.used_ns += 200'000;
  second(watch);  // 0.4 + 0.6 ms of rest are a whole one
  regions.compute_x100 = 0;
  regions.used_ns += 5'000'000;
  second(watch);  // no limit any more
  const auto rows = usage.rows(0);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].counted_ms, 201u);
  EXPECT_EQ(rows[0].gpu_ms, 3 * 250u + 201u);
  wire::TenantView view{};
  regions.view("a", view);
  watch.fill(view);
  EXPECT_EQ(view.devices[0].counted_ms, 201u);
}

// A daemon that starts finds sums of its predecessor's time: they are in rows of before.
TEST_F(WatchTest, WhatWasCountedBeforeTheStartIsNotCountedAgain) {
  Watch watch{regions, journal, usage, nullptr, rules(), kills};
  regions.used_bytes = kMiB;
  regions.compute_x100 = 1000;
  regions.used_ns = 3'600'000'000'000;
  second(watch);
  regions.used_ns += 7'000'000;
  second(watch);
  EXPECT_EQ(usage.rows(0).at(0).counted_ms, 7u);
}

TEST_F(WatchTest, WithoutNvmlGpuTimeIsNotMeasuredAndNobodyIsNamed) {
  Watch watch{regions, journal, usage, nullptr, rules(), kills};
  regions.used_bytes = kMiB;
  round = Round{};
  for (int i = 0; i < 5; ++i) second(watch);
  EXPECT_EQ(usage.rows(0).at(0).gpu_ms, wire::kNotMeasured);
  EXPECT_TRUE(kinds().empty());
  EXPECT_EQ(watch.counters().failures, 5u);
  wire::TenantView view{};
  regions.view("a", view);
  watch.fill(view);
  EXPECT_EQ(view.devices[0].share_x100, wire::kUnknownShare);
}

TEST_F(WatchTest, ATurnWithoutARoundSamplesUsageAllTheSame) {
  Watch watch{regions, journal, usage, nullptr, rules(), kills};
  regions.used_bytes = kMiB;
  for (int i = 0; i < 5; ++i) {  // the driver hangs: no round
    EXPECT_GT(watch.tick(now), 0);
    now.mono_ns += kS;
    now.boot_ns += kS;
    now.unix_ns += static_cast<std::int64_t>(kS);
  }
  EXPECT_EQ(usage.rows(0).at(0).byte_seconds, 4 * kMiB);
}

TEST_F(WatchTest, AJumpOfTheClockIsAnEventSuspendIsNone) {
  Watch watch{regions, journal, usage, nullptr, rules(), kills};
  second(watch);
  now.unix_ns += 100 * static_cast<std::int64_t>(kS);
  second(watch);
  EXPECT_EQ(kinds(), std::vector{EventKind::kClockJumped});
  EXPECT_STREQ(last().text, "the system's clock moved by +100 s");
  now.unix_ns += 100 * static_cast<std::int64_t>(kS);
  now.boot_ns += 100 * kS;
  second(watch);
  EXPECT_EQ(kinds().size(), 1u);
}

TEST_F(WatchTest, AFailingStoreIsTwoEvents) {
  char text[] = "/tmp/bh_watch_XXXXXX";
  const std::string dir = ::mkdtemp(text);
  std::filesystem::create_directory(dir + "/events.jsonl");  // cannot be written
  auto store = Store::open({dir, 8u << 20, 2u << 20, 8u << 20, 1});
  ASSERT_TRUE(store.ok());
  Watch watch{regions, journal, usage, &**store, rules(), kills};
  journal.post(now, EventKind::kDaemonStarted, "started");
  second(watch);
  while ((*store)->health().failures < 2) ::usleep(1000);
  for (int i = 0; i < 3; ++i) second(watch);
  EXPECT_EQ(kinds(), (std::vector{EventKind::kDaemonStarted, EventKind::kStoreFailed}));
  std::filesystem::remove(dir + "/events.jsonl");
  ASSERT_TRUE((*store)->wait_idle(60'000));
  for (int i = 0; i < 3; ++i) second(watch);
  EXPECT_EQ(last().kind, EventKind::kStoreRecovered);
  EXPECT_EQ(kinds().size(), 3u);
  watch.finish(now);
  (*store)->stop();
  std::vector<wire::EventView> kept;  // what a next daemon finds
  for (const auto& line : read_last_lines(dir, kEventsFile, 99, 1u << 20)) {
    wire::EventView e;
    ASSERT_TRUE(wire::parse_event_line(line, e));
    kept.push_back(e);
  }
  EXPECT_EQ(kept.size(), 3u);
  Journal next;
  next.restore(kept);
  EXPECT_EQ(next.next_id(), 4u);
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace bulkhead::daemon
