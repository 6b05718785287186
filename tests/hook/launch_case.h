// A process bound to a tenant with a share, on a device whose time the test advances (launch_fake.h): for the tests that link the
// library's own objects. Each test runs in a child of its own, for a process binds once. Included by one file a program.
#pragma once
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "base/clock.h"
#include "hook/compute.h"
#include "hook/compute_books.h"
#include "hook/node_view.h"
#include "hook/process.h"
#include "shm/dir.h"
#include "shm/supervise.h"
#include "tests/hook/launch_fake.h"

namespace bulkhead::hook {
namespace fake {
inline CUresult host_function(CUstream, CUhostFn fn, void* data) noexcept {
  std::thread{[=] { fn(data); }}.join();
  return CUDA_SUCCESS;
}
}  // namespace fake

using fake::gpu;
inline constexpr std::uint64_t kMs = 1'000'000;
inline constexpr auto kRelaxed = std::memory_order_relaxed;

inline CUstream stream(unsigned n) {
  return reinterpret_cast<CUstream>(std::uintptr_t{0x10000} + n * 64);
}
inline CUfunction function(unsigned n) {
  return reinterpret_cast<CUfunction>(std::uintptr_t{0x20000} + n * 64);
}

class ComputeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char path[] = "/tmp/bulkhead-compute-XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    dir_ = path;
  }
  void TearDown() override { EXPECT_EQ(std::system(("rm -rf " + dir_).c_str()), 0); }

  void bind(std::uint32_t percent) {
    setenv("BULKHEAD_DIR", dir_.c_str(), 1);
    setenv("BULKHEAD_MEMORY", "1GiB", 1);
    setenv("FAKE_DEVICES", ordinal == 0 ? "1" : "2", 1);
    ASSERT_NE(dlopen(BH_TESTS "/fake/libcuda.so.1", RTLD_NOW), nullptr) << dlerror();
    ASSERT_EQ(::cuInit(0), CUDA_SUCCESS);
    ASSERT_EQ(mode(), Mode::kOn);
    fake::install();
    ASSERT_EQ(::cuCtxCreate_v2(&context_, 0, ordinal), CUDA_SUCCESS);
    gpu.context = context_;
    if (percent != 0) limit(percent);
  }
  // What a governor does.
  static void limit(std::uint32_t percent) {
    shm::ComputeEntry& e = entry();
    e.floor_x100.store(percent * 100, kRelaxed);
    e.ceiling_x100.store(percent * 100, kRelaxed);
    e.rules.fetch_add(1, std::memory_order_release);  // pairs with the library's look
    ::syscall(SYS_futex, &e.rules, FUTEX_WAKE, 1 << 20, nullptr, nullptr, 0);
  }
  static shm::ComputeEntry& entry() { return *share_of(process.devices[ordinal]); }
  static CUresult launch(CUfunction f, CUstream s) {
    return ::cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, nullptr, nullptr);
  }
  template <class Body>
  void in_child(std::uint32_t percent, const Body& body) {
    EXPECT_EXIT(
        {
          bind(percent);
          if (!HasFailure()) body();
          EXPECT_EQ(gpu.dead_events, 0) << "an event was used that its context had taken along";
          EXPECT_EQ(gpu.captured_records, 0);
          std::fflush(nullptr);
          std::_Exit(HasFailure() ? 1 : 0);
        },
        ::testing::ExitedWithCode(0), "");
  }
  template <class Done>
  static void eventually(const Done& done) {
    const std::uint64_t end = monotonic_ns() + 60'000'000'000u;
    while (!done() && monotonic_ns() < end) ::usleep(500);
    EXPECT_TRUE(done());
  }
  // The device finishes all there is, and the compute thread has seen it.
  static void finish() {
    fake::advance(100'000 * kMs);
    eventually([] { return compute.pending.load(kRelaxed) == 0; });
  }
  static std::size_t threads() {
    std::size_t n = 0;
    for ([[maybe_unused]] const auto& t : std::filesystem::directory_iterator("/proc/self/task"))
      ++n;
    return n;
  }
  // So much waiting time ahead of now that any gate is shut for good (the clamp is a second and the burst).
  static void shut() { entry().tat_ns.store(monotonic_ns() + 3'600'000 * kMs, kRelaxed); }

  static inline int ordinal = 0;  // of the device; 1: the process sees two
  std::string dir_;
  CUcontext context_ = nullptr;
};

}  // namespace bulkhead::hook
