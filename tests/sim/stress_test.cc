// Many threads, and SIGKILL at random moments: whatever happens, the machine's books are whole.
#include <filesystem>
#include <thread>
#include <vector>

#include "tests/sim/machine.h"

namespace bulkhead::test {
namespace {

class SimStress : public Machine {};

constexpr std::uint64_t kHidden = 9240576;  // of the first context, in no process's figure

// Runs until it is killed: memory of each kind that more than one process's books know.
[[noreturn]] void churn(Child& self) {
  start();
  self.say();
  for (;;) {
    CUdeviceptr plain{}, pooled{};
    CU(cuMemAlloc_v2)(&plain, 4 * kMiB);
    CU(cuMemAllocAsync)(&pooled, 40 * kMiB, nullptr);
    CUipcMemHandle handle{};
    CU(cuIpcGetMemHandle)(&handle, plain);
    CU(cuMemFreeAsync)(pooled, nullptr);
    CU(cuMemFree_v2)(plain);
  }
}

TEST_F(SimStress, KilledAnywhereLeavesNothing) {
  const auto seed = static_cast<unsigned>(getpid());
  srand(seed);
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  for (int round = 0; round < 20; ++round) {
    Child victim{churn};
    ASSERT_TRUE(victim.hear());
    usleep(static_cast<useconds_t>(rand() % 3000));  // where it hits; nothing waits for this
    const int status = victim.end(SIGKILL);
    ASSERT_TRUE(WIFSIGNALED(status));
  }
  run([] {
    start();
    EXPECT_EQ(free_bytes(), kTotal - kContext - kHidden);
    CUdeviceptr p{};
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p, free_bytes() / (2 * kMiB) * 2 * kMiB), CUDA_SUCCESS);
  });
  unsigned files = 0;
  for (const auto& f : std::filesystem::directory_iterator(dir_ + "/sim")) {
    files += f.path().filename().string().starts_with("obj-") ? 1 : 0;
  }
  EXPECT_EQ(files, 0u);
}

TEST_F(SimStress, AZombieIsDead) {
  Child victim{[](Child& self) {
    start();
    CUdeviceptr p{};
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 100ull << 30), CUDA_SUCCESS);
    self.say();
    pause();
  }};
  ASSERT_TRUE(victim.hear());
  kill(victim.pid(), SIGKILL);
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(victim.pid()), &info, WEXITED | WNOWAIT), 0);
  run([&] {
    start();
    EXPECT_EQ(shown(victim.pid()), 0u);
    CUdeviceptr p{};
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 130ull << 30), CUDA_SUCCESS);
  });
}

TEST_F(SimStress, ThreadsLeaveTheBooksWhole) {
  run([] {
    const CUcontext c = start();
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([c] {
        EXPECT_EQ(CU(cuCtxSetCurrent)(c), CUDA_SUCCESS);
        for (int i = 0; i < 50; ++i) {
          CUdeviceptr p{}, q{};
          CUstream s{};
          EXPECT_EQ(CU(cuStreamCreate)(&s, 0), CUDA_SUCCESS);
          EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 100 << 10), CUDA_SUCCESS);
          EXPECT_EQ(CU(cuMemAllocAsync)(&q, 9 * kMiB, s), CUDA_SUCCESS);
          EXPECT_EQ(CU(cuMemsetD8Async)(p, 1, 4096, s), CUDA_SUCCESS);
          EXPECT_EQ(CU(cuMemFreeAsync)(q, s), CUDA_SUCCESS);
          EXPECT_EQ(CU(cuStreamSynchronize)(s), CUDA_SUCCESS);
          EXPECT_EQ(CU(cuMemFree_v2)(p), CUDA_SUCCESS);
          EXPECT_EQ(CU(cuStreamDestroy_v2)(s), CUDA_SUCCESS);
        }
      });
    }
    for (std::thread& t : threads) t.join();
    EXPECT_EQ(CU(cuCtxSynchronize)(), CUDA_SUCCESS);
    EXPECT_EQ(shown(), kContext);
  });
}

}  // namespace
}  // namespace bulkhead::test
