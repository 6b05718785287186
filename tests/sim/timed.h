// The timed device between real processes. What is asserted is the model's own books, or the model's own time
// between two events; nothing asserts how fast this machine is.
#pragma once
#include <time.h>

#include <memory>
#include <vector>

#include "kernels/kernels.h"
#include "sim/state.h"
#include "sim/timed.h"
#include "tests/sim/machine.h"

namespace bulkhead::test {

inline constexpr std::uint64_t kUs = 1000, kMs = 1000 * kUs, kHour = 3'600'000 * kMs;
inline constexpr std::uint64_t kLaunchNs = 2000;  // what any kernel of ours takes besides
inline constexpr unsigned kWhole = 264;           // blocks of 1,024 threads that fill 132 SMs

class SimTimed : public Machine {
 protected:
  void SetUp() override {
    Machine::SetUp();
    setenv("BULKHEAD_SIM_TIMED", "1", 1);
  }
};

inline CUfunction kernel(const char* name, const char* ptx = kernels::kPtx) {
  CUmodule module = nullptr;
  CUfunction f = nullptr;
  EXPECT_EQ(CU(cuModuleLoadData)(&module, ptx), CUDA_SUCCESS);
  EXPECT_EQ(CU(cuModuleGetFunction)(&f, module, name), CUDA_SUCCESS);
  return f;
}

inline CUresult spin(CUfunction f, std::uint64_t ns, CUstream s = nullptr,
                     unsigned blocks = kWhole) {
  void* args[] = {&ns};
  return CU(cuLaunchKernel)(f, blocks, 1, 1, 1024, 1, 1, 0, s, args, nullptr);
}

inline CUstream stream() {
  CUstream s = nullptr;
  EXPECT_EQ(CU(cuStreamCreate)(&s, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  return s;
}
inline CUevent event(unsigned flags = 0) {
  CUevent e = nullptr;
  EXPECT_EQ(CU(cuEventCreate)(&e, flags), CUDA_SUCCESS);
  return e;
}
inline CUevent record(CUstream s) {
  CUevent e = event();
  EXPECT_EQ(CU(cuEventRecord)(e, s), CUDA_SUCCESS);
  return e;
}
inline double between(CUevent a, CUevent b) {
  float ms = -1;
  EXPECT_EQ(CU(cuEventSynchronize)(b), CUDA_SUCCESS);
  EXPECT_EQ(CU(cuEventElapsedTime)(&ms, a, b), CUDA_SUCCESS);
  return static_cast<double>(ms);
}

// Queues `work` behind a kernel that is still running when all of it is queued, however slow this machine is,
// so that what it takes does not depend on when each call came. `work` is done again if that failed.
template <class F>
void queued(CUfunction f, CUstream s, F work) {
  for (std::uint64_t ns = 50 * kMs;; ns *= 2) {
    ASSERT_LT(ns, 60'000 * kMs);
    const CUstream gate = stream();
    ASSERT_EQ(spin(f, ns, gate, 1), CUDA_SUCCESS);
    CUevent open = record(gate);
    ASSERT_EQ(CU(cuStreamWaitEvent)(s, open, 0), CUDA_SUCCESS);
    work();
    if (CU(cuEventQuery)(open) == CUDA_ERROR_NOT_READY) return;
    ASSERT_EQ(CU(cuCtxSynchronize)(), CUDA_SUCCESS);
  }
}

// The model's books.
struct Books {
  std::unique_ptr<sim::Timeline> line = std::make_unique<sim::Timeline>();
  void read() {
    ASSERT_EQ(sim::open_machine(), nullptr);
    ASSERT_EQ(sim::open_timed(true), nullptr);
    ASSERT_TRUE(sim::read_timeline(*line));
  }
  [[nodiscard]] const sim::TimedUnit& unit() const { return line->units[0]; }
  [[nodiscard]] const sim::TimedContext* of(pid_t pid) const {
    for (unsigned i = 0; i < line->contexts_high; ++i) {
      if (line->contexts[i].pid == static_cast<std::uint32_t>(pid)) return &line->contexts[i];
    }
    return nullptr;
  }
};

template <class F>
bool reached(F condition) {
  for (int i = 0; i < 60'000; ++i) {
    if (condition()) return true;
    const timespec t{0, 1'000'000};
    nanosleep(&t, nullptr);
  }
  return false;
}

// A tenant that says when it is there, launches when told to, says so, and ends when told to.
inline auto tenant(std::uint64_t ns, int times) {
  return [=](Child& me) {
    start();
    const CUfunction f = kernel("bh_spin");
    me.say();
    me.hear();
    for (int i = 0; i < times; ++i) EXPECT_EQ(spin(f, ns), CUDA_SUCCESS);
    me.say();
    me.hear();
  };
}

inline void go(Child& c) {
  ASSERT_TRUE(c.hear());
  ASSERT_TRUE(c.say());
}

}  // namespace bulkhead::test
