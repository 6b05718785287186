// Green contexts, user objects, advice, and what NVML tells of a device besides its memory.
#include "tests/sim/machine.h"

namespace bulkhead::test {
namespace {

class SimFacts : public Machine {};

#define OK(call) ASSERT_EQ(call, CUDA_SUCCESS)

TEST_F(SimFacts, AGreenContextTakesSixMiBThatStay) {
  run([] {
    start();
    CUdevResource all{}, half{};
    OK(CU(cuDeviceGetDevResource)(0, &all, CU_DEV_RESOURCE_TYPE_SM));
    EXPECT_EQ(all.sm.smCount, 132u);
    unsigned groups = 1;
    OK(CU(cuDevSmResourceSplitByCount)(&half, &groups, &all, nullptr, 0, 64));
    EXPECT_EQ(half.sm.smCount, 64u);
    CUdevResourceDesc description{};
    OK(CU(cuDevResourceGenerateDesc)(&description, &half, 1));
    CUgreenCtx green{};
    OK(CU(cuGreenCtxCreate)(&green, description, 0, 1));
    EXPECT_EQ(shown(), kContext + 6 * kMiB);
    CUcontext c{};
    OK(CU(cuCtxFromGreenCtx)(&c, green));
    OK(CU(cuCtxPushCurrent_v2)(c));
    CUdeviceptr p{};
    OK(CU(cuMemAlloc_v2)(&p, 4 * kMiB));
    CUstream s{};
    OK(CU(cuGreenCtxStreamCreate)(&s, green, CU_STREAM_NON_BLOCKING, 0));
    OK(CU(cuMemsetD8Async)(p, 1, 64, s));
    OK(CU(cuCtxPopCurrent_v2)(&c));
    OK(CU(cuGreenCtxDestroy)(green));
    EXPECT_EQ(shown(), kContext + 6 * kMiB);  // its memory is back, its own bytes are not
    OK(CU(cuDevicePrimaryCtxReset_v2)(0));
    EXPECT_EQ(shown(), 0u);
  });
}

TEST_F(SimFacts, AUserObjectsDestructorRunsOnce) {
  run([] {
    start();
    static int calls = 0;
    CUuserObject o{};
    OK(CU(cuUserObjectCreate)(
        &o, &calls, [](void* n) { ++*static_cast<int*>(n); }, 1,
        CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
    OK(CU(cuUserObjectRetain)(o, 2));
    OK(CU(cuUserObjectRelease)(o, 2));
    EXPECT_EQ(calls, 0);
    OK(CU(cuUserObjectRelease)(o, 1));
    EXPECT_EQ(calls, 1);
    EXPECT_EQ(CU(cuUserObjectRelease)(o, 1), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(SimFacts, AdviceIsForManagedMemory) {
  run([] {
    start();
    CUdeviceptr managed{}, plain{};
    OK(CU(cuMemAllocManaged)(&managed, 4 * kMiB, CU_MEM_ATTACH_GLOBAL));
    OK(CU(cuMemAlloc_v2)(&plain, 4 * kMiB));
    const CUmemLocation here{CU_MEM_LOCATION_TYPE_DEVICE, 0};
    OK(CU(cuMemPrefetchAsync_v2)(managed, 4 * kMiB, here, 0, nullptr));
    EXPECT_EQ(CU(cuMemPrefetchAsync_v2)(managed, 4 * kMiB + 1, here, 0, nullptr),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(CU(cuMemPrefetchAsync_v2)(plain, 64, here, 0, nullptr), CUDA_ERROR_INVALID_VALUE);
  });
}

TEST_F(SimFacts, NvmlTellsWhatTheProfileSays) {
  run([] {
    const nvmlDevice_t d = nvml_device();
    unsigned value = 0;
    EXPECT_EQ(ML(nvmlDeviceGetEnforcedPowerLimit)(d, &value), NVML_SUCCESS);
    EXPECT_EQ(value, 700000u);
    EXPECT_EQ(ML(nvmlDeviceGetClockInfo)(d, NVML_CLOCK_SM, &value), NVML_SUCCESS);
    EXPECT_EQ(value, 1980u);
    EXPECT_EQ(ML(nvmlDeviceGetTemperature)(d, NVML_TEMPERATURE_GPU, &value), NVML_SUCCESS);
    EXPECT_EQ(value, 31u);
    nvmlPstates_t state{};
    EXPECT_EQ(ML(nvmlDeviceGetPerformanceState)(d, &state), NVML_SUCCESS);
    EXPECT_EQ(state, NVML_PSTATE_0);
    unsigned mode = 9, pending = 9;
    EXPECT_EQ(ML(nvmlDeviceGetMigMode)(d, &mode, &pending), NVML_SUCCESS);
    EXPECT_EQ(mode, NVML_DEVICE_MIG_DISABLE);
    nvmlDevice_t instance{};
    EXPECT_EQ(ML(nvmlDeviceGetMigDeviceHandleByIndex)(d, 0, &instance), NVML_ERROR_NOT_FOUND);
    nvmlEventSet_t set{};
    ASSERT_EQ(ML(nvmlEventSetCreate)(&set), NVML_SUCCESS);
    nvmlEventData_t data{};
    EXPECT_EQ(ML(nvmlEventSetWait_v2)(set, &data, 1), NVML_ERROR_TIMEOUT);
    EXPECT_EQ(ML(nvmlEventSetFree)(set), NVML_SUCCESS);
  });
}

TEST_F(SimFacts, NvmlKnowsMigInstances) {
  setenv("BULKHEAD_SIM", "h200-mig", 1);
  run([] {
    const nvmlDevice_t gpu = nvml_device();
    nvmlDevice_t third{}, parent{};
    ASSERT_EQ(ML(nvmlDeviceGetMigDeviceHandleByIndex)(gpu, 2, &third), NVML_SUCCESS);
    EXPECT_EQ(ML(nvmlDeviceGetDeviceHandleFromMigDeviceHandle)(third, &parent), NVML_SUCCESS);
    EXPECT_EQ(parent, gpu);
    char uuid[96];
    ASSERT_EQ(ML(nvmlDeviceGetUUID)(third, uuid, sizeof uuid), NVML_SUCCESS);
    EXPECT_EQ(std::string(uuid).substr(0, 4), "MIG-");
    setenv("CUDA_VISIBLE_DEVICES", uuid, 1);
    start();
    std::size_t total = 0;
    OK(CU(cuDeviceTotalMem_v2)(&total, 0));
    nvmlMemory_t memory{};
    ASSERT_EQ(ML(nvmlDeviceGetMemoryInfo)(third, &memory), NVML_SUCCESS);
    EXPECT_EQ(memory.total, total);
    EXPECT_GT(memory.used, kContext);  // of the instance that was named, and of no other
    nvmlDevice_t first{};
    ASSERT_EQ(ML(nvmlDeviceGetMigDeviceHandleByIndex)(gpu, 0, &first), NVML_SUCCESS);
    ASSERT_EQ(ML(nvmlDeviceGetMemoryInfo)(first, &memory), NVML_SUCCESS);
    EXPECT_EQ(memory.used, 0u);
  });
}

}  // namespace
}  // namespace bulkhead::test
