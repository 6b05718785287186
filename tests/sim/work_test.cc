// What the simulated device does: copies, sets, kernels, streams, events, graphs, errors.
#include <vector>

#include "kernels/kernels.h"
#include "tests/sim/machine.h"

namespace bulkhead::test {
namespace {

class SimWork : public Machine {
 protected:
  static void with_context(const std::function<void()>& body) {
    run([&] {
      start();
      body();
    });
  }
};

CUdeviceptr device_memory(std::size_t bytes) {
  CUdeviceptr p = 0;
  EXPECT_EQ(CU(cuMemAlloc_v2)(&p, bytes), CUDA_SUCCESS);
  return p;
}

template <class T>
std::vector<T> read_back(CUdeviceptr at, std::size_t n) {
  std::vector<T> v(n);
  EXPECT_EQ(CU(cuMemcpyDtoH_v2)(v.data(), at, n * sizeof(T)), CUDA_SUCCESS);
  return v;
}

CUfunction kernel(const char* name) {
  static CUmodule module = nullptr;
  CUfunction f = nullptr;
  if (module == nullptr) {
    EXPECT_EQ(CU(cuModuleLoadData)(&module, kernels::kPtx), CUDA_SUCCESS);
  }
  EXPECT_EQ(CU(cuModuleGetFunction)(&f, module, name), CUDA_SUCCESS);
  return f;
}

CUresult launch(const char* name, CUstream s, std::vector<void*> args) {
  return CU(cuLaunchKernel)(kernel(name), 4, 1, 1, 64, 1, 1, 0, s, args.data(), nullptr);
}

TEST_F(SimWork, CopiesAndSetsMoveBytes) {
  with_context([] {
    const CUdeviceptr a = device_memory(4096), b = device_memory(4096);
    std::vector<unsigned> host(1024);
    for (unsigned i = 0; i < 1024; ++i) host[i] = i;
    EXPECT_EQ(CU(cuMemcpyHtoD_v2)(a, host.data(), 4096), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemcpyDtoD_v2)(b, a, 4096), CUDA_SUCCESS);
    EXPECT_EQ(read_back<unsigned>(b, 1024), host);
    EXPECT_EQ(CU(cuMemsetD8_v2)(b, 0x5a, 4096), CUDA_SUCCESS);
    EXPECT_EQ(read_back<unsigned>(b, 1024), std::vector<unsigned>(1024, 0x5a5a5a5a));
    EXPECT_EQ(CU(cuMemsetD32_v2)(b + 4, 7, 2), CUDA_SUCCESS);
    EXPECT_EQ(read_back<unsigned>(b, 4), (std::vector<unsigned>{0x5a5a5a5a, 7, 7, 0x5a5a5a5a}));
    EXPECT_EQ(CU(cuMemcpyHtoD_v2)(a, host.data(), 8u << 20), CUDA_ERROR_INVALID_VALUE)
        << "past the end";
  });
}

TEST_F(SimWork, ArraysCopyRowsAndManagedMemoryIsTheHostsToo) {
  with_context([] {
    CUarray a = nullptr;
    const CUDA_ARRAY_DESCRIPTOR d{16, 4, CU_AD_FORMAT_UNSIGNED_INT32, 1};
    ASSERT_EQ(CU(cuArrayCreate_v2)(&a, &d), CUDA_SUCCESS);
    std::vector<unsigned> in(64), out(64);
    for (unsigned i = 0; i < 64; ++i) in[i] = i;
    CUDA_MEMCPY2D c{};
    c.srcMemoryType = CU_MEMORYTYPE_HOST;
    c.srcHost = in.data();
    c.srcPitch = 64;
    c.dstMemoryType = CU_MEMORYTYPE_ARRAY;
    c.dstArray = a;
    c.WidthInBytes = 64;
    c.Height = 4;
    EXPECT_EQ(CU(cuMemcpy2D_v2)(&c), CUDA_SUCCESS);
    CUDA_MEMCPY2D back{};
    back.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    back.srcArray = a;
    back.dstMemoryType = CU_MEMORYTYPE_HOST;
    back.dstHost = out.data();
    back.dstPitch = 64;
    back.WidthInBytes = 64;
    back.Height = 4;
    EXPECT_EQ(CU(cuMemcpy2D_v2)(&back), CUDA_SUCCESS);
    EXPECT_EQ(in, out);
    CUdeviceptr managed = 0;
    EXPECT_EQ(CU(cuMemAllocManaged)(&managed, 64, 1), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemsetD32_v2)(managed, 9, 16), CUDA_SUCCESS);
    EXPECT_EQ(reinterpret_cast<unsigned*>(managed)[15], 9u);
  });
}

TEST_F(SimWork, KernelsRunTheirTwins) {
  with_context([] {
    CUdeviceptr a = device_memory(400), b = device_memory(400), c = device_memory(400);
    std::uint64_t n = 100;
    std::vector<float> x(100), y(100);
    for (unsigned i = 0; i < 100; ++i) x[i] = static_cast<float>(i), y[i] = 2 * x[i];
    EXPECT_EQ(CU(cuMemcpyHtoD_v2)(a, x.data(), 400), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemcpyHtoD_v2)(b, y.data(), 400), CUDA_SUCCESS);
    EXPECT_EQ(launch("bh_vector_add", nullptr, {&c, &a, &b, &n}), CUDA_SUCCESS);
    const auto sum = read_back<float>(c, 100);
    for (unsigned i = 0; i < 100; ++i) EXPECT_EQ(sum[i], 3 * x[i]);
    CUfunction f = nullptr;
    CUmodule m = nullptr;
    EXPECT_EQ(CU(cuModuleLoadData)(&m, kernels::kPtx), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuModuleGetFunction)(&f, m, "no_such_kernel"), CUDA_ERROR_NOT_FOUND);
    EXPECT_EQ(CU(cuModuleLoadData)(&m, "no module"), CUDA_ERROR_INVALID_IMAGE);
  });
}

TEST_F(SimWork, EventsOrderStreamsAndTellTheModelledTime) {
  with_context([] {
    CUstream s = nullptr, t = nullptr;
    CUevent before = nullptr, after = nullptr;
    std::uint64_t ns = 5'000'000;
    ASSERT_EQ(CU(cuStreamCreate)(&s, 1), CUDA_SUCCESS);
    ASSERT_EQ(CU(cuStreamCreate)(&t, 1), CUDA_SUCCESS);
    ASSERT_EQ(CU(cuEventCreate)(&before, 0), CUDA_SUCCESS);
    ASSERT_EQ(CU(cuEventCreate)(&after, 0), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuEventRecord)(before, s), CUDA_SUCCESS);
    EXPECT_EQ(launch("bh_spin", s, {&ns}), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuEventRecord)(after, s), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuStreamWaitEvent)(t, after, 0), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuStreamSynchronize)(t), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuEventQuery)(after), CUDA_SUCCESS);
    float ms = 0;
    EXPECT_EQ(CU(cuEventElapsedTime)(&ms, before, after), CUDA_SUCCESS);
    EXPECT_GE(ms, 5.0F);
    EXPECT_EQ(CU(cuStreamDestroy_v2)(s), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuStreamSynchronize)(s), CUDA_ERROR_INVALID_HANDLE) << "destroyed";
  });
}

TEST_F(SimWork, InTimedModeWorkIsNotReadyUntilItsTimeHasPassed) {
  setenv("BULKHEAD_SIM_TIMED", "1", 1);
  with_context([] {
    std::uint64_t hour_ns = 3'600'000'000'000, short_ns = 1'000'000;
    CUstream s = nullptr, t = nullptr;
    ASSERT_EQ(CU(cuStreamCreate)(&s, 1), CUDA_SUCCESS);
    ASSERT_EQ(CU(cuStreamCreate)(&t, 1), CUDA_SUCCESS);
    EXPECT_EQ(launch("bh_spin", s, {&hour_ns}), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuStreamQuery)(s), CUDA_ERROR_NOT_READY);
    EXPECT_EQ(launch("bh_spin", t, {&short_ns}), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuStreamSynchronize)(t), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuStreamQuery)(t), CUDA_SUCCESS);
  });
}

TEST_F(SimWork, ACaptureBecomesAGraphThatRepeatsTheWork) {
  with_context([] {
    CUstream s = nullptr;
    CUgraph g = nullptr;
    CUgraphExec exec = nullptr;
    CUdeviceptr a = device_memory(64), b = device_memory(64);
    ASSERT_EQ(CU(cuStreamCreate)(&s, 1), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemsetD32_v2)(a, 1, 16), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemsetD32_v2)(b, 0, 16), CUDA_SUCCESS);
    ASSERT_EQ(CU(cuStreamBeginCapture_v2)(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), CUDA_SUCCESS);
    std::uint64_t n = 16;
    EXPECT_EQ(launch("bh_copy", s, {&b, &a, &n}), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemsetD32Async)(a, 5, 16, s), CUDA_SUCCESS);
    ASSERT_EQ(CU(cuStreamEndCapture)(s, &g), CUDA_SUCCESS);
    EXPECT_EQ(read_back<unsigned>(b, 1)[0], 0u) << "captured, not done";
    std::size_t nodes = 0;
    EXPECT_EQ(CU(cuGraphGetNodes)(g, nullptr, &nodes), CUDA_SUCCESS);
    EXPECT_EQ(nodes, 2u);
    ASSERT_EQ(CU(cuGraphInstantiateWithFlags)(&exec, g, 0), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuGraphLaunch)(exec, s), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuStreamSynchronize)(s), CUDA_SUCCESS);
    EXPECT_EQ(read_back<unsigned>(b, 16), std::vector<unsigned>(16, 1));
    EXPECT_EQ(CU(cuGraphLaunch)(exec, s), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuStreamSynchronize)(s), CUDA_SUCCESS);
    EXPECT_EQ(read_back<unsigned>(b, 16), std::vector<unsigned>(16, 5));
  });
}

TEST_F(SimWork, AGlobalCaptureForbidsPlainAllocation) {
  with_context([] {
    CUstream s = nullptr;
    CUgraph g = nullptr;
    CUdeviceptr p = 0;
    ASSERT_EQ(CU(cuStreamCreate)(&s, 1), CUDA_SUCCESS);
    ASSERT_EQ(CU(cuStreamBeginCapture_v2)(s, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 100), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    EXPECT_EQ(CU(cuStreamEndCapture)(s, &g), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 100), CUDA_SUCCESS);
  });
}

TEST_F(SimWork, AFaultComesLateAndStaysUntilAReset) {
  with_context([] {
    CUdeviceptr p = 0;
    EXPECT_EQ(launch("bh_fault", nullptr, {}), CUDA_SUCCESS) << "the launch itself is not refused";
    EXPECT_EQ(CU(cuCtxSynchronize)(), CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 100), CUDA_ERROR_ILLEGAL_ADDRESS) << "sticky";
    EXPECT_EQ(CU(cuDevicePrimaryCtxReset_v2)(0), CUDA_SUCCESS);
    start();
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 100), CUDA_SUCCESS);
  });
}

TEST_F(SimWork, TheResolverAnswersExportedAddressesOnly) {
  run([] {
    void* at = nullptr;
    CUdriverProcAddressQueryResult found{};
    EXPECT_EQ(CU(cuGetProcAddress_v2)("cuMemAlloc", &at, 13000, 0, &found), CUDA_SUCCESS);
    EXPECT_EQ(at, symbol("libcuda.so.1", "cuMemAlloc_v2"));
    EXPECT_EQ(CU(cuGetProcAddress_v2)("cuMemcpyAsync", &at, 13000,
                                      CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, &found),
              CUDA_SUCCESS);
    EXPECT_EQ(at, symbol("libcuda.so.1", "cuMemcpyAsync_ptsz"));
    EXPECT_EQ(CU(cuGetProcAddress_v2)("cuNoSuchThing", &at, 13000, 0, &found), CUDA_SUCCESS);
    EXPECT_EQ(found, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    EXPECT_EQ(at, nullptr);
    EXPECT_EQ(CU(cuGetProcAddress_v2)("cuNoSuchThing", &at, 13000, 0, nullptr),
              CUDA_ERROR_NOT_FOUND);
  });
}

}  // namespace
}  // namespace bulkhead::test
