#include "policy/size.h"

#include <gtest/gtest.h>

#include <string>

#include "policy/limit.h"

namespace bulkhead::policy {
namespace {

constexpr std::uint64_t kKi = 1024, kMi = kKi * kKi, kGi = kMi * kKi, kTi = kGi * kKi;

std::uint64_t bytes(const char* text, Grammar g = Grammar::kOurs) {
  Size s;
  if (!parse_size(text, g, &s)) return ~0ull;
  EXPECT_FALSE(s.is_percent) << text;
  return s.bytes;
}
bool refused(const char* text, Grammar g = Grammar::kOurs) {
  Size s;
  return !parse_size(text, g, &s);
}
std::uint32_t percent(const char* text) {
  Size s;
  return parse_size(text, Grammar::kOurs, &s) && s.is_percent ? s.percent_x100 : 0;
}

TEST(Size, UnitsMeanWhatTheySay) {
  EXPECT_EQ(bytes("10GiB"), 10 * kGi);
  EXPECT_EQ(bytes("512MiB"), 512 * kMi);
  EXPECT_EQ(bytes("3KiB"), 3 * kKi);
  EXPECT_EQ(bytes("2TiB"), 2 * kTi);
  EXPECT_EQ(bytes("10GB"), 10'000'000'000u);
  EXPECT_EQ(bytes("10MB"), 10'000'000u);
  EXPECT_EQ(bytes("10kB"), 10'000u);
  EXPECT_EQ(bytes("1TB"), 1'000'000'000'000u);
  EXPECT_EQ(bytes("10Gi"), 10 * kGi);
  EXPECT_EQ(bytes("10g"), 10 * kGi);
  EXPECT_EQ(bytes("512m"), 512 * kMi);
  EXPECT_EQ(bytes("10gib"), 10 * kGi);
  EXPECT_EQ(bytes("10 GiB"), 10 * kGi);
  EXPECT_EQ(bytes("4096"), 4096u);
  EXPECT_EQ(bytes("4096B"), 4096u);
}

TEST(Size, FractionsAreExactAndRoundedDown) {
  EXPECT_EQ(bytes("1.5GiB"), kGi + kGi / 2);
  EXPECT_EQ(bytes("0.5KiB"), 512u);
  EXPECT_EQ(bytes("1.000001KiB"), 1024u);
  EXPECT_EQ(bytes("0.1GB"), 100'000'000u);
  EXPECT_EQ(bytes("1.999999TiB"),
            kTi + kTi / 1'000'000 * 999'999 + kTi % 1'000'000 * 999'999 / 1'000'000);
  EXPECT_TRUE(refused("1.0000001GiB"));
  EXPECT_TRUE(refused("0.5B"));
}

TEST(Size, Percents) {
  EXPECT_EQ(percent("50%"), 5000u);
  EXPECT_EQ(percent("12.5%"), 1250u);
  EXPECT_EQ(percent("0.01%"), 1u);
  EXPECT_EQ(percent("100%"), 10000u);
  for (const char* bad :
       {"0%", "0.00%", "100.01%", "101%", "12.345%", "%", "-5%", "50%%", "50%B"}) {
    EXPECT_TRUE(refused(bad)) << bad;
  }
}

TEST(Size, JunkIsRefused) {
  for (const char* bad :
       {"",        " ",      "-1GiB",  "+1GiB",         "GiB",    "10XiB", "10GiBs",
        "10GiBB",  "10bi",   "1e9",    "0x10",          "10.GiB", ".5GiB", "1.2.3GiB",
        "10  GiB", " 10GiB", "10GiB ", "10 ",           "1,5GiB", "0",     "0GiB",
        "0.0GiB",  "nan",    "inf",    "10\xc2\xa0GiB", "10GiB\n"}) {
    EXPECT_TRUE(refused(bad)) << '"' << bad << '"';
  }
  Size s;
  EXPECT_FALSE(parse_size(nullptr, Grammar::kOurs, &s));
}

TEST(Size, OverflowIsRefusedAtTheLastByte) {
  EXPECT_EQ(bytes("18446744073709551614"), 18446744073709551614u);
  Size s;
  EXPECT_TRUE(parse_size("18446744073709551615", Grammar::kOurs, &s));
  EXPECT_EQ(s.bytes, ~0ull);
  EXPECT_TRUE(refused("18446744073709551616"));
  EXPECT_TRUE(refused("99999999999999999999999999"));
  EXPECT_TRUE(refused("16777216TiB"));
  EXPECT_EQ(bytes("16777215TiB"), 16777215 * kTi);
  EXPECT_EQ(bytes("16777215.999999TiB") >> 40, 16777215u);
  EXPECT_TRUE(refused("18446744073709551615.5KiB"));
}

TEST(Size, TheOutputIsUntouchedWhenRefused) {
  Size s{7, 8, true};
  EXPECT_FALSE(parse_size("junk", Grammar::kOurs, &s));
  EXPECT_EQ(s.bytes, 7u);
  EXPECT_TRUE(s.is_percent);
}

TEST(Size, HamiVariablesWithoutTheirTraps) {
  const Grammar h = Grammar::kHami;
  EXPECT_EQ(bytes("3000m", h), 3000 * kMi);
  EXPECT_EQ(bytes("10G", h), 10 * kGi);
  EXPECT_EQ(bytes("8k", h), 8 * kKi);
  EXPECT_EQ(bytes("1073741824", h), kGi);
  EXPECT_EQ(bytes("10Gi", h), 10 * kGi);         // there: 10 bytes
  EXPECT_EQ(bytes("10GB", h), 10'000'000'000u);  // there: 10 bytes
  EXPECT_EQ(bytes("1.5g", h), kGi + kGi / 2);    // there: 1 GiB
  EXPECT_EQ(bytes("010g", h), 10 * kGi);         // there: octal, 8 GiB
  EXPECT_EQ(bytes("0", h), 0u);                  // none
  EXPECT_EQ(bytes("0m", h), 0u);
  Size s;
  ASSERT_TRUE(parse_size("50%", h, &s));  // there: 50 bytes
  EXPECT_TRUE(s.is_percent);
  EXPECT_TRUE(refused("10x", h));
  EXPECT_TRUE(refused("", h));
  EXPECT_TRUE(refused("-1", h));
}

TEST(MemorySpec, OneValueIsForEveryGpu) {
  MemorySpec m;
  ASSERT_TRUE(parse_memory_spec("10GiB", Grammar::kOurs, &m));
  EXPECT_TRUE(m.has_every);
  EXPECT_EQ(m.count, 0u);
  EXPECT_EQ(size_for(m, 5, "GPU-1")->bytes, 10 * kGi);
}

TEST(MemorySpec, GpusByIndexAndUuidPrefix) {
  MemorySpec m;
  ASSERT_TRUE(parse_memory_spec("10GiB,1=50%,GPU-ab12=3GiB", Grammar::kOurs, &m));
  EXPECT_EQ(size_for(m, 0, "GPU-ffff")->bytes, 10 * kGi);
  EXPECT_EQ(size_for(m, 1, "GPU-ab12cd")->percent_x100, 5000u);  // the index first
  EXPECT_EQ(size_for(m, 2, "GPU-AB12cd")->bytes, 3 * kGi);
  EXPECT_EQ(size_for(m, 11, "GPU-ffff")->bytes, 10 * kGi);
  ASSERT_TRUE(parse_memory_spec("1=2GiB", Grammar::kOurs, &m));
  EXPECT_EQ(size_for(m, 0, "GPU-0"), nullptr);
  EXPECT_EQ(size_for(m, 1, "GPU-0")->bytes, 2 * kGi);
}

TEST(MemorySpec, MalformedSpecsAreRefused) {
  MemorySpec m;
  for (const char* bad :
       {"", ",", "10GiB,", ",1=1GiB", "10GiB,5GiB", "=1GiB", "1=", "1==1GiB", "x=1GiB", "GPU-=1GiB",
        "1=1GiB,1=2GiB", "12345=1GiB", "GPU-zz!=1GiB", "../x=1GiB",
        "GPU-0123456789012345678901234567890123456789012345678=1GiB"}) {
    EXPECT_FALSE(parse_memory_spec(bad, Grammar::kOurs, &m)) << bad;
  }
  std::string many = "1GiB";
  for (int i = 0; i < 16; ++i) many += "," + std::to_string(i) + "=1GiB";
  EXPECT_TRUE(parse_memory_spec(many.c_str(), Grammar::kOurs, &m));
  many += ",16=1GiB";
  EXPECT_FALSE(parse_memory_spec(many.c_str(), Grammar::kOurs, &m));
}

TEST(Format, ForPeopleAndExact) {
  char out[kSizeText];
  EXPECT_STREQ(format_size(0, out), "0 B");
  EXPECT_STREQ(format_size(1023, out), "1023 B");
  EXPECT_STREQ(format_size(10 * kGi, out), "10 GiB");
  EXPECT_STREQ(format_size(kGi + kGi / 2, out), "1.5 GiB");
  EXPECT_STREQ(format_size(kGi + kGi / 20, out), "1.04 GiB");  // rounded down
  EXPECT_STREQ(format_size(543162368, out), "518 MiB");
  EXPECT_STREQ(format_size(~0ull, out), "16777215.99 TiB");
  EXPECT_STREQ(format_exact(10 * kGi, out), "10GiB");
  EXPECT_STREQ(format_exact(10 * kGi + kMi, out), "10241MiB");
  EXPECT_STREQ(format_exact(7, out), "7B");
  EXPECT_STREQ(format_exact(0, out), "0B");
  for (const std::uint64_t v : {1ull, 511ull, 1024ull, 3ull << 30, ~0ull, 1ull << 63}) {
    EXPECT_EQ(bytes(format_exact(v, out)), v) << v;  // reads back
  }
}

TEST(Limit, PercentOfTheDeviceInStepsOf2MiB) {
  constexpr std::uint64_t kTotal = 150'109'880'320;
  Size half{0, 5000, true};
  EXPECT_EQ(limit_of(half, kTotal), kTotal / 2 / kLimitStep * kLimitStep);
  EXPECT_EQ(limit_of(half, kTotal) % kLimitStep, 0u);
  Size all{0, 10000, true};
  EXPECT_LE(limit_of(all, kTotal), kTotal);
  EXPECT_GT(limit_of(all, kTotal) + kLimitStep, kTotal);
  EXPECT_EQ(limit_of(all, ~0ull), ~0ull / kLimitStep * kLimitStep);  // no overflow on the way
  EXPECT_EQ(limit_of(Size{12345, 0, false}, kTotal), 12345u);
}

}  // namespace
}  // namespace bulkhead::policy
