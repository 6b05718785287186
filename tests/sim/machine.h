// A simulated machine of its own for each test. What uses the driver runs in child processes, which load it
// themselves: the test's own process never does, so that it may fork at any time.
#pragma once
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <string>

#include "abi/cuda_types.h"
#include "abi/nvml_types.h"
#include "abi/table_macros.h"

// Every function by the tables' own types; called through dlsym, as programs without a toolkit do.
extern "C" {
#define BH_HOOK(name, since, family, ...) CUresult name(BH_PARAMS(__VA_ARGS__));
#define BH_PASS BH_HOOK
#include "abi/cuda.def"
#define BH_HOOK(name, since, family, ...) nvmlReturn_t name(BH_PARAMS(__VA_ARGS__));
#define BH_PASS BH_HOOK
#define BH_PASS_TEXT(name, since, reason, ...) const char* name(BH_PARAMS(__VA_ARGS__));
#include "abi/nvml.def"
}

namespace bulkhead::test {

inline void* symbol(const char* library, const char* name) {
  void* const handle = dlopen((std::string{BH_SIM "/"} + library).c_str(), RTLD_NOW);
  void* const at = handle != nullptr ? dlsym(handle, name) : nullptr;
  if (at == nullptr) {
    std::fprintf(stderr, "no %s in %s\n", name, library);
    _exit(3);
  }
  return at;
}
template <class F>
F* entry(const char* library, const char* name) {
  return reinterpret_cast<F*>(symbol(library, name));
}
#define CU(name) bulkhead::test::entry<decltype(::name)>("libcuda.so.1", #name)
#define ML(name) bulkhead::test::entry<decltype(::name)>("libnvidia-ml.so.1", #name)

inline constexpr std::uint64_t kMiB = 1u << 20;
inline constexpr std::uint64_t kContext = 543162368;  // as measured on an H200
inline constexpr std::uint64_t kTotal = 150109880320;

inline nvmlDevice_t nvml_device(unsigned index = 0) {
  nvmlDevice_t d = nullptr;
  ML(nvmlInit_v2)();
  EXPECT_EQ(ML(nvmlDeviceGetHandleByIndex_v2)(index, &d), NVML_SUCCESS);
  return d;
}
// What NVML shows for `pid` on the device; 0: not listed.
inline std::uint64_t shown(pid_t pid = getpid(), unsigned index = 0) {
  unsigned n = 64;
  nvmlProcessInfo_t all[64] = {};
  EXPECT_EQ(ML(nvmlDeviceGetComputeRunningProcesses_v3)(nvml_device(index), &n, all), NVML_SUCCESS);
  for (unsigned i = 0; i < n; ++i) {
    if (all[i].pid == static_cast<unsigned>(pid)) return all[i].usedGpuMemory;
  }
  return 0;
}
inline std::uint64_t free_bytes() {
  std::size_t left = 0, total = 0;
  EXPECT_EQ(CU(cuMemGetInfo_v2)(&left, &total), CUDA_SUCCESS);
  return left;
}
// The device's primary context, retained and current.
inline CUcontext start() {
  CUcontext c = nullptr;
  EXPECT_EQ(CU(cuInit)(0), CUDA_SUCCESS);
  EXPECT_EQ(CU(cuDevicePrimaryCtxRetain)(&c, 0), CUDA_SUCCESS);
  EXPECT_EQ(CU(cuCtxSetCurrent)(c), CUDA_SUCCESS);
  return c;
}

// One child running `body`. It stops at each say() until the parent has heard it and told it to go on.
class Child {
 public:
  explicit Child(const std::function<void(Child&)>& body) {
    int up[2], down[2];
    if (pipe(up) != 0 || pipe(down) != 0) abort();
    std::fflush(nullptr);
    pid_ = fork();
    in_ = pid_ == 0 ? down[0] : up[0];
    out_ = pid_ == 0 ? up[1] : down[1];
    close(pid_ == 0 ? down[1] : up[1]);
    close(pid_ == 0 ? up[0] : down[0]);
    if (pid_ != 0) return;
    body(*this);
    std::fflush(nullptr);
    _exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ > 0) end(SIGKILL);
    close(in_);
    close(out_);
  }
  [[nodiscard]] pid_t pid() const { return pid_; }
  bool say(std::uint64_t value = 0) { return write(out_, &value, sizeof value) == sizeof value; }
  // False: the other side is gone.
  bool hear(std::uint64_t* value = nullptr) {
    std::uint64_t got = 0;
    const bool ok = read(in_, &got, sizeof got) == sizeof got;
    if (value != nullptr) *value = got;
    return ok;
  }
  // Waits for its end, after a signal if one is given; -> the wait status.
  int end(int signal = 0) {
    if (signal != 0) kill(pid_, signal);
    int status = -1;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
  }

 private:
  pid_t pid_ = -1;
  int in_ = -1, out_ = -1;
};

class Machine : public ::testing::Test {
 protected:
  void SetUp() override {
    char path[] = "/tmp/bulkhead-sim-XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    dir_ = path;
    setenv("BULKHEAD_DIR", path, 1);
    setenv("BULKHEAD_SIM", "h200", 1);
    for (const char* name :
         {"BULKHEAD_SIM_FAIL", "BULKHEAD_SIM_TIMED", "BULKHEAD_SIM_BYTES", "CUDA_VISIBLE_DEVICES",
          "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"})
      unsetenv(name);
  }
  void TearDown() override { EXPECT_EQ(std::system(("rm -rf " + dir_).c_str()), 0); }
  // Runs `body` in a child; its failures are this test's.
  static void run(const std::function<void()>& body) {
    Child child{[&](Child&) { body(); }};
    EXPECT_EQ(child.end(), 0) << "in the child";
  }
  std::string dir_;
};

}  // namespace bulkhead::test
