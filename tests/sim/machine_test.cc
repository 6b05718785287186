// The machine around the driver: profiles, failure injection, visible devices.
#include "tests/sim/machine.h"

#include <cstring>
#include <fstream>

#include "sim/profile.h"

namespace bulkhead::test {
namespace {

class SimMachine : public Machine {};

int devices() {
  int n = -1;
  EXPECT_EQ(CU(cuInit)(0), CUDA_SUCCESS);
  EXPECT_EQ(CU(cuDeviceGetCount)(&n), CUDA_SUCCESS);
  return n;
}

TEST_F(SimMachine, AProfileMayHaveSeveralDevices) {
  setenv("BULKHEAD_SIM", "h200x4", 1);
  run([] {
    EXPECT_EQ(devices(), 4);
    CUcontext c = nullptr;
    CUdeviceptr p = 0;
    EXPECT_EQ(CU(cuDevicePrimaryCtxRetain)(&c, 2), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuCtxSetCurrent)(c), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 4 * kMiB), CUDA_SUCCESS);
    EXPECT_EQ(shown(getpid(), 2), kContext + 4 * kMiB);
    EXPECT_EQ(shown(getpid(), 0), 0u);
  });
}

TEST_F(SimMachine, ADeviceHasTheProfilesAttributes) {
  run([] {
    EXPECT_EQ(devices(), 1);
    const auto attribute = [](CUdevice_attribute a) {
      int value = -1;
      EXPECT_EQ(CU(cuDeviceGetAttribute)(&value, a, 0), CUDA_SUCCESS);
      return value;
    };
    EXPECT_EQ(attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 132);
    EXPECT_EQ(attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR), 9);
    EXPECT_EQ(attribute(CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED), 1);
    EXPECT_EQ(attribute(CU_DEVICE_ATTRIBUTE_INTEGRATED), 0);
    int value = 0;
    EXPECT_EQ(CU(cuDeviceGetAttribute)(&value, CU_DEVICE_ATTRIBUTE_MAX, 0),
              CUDA_ERROR_INVALID_VALUE);
    EXPECT_EQ(CU(cuDeviceGetAttribute)(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 7),
              CUDA_ERROR_INVALID_DEVICE);
  });
}

TEST_F(SimMachine, VisibleDevicesAreChosenByIndexAndUuid) {
  setenv("BULKHEAD_SIM", "h200x4", 1);
  char uuid[96] = "";
  Child asks{[&](Child& me) {
    EXPECT_EQ(ML(nvmlDeviceGetUUID)(nvml_device(3), uuid, sizeof uuid), NVML_SUCCESS);
    for (unsigned i = 0; i < sizeof uuid; i += 8) {
      std::uint64_t part = 0;
      std::memcpy(&part, uuid + i, 8);
      me.say(part);
    }
  }};
  for (unsigned i = 0; i < sizeof uuid; i += 8) {
    std::uint64_t part = 0;
    ASSERT_TRUE(asks.hear(&part));
    std::memcpy(uuid + i, &part, 8);
  }
  ASSERT_EQ(asks.end(), 0);
  ASSERT_EQ(std::strncmp(uuid, "GPU-", 4), 0);
  const auto bus = [](int device) {
    char id[32] = "";
    EXPECT_EQ(CU(cuDeviceGetPCIBusId)(id, sizeof id, device), CUDA_SUCCESS);
    return std::string{id};
  };
  setenv("CUDA_VISIBLE_DEVICES", (std::string{"1,"} + uuid).c_str(), 1);
  run([&] {
    EXPECT_EQ(devices(), 2);
    EXPECT_EQ(bus(0), "0000:2B:00.0");
    EXPECT_EQ(bus(1), "0000:4B:00.0");
  });
  setenv("CUDA_VISIBLE_DEVICES", "0,9,1", 1);
  run([] { EXPECT_EQ(devices(), 1) << "what comes after a wrong one is not seen"; });
}

TEST_F(SimMachine, AMigInstanceIsADeviceOfItsOwn) {
  setenv("BULKHEAD_SIM", "h200-mig", 1);
  run([] {
    EXPECT_EQ(devices(), 1) << "a process sees one instance";
    std::size_t total = 0;
    EXPECT_EQ(CU(cuDeviceTotalMem_v2)(&total, 0), CUDA_SUCCESS);
    EXPECT_LT(total, kTotal);
    EXPECT_GT(total, 0u);
  });
}

TEST_F(SimMachine, AProfileMayBeAFile) {
  const std::string path = dir_ + "/small.toml";
  std::ofstream{path}
      << "name = \"Small\"\n[device]\ntotal_bytes = 1_073_741_824\nnvml_total_bytes = 0x48000000\n"
         "[charge]\ncontext_bytes = 104857600  # 100 MiB\n";
  setenv("BULKHEAD_SIM", path.c_str(), 1);
  run([] {
    start();
    EXPECT_EQ(shown(), 100 * kMiB);
    CUdeviceptr p = 0;
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 926 * kMiB), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 924 * kMiB), CUDA_SUCCESS);
  });
}

TEST_F(SimMachine, AProfileThatCannotBeReadIsRefused) {
  setenv("BULKHEAD_SIM", "h100", 1);
  run([] { EXPECT_NE(CU(cuInit)(0), CUDA_SUCCESS); });
  const auto wrong = [](const char* text, unsigned expected_line) {
    sim::Profile p;
    unsigned line = 0;
    EXPECT_NE(sim::parse_profile(text, std::strlen(text), p, line), nullptr) << text;
    EXPECT_EQ(line, expected_line) << text;
  };
  wrong("[device", 1);
  wrong("name = \"a\"\nnonsense", 2);
  wrong("[device]\nsmz = 3", 2);
  wrong("[device]\n\nsms = three", 3);
  wrong("[device]\nsms = 99999999999999999999", 2);
  wrong("name = no quotes", 1);
}

TEST_F(SimMachine, AnInjectedFailureComesWhenAsked) {
  setenv("BULKHEAD_SIM_FAIL", "cuMemAlloc_v2:code=2:after=1:count=2;cuMemFree*:code=700:every=2",
         1);
  run([] {
    start();
    CUdeviceptr p[4] = {};
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p[0], 1), CUDA_SUCCESS) << "after=1";
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p[1], 1), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p[1], 1), CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p[1], 1), CUDA_SUCCESS) << "count=2";
    EXPECT_EQ(CU(cuMemFree_v2)(p[0]), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemFree_v2)(p[1]), CUDA_ERROR_ILLEGAL_ADDRESS) << "every=2";
    EXPECT_EQ(CU(cuMemFree_v2)(p[1]), CUDA_SUCCESS) << "it was not freed before";
  });
}

TEST_F(SimMachine, ASlowCallIsSlowAndNvmlFailsToo) {
  setenv("BULKHEAD_SIM_FAIL", "cuMemGetInfo_v2:delay_us=20000;nvmlDeviceGetMemoryInfo:code=999", 1);
  run([] {
    start();
    timespec a{}, b{};
    clock_gettime(CLOCK_MONOTONIC, &a);
    free_bytes();
    clock_gettime(CLOCK_MONOTONIC, &b);
    EXPECT_GE((b.tv_sec - a.tv_sec) * 1'000'000'000 + b.tv_nsec - a.tv_nsec, 20'000'000);
    nvmlMemory_t m{};
    EXPECT_EQ(static_cast<int>(ML(nvmlDeviceGetMemoryInfo)(nvml_device(), &m)), 999);
  });
}

TEST_F(SimMachine, AMisspeltInjectionIsReported) {
  setenv("BULKHEAD_SIM_FAIL", "cuMemAlloc_v2:kode=2", 1);
  testing::internal::CaptureStderr();
  run([] {
    start();
    CUdeviceptr p = 0;
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 1), CUDA_SUCCESS);
  });
  EXPECT_NE(testing::internal::GetCapturedStderr().find("cannot read \"cuMemAlloc_v2:kode=2\""),
            std::string::npos);
}

}  // namespace
}  // namespace bulkhead::test
