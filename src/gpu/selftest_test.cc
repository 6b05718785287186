#include "gpu/selftest.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace bulkhead::gpu {
namespace {

SelfTest h200(const char* driver = "580.159.04") {
  SelfTest t;
  t.uuid = "GPU-1";
  t.driver = driver;
  t.tested = "2026-11-22T14:00:00Z";
  t.sms = 132;
  t.sm_unit = 2;
  t.spatial = {shm::Seen::kWorks, "132 SMs at 100%"};
  t.slice = {shm::Seen::kNo, "as before"};
  return t;
}

TEST(SelfTestFile, KeepsOneEntryForAGpuAndADriver) {
  char name[] = "/tmp/bulkhead-selftest-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string state = std::string{name} + "/state";
  EXPECT_TRUE(load_self_tests(state).empty());
  EXPECT_EQ(keep_self_test(state, h200()), "");
  EXPECT_EQ(keep_self_test(state, h200("590.1")), "");
  SelfTest again = h200();
  again.spatial.verdict = shm::Seen::kNo;
  EXPECT_EQ(keep_self_test(state, again), "");
  const auto all = load_self_tests(state);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].driver, "590.1");
  EXPECT_EQ(all[0].spatial.verdict, shm::Seen::kWorks);
  EXPECT_EQ(all[0].spatial.evidence, "132 SMs at 100%");
  EXPECT_EQ(all[1].spatial.verdict, shm::Seen::kNo);
  EXPECT_EQ(all[1].verdict().tested_unix_s, 1'795'356'000u);
  EXPECT_EQ(all[1].verdict().sm_unit, 2u);
  EXPECT_EQ(all[1].green.verdict, shm::Seen::kUnknown);
  EXPECT_NE(keep_self_test("/proc/none", h200()), "");
  std::filesystem::remove_all(name);
}

TEST(SelfTestFile, WhatIsMalformedIsUnknown) {
  for (const char* bad : {"", "{", "[]", "{\"schema\": 2, \"gpus\": []}", "{\"schema\": 1}",
                          "{\"schema\": 1, \"gpus\": [7, {}, {\"uuid\": 1, \"driver\": \"x\"}]}"})
    EXPECT_TRUE(self_tests_from_json(bad).empty()) << bad;
  const auto some = self_tests_from_json(
      R"({"schema": 1, "gpus": [{"uuid": "a", "driver": "b", "sms": -3, "sm_unit": 900,
          "spatial": {"verdict": "perhaps"}, "green": 3}]})");
  ASSERT_EQ(some.size(), 1u);
  EXPECT_EQ(some[0].verdict(), shm::Verdict{});
}

}  // namespace
}  // namespace bulkhead::gpu
