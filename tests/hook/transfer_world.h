// The library's own objects over the simulated driver, in the test's process, with an auditor that writes down what it is asked and
// may refuse. Each test runs in a child of its own, for a process binds once.
#pragma once
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "hook/audit.h"
#include "hook/copies.h"
#include "hook/driver.h"
#include "hook/next.h"
#include "hook/process.h"

namespace bulkhead::hook::test {

using abi::AuditOp;
using abi::Direction;
using abi::EntryKind;

struct Recorded {
  AuditEvent event;
  bool refused = false;
  CUresult failed = CUDA_SUCCESS;
};
// What the auditor was asked, and what it answers.
struct Auditor {
  bool on = true;
  long refuse_at = -1;  // the n-th question from here on is refused
  std::vector<Recorded> log;
  std::uint64_t counted = 0;  // bytes that note_copy() heard of
  std::uint64_t counted_as[5] = {};
  int admitted = 0;

  void clear() {
    log.clear();
    counted = 0;
    admitted = 0;
    refuse_at = -1;
    std::memset(counted_as, 0, sizeof counted_as);
  }
  // Bytes of the entries that stand: neither refused nor failed.
  [[nodiscard]] std::uint64_t bytes(EntryKind kind = EntryKind::kTransfer) const {
    std::uint64_t sum = 0;
    for (const Recorded& r : log) {
      if (r.event.kind == kind && !r.refused && r.failed == CUDA_SUCCESS) sum += r.event.bytes;
    }
    return sum;
  }
};
inline Auditor auditor;

// The simulated driver's own, for what the library does not hook or a test wants unrecorded.
inline void* driver_symbol(const char* name) {
  static void* const library = dlopen(BH_SIM "/libcuda.so.1", RTLD_NOW);
  return library != nullptr ? dlsym(library, name) : nullptr;
}
#define DRIVER(name) reinterpret_cast<decltype(&::name)>(bulkhead::hook::test::driver_symbol(#name))
inline std::uint64_t moved() {
  static const auto ask =
      reinterpret_cast<std::uint64_t (*)()>(driver_symbol("bulkhead_sim_moved"));
  return ask();
}

inline constexpr std::size_t kBuffer = 1u << 20;

class TransferTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char path[] = "/tmp/bulkhead-transfer-XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    dir_ = path;
  }
  void TearDown() override { EXPECT_EQ(std::system(("rm -rf " + dir_).c_str()), 0); }

  // Devices, a current context, and memory of each sort; nothing of it is in the log.
  void start(const char* machine) {
    setenv("BULKHEAD_DIR", dir_.c_str(), 1);
    setenv("BULKHEAD_SIM", machine, 1);
    setenv("BULKHEAD_MEMORY", "8GiB", 1);
    ASSERT_NE(driver_symbol("cuInit"), nullptr) << dlerror();
    auditor.on = false;
    ASSERT_EQ(::cuInit(0), CUDA_SUCCESS);
    int n = 0;
    ASSERT_EQ(DRIVER(cuDeviceGetCount)(&n), CUDA_SUCCESS);
    for (int d = n - 1; d >= 0; --d) {
      ASSERT_EQ(::cuDevicePrimaryCtxRetain(&context_[d], d), CUDA_SUCCESS);
      ASSERT_EQ(DRIVER(cuCtxSetCurrent)(context_[d]), CUDA_SUCCESS);
      ASSERT_EQ(::cuMemAlloc_v2(&device_[d], kBuffer), CUDA_SUCCESS);
    }
    if (n == 1) device_[1] = device_[0] + kBuffer / 2;
    ASSERT_EQ(mode(), Mode::kOn);
    ASSERT_EQ(::cuMemHostAlloc(&pinned_, kBuffer, 0), CUDA_SUCCESS);
    ASSERT_EQ(::cuMemAllocManaged(&managed_, kBuffer, CU_MEM_ATTACH_GLOBAL), CUDA_SUCCESS);
    ASSERT_EQ(DRIVER(cuStreamCreate)(&stream_, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
    CUDA_ARRAY3D_DESCRIPTOR shape{};
    shape.Width = 1024;
    shape.Format = CU_AD_FORMAT_UNSIGNED_INT8;
    shape.NumChannels = 1;
    ASSERT_EQ(::cuArray3DCreate_v2(&array_, &shape), CUDA_SUCCESS);
    auditor.on = true;
    auditor.clear();
  }
  template <class Body>
  void in_child(const Body& body, const char* machine = "h200") {
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      start(machine);
      if (!HasFailure()) body();
      std::fflush(nullptr);
      _exit(HasFailure() ? 1 : 0);
    }
    int status = -1;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << "in the child";
  }
  [[nodiscard]] CUdeviceptr pinned() const { return reinterpret_cast<CUdeviceptr>(pinned_); }

  std::string dir_;
  CUcontext context_[8]{};
  CUdeviceptr device_[8]{};
  CUdeviceptr managed_ = 0;
  void* pinned_ = nullptr;
  CUarray array_{};
  CUstream stream_{};
};

}  // namespace bulkhead::hook::test
