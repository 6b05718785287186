// Admission, contexts and the supervisor's hand-shake, called directly. Each test runs in a child of
// its own, for a process binds once.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "hook/next.h"
#include "hook/process.h"
#include "shm/quota.h"
#include "shm/slots.h"
#include "shm/supervise.h"

namespace bulkhead::hook {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;

class Admit : public ::testing::Test {
 protected:
  void SetUp() override {
    char path[] = "/tmp/bulkhead-admit-XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    dir_ = path;
  }
  void TearDown() override { EXPECT_EQ(std::system(("rm -rf " + dir_).c_str()), 0); }
  void bind(const char* limits, const char* devices) {
    setenv("BULKHEAD_DIR", dir_.c_str(), 1);
    setenv("BULKHEAD_MEMORY", limits, 1);
    setenv("FAKE_DEVICES", devices, 1);
    ASSERT_NE(dlopen(BH_TESTS "/fake/libcuda.so.1", RTLD_NOW), nullptr) << dlerror();
    ASSERT_EQ(::cuInit(0), CUDA_SUCCESS);
    ASSERT_EQ(mode(), Mode::kOn);
    // the driver's own: a context that nobody books
    ASSERT_EQ(next.cuCtxCreate_v2(&context_, 0, 0), CUDA_SUCCESS);
    d_ = here().device;
    ASSERT_NE(d_, nullptr);
  }
  // Runs the body in a forked child bound to `limits` (a --memory value) on `count` fake devices.
  template <class Body>
  void in_child(const char* limits, const char* count, const Body& body) {
    EXPECT_EXIT(
        {
          bind(limits, count);
          if (!HasFailure()) body();
          std::_Exit(HasFailure() ? 1 : 0);
        },
        ::testing::ExitedWithCode(0), "");
  }
  // Until the process's own thread has done what `done` waits for.
  template <class Done>
  void eventually(const Done& done) {
    const std::uint64_t end = monotonic_ns() + 20'000'000'000u;
    while (!done() && monotonic_ns() < end) std::this_thread::yield();
    EXPECT_TRUE(done());
  }
  static shm::ProcSlot& slot() { return process.region->slots[seat_now().slot]; }
  static void poke() {
    slot().poke.fetch_add(1, std::memory_order_release);  // pairs with the process's thread
    ::syscall(SYS_futex, &slot().poke, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  }
  std::uint64_t other() {
    return process.region->cells[d_->index][seat_now().slot].other_bytes.load(
        std::memory_order_relaxed);
  }
  void observe(std::uint64_t bytes, std::uint64_t when_other) {
    process.region->observed[d_->index][seat_now().slot].store(
        shm::observed_word({bytes, when_other}), std::memory_order_relaxed);
  }
  void observe(std::uint64_t bytes) { observe(bytes, other()); }
  std::uint64_t used() { return view(*d_).used; }

  std::string dir_;
  CUcontext context_ = nullptr;
  Device* d_ = nullptr;
};

TEST_F(Admit, ToTheLastUnitAndNoFurther) {
  in_child("64MiB", "1", [&] {
    for (int i = 0; i < 64; ++i) EXPECT_TRUE(charge(*d_, kMiB)) << i;
    EXPECT_FALSE(charge(*d_, 1));
    EXPECT_EQ(used(), 64 * kMiB);
    give_back(*d_, kMiB);
    EXPECT_EQ(view(*d_).free, kMiB);
    EXPECT_FALSE(charge(*d_, kMiB + 1));
    EXPECT_TRUE(charge(*d_, kMiB));
    EXPECT_EQ(slot().refused.load(std::memory_order_relaxed), 2u);
    size_t free = 1, total = 0;
    EXPECT_EQ(::cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
    EXPECT_EQ(free, 0u);
    EXPECT_EQ(total, 64 * kMiB);
  });
}

TEST_F(Admit, ADeviceWithoutAGrantIsRefused) {
  in_child("0=1GiB", "2", [&] {
    Device* other = device(1);
    ASSERT_NE(other, nullptr);
    EXPECT_EQ(other->index, -1);
    EXPECT_FALSE(charge(*other, 1));
    EXPECT_TRUE(charge(*d_, 1));
  });
}

TEST_F(Admit, OtherIsNeverRefusedAndStopsGrowth) {
  in_child("64MiB", "1", [&] {
    EXPECT_TRUE(charge(*d_, 32 * kMiB));
    charge_other(*d_, 48 * kMiB);
    EXPECT_EQ(used(), 64 * kMiB) << "told figures never pass the quota";
    EXPECT_EQ(view(*d_).free, 0u);
    EXPECT_FALSE(charge(*d_, 1));
    charge_other(*d_, -static_cast<std::int64_t>(100 * kMiB));
    EXPECT_EQ(used(), 32 * kMiB) << "no more comes back than was booked as other";
    EXPECT_TRUE(charge(*d_, 32 * kMiB));
  });
}

TEST_F(Admit, ThePokedThreadBooksWhatWasObserved) {
  in_child("64MiB", "1", [&] {
    observe(10 * kMiB);
    poke();
    eventually([&] { return used() == 10 * kMiB && other() == 10 * kMiB; });
    observe(4 * kMiB);
    poke();
    eventually([&] { return used() == 4 * kMiB && other() == 4 * kMiB; });
  });
}

TEST_F(Admit, AFigureOlderThanABookingDoesNotLowerIt) {
  in_child("64MiB", "1", [&] {
    observe(kMiB);
    poke();
    eventually([&] { return used() == kMiB && other() == kMiB; });  // the thread runs
    charge_other(*d_, 20 * kMiB);
    observe(10 * kMiB, kMiB);  // taken before the booking
    slot().heartbeat_s.store(0, std::memory_order_relaxed);
    poke();
    // the loop came round; it looked at the poke unless its second ended in between
    eventually([&] { return slot().heartbeat_s.load(std::memory_order_relaxed) != 0; });
    EXPECT_EQ(used(), 21 * kMiB);
    observe(10 * kMiB);
    eventually([&] {
      poke();
      return used() == 10 * kMiB;
    });
  });
}

// A context was taken down while it was looked at: what it held before is nobody's any more.
TEST_F(Admit, AFigureOfOtherBooksDoesNotRaiseThem) {
  in_child("64MiB", "1", [&] {
    observe(20 * kMiB);
    poke();
    eventually([&] { return used() == 20 * kMiB && other() == 20 * kMiB; });
    observe(18 * kMiB);  // half way down
    charge_other(*d_, -static_cast<std::int64_t>(20 * kMiB));
    poke();
    slot().heartbeat_s.store(0, std::memory_order_relaxed);
    poke();
    eventually([&] { return slot().heartbeat_s.load(std::memory_order_relaxed) != 0; });
    EXPECT_EQ(used(), 0u);
    observe(2 * kMiB);
    poke();
    eventually([&] { return used() == 2 * kMiB && other() == 2 * kMiB; });
  });
}

TEST_F(Admit, NearTheLimitTheSupervisorIsAsked) {
  in_child("1GiB", "1", [&] {
    shm::RegionHeader& h = process.region->header;
    ASSERT_TRUE(charge(*d_, 900 * kMiB));
    h.sampler_beat_s.store(boottime_ns() / 1'000'000'000, std::memory_order_relaxed);
    std::thread supervisor([&] {
      while (h.ask.load(std::memory_order_acquire) == 0) {  // pairs with ask_supervisor()
        ::syscall(SYS_futex, &h.ask, FUTEX_WAIT, 0, nullptr, nullptr, 0);
      }
      observe(200 * kMiB);
      h.sampled.fetch_add(1, std::memory_order_release);  // pairs with ask_supervisor()
      ::syscall(SYS_futex, &h.sampled, FUTEX_WAKE, 1 << 20, nullptr, nullptr, 0);
    });
    const bool granted = charge(*d_, 100 * kMiB);
    // a supervisor slower than the 5 ms is not waited for: then the figure arrives by itself
    supervisor.join();
    if (granted) GTEST_LOG_(INFO) << "the supervisor was late";
    apply_observed(false);
    EXPECT_FALSE(charge(*d_, 100 * kMiB));
  });
}

TEST_F(Admit, FarFromTheLimitNobodyIsAsked) {
  in_child("1GiB", "1", [&] {
    shm::RegionHeader& h = process.region->header;
    h.sampler_beat_s.store(boottime_ns() / 1'000'000'000, std::memory_order_relaxed);
    EXPECT_TRUE(charge(*d_, 100 * kMiB));
    EXPECT_EQ(h.ask.load(std::memory_order_relaxed), 0u);
    h.sampler_beat_s.store(1, std::memory_order_relaxed);  // it died long ago
    EXPECT_TRUE(charge(*d_, 900 * kMiB));
    EXPECT_EQ(h.ask.load(std::memory_order_relaxed), 0u);
  });
}

TEST_F(Admit, ALostSlotIsReplacedAndItsBooksTakenAlong) {
  in_child("64MiB", "1", [&] {
    ASSERT_TRUE(charge(*d_, 30 * kMiB));
    poke();
    // Twice: whichever of its turns the first one was, no turn of the thread is due when the second is over.
    for (int i = 0; i < 2; ++i) {
      process.remembered[0].store(0, std::memory_order_relaxed);
      eventually([] { return process.remembered[0].load(std::memory_order_relaxed) == 30 * kMiB; });
    }
    const shm::Seat lost = seat_now();
    // what a reaper does that took us for dead
    slot().state.store(shm::make_s(shm::kReaping, lost.gen), std::memory_order_release);
    shm::wipe_cell(*process.region, lost.slot, static_cast<unsigned>(d_->index));
    slot().state.store(shm::make_s(shm::kFree, lost.gen), std::memory_order_release);
    EXPECT_TRUE(charge(*d_, 2 * kMiB));
    EXPECT_EQ(used(), 32 * kMiB);
    EXPECT_TRUE(shm::still_mine(*process.region, seat_now()));
    EXPECT_NE(seat_now().gen, lost.gen);
    EXPECT_EQ(slot().faults.load(std::memory_order_relaxed), 1u);
  });
}

TEST_F(Admit, ContextsLeadToTheirDevices) {
  in_child("1GiB", "3", [&] {
    EXPECT_EQ(here().device->number, 0u);
    EXPECT_EQ(here().context, context_);
    for (int round = 0; round < 100; ++round) {
      CUcontext c = nullptr;
      const int on = round % 3;
      ASSERT_EQ(::cuCtxCreate_v2(&c, 0, on), CUDA_SUCCESS);
      EXPECT_EQ(here().device, device(on)) << "a context's address may have been another's";
      EXPECT_EQ(here().device, device(on)) << "from the cache";
      ASSERT_EQ(::cuCtxDestroy_v2(c), CUDA_SUCCESS);
      EXPECT_EQ(here().device, nullptr);
    }
    int n = 0;
    EXPECT_NE(devices(&n), nullptr);
    EXPECT_EQ(n, 3);
    EXPECT_EQ(device(3), nullptr);
    EXPECT_EQ(device(-1), nullptr);
  });
}

TEST_F(Admit, ManyThreadsAtTheLimit) {
  in_child("64MiB", "1", [&] {
    std::atomic<int> granted{0};
    {
      std::vector<std::jthread> threads;
      for (int t = 0; t < 8; ++t) {
        threads.emplace_back([&] {
          for (int i = 0; i < 16; ++i) granted += charge(*d_, kMiB) ? 1 : 0;
        });
      }
    }
    EXPECT_EQ(granted.load(), 64);
    EXPECT_EQ(used(), 64 * kMiB);
  });
}

}  // namespace
}  // namespace bulkhead::hook
