#include "daemon/usage.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>

#include "daemon/store.h"

namespace bulkhead::daemon {
namespace {

__extension__ using Wide = unsigned __int128;
constexpr std::uint64_t kS = 1'000'000'000;
constexpr std::uint64_t kGiB = 1ull << 30;
constexpr std::int64_t kHour = 3600;
constexpr DeviceId kGpu0{1}, kGpu1{2};

// What would be on disk.
struct Disk {
  std::vector<std::string> lines;
  std::string open;
  UsageSinks sinks() {
    return {[this](std::string l) { lines.push_back(std::move(l)); },
            [this](std::string c) { open = std::move(c); }};
  }
};
struct Clock {
  Now now{1000 * kS, 1000 * kS, 1'795'334'400 * static_cast<std::int64_t>(kS)};  // on the hour
  const Now& step(std::uint64_t ns) {
    now.mono_ns += ns;
    now.boot_ns += ns;
    now.unix_ns += static_cast<std::int64_t>(ns);
    return now;
  }
};
UsageSample held(const char* tenant, const DeviceId& device, std::uint64_t bytes) {
  return {tenant, device, bytes, bytes != 0};
}
wire::UsageRow sum(const std::vector<wire::UsageRow>& rows, const char* tenant = nullptr) {
  wire::UsageRow out{};
  out.gpu_ms = wire::kNotMeasured;
  for (const auto& r : rows) {
    if (tenant != nullptr && std::string{r.tenant} != tenant) continue;
    out.byte_seconds += r.byte_seconds;
    out.held_ms += r.held_ms;
    out.refused += r.refused;
    out.peak_bytes = std::max(out.peak_bytes, r.peak_bytes);
    if (r.gpu_ms != wire::kNotMeasured) {
      out.gpu_ms = (out.gpu_ms == wire::kNotMeasured ? 0 : out.gpu_ms) + r.gpu_ms;
    }
  }
  return out;
}

TEST(Usage, IntegratesTheValueUntilTheNextReading) {
  Disk disk;
  Clock clock;
  Usage usage{disk.sinks()};
  usage.sample(clock.now, {held("a", kGpu0, 2 * kGiB)});
  usage.sample(clock.step(kS), {held("a", kGpu0, 0)});
  usage.sample(clock.step(kS), {held("a", kGpu0, 0)});
  const auto r = sum(usage.rows(0));
  EXPECT_EQ(r.byte_seconds, 2 * kGiB);
  EXPECT_EQ(r.held_ms, 1000u);
  EXPECT_EQ(r.peak_bytes, 2 * kGiB);
  EXPECT_EQ(usage.totals("a", kGpu0).byte_seconds, 2 * kGiB);
}

UsageSample moved(const char* tenant, std::uint64_t total) {
  UsageSample s = held(tenant, kGpu0, kGiB);
  s.moved_total = total;
  return s;
}
std::uint64_t moved_sum(const std::vector<wire::UsageRow>& rows) {
  std::uint64_t bytes = 0;
  for (const auto& r : rows) bytes += r.moved_bytes == wire::kNotMeasured ? 0 : r.moved_bytes;
  return bytes;
}

// The rows' sum is the books' own, however often the daemon is killed: what it had not written yet is still in the books.
TEST(Usage, MovedBytesEqualTheBooksAcrossRestarts) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random{seed};
  Disk disk;
  Clock clock;
  auto usage = std::make_unique<Usage>(disk.sinks());
  std::uint64_t books = 0;
  for (int i = 0; i < 15'000; ++i) {  // about four hours
    books += random() % 3 == 0 ? random() % kGiB : 0;
    usage->sample(clock.step(kS), {moved("a", books)});
    if (random() % 500 != 0) continue;
    usage = std::make_unique<Usage>(disk.sinks());  // killed
    usage->restore(clock.step(random() % (20 * kS)), disk.open, disk.lines);
    books += random() % kGiB;
  }
  usage->sample(clock.step(kS), {moved("a", books)});
  EXPECT_EQ(moved_sum(usage->rows(0)), books);
  EXPECT_EQ(usage->totals("a", kGpu0).moved_bytes, books);
  EXPECT_GT(usage->rows(0).size(), 3u);
}

TEST(Usage, MovedBytesOfATenantThatBeganAnewAreNotLost) {
  Disk disk;
  Clock clock;
  Usage usage{disk.sinks()};
  usage.sample(clock.now, {moved("a", 0)});
  EXPECT_EQ(usage.rows(0).at(0).moved_bytes, 0u) << "measured, and nothing";
  usage.sample(clock.step(kS), {moved("a", 1000)});
  usage.sample(clock.step(kS), {});                // removed
  usage.sample(clock.step(kS), {moved("a", 70)});  // another of its name
  EXPECT_EQ(usage.totals("a", kGpu0).moved_bytes, 1070u);
  UsageSample unknown = held("b", kGpu0, kGiB);
  usage.sample(clock.step(kS), {unknown});
  EXPECT_EQ(usage.totals("b", kGpu0).moved_bytes, wire::kNotMeasured);
}

// The sums equal the books' integral: exactly, for a step function that moves at the readings.
TEST(Usage, SumsEqualTheIntegralOfTheBooks) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random{seed};
  Disk disk;
  Clock clock;
  Usage usage{disk.sinks()};
  const char* const names[] = {"a", "b", "c", "d"};
  Wide exact[4][2] = {};
  std::uint64_t value[4][2] = {}, peak = 0;
  for (int i = 0; i < 20'000; ++i) {  // about four hours
    const std::uint64_t span = i == 0 ? 0 : kS / 2 + random() % (kS / 2) + random() % 7;
    clock.step(span);
    std::vector<UsageSample> samples;
    for (unsigned t = 0; t < 4; ++t) {
      for (unsigned d = 0; d < 2; ++d) {
        exact[t][d] += static_cast<Wide>(value[t][d]) * span;
        if (random() % 4 == 0) value[t][d] = random() % (150 * kGiB);
        const bool there = random() % 50 != 0;  // now and then a tenant is not there at all
        if (!there) value[t][d] = 0;
        peak = std::max(peak, value[t][d]);
        if (there) samples.push_back(held(names[t], d == 0 ? kGpu0 : kGpu1, value[t][d]));
      }
    }
    usage.sample(clock.now, samples);
  }
  const auto rows = usage.rows(0);
  EXPECT_GT(rows.size(), 8u * 3);
  Wide all = 0;
  for (unsigned t = 0; t < 4; ++t) {
    for (unsigned d = 0; d < 2; ++d) {
      std::uint64_t got = 0;
      for (const auto& r : rows) {
        if (std::string{r.tenant} == names[t] && r.uuid[0] == d + 1) got += r.byte_seconds;
      }
      EXPECT_EQ(got, static_cast<std::uint64_t>(exact[t][d] / kS)) << names[t] << d;
      all += exact[t][d] / kS;
    }
  }
  EXPECT_EQ(sum(rows).byte_seconds, static_cast<std::uint64_t>(all));
  EXPECT_EQ(sum(rows).peak_bytes, peak);
  for (const auto& r : rows) EXPECT_LE(r.to_unix_s - r.from_unix_s, kHour);
}

TEST(Usage, AGapIsNotCharged) {
  Disk disk;
  Clock clock;
  Usage usage{disk.sinks()};
  usage.sample(clock.now, {held("a", kGpu0, kGiB)});
  usage.sample(clock.step(kS), {held("a", kGpu0, kGiB)});
  usage.sample(clock.step(3600 * kS), {held("a", kGpu0, kGiB)});  // stopped for an hour
  usage.sample(clock.step(kS), {held("a", kGpu0, kGiB)});
  EXPECT_EQ(sum(usage.rows(0)).byte_seconds, 2 * kGiB);
  EXPECT_EQ(sum(usage.rows(0)).held_ms, 2000u);
  EXPECT_EQ(usage.gaps(), 1u);
}

TEST(Usage, AJumpOfTheSystemsClockChangesNoFigure) {
  for (const std::int64_t jump : {-86'400ll, -3ll, 3ll, 86'400ll}) {
    Disk disk;
    Clock clock;
    clock.now.unix_ns += 1800 * static_cast<std::int64_t>(kS);
    Usage usage{disk.sinks()};
    usage.sample(clock.now, {held("a", kGpu0, kGiB)});
    usage.sample(clock.step(kS), {held("a", kGpu0, kGiB)});
    clock.now.unix_ns += jump * static_cast<std::int64_t>(kS);
    usage.sample(clock.step(kS), {held("a", kGpu0, kGiB)});
    usage.sample(clock.step(kS), {held("a", kGpu0, kGiB)});
    const auto rows = usage.rows(-1);
    EXPECT_EQ(sum(rows).byte_seconds, 3 * kGiB) << jump;
    ASSERT_EQ(rows.size(), 2u) << jump;
    for (const auto& r : rows) EXPECT_GE(r.to_unix_s, r.from_unix_s);
  }
}

TEST(Usage, RowsEndWithTheHour) {
  Disk disk;
  Clock clock;
  const std::int64_t start = clock.now.unix_ns / static_cast<std::int64_t>(kS);
  clock.now.unix_ns += 3598 * static_cast<std::int64_t>(kS);
  Usage usage{disk.sinks()};
  usage.sample(clock.now, {held("a", kGpu0, kGiB), held("idle", kGpu0, 0)});
  for (int i = 0; i < 4; ++i) {
    usage.sample(clock.step(kS), {held("a", kGpu0, kGiB), held("idle", kGpu0, 0)});
  }
  const auto rows = usage.rows(0);
  ASSERT_EQ(rows.size(), 2u);  // and none for the idle one
  EXPECT_EQ(rows[0].to_unix_s, start + kHour);
  EXPECT_EQ(rows[1].from_unix_s, start + kHour);
  EXPECT_EQ(rows[0].byte_seconds, 2 * kGiB);
  ASSERT_EQ(disk.lines.size(), 1u);
  EXPECT_EQ(usage.rows(start + kHour).size(), 1u);
}

TEST(Usage, NotMeasuredIsNotNothing) {
  Disk disk;
  Clock clock;
  Usage usage{disk.sinks()};
  auto with = [](std::uint64_t ms) {
    UsageSample s = held("a", kGpu0, kGiB);
    s.gpu_ms = ms;
    return s;
  };
  usage.sample(clock.now, {with(wire::kNotMeasured)});
  EXPECT_EQ(usage.rows(0).at(0).gpu_ms, wire::kNotMeasured);
  EXPECT_EQ(usage.rows(0).at(0).moved_bytes, wire::kNotMeasured);
  usage.sample(clock.step(kS), {with(0)});
  EXPECT_EQ(usage.rows(0).at(0).gpu_ms, 0u);
  usage.sample(clock.step(kS), {with(300)});
  usage.sample(clock.step(kS), {with(wire::kNotMeasured)});
  EXPECT_EQ(usage.rows(0).at(0).gpu_ms, 300u);
}

TEST(Usage, RefusalsAreWhatTheCountRoseBy) {
  Disk disk;
  Clock clock;
  Usage usage{disk.sinks()};
  std::uint64_t at = 0;
  for (const std::uint64_t total :
       {40u, 42u, 42u, 3u, 5u}) {  // known before us; a count that began anew
    UsageSample s = held("a", kGpu0, kGiB);
    s.refused_total = total;
    usage.sample(clock.step(kS), {s});
    at = sum(usage.rows(0)).refused;
  }
  EXPECT_EQ(at, 4u);
}

TEST(Usage, GoesOnAfterARestartWithNothingTwice) {
  Disk disk;
  Clock clock;
  std::uint64_t due = 0;
  for (int life = 0; life < 5; ++life) {
    Usage usage{disk.sinks()};
    usage.restore(clock.now, disk.open, disk.lines);
    EXPECT_EQ(sum(usage.rows(0)).byte_seconds, due * kGiB);
    usage.sample(clock.now, {held("a", kGpu0, kGiB)});
    for (int i = 0; i < 1500; ++i, ++due) {
      usage.sample(clock.step(kS), {held("a", kGpu0, kGiB)});
    }
    usage.write_now();
    clock.step(20 * kS);  // nobody was there
  }
  Usage usage{disk.sinks()};
  usage.restore(clock.now, disk.open, disk.lines);
  EXPECT_EQ(sum(usage.rows(0)).byte_seconds, due * kGiB);
  EXPECT_EQ(usage.totals("a", kGpu0).byte_seconds, due * kGiB);
}

// Killed between the line of a finished row and the file without it: the row is in both.
TEST(Usage, ARowInBothFilesIsCountedOnce) {
  Disk disk;
  Clock clock;
  clock.now.unix_ns += 3599 * static_cast<std::int64_t>(kS);
  std::string open_before;
  {
    Usage usage{disk.sinks()};
    usage.sample(clock.now, {held("a", kGpu0, kGiB)});
    usage.write_now();
    open_before = disk.open;
    usage.sample(clock.step(kS), {held("a", kGpu0, kGiB)});
  }
  ASSERT_EQ(disk.lines.size(), 1u);
  disk.open = open_before;
  Usage usage{disk.sinks()};
  usage.restore(clock.now, disk.open, disk.lines);
  EXPECT_EQ(sum(usage.rows(0)).byte_seconds, kGiB);
  EXPECT_EQ(disk.lines.size(), 1u);
}

// A daemon in its own process, killed at random: what it had counted 10 s before is there, nothing is there twice.
TEST(Usage, KilledAtRandomItLosesAtMostTenSeconds) {
  char text[] = "/tmp/bh_usage_XXXXXX";
  const std::string dir = ::mkdtemp(text);
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random{seed};
  Clock clock;
  std::uint64_t kept = 0;
  const auto restored = [&](Usage& usage) {
    usage.restore(clock.now, read_state_file(dir, kUsageOpenFile, 1u << 20),
                  read_last_lines(dir, kUsageFile, 1u << 20, 1u << 20));
  };
  for (int life = 0; life < 8; ++life) {
    int pipe[2];
    ASSERT_EQ(::pipe(pipe), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      auto store = Store::open({dir, 8u << 20, 2u << 20, 8u << 20, 1});
      Usage usage{{[&](std::string l) { (*store)->append_usage(std::move(l)); },
                   [&](std::string c) { (*store)->replace(kUsageOpenFile, std::move(c)); }}};
      restored(usage);
      usage.sample(clock.now, {held("a", kGpu0, kGiB)});
      for (std::uint64_t s = 1;; ++s) {
        usage.sample(clock.step(kS), {held("a", kGpu0, kGiB)});
        if (s % 10 == 0) (*store)->wait_idle(60'000);  // 10 s are longer than a write takes
        if (::write(pipe[1], &s, sizeof s) != sizeof s) ::_exit(1);
      }
    }
    ::close(pipe[1]);
    std::uint64_t lived = 0, got = 0;
    const std::uint64_t until = 1 + random() % 250;
    while (lived < until && ::read(pipe[0], &got, sizeof got) == sizeof got) lived = got;
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    while (::read(pipe[0], &got, sizeof got) == sizeof got) lived = got;
    ::close(pipe[0]);
    clock.step((lived + 30) * kS);
    Disk nowhere;
    Usage usage{nowhere.sinks()};
    restored(usage);
    const std::uint64_t now_kept = sum(usage.rows(0)).byte_seconds / kGiB;
    EXPECT_LE(now_kept, kept + lived + 1);  // a second may be integrated and not said yet
    EXPECT_GE(now_kept + 11, kept + lived);
    kept = now_kept;
  }
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace bulkhead::daemon
