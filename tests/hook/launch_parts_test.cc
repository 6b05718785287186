// The parts of `run --streams` (docs/spatial.md, 'Streams') and the primary context that they keep alive: on a device that counts the
// references to it, as the driver does, the program's own and one of each green context.
#include <set>

#include "hook/stream_sms.h"
#include "tests/hook/launch_case.h"

namespace bulkhead::hook {
namespace {

// The device's primary context.
struct Primary {
  unsigned references = 0;
  int ended = 0;
  std::set<CUgreenCtx> greens;
  CUcontext context = nullptr;
  bool drop() {
    if (references == 0) return false;
    if (--references == 0) ++ended;
    return true;
  }
} device;

CUresult retain(CUcontext* c, CUdevice) noexcept {
  ++device.references;
  return *c = device.context, CUDA_SUCCESS;
}
CUresult release(CUdevice) noexcept {
  return device.drop() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}
CUresult reset(CUdevice) noexcept {
  if (device.references != 0) ++device.ended;
  EXPECT_TRUE(device.greens.empty()) << "their references outlive the context";
  device.references = 0;
  return CUDA_SUCCESS;
}
CUresult state(CUdevice, unsigned* flags, int* active) noexcept {
  *flags = 0;
  *active = device.references != 0;
  return CUDA_SUCCESS;
}
CUresult green_create(CUgreenCtx* g, CUdevResourceDesc, CUdevice, unsigned) noexcept {
  static std::uintptr_t handle = 0x50000;
  *g = reinterpret_cast<CUgreenCtx>(handle += 64);
  device.greens.insert(*g);
  ++device.references;
  return CUDA_SUCCESS;
}
CUresult green_destroy(CUgreenCtx g) noexcept {
  if (device.greens.erase(g) == 0) return CUDA_ERROR_INVALID_CONTEXT;
  return device.drop() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}
CUresult split(CUdevResource* result, unsigned* groups, const CUdevResource* input,
               CUdevResource* remaining, unsigned, unsigned least) noexcept {
  *result = *remaining = *input;
  result->sm.smCount = least == 0 ? 8 : least;
  remaining->sm.smCount = input->sm.smCount - result->sm.smCount;
  return *groups = 1, CUDA_SUCCESS;
}

class PartsTest : public ComputeTest {
 protected:
  void SetUp() override {
    ComputeTest::SetUp();
    setenv("BULKHEAD_STREAM_SMS", "high=25%", 1);
  }
  void TearDown() override {
    unsetenv("BULKHEAD_STREAM_SMS");
    ComputeTest::TearDown();
  }
  void install() {
    device.context = context_;
    fake::set(next.cuDevicePrimaryCtxRetain, retain);
    fake::set(next.cuDevicePrimaryCtxRelease_v2, release);
    fake::set(next.cuDevicePrimaryCtxReset_v2, reset);
    fake::set(next.cuDevicePrimaryCtxGetState, state);
    fake::set(next.cuGreenCtxCreate, green_create);
    fake::set(next.cuGreenCtxDestroy, green_destroy);
    fake::set(next.cuDevSmResourceSplitByCount, split);
    fake::set(
        next.cuDeviceGetDevResource, +[](CUdevice, CUdevResource* all, CUdevResourceType) noexcept {
          *all = {};
          all->sm.smCount = 128;
          return CUDA_SUCCESS;
        });
    fake::set(
        next.cuDevResourceGenerateDesc,
        +[](CUdevResourceDesc*, CUdevResource*, unsigned) noexcept { return CUDA_SUCCESS; });
    fake::set(
        next.cuCtxFromGreenCtx, +[](CUcontext* c, CUgreenCtx g) noexcept {
          return *c = reinterpret_cast<CUcontext>(g), CUDA_SUCCESS;
        });
    fake::set(
        next.cuGreenCtxStreamCreate, +[](CUstream* s, CUgreenCtx, unsigned, int) noexcept {
          return *s = stream(1), CUDA_SUCCESS;
        });
    fake::set(
        next.cuThreadExchangeStreamCaptureMode,
        +[](CUstreamCaptureMode*) noexcept { return CUDA_SUCCESS; });
  }
  static void place_one() {
    CUstream s = nullptr;
    ASSERT_EQ(::cuStreamCreateWithPriority(&s, CU_STREAM_NON_BLOCKING, -1), CUDA_SUCCESS);
    ASSERT_EQ(device.greens.size(), 2u);
  }
  static void retain_one() {
    CUcontext c = nullptr;
    ASSERT_EQ(::cuDevicePrimaryCtxRetain(&c, 0), CUDA_SUCCESS);
  }
};

TEST_F(PartsTest, GoWithTheProgramsLastReference) {
  in_child(100, [&] {
    install();
    for (int round = 1; round <= 3; ++round) {
      retain_one();
      retain_one();
      place_one();
      ASSERT_EQ(::cuDevicePrimaryCtxRelease_v2(0), CUDA_SUCCESS);
      EXPECT_EQ(device.greens.size(), 2u) << "the program has it still";
      ASSERT_EQ(::cuDevicePrimaryCtxRelease_v2(0), CUDA_SUCCESS);
      EXPECT_EQ(device.ended, round);
      EXPECT_EQ(device.references, 0u);
      EXPECT_TRUE(device.greens.empty());
      EXPECT_EQ(primary_context(0), nullptr);
    }
    EXPECT_EQ(::cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT);
  });
}

TEST_F(PartsTest, GoBeforeAReset) {
  in_child(100, [&] {
    install();
    retain_one();
    place_one();
    ASSERT_EQ(::cuDevicePrimaryCtxReset_v2(0), CUDA_SUCCESS);
    EXPECT_EQ(device.ended, 1);
    EXPECT_TRUE(device.greens.empty());
    EXPECT_EQ(primary_context(0), nullptr);
  });
}

// The program's own green context keeps the primary one, and its streams in our parts, alive.
TEST_F(PartsTest, StayForAGreenContextOfTheProgram) {
  in_child(100, [&] {
    install();
    retain_one();
    CUgreenCtx own = nullptr;
    ASSERT_EQ(::cuGreenCtxCreate(&own, nullptr, 0, CU_GREEN_CTX_DEFAULT_STREAM), CUDA_SUCCESS);
    CUstream s = nullptr;
    ASSERT_EQ(::cuStreamCreateWithPriority(&s, CU_STREAM_NON_BLOCKING, -1), CUDA_SUCCESS);
    ASSERT_EQ(::cuDevicePrimaryCtxRelease_v2(0), CUDA_SUCCESS);
    EXPECT_EQ(device.greens.size(), 3u);
    EXPECT_EQ(device.ended, 0);
    ASSERT_EQ(::cuGreenCtxDestroy(own), CUDA_SUCCESS);
    EXPECT_TRUE(device.greens.empty());
    EXPECT_EQ(device.ended, 1);
    EXPECT_EQ(primary_context(0), nullptr);
  });
}

// Without the setting nothing of it is done.
TEST_F(PartsTest, NothingIsDividedUnasked) {
  unsetenv("BULKHEAD_STREAM_SMS");
  in_child(100, [&] {
    install();
    retain_one();
    ASSERT_EQ(::cuDevicePrimaryCtxRelease_v2(0), CUDA_SUCCESS);
    EXPECT_EQ(device.ended, 1);
    EXPECT_EQ(primary_context(0), nullptr);
  });
}

}  // namespace
}  // namespace bulkhead::hook
