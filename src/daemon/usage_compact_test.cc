// Old rows become fewer; no sum changes, whoever dies when.
#include "daemon/usage_compact.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include "daemon/store.h"
#include "daemon/usage.h"

namespace bulkhead::daemon {
namespace {

namespace fs = std::filesystem;
constexpr std::int64_t kHour = 3600, kStart = 1'795'334'400;

struct TempDir {
  TempDir() {
    char text[] = "/tmp/bh_compact_XXXXXX";
    path = ::mkdtemp(text);
  }
  ~TempDir() { fs::remove_all(path); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::string path;
};

wire::UsageLine row(std::uint64_t serial, const std::string& tenant, std::uint8_t gpu,
                    std::int64_t hour, std::uint64_t byte_seconds) {
  wire::UsageLine l;
  std::strncpy(l.row.tenant, tenant.c_str(), sizeof l.row.tenant - 1);
  l.row.uuid[0] = gpu;
  l.row.from_unix_s = kStart + hour * kHour;
  l.row.to_unix_s = l.row.from_unix_s + kHour;
  l.row.byte_seconds = byte_seconds;
  l.row.held_ms = byte_seconds % 977;
  l.row.peak_bytes = byte_seconds % 10'007;
  l.row.refused = byte_seconds % 3;
  l.row.gpu_ms = byte_seconds % 5 == 0 ? wire::kNotMeasured : byte_seconds % 101;
  l.row.moved_bytes = wire::kNotMeasured;
  l.serial = serial;
  return l;
}
struct Sums {
  std::uint64_t byte_seconds = 0, held_ms = 0, refused = 0, gpu_ms = 0, peak = 0;
  bool operator==(const Sums&) const = default;
  void add(const wire::UsageRow& r) {
    byte_seconds += r.byte_seconds;
    held_ms += r.held_ms;
    refused += r.refused;
    gpu_ms += r.gpu_ms == wire::kNotMeasured ? 0 : r.gpu_ms;
    peak = std::max(peak, r.peak_bytes);
  }
};
std::map<std::string, Sums> sums(const std::vector<wire::UsageLine>& rows, bool by_tenant) {
  std::map<std::string, Sums> out;
  for (const auto& l : rows)
    out[std::to_string(l.row.uuid[0]) + (by_tenant ? l.row.tenant : "")].add(l.row);
  return out;
}
std::vector<wire::UsageLine> some_rows(unsigned tenants, unsigned hours, unsigned seed = 1) {
  std::mt19937_64 random{seed};
  std::vector<wire::UsageLine> out;
  for (unsigned h = 0; h < hours; ++h) {
    for (unsigned t = 0; t < tenants; ++t) {
      out.push_back(row(out.size() + 1, "t" + std::to_string(t), t % 2 + 1, h, random() >> 20));
    }
  }
  return out;
}

TEST(UsageCompact, FewerRowsAndTheSameSums) {
  const auto rows = some_rows(8, 24 * 60);
  const auto few = compact_usage(rows, 4000);
  EXPECT_LE(few.size(), 4000u);
  EXPECT_EQ(sums(few, true), sums(rows, true));
  // what is a week old is told by the day, the newest by the hour
  EXPECT_EQ(few[8].row.to_unix_s - few[8].row.from_unix_s, 24 * kHour);  // behind a part of a day
  EXPECT_EQ(few.back().row.to_unix_s - few.back().row.from_unix_s, kHour);
  std::map<std::uint64_t, int> serials;
  for (const auto& l : few) EXPECT_EQ(++serials[l.serial], 1);
  for (const std::size_t most : {2000u, 300u, 20u, 8u}) {
    const auto fewer = compact_usage(few, most);
    EXPECT_LE(fewer.size(), most);
    EXPECT_EQ(sums(fewer, true), sums(rows, true)) << most;
  }
}

TEST(UsageCompact, NamesThatNeverComeBackBecomeOneRow) {
  std::vector<wire::UsageLine> rows;
  for (unsigned i = 0; i < 5000; ++i)
    rows.push_back(row(i + 1, "run-" + std::to_string(i), i % 2 + 1, i / 100, i * 1000 + 7));
  const auto few = compact_usage(rows, 100);
  EXPECT_LE(few.size(), 100u);
  EXPECT_EQ(sums(few, false), sums(rows, false));  // each GPU's sums are exact
  EXPECT_STREQ(few.back().row.tenant, "run-4999");
  EXPECT_TRUE(std::any_of(few.begin(), few.end(), [](const auto& l) {
    return std::string{l.row.tenant} == kUsageEarlier;
  }));
}

TEST(UsageCompact, InventedGpusAreBoundedToo) {
  std::vector<wire::UsageLine> rows;
  Sums before, after;
  for (unsigned i = 0; i < 1000; ++i) {
    auto l = row(i + 1, "t", 1, 0, i);
    std::memcpy(l.row.uuid, &i, sizeof i);
    before.add(l.row);
    rows.push_back(l);
  }
  const auto few = compact_usage(rows, 10);
  EXPECT_LE(few.size(), 10u);
  for (const auto& l : few) after.add(l.row);
  EXPECT_EQ(before, after);
}

TEST(UsageCompact, ASumThatDoesNotFitStaysTwoRows) {
  std::vector<wire::UsageLine> rows;
  for (unsigned i = 0; i < 3; ++i) rows.push_back(row(i + 1, "t", 1, 0, ~0ull / 2));
  const auto few = compact_usage(rows, 1);
  __extension__ unsigned __int128 sum = 0;
  for (const auto& l : few) sum += l.row.byte_seconds;
  __extension__ const unsigned __int128 due = static_cast<unsigned __int128>(~0ull / 2) * 3;
  EXPECT_TRUE(sum == due);
}

TEST(UsageCompact, ARowThatIsThereTwiceCountsOnce) {
  auto rows = some_rows(2, 100);
  const auto due = sums(rows, true);
  const auto copy = rows;
  rows.insert(rows.end(), copy.begin(), copy.begin() + 50);
  EXPECT_EQ(sums(compact_usage(rows, 10), true), due);
}

// ---- the file --------------------------------------------------------------------------------------
void write_file(const std::string& dir, const std::vector<wire::UsageLine>& rows) {
  std::ofstream out{dir + "/" + kUsageFile};
  for (const auto& l : rows) out << wire::usage_line(l) << '\n';
}
// As a daemon that starts: what it would answer from.
std::map<std::string, Sums> restored(const std::string& dir) {
  Usage usage{UsageSinks{[](std::string) {}, [](std::string) {}}};
  usage.restore(Now{1, 1, (kStart + 24 * 365 * kHour) * 1'000'000'000},
                read_state_file(dir, kUsageOpenFile, 1u << 24),
                read_last_lines(dir, kUsageFile, ~std::size_t{0}, 1u << 28));
  std::map<std::string, Sums> out;
  for (const auto& r : usage.rows(0)) out[std::to_string(r.uuid[0]) + r.tenant].add(r);
  return out;
}

TEST(UsageCompact, TheStoreBoundsTheFile) {
  TempDir dir;
  StoreOptions options;
  options.directory = dir.path;
  options.usage_bytes = 20'000;
  options.usage_rows = 40;
  const auto rows = some_rows(4, 500);
  auto store = Store::open(options);
  ASSERT_TRUE(store.ok());
  std::uintmax_t largest = 0;
  for (std::size_t i = 0; i < rows.size(); i += 20) {
    for (std::size_t j = i; j < i + 20; ++j) (*store)->append_usage(wire::usage_line(rows[j]));
    (*store)->replace(kUsageOpenFile, wire::usage_open_text({}, i + 21));
    ASSERT_TRUE((*store)->wait_idle(60'000));
    largest = std::max(largest, fs::file_size(dir.path + "/" + kUsageFile));
  }
  EXPECT_LE(largest, 20'000u + 20 * 400);
  std::map<std::string, Sums> due = sums(rows, true);
  EXPECT_EQ(restored(dir.path), due);
}

// Ends the child at its nth stop at a system call: on its way in and out of each.
bool killed_at_stop(pid_t child, unsigned nth) {
  int status = 0;
  ::waitpid(child, &status, 0);  // it stopped itself
  for (unsigned i = 0; i < nth; ++i) {
    if (::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr) != 0) break;
    ::waitpid(child, &status, 0);
    if (WIFEXITED(status)) return false;
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
  return true;
}

// Rows on disk and one that still runs; SIGKILL at every system call of a compaction. Returns the moments at which the sums were wrong.
template <class Compact>
unsigned wrong_moments(const std::vector<wire::UsageLine>& finished,
                       const std::vector<wire::UsageLine>& open, const Compact& compact,
                       unsigned& moments) {
  unsigned wrong = 0;
  moments = 0;
  auto all = finished;
  for (const auto& l : open) {
    const bool twice = std::any_of(finished.begin(), finished.end(),
                                   [&](const auto& f) { return f.serial == l.serial; });
    if (!twice) all.push_back(l);
  }
  const auto due = sums(all, true);
  for (unsigned nth = 0;; ++nth) {
    TempDir dir;
    write_file(dir.path, finished);
    std::ofstream{dir.path + "/" + kUsageOpenFile} << wire::usage_open_text(open, 1000);
    const int fd = ::open(dir.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const pid_t child = ::fork();
    if (child == 0) {
      ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
      ::raise(SIGSTOP);
      ::_exit(compact(fd) == 0 ? 0 : 1);
    }
    const bool killed = killed_at_stop(child, nth);
    ::close(fd);
    if (restored(dir.path) != due) ++wrong;
    if (!killed) return wrong;
    ++moments;
  }
}

TEST(UsageCompact, KilledAtEverySystemCallTheSumsStay) {
  const auto finished = some_rows(2, 60);
  const std::vector<wire::UsageLine> open{row(500, "t0", 1, 60, 12'345)};
  unsigned moments = 0;
  EXPECT_EQ(wrong_moments(
                finished, open, [](int fd) { return compact_usage_file(fd, 1000, 10); }, moments),
            0u);
  EXPECT_GT(moments, 20u);
}

// Variants that must be caught by the same: the file written in place; a compaction while a row is still in both files.
TEST(UsageCompact, TheBrokenVariantsAreCaught) {
  const auto finished = some_rows(2, 60);
  const std::vector<wire::UsageLine> open{row(500, "t0", 1, 60, 12'345)};
  unsigned moments = 0;
  const auto in_place = [&](int fd) {
    std::string text;
    for (const auto& l : compact_usage(finished, 10)) (text += wire::usage_line(l)) += '\n';
    const int to = ::openat(fd, kUsageFile, O_WRONLY | O_TRUNC | O_CLOEXEC);
    const bool ok = ::write(to, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    return ::close(to) == 0 && ok ? 0 : 1;
  };
  EXPECT_GT(wrong_moments(finished, open, in_place, moments), 0u);
  // what the store never does: usage.open.json still has a row that was finished
  const std::vector<wire::UsageLine> stale{finished[10]};
  EXPECT_GT(wrong_moments(
                finished, stale, [](int fd) { return compact_usage_file(fd, 1000, 2); }, moments),
            0u);
}

TEST(UsageCompact, AFullDiskKeepsTheOldFile) {
  TempDir dir;
  if (::mount("tmpfs", dir.path.c_str(), "tmpfs", 0, "size=64k") != 0)
    GTEST_SKIP() << "mounting a small file system needs root";
  const auto rows = some_rows(2, 60);
  write_file(dir.path, rows);
  {
    std::ofstream ballast{dir.path + "/ballast"};
    while (ballast << std::string(1024, 'b') << std::flush) {
    }
  }
  const int fd = ::open(dir.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  EXPECT_EQ(compact_usage_file(fd, 1000, 50), ENOSPC);
  EXPECT_EQ(restored(dir.path), sums(rows, true));
  EXPECT_FALSE(fs::exists(dir.path + "/" + kUsageFile + ".new"));
  fs::remove(dir.path + "/ballast");
  EXPECT_EQ(compact_usage_file(fd, 1000, 50), 0);
  EXPECT_EQ(restored(dir.path), sums(rows, true));
  EXPECT_EQ(read_last_lines(dir.path, kUsageFile, 1000, 1u << 20).size(), 50u);
  ::close(fd);
  ::umount(dir.path.c_str());
}

TEST(UsageCompact, WhatTheDaemonAnswersFromIsBoundedAndKeepsItsSums) {
  Usage usage{UsageSinks{[](std::string) {}, [](std::string) {}}};
  std::vector<std::string> lines;
  std::vector<wire::UsageLine> rows;
  for (unsigned i = 0; i < 40'000; ++i) {
    rows.push_back(row(i + 1, "t" + std::to_string(i % 50), 1, i / 50, i));
    lines.push_back(wire::usage_line(rows.back()));
  }
  usage.restore(Now{1, 1, (kStart + 9999 * kHour) * 1'000'000'000}, "", lines);
  const auto answered = usage.rows(0);
  EXPECT_LE(answered.size(), kUsageRowsKept);
  std::map<std::string, Sums> got;
  for (const auto& r : answered) got[std::to_string(r.uuid[0]) + r.tenant].add(r);
  EXPECT_EQ(got, sums(rows, true));
}

}  // namespace
}  // namespace bulkhead::daemon
