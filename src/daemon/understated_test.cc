// A tenant's own count of its GPU time against NVML's: the rule, and the daemon's event. Time is the test's.
#include <gtest/gtest.h>

#include <cstring>

#include "daemon/watch.h"

namespace bulkhead::daemon {
namespace {

using policy::TimeNews;
using policy::Understated;
constexpr std::uint64_t kS = 1'000'000'000;
constexpr policy::DeviceUuid kGpu{1};

// What a rule says of `seconds` in which NVML and the tenant count these ms each second.
std::vector<TimeNews> of(Understated& rule, int seconds, std::uint64_t nvml_ms,
                         std::uint64_t own_ms) {
  std::vector<TimeNews> out;
  for (int i = 0; i < seconds; ++i)
    if (const TimeNews n = rule.add(1'000, nvml_ms, own_ms); n != TimeNews::kNone) out.push_back(n);
  return out;
}

TEST(UnderstatedRule, OnlyALargeDifferenceOverALongTimeIsTold) {
  using V = std::vector<TimeNews>;
  Understated rule;
  EXPECT_EQ(of(rule, 600, 500, 300), V{}) << "NVML is an estimate";
  EXPECT_EQ(of(rule, 600, 90, 0), V{}) << "little in all";
  EXPECT_EQ(of(rule, 600, 0, 500), V{}) << "more than NVML shows: under MPS it shows nothing";
  EXPECT_EQ(of(rule, 59, 900, 100), V{}) << "not long enough";
  EXPECT_EQ(of(rule, 1, 900, 100), V{TimeNews::kUnderstated});
  EXPECT_EQ(of(rule, 600, 900, 100), V{}) << "once";
  EXPECT_EQ(of(rule, 60, 900, 880), V{TimeNews::kAgrees});
  EXPECT_EQ(of(rule, 60, 900, 100), V{TimeNews::kUnderstated});
}

// A tenant "a" with a share of 25 %, whose sum is what the test says.
class ScribblingRegions final : public Regions {
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
    std::copy(kGpu.begin(), kGpu.end(), out.devices[0].uuid);
    out.devices[0].used_bytes = out.devices[0].processes = 1;
    out.devices[0].compute_x100 = compute_x100;
    out.devices[0].used_ns = used_ns;
    return true;
  }
  std::vector<std::string> names() const override { return {"a"}; }
  Status watch(const std::string&, std::uint32_t, std::uint32_t, UniqueFd, std::uint32_t) override {
    return {};
  }
  std::vector<Member> members() const override {
    return {{10, 100, "a", 0, {1}, {0}, {{kGpu.begin(), kGpu.end()}}}};
  }
  void tell_samples(const Sample&) override {}
  std::string may_be_of_faulty(std::uint32_t, std::uint64_t) const override { return ""; }
  std::uint32_t compute_x100 = 2'500;
  std::uint64_t used_ns = 0;
};

class UnderstatedTest : public ::testing::Test {
 protected:
  UnderstatedTest() {
    RoundDevice device;
    device.uuid = kGpu;
    device.gpu_time_known = true;
    round_.nvml = round_.seen.uses_known = true;
    round_.span_ns = kS;
    round_.devices.push_back(device);
    policy::SeenProcess p;
    p.pid = 10;
    p.start_ticks = 100;
    round_.seen.processes.push_back(p);
    round_.seen.uses.push_back({10, kGpu, 1});
    watch_.next_round = [this] {
      ++round_.number;
      return std::optional<Round>{round_};
    };
  }
  // NVML shows `nvml_ms` of each second, the tenant's sum grows by `own_ns`.
  void seconds(int n, std::uint64_t nvml_ms, std::uint64_t own_ns) {
    round_.gpu_times = {{10, kGpu, nvml_ms, static_cast<std::uint32_t>(nvml_ms / 10)}};
    for (int i = 0; i < n; ++i) {
      now_.mono_ns += kS;
      now_.boot_ns += kS;
      now_.unix_ns += static_cast<std::int64_t>(kS);
      regions_.used_ns += own_ns;
      watch_.tick(now_);
    }
  }
  std::vector<wire::EventView> told() const {
    std::uint32_t lost = 0;
    std::vector<wire::EventView> out;
    for (const auto& e : journal_.after(0, 999, lost))
      if (e.kind == wire::EventKind::kTimeUnderstated) out.push_back(e);
    return out;
  }
  ScribblingRegions regions_;
  Journal journal_;
  Usage usage_{UsageSinks{[](std::string) {}, [](std::string) {}}};
  Round round_;
  Now now_{};
  Watch watch_{regions_, journal_, usage_, nullptr, {}};
};

TEST_F(UnderstatedTest, WhoScribblesOnItsSumIsToldOnceAndSoIsTheEndOfIt) {
  seconds(61, 240, 248'000'000);
  EXPECT_TRUE(told().empty());
  // It sets the sum back after each launch: nothing is ever added.
  seconds(130, 900, 0);
  ASSERT_EQ(told().size(), 1u);
  EXPECT_STREQ(told()[0].tenant, "a");
  EXPECT_EQ(told()[0].severity, wire::Severity::kWarning);
  EXPECT_NE(std::strstr(told()[0].text, "0 % against 90 %"), nullptr) << told()[0].text;
  seconds(130, 900, 890'000'000);
  ASSERT_EQ(told().size(), 2u);
  EXPECT_EQ(told()[1].severity, wire::Severity::kInfo);
}

TEST_F(UnderstatedTest, NothingIsToldOfWhoIsNotLimitedNorWithoutNvml) {
  regions_.compute_x100 = 0;
  seconds(130, 900, 0);
  regions_.compute_x100 = 2'500;
  round_.devices[0].gpu_time_known = false;
  seconds(130, 900, 0);
  EXPECT_TRUE(told().empty());
  // A pause of the daemon is no part of a window.
  round_.devices[0].gpu_time_known = true;
  seconds(30, 900, 0);
  now_.mono_ns += 600 * kS, now_.boot_ns += 600 * kS;
  seconds(20, 900, 0);
  EXPECT_TRUE(told().empty());
}

}  // namespace
}  // namespace bulkhead::daemon
