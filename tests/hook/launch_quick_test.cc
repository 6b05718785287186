// The short way of a capped launch (hook/compute_quick.h): when it is open, and that it charges what the long one does. On a
// device whose time the test advances; each test in a child of its own, for a process binds once.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <thread>

#include "base/clock.h"
#include "hook/compute_books.h"
#include "hook/compute_quick_way.h"
#include "hook/nccl.h"
#include "hook/process.h"
#include "hook/thread_places.h"
#include "tests/hook/launch_fake.h"

namespace bulkhead::hook {
namespace fake {
CUresult host_function(CUstream, CUhostFn, void*) noexcept { return CUDA_SUCCESS; }
}  // namespace fake
namespace {

using fake::gpu;
constexpr std::uint64_t kUs = 1'000, kMs = 1'000'000;
constexpr unsigned kLearned = 6;
constexpr auto kRelaxed = std::memory_order_relaxed;

const CUstream kStream = reinterpret_cast<CUstream>(std::uintptr_t{0x10000});
const CUfunction kKernel = reinterpret_cast<CUfunction>(std::uintptr_t{0x20000});

// On a process's only device, and on the second of two.
class QuickTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    ordinal_ = GetParam();
    char path[] = "/tmp/bulkhead-quick-XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    dir_ = path;
  }
  void TearDown() override { EXPECT_EQ(std::system(("rm -rf " + dir_).c_str()), 0); }

  static shm::ComputeEntry& entry() { return *share_of(process.devices[ordinal_]); }
  static DeviceShare& share() { return compute.device[ordinal_]; }
  // Nobody waits: burst and window are seconds.
  static void limit(std::uint32_t percent) {
    shm::ComputeEntry& e = entry();
    e.ceiling_x100.store(percent * 100, kRelaxed);
    e.burst_us.store(1'000'000, kRelaxed);
    e.window_us.store(1'000'000, kRelaxed);
    e.floor_x100.store(percent * 100, kRelaxed);
    e.rules.fetch_add(1, std::memory_order_release);  // pairs with the library's look
  }
  void bind(std::uint32_t percent) {
    setenv("BULKHEAD_DIR", dir_.c_str(), 1);
    setenv("BULKHEAD_MEMORY", "1GiB", 1);
    setenv("FAKE_DEVICES", ordinal_ == 0 ? "1" : "2", 1);
    ASSERT_NE(dlopen(BH_TESTS "/fake/libcuda.so.1", RTLD_NOW), nullptr) << dlerror();
    ASSERT_EQ(::cuInit(0), CUDA_SUCCESS);
    fake::install();
    CUcontext context = nullptr;
    ASSERT_EQ(::cuCtxCreate_v2(&context, 0, ordinal_), CUDA_SUCCESS);
    gpu.context = context;
    gpu.cost_ns[kKernel] = 10 * kUs;
    limit(percent);
    learn();
    gpu.runs = true;  // what does not end pays for the time that a test takes
  }
  static CUresult launch() {
    return ::cuLaunchKernel(kKernel, 1, 1, 1, 32, 1, 1, 0, kStream, nullptr, nullptr);
  }
  static QuickKey key() {
    shares::Shape s;
    s.block[0] = 32;
    return quick_kernel(kKernel, s, kStream, Twin::kPlain);
  }
  // A launch by the short way, if it is open; by the long one `forgotten`.
  static bool quick() {
    StreamBook* const book = quick_begin(key());
    if (book == nullptr) return false;
    quick_end(*book, fake::launch_fn(kKernel, 1, 1, 1, 32, 1, 1, 0, kStream, nullptr, nullptr));
    return true;
  }
  // The way is open for the next launch, whatever was due: samples, the millisecond's sign of life, a full segment.
  static bool opens() {
    for (int i = 0; i < 1000; ++i) {
      if (quick()) return true;
      if (launch() != CUDA_SUCCESS) return false;
      if (i % 8 == 7) finish();  // the ring of segments has an end
    }
    return false;
  }
  template <class Done>
  static void eventually(const Done& done) {
    const std::uint64_t end = monotonic_ns() + 60'000'000'000u;
    while (!done() && monotonic_ns() < end) ::usleep(500);
    EXPECT_TRUE(done());
  }
  static void finish() {
    fake::advance(100'000 * kMs);
    eventually([] { return compute.pending.load(kRelaxed) == 0; });
  }
  static void learn() {
    for (unsigned i = 0; i < kLearned; ++i) {
      ASSERT_EQ(launch(), CUDA_SUCCESS);
      finish();
    }
  }
  // A failure of the child shows with DIRECT=1, which runs one test in the process itself.
  template <class Body>
  void in_child(std::uint32_t percent, const Body& body) {
    if (getenv("DIRECT") != nullptr) return bind(percent), body();
    EXPECT_EXIT(
        {
          bind(percent);
          if (!HasFailure()) body();
          std::fflush(nullptr);
          std::_Exit(HasFailure() ? 1 : 0);
        },
        ::testing::ExitedWithCode(0), "");
  }
  std::string dir_;
  static inline int ordinal_ = 0;
};

TEST_P(QuickTest, AKnownLaunchGoesTheShortWayAndIsChargedAtOnce) {
  in_child(50, [] {
    ASSERT_TRUE(opens());
    const std::uint64_t far = monotonic_ns() + 500 * kMs;  // ahead of now: a charge is seen exactly
    entry().tat_ns.store(far, kRelaxed);
    bool went = false;
    for (int i = 0; i < 1000 && !went; ++i) {
      ASSERT_TRUE(opens());
      entry().tat_ns.store(far, kRelaxed);
      went = quick();
    }
    ASSERT_TRUE(went);
    // stamps are floats of milliseconds
    EXPECT_NEAR(static_cast<double>(entry().tat_ns.load(kRelaxed) - far), 2 * 10 * kUs, 100);
  });
}

TEST_P(QuickTest, WhateverMayHoldALaunchClosesIt) {
  in_child(50, [] {
    ASSERT_TRUE(opens());
    entry().tat_ns.store(monotonic_ns() + 3'600'000 * kMs, kRelaxed);
    EXPECT_EQ(quick_begin(key()), nullptr) << "over its share";
    entry().tat_ns.store(0, kRelaxed);
    ASSERT_TRUE(opens());
    share().in_flight_ns.fetch_add(3'600'000 * kMs, kRelaxed);
    EXPECT_EQ(quick_begin(key()), nullptr) << "a full window";
    share().in_flight_ns.fetch_sub(3'600'000 * kMs, kRelaxed);
    ASSERT_TRUE(opens());
    captures.fetch_add(1, kRelaxed);
    EXPECT_EQ(quick_begin(key()), nullptr) << "something captures";
    captures.fetch_sub(1, kRelaxed);
    ASSERT_TRUE(opens());
    thread_launch.nccl_groups = 1;
    EXPECT_EQ(quick_begin(key()), nullptr) << "inside a group of collectives";
    thread_launch.nccl_groups = 0;
    ASSERT_TRUE(opens());
    thread_launch.in_callback = true;
    EXPECT_EQ(quick_begin(key()), nullptr) << "inside a host function";
    thread_launch.in_callback = false;
    ASSERT_TRUE(opens());
    limit(25);
    EXPECT_EQ(quick_begin(key()), nullptr) << "the limit is another";
    ASSERT_TRUE(opens());
    quick_forget();
    EXPECT_EQ(quick_begin(key()), nullptr) << "the function may be another";
    ASSERT_TRUE(opens());
    QuickKey other = key();
    other.grid += 1;
    EXPECT_EQ(quick_begin(other), nullptr) << "another shape";
    other = key();
    other.stream = reinterpret_cast<CUstream>(std::uintptr_t{0x10040});
    EXPECT_EQ(quick_begin(other), nullptr) << "another stream";
    ASSERT_TRUE(opens());
    compute_stream_gone(kStream);
    EXPECT_EQ(quick_begin(key()), nullptr) << "the stream is gone";
  });
}

TEST_P(QuickTest, WhatTheDriverRefusesIsGivenBack) {
  in_child(50, [] {
    ASSERT_TRUE(opens());
    const std::uint64_t far = monotonic_ns() + 500 * kMs;
    StreamBook* book = nullptr;
    shares::Segment before{};
    std::uint64_t until = 0;
    for (int i = 0; i < 1000 && book == nullptr; ++i) {
      ASSERT_TRUE(opens());
      StreamBook& b = compute.streams[compute.used[0].load(kRelaxed) - 1];
      if (b.cut.open == nullptr) continue;
      before = *b.cut.open;
      until = b.open_until_ns.load(kRelaxed);
      entry().tat_ns.store(far, kRelaxed);
      book = quick_begin(key());
    }
    ASSERT_NE(book, nullptr);
    ASSERT_NE(book->cut.open, nullptr);
    const shares::Segment& g = *book->cut.open;
    EXPECT_EQ(g.ops, before.ops + 1);
    EXPECT_EQ(quick_end(*book, CUDA_ERROR_UNKNOWN), CUDA_ERROR_UNKNOWN);
    EXPECT_EQ(entry().tat_ns.load(kRelaxed), far);
    EXPECT_EQ(g.ops, before.ops) << "it is in no segment";
    EXPECT_EQ(g.predicted_ns, before.predicted_ns);
    EXPECT_EQ(g.charged_ns, before.charged_ns);
    EXPECT_EQ(g.parts[0].count, before.parts[0].count);
    EXPECT_EQ(g.parts[0].predicted_ns, before.parts[0].predicted_ns);
    EXPECT_GE(book->open_until_ns.load(kRelaxed), until);
  });
}

TEST_P(QuickTest, WhatTheDriverRefusesOfLooseOnesIsGivenBack) {
  in_child(100, [] {
    StreamBook& b = compute.streams[compute.used[0].load(kRelaxed) - 1];
    const std::uint64_t far = monotonic_ns() + 500 * kMs;
    StreamBook* book = nullptr;
    for (int i = 0; i < 1000 && book == nullptr; ++i) {
      ASSERT_TRUE(opens());
      finish();
      entry().tat_ns.store(far, kRelaxed);
      book = quick_begin(key());
    }
    ASSERT_EQ(book, &b);
    ASSERT_EQ(book->cut.open, nullptr);
    const Loose with = b.loose;
    EXPECT_EQ(quick_end(*book, CUDA_ERROR_UNKNOWN), CUDA_ERROR_UNKNOWN);
    EXPECT_EQ(entry().tat_ns.load(kRelaxed), far);
    // Nothing else launches, and what is told of the rest meanwhile takes the sums with it.
    EXPECT_LT(b.loose.launches, with.launches);
    EXPECT_LT(b.loose.until_ns, with.until_ns);
  });
}

TEST_P(QuickTest, ShortLaunchesAreCountedByTheirClass) {
  in_child(50, [] {
    for (int i = 0; i < 300; ++i) ASSERT_EQ(launch(), CUDA_SUCCESS);
    finish();
    // all but those of a segment that may still be open
    eventually([] { return entry().stream_ops[0].load(kRelaxed) + 64 > kLearned + 300; });
    EXPECT_LE(entry().stream_ops[0].load(kRelaxed), kLearned + 300u);
  });
}

// The place of a thread that has ended is the next one's, and what was known there is not.
TEST_P(QuickTest, ThreadsThatHaveEndedMakeRoom) {
  in_child(50, [] {
    for (unsigned i = 0; i < 2 * ThreadPlaces::kPlaces; ++i) {
      std::thread{[i] {
        EXPECT_EQ(quick_begin(key()), nullptr) << "nobody launched here yet";
        EXPECT_EQ(launch(), CUDA_SUCCESS);
        EXPECT_TRUE(i % 64 != 63 || opens());
      }}.join();
      if (i % 8 == 7) finish();
    }
    EXPECT_TRUE(opens());
  });
}

// The sums after `n` launches that are all over. `forgotten`: each by the long way.
struct Sums {
  std::uint64_t launches, used_ns, raw_ns;
};
TEST_P(QuickTest, BothWaysComeToTheSameSums) {
  in_child(50, [] {
    const auto run = [](bool forgotten) {
      finish();
      const Sums before{entry().launches.load(kRelaxed), entry().used_ns.load(kRelaxed),
                        entry().raw_ns.load(kRelaxed)};
      for (int i = 0; i < 300; ++i) {
        if (forgotten) quick_forget();
        EXPECT_EQ(launch(), CUDA_SUCCESS);
      }
      compute_stream_gone(kStream);  // what is open stays as predicted; then all of it is told
      finish();
      return Sums{entry().launches.load(kRelaxed) - before.launches,
                  entry().used_ns.load(kRelaxed) - before.used_ns,
                  entry().raw_ns.load(kRelaxed) - before.raw_ns};
    };
    const Sums a = run(true), b = run(false);
    // the last segment, of 64 at most, was never ended
    EXPECT_LE(a.launches, 300u);
    EXPECT_GT(a.launches, 300u - 64);
    EXPECT_LE(b.launches, 300u);
    EXPECT_GT(b.launches, 300u - 64);
    const auto each = [](std::uint64_t sum, const Sums& of) {
      return static_cast<double>(sum) / static_cast<double>(of.launches);
    };
    EXPECT_NEAR(each(a.used_ns, a), 10 * kUs, kUs);
    EXPECT_NEAR(each(b.used_ns, b), 10 * kUs, kUs);
    EXPECT_NEAR(each(b.raw_ns, b), each(b.used_ns, b), 100);
  });
}

// docs/compute.md, 'What a launch costs'. With less than the device the same launches are all between events.
TEST_P(QuickTest, WhoHasTheDeviceAloneIsMeasuredNowAndThen) {
  in_child(100, [] {
    const int records = gpu.records;
    for (int i = 0; i < 1'280; ++i) ASSERT_EQ(launch(), CUDA_SUCCESS);
    EXPECT_LE(gpu.records - records, 2 * (1'280 / 64 + 1));
    finish();
    // all but those of a segment that may still be open
    eventually([] { return entry().launches.load(kRelaxed) + 64 > kLearned + 1'280; });
    EXPECT_NEAR(static_cast<double>(entry().used_ns.load(kRelaxed)),
                static_cast<double>((kLearned + 1'280) * 10 * kUs), 1e6);
    limit(50);
    const int capped = gpu.records;
    for (int i = 0; i < 200; ++i) ASSERT_EQ(launch(), CUDA_SUCCESS);
    EXPECT_GE(gpu.records - capped, 200 / 20) << "a segment is 200 us at most";
  });
}

INSTANTIATE_TEST_SUITE_P(OnDevice, QuickTest, ::testing::Values(0, 1));

}  // namespace
}  // namespace bulkhead::hook
