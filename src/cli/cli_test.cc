#include <gtest/gtest.h>

#include "cli/calibration.h"
#include "cli/devices.h"
#include "cli/install.h"
#include "cli/request.h"
#include "gpu/sampler.h"

namespace bulkhead::cli {
namespace {

using Positions = std::optional<std::vector<std::size_t>>;

std::vector<NvmlGpu> gpus(std::initializer_list<const char*> names) {
  std::vector<NvmlGpu> out;
  for (const char* name : names) {
    NvmlGpu g;
    g.index = static_cast<unsigned>(out.size());
    g.name = name;
    g.uuid = "GPU-" + std::string(1, static_cast<char>('a' + out.size())) +
             "1234567-89ab-cdef-0123-456789abcdef";
    out.push_back(g);
  }
  return out;
}

TEST(VisibleDevices, AllOfOneKindInTheirOrder) {
  const auto two = gpus({"H200", "H200"});
  EXPECT_EQ(visible_positions(two, nullptr, false), (Positions{{0, 1}}));
  EXPECT_EQ(visible_positions(two, "1,0", false), (Positions{{1, 0}}));
  EXPECT_EQ(visible_positions(two, " 1 ", false), (Positions{{1}}));
  EXPECT_EQ(visible_positions(two, "GPU-b12", false), (Positions{{1}}));
}

TEST(VisibleDevices, TheListEndsAtTheFirstThatNamesNothing) {
  const auto two = gpus({"H200", "H200"});
  EXPECT_EQ(visible_positions(two, "", false), (Positions{std::in_place}));
  EXPECT_EQ(visible_positions(two, "-1", false), (Positions{std::in_place}));
  EXPECT_EQ(visible_positions(two, "0,7,1", false), (Positions{{0}}));
  EXPECT_EQ(visible_positions(two, "0,junk,1", false), (Positions{{0}}));
}

TEST(VisibleDevices, OnlyTheDriverCanTell) {
  const auto mixed = gpus({"H200", "L4"});
  EXPECT_EQ(visible_positions(mixed, nullptr, false),
            std::nullopt);  // fastest first: its own order
  EXPECT_EQ(visible_positions(mixed, "1", false), std::nullopt);
  EXPECT_EQ(visible_positions(mixed, nullptr, true), (Positions{{0, 1}}));
  EXPECT_EQ(visible_positions(mixed, "GPU-b12", false), (Positions{{1}}));
  const auto two = gpus({"H200", "H200"});
  EXPECT_EQ(visible_positions(two, "0,0", false), std::nullopt);
  EXPECT_EQ(visible_positions(two, "GPU-", false), (Positions{std::in_place}));
  auto mig = two;
  mig[0].mig = true;
  EXPECT_EQ(visible_positions(mig, nullptr, false), std::nullopt);
}

TEST(Uuid, TextAndBytes) {
  const auto uuid = parse_uuid("GPU-c15c0289-ec2d-0a91-d406-c6f3f7003e53");
  ASSERT_TRUE(uuid);
  EXPECT_EQ(uuid_digits(uuid->data()), "c15c0289-ec2d-0a91-d406-c6f3f7003e53");
  for (const char* bad : {"", "GPU-", "c15c0289-ec2d-0a91-d406-c6f3f7003e53", "GPU-c15c", "GPU-zz",
                          "GPU-c15c0289-ec2d-0a91-d406-c6f3f7003e5300"}) {
    EXPECT_FALSE(parse_uuid(bad)) << bad;
  }
}

TEST(Preload, OnceAndInFront) {
  EXPECT_EQ(with_entry(nullptr, "/l.so", ": "), "/l.so");
  EXPECT_EQ(with_entry("", "/l.so", ": "), "/l.so");
  EXPECT_EQ(with_entry("/a.so", "/l.so", ": "), "/l.so:/a.so");
  EXPECT_EQ(with_entry("/a.so /l.so", "/l.so", ": "), "/a.so /l.so");
  EXPECT_EQ(with_entry("/l.so", "/l.so", ": "), "/l.so");
  EXPECT_EQ(with_entry("/l.so.1", "/l.so", ": "), "/l.so:/l.so.1");
}

TEST(Calibration, ReadsWhatItWrites) {
  Calibration c{"GPU-1", "580", "H200", "2026-01-01T00:00:00Z", 100, 7, {1, 2, 3, 4, 5, 6}};
  const auto back = calibration_from_json(calibration_to_json({c}));
  ASSERT_EQ(back.size(), 1u);
  EXPECT_EQ(back[0].uuid, "GPU-1");
  EXPECT_EQ(back[0].total_bytes, 100u);
  EXPECT_EQ(back[0].vmm_granularity, 7u);
  EXPECT_EQ(back[0].facts.context_bytes, 1u);
  EXPECT_EQ(back[0].facts.pool_granularity, 6u);
  EXPECT_NE(find_calibration(back, "GPU-1", "580"), nullptr);
  EXPECT_EQ(find_calibration(back, "GPU-1", "581"), nullptr);
}

TEST(Calibration, AnotherSchemaOrJunkIsNoFile) {
  for (const char* text :
       {"", "{", "[]", "7", "null", R"({"schema":2,"gpus":[]})", R"({"schema":"1","gpus":[]})",
        R"({"schema":1})", R"({"schema":1,"gpus":{}})", R"({"schema":1,"gpus":[7,null,{}]})",
        R"({"schema":1,"gpus":[{"uuid":"GPU-1","total_bytes":-5}]})",
        R"({"schema":1,"gpus":[{"uuid":3,"total_bytes":5}]})"}) {
    EXPECT_TRUE(calibration_from_json(text).empty()) << text;
  }
  const auto odd = calibration_from_json(
      R"({"schema":1,"gpus":[{"uuid":"GPU-1","total_bytes":5,"context_bytes":"x"}]})");
  ASSERT_EQ(odd.size(), 1u);
  EXPECT_EQ(odd[0].facts.context_bytes, 0u);  // not measured
}

TEST(Observation, RaisesAtOnceAndLowersWhenTheBooksStoodStill) {
  constexpr std::uint64_t kMs = 1'000'000;
  gpu::Observation o;
  EXPECT_EQ(o.see(30, 0, 400, 1, 0), 400u);         // the first look fell into a context's making
  EXPECT_EQ(o.see(500, 0, 400, 1, 5 * kMs), 500u);  // now it is there
  EXPECT_EQ(o.see(700, 100, 500, 2, 20 * kMs), 600u);   // a module was loaded
  EXPECT_EQ(o.see(700, 300, 600, 3, 40 * kMs), 600u);   // charged, the driver is still at it
  EXPECT_EQ(o.see(900, 300, 600, 3, 60 * kMs), 600u);   // and now it has it
  EXPECT_EQ(o.see(800, 300, 600, 3, 100 * kMs), 600u);  // less, but not for long enough
  EXPECT_EQ(o.see(800, 300, 600, 3, 40 * kMs + gpu::kSettle_ns), 500u);
  EXPECT_EQ(o.see(100, 300, 500, 4, 400 * kMs), 500u);  // books above the figure: never negative
  EXPECT_EQ(o.see(100, 300, 500, 4, 400 * kMs + gpu::kSettle_ns), 0u);
}

// What the process gave up itself (a destroyed context) is not told to it again.
TEST(Observation, ForgetsWhatWasToldOfOtherBooks) {
  constexpr std::uint64_t kMs = 1'000'000;
  gpu::Observation o;
  EXPECT_EQ(o.see(2000, 0, 2000, 1, 0), 2000u);
  EXPECT_EQ(o.see(1500, 0, 1500, 2, 20 * kMs), 1500u);
}

class RequestTest : public testing::Test {
 protected:
  void SetUp() override { disarm_environment(); }
  void TearDown() override { disarm_environment(); }
};

TEST_F(RequestTest, OptionsBeforeVariablesBeforeHamis) {
  ::setenv("CUDA_DEVICE_MEMORY_LIMIT", "3g", 1);
  EXPECT_EQ(read_request({})->memory.every.bytes, 3ull << 30);
  EXPECT_EQ(read_request({})->grammar, policy::Grammar::kHami);
  ::setenv("BULKHEAD_MEMORY_1", "2GiB", 1);
  EXPECT_FALSE(read_request({})->memory.has_every);
  EXPECT_EQ(policy::size_for(read_request({})->memory, 1, "")->bytes, 2ull << 30);
  RunOptions options;
  options.memory = "1GiB";
  EXPECT_EQ(read_request(options)->memory.every.bytes, 1ull << 30);
}

TEST_F(RequestTest, TheVariableOnlyLowersTheShare) {
  const auto share = [](const char* option, const char* variable) {
    RunOptions o;
    o.share.compute = option;
    if (*variable != '\0') ::setenv("BULKHEAD_COMPUTE", variable, 1);
    const auto r = read_request(o);
    ::unsetenv("BULKHEAD_COMPUTE");
    return r.ok() ? share_text(r.value->share.rules) : r.problem;
  };
  EXPECT_EQ(share("25%", ""), "25%");
  EXPECT_EQ(share("25%", "10%"), "10%");
  EXPECT_EQ(share("25%", "50%"), "25%");
  EXPECT_EQ(share("25%", "50%+"), "25%");
  EXPECT_EQ(share("25%+", "10%"), "10%");
  EXPECT_EQ(share("25%+", "10%+"), "10%+");
  EXPECT_EQ(share("25%", "10%+"), "10%+ up to 25%");
  EXPECT_EQ(share("", "10%"), "10%") << "less than all";
  EXPECT_EQ(share("", ""), "no limit");
  EXPECT_NE(share("25%", "junk").find("BULKHEAD_COMPUTE='junk' is not a share"), std::string::npos);
}

TEST_F(RequestTest, HamisZeroAsksForNothing) {
  ::setenv("CUDA_DEVICE_MEMORY_LIMIT", "0", 1);
  EXPECT_FALSE(read_request({})->has_memory);
}

TEST_F(RequestTest, ProblemsNameTheVariable) {
  ::setenv("BULKHEAD_MEMORY_2", "junk", 1);
  const auto bad = read_request({});
  EXPECT_FALSE(bad.ok());
  EXPECT_NE(bad.problem.find("BULKHEAD_MEMORY_2='junk'"), std::string::npos);
}

}  // namespace
}  // namespace bulkhead::cli
