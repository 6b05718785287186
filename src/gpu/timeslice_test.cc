// The estimate of slice and switch, and the file it is kept in.
#include "gpu/timeslice.h"

#include <gtest/gtest.h>

namespace bulkhead::gpu {
namespace {

// Ends of operations of `op` ns, in turns of `slice` with `away` between them.
std::vector<std::uint64_t> ends_of(std::uint64_t op, std::uint64_t slice, std::uint64_t away,
                                   unsigned rounds) {
  std::vector<std::uint64_t> out;
  std::uint64_t now = 1'000'000, left = op;
  for (unsigned r = 0; r < rounds; ++r, now += away) {
    for (std::uint64_t turn = slice; turn != 0;) {
      const std::uint64_t step = std::min(turn, left);
      now += step, turn -= step, left -= step;
      if (left == 0) out.push_back(now), left = op;
    }
  }
  return out;
}

TEST(TimeSlice, IsToldFromTheEndsOfShortOperations) {
  for (const std::uint64_t slice : {500'000u, 1'000'000u, 2'000'000u, 4'500'000u}) {
    for (const std::uint64_t change : {0u, 50'000u, 220'000u}) {
      const Rounds r = rounds_of(ends_of(37'000, slice, slice + 2 * change, 40));
      ASSERT_GE(r.count, kLeastRounds) << slice << " " << r.why;
      EXPECT_NEAR(static_cast<double>(r.slice_ns), static_cast<double>(slice),
                  0.05 * static_cast<double>(slice));
      const double loss =
          1'000.0 * static_cast<double>(change) / static_cast<double>(slice + change);
      EXPECT_NEAR(r.loss_x1000, loss, 8) << slice << " " << change;
    }
  }
}

TEST(TimeSlice, WhatTellsNothingIsNoMeasurement) {
  EXPECT_EQ(rounds_of({}).count, 0u);
  EXPECT_EQ(rounds_of(ends_of(37'000, 400'000'000, 0, 1)).count, 0u) << "nobody else";
  EXPECT_EQ(rounds_of(ends_of(37'000, 2'000'000, 440'000, 40)).count, 0u) << "the other rested";
  EXPECT_EQ(rounds_of(ends_of(37'000, 2'000'000, 6'600'000, 40)).count, 0u) << "two others";
  EXPECT_EQ(rounds_of(ends_of(37'000, 2'000'000, 2'440'000, 5)).count, 0u) << "five rounds";
  EXPECT_EQ(rounds_of(std::vector<std::uint64_t>(100, 7)).count, 0u);
}

TEST(TimeSlice, IsKeptByGpuAndDriver) {
  const TimeSlice a{"GPU-1", "580.1", "2026-11-22T14:00:00Z", 1'900'000, 104, "40 rounds"};
  TimeSlice b = a;
  b.driver = "590.2", b.slice_ns = 0, b.loss_x1000 = 0;
  const auto back = time_slices_from_json(time_slices_to_json({a, b}));
  ASSERT_EQ(back.size(), 2u);
  EXPECT_EQ(back[0].slice_ns, 1'900'000u);
  EXPECT_EQ(back[0].loss_x1000, 104u);
  EXPECT_EQ(back[1].driver, "590.2");
  for (const char* bad :
       {"", "[]", R"({"schema":2,"gpus":[]})", R"({"schema":1,"gpus":[{"uuid":"GPU-1"}]})",
        R"({"schema":1,"gpus":[{"uuid":"G","driver":"5","slice_ns":7,"loss_x1000":1}]})",
        R"({"schema":1,"gpus":[{"uuid":"G","driver":"5","slice_ns":2000000,"loss_x1000":900}]})",
        R"({"schema":1,"gpus":[{"uuid":"G","driver":"5","slice_ns":99000000,"loss_x1000":1}]})"})
    EXPECT_TRUE(time_slices_from_json(bad).empty()) << bad;
}

}  // namespace
}  // namespace bulkhead::gpu
