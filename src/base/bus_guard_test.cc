#include "base/bus_guard.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/mapping.h"

namespace bulkhead {
namespace {

constexpr std::size_t kPage = 4096;  // of the tests' files; a bigger machine page is a part of it
constexpr std::size_t kBytes = 64 * kPage;

// A shared mapping of a file that can shrink.
struct Shrinking {
  UniqueFd fd{::memfd_create("bus_guard_test", MFD_CLOEXEC)};
  Mapping map;
  explicit Shrinking(std::size_t bytes = kBytes) {
    resize(bytes);
    void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (at != MAP_FAILED) map = Mapping{at, bytes};
    EXPECT_TRUE(map.ok());
  }
  void resize(std::size_t bytes) const {
    EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  }
  std::atomic<char>& byte(std::size_t at) const {
    return *reinterpret_cast<std::atomic<char>*>(map.as<char>() + at);
  }
};

TEST(BusGuard, AShrunkenMappingReadsZerosAndSaysSo) {
  const Shrinking file, other;
  file.byte(0).store(7);
  file.byte(5 * kPage).store(8);
  other.byte(5 * kPage).store(9);
  auto guarded = guard(file.map.as<void>(), kBytes);
  auto neighbour = guard(other.map.as<void>(), kBytes);
  ASSERT_TRUE(guarded.ok() && neighbour.ok());
  EXPECT_EQ(file.byte(5 * kPage).load(), 8);
  EXPECT_FALSE(guarded->faulted());
  file.resize(kPage);
  EXPECT_EQ(file.byte(5 * kPage).load(), 0);
  EXPECT_TRUE(guarded->faulted());
  EXPECT_EQ(file.byte(0).load(), 0) << "the whole range is replaced";
  file.byte(5 * kPage).store(1);  // and may be written
  EXPECT_EQ(file.byte(5 * kPage).load(), 1);
  EXPECT_FALSE(neighbour->faulted());
  EXPECT_EQ(other.byte(5 * kPage).load(), 9);
}

TEST(BusGuard, WritingPastTheEndIsSurvivedToo) {
  const Shrinking file;
  auto guarded = guard(file.map.as<void>(), kBytes);
  ASSERT_TRUE(guarded.ok());
  file.resize(0);
  errno = 77;
  file.byte(kBytes - 1).store(3);
  EXPECT_EQ(errno, 77);
  EXPECT_TRUE(guarded->faulted());
  EXPECT_EQ(file.byte(kBytes - 1).load(), 3);
}

TEST(BusGuard, ThreadsUseWhatAnotherTruncatesInALoop) {
  constexpr int kRanges = 40;
  for (int round = 0; round < kRanges; ++round) {
    const Shrinking file;
    auto guarded = guard(file.map.as<void>(), kBytes);
    ASSERT_TRUE(guarded.ok());
    std::atomic<bool> end{false};
    std::vector<std::thread> users;
    for (unsigned t = 0; t < 3; ++t) {
      users.emplace_back([&, t] {
        for (std::size_t at = t; !end.load(); at = (at + 97) % kBytes) {
          file.byte(at).fetch_add(1);
          if (guarded->faulted() && at % 2 == 0) break;
        }
      });
    }
    while (!guarded->faulted()) {
      file.resize(0);
      file.resize(kBytes);
    }
    end.store(true);
    for (std::thread& t : users) t.join();
  }
}

TEST(BusGuard, TheTableHoldsAThousandRangesAndSaysWhenItIsFull) {
  const Shrinking file{kPage * (kMaxGuarded + 1)};
  std::vector<GuardedRange> all;
  for (std::size_t i = 0; i < kMaxGuarded; ++i) {
    auto one = guard(file.map.as<char>() + i * kPage, kPage);
    ASSERT_TRUE(one.ok()) << i;
    all.push_back(std::move(*one));
  }
  EXPECT_EQ(guard(file.map.as<char>() + kMaxGuarded * kPage, kPage).status().code(), Errc::kFull);
  all[3].reset();
  EXPECT_TRUE(guard(file.map.as<char>() + kMaxGuarded * kPage, kPage).ok());
  file.resize(0);
  for (std::size_t i = 0; i < kMaxGuarded; ++i) {
    if (i != 3) {
      EXPECT_EQ(file.byte(i * kPage).load(), 0);
    }
  }
  for (std::size_t i = 0; i < kMaxGuarded; ++i) EXPECT_EQ(all[i].faulted(), i != 3) << i;
}

TEST(BusGuard, RangesThatCannotBeAreRefused) {
  const Shrinking file;
  EXPECT_EQ(guard(nullptr, kPage).status().code(), Errc::kInvalid);
  EXPECT_EQ(guard(file.map.as<char>() + 1, kPage).status().code(), Errc::kInvalid);
  EXPECT_EQ(guard(file.map.as<void>(), 0).status().code(), Errc::kInvalid);
  EXPECT_EQ(guard(file.map.as<void>(), ~std::size_t{0}).status().code(), Errc::kInvalid);
}

TEST(BusGuard, AMovedOwnerGuardsOnceAndADestroyedOneNoMore) {
  const Shrinking file;
  GuardedRange kept;
  {
    auto guarded = guard(file.map.as<void>(), kBytes);
    ASSERT_TRUE(guarded.ok());
    kept = std::move(*guarded);
  }
  file.resize(0);
  EXPECT_EQ(file.byte(0).load(), 0);
  EXPECT_TRUE(kept.faulted());
}

// Each in a process of its own, whose handler before ours is known.
class BusGuardElsewhere : public ::testing::Test {
 protected:
  BusGuardElsewhere() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
  // Guards something, then touches an unguarded page beyond the end of its file.
  static void fault_elsewhere() {
    const Shrinking guarded_file, other;
    auto guarded = guard(guarded_file.map.as<void>(), kBytes);
    if (!guarded.ok()) ::_exit(90);
    other.resize(0);
    other.byte(kPage).store(1);
    ::_exit(91);
  }
};

TEST_F(BusGuardElsewhere, EndsTheProcessAsWithoutUs) {
  EXPECT_EXIT(
      {
        ::signal(SIGBUS, SIG_DFL);
        fault_elsewhere();
      },
      testing::KilledBySignal(SIGBUS), "");
  EXPECT_EXIT(
      {
        ::signal(SIGBUS, SIG_IGN);
        fault_elsewhere();
      },
      testing::KilledBySignal(SIGBUS), "");
}

TEST_F(BusGuardElsewhere, ReachesTheHandlerThatWasThereBefore) {
  EXPECT_EXIT(
      {
        struct sigaction action {};
        action.sa_flags = SA_SIGINFO;
        action.sa_sigaction = [](int, siginfo_t* info, void*) {
          ::_exit(info->si_code == BUS_ADRERR ? 42 : 43);
        };
        ::sigaction(SIGBUS, &action, nullptr);
        fault_elsewhere();
      },
      testing::ExitedWithCode(42), "");
  EXPECT_EXIT(
      {
        ::signal(SIGBUS, [](int) { ::_exit(44); });
        fault_elsewhere();
      },
      testing::ExitedWithCode(44), "");
}

TEST_F(BusGuardElsewhere, IsARangeAfterItsRelease) {
  EXPECT_EXIT(
      {
        ::signal(SIGBUS, SIG_DFL);
        const Shrinking file;
        auto guarded = guard(file.map.as<void>(), kBytes);
        guarded->reset();
        file.resize(0);
        file.byte(0).store(1);
        ::_exit(91);
      },
      testing::KilledBySignal(SIGBUS), "");
}

TEST_F(BusGuardElsewhere, ASignalThatWasSentIsNoFaultOfARange) {
  EXPECT_EXIT(
      {
        ::signal(SIGBUS, SIG_DFL);
        const Shrinking file;
        auto guarded = guard(file.map.as<void>(), kBytes);
        ::raise(SIGBUS);
        ::_exit(91);
      },
      testing::KilledBySignal(SIGBUS), "");
  EXPECT_EXIT(
      {
        ::signal(SIGBUS, SIG_IGN);
        const Shrinking file;
        auto guarded = guard(file.map.as<void>(), kBytes);
        ::raise(SIGBUS);
        ::_exit(guarded->faulted() ? 90 : 0);
      },
      testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace bulkhead
