// The tables expand with our own types, whatever is installed: the same expansions that exports,
// next-pointers and the simulator's stubs are made of.
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <type_traits>

#include "abi/cuda_types.h"
#include "abi/nvml_types.h"
#include "abi/table_macros.h"

namespace {

// Every line makes a pointer of the function's type, as a table of the driver's own functions
// needs.
struct Next {
#define BH_HOOK(name, since, word, ...) CUresult (*name)(BH_TYPES(__VA_ARGS__)) noexcept = nullptr;
#define BH_PASS BH_HOOK
#include "abi/cuda.def"
#define BH_HOOK(name, since, word, ...) \
  nvmlReturn_t (*name)(BH_TYPES(__VA_ARGS__)) noexcept = nullptr;
#define BH_PASS BH_HOOK
#define BH_PASS_TEXT(name, since, word, ...) \
  const char* (*name)(BH_TYPES(__VA_ARGS__)) noexcept = nullptr;
#include "abi/nvml.def"
};

// Every hooked line makes a forwarding function, as an export does.
#define BH_HOOK(name, since, word, ...)                                           \
  [[maybe_unused]] CUresult forward_##name(const Next& next __VA_OPT__(, )        \
                                               BH_PARAMS(__VA_ARGS__)) noexcept { \
    return next.name(BH_ARGS(__VA_ARGS__));                                       \
  }
#include "abi/cuda.def"

struct Line {
  const char* name;
  bool hook;
  int since;
  int params;
};
constexpr Line kCuda[] = {
#define BH_HOOK(name, since, word, ...) {#name, true, since, BH_COUNT(__VA_ARGS__)},
#define BH_PASS(name, since, word, ...) {#name, false, since, BH_COUNT(__VA_ARGS__)},
#include "abi/cuda.def"
};

const Line* find(const std::string& name) {
  for (const Line& line : kCuda) {
    if (name == line.name) return &line;
  }
  return nullptr;
}

TEST(Tables, HoldEachNameOnce) {
  std::set<std::string> names;
  for (const Line& line : kCuda) EXPECT_TRUE(names.insert(line.name).second) << line.name;
  EXPECT_EQ(names.size(), 637u);
}

TEST(Tables, CountParameters) {
  EXPECT_EQ(find("cuCtxGetCurrent")->params, 1);
  EXPECT_EQ(find("cuCtxSynchronize")->params, 0);
  EXPECT_EQ(find("cuLaunchKernel")->params, 11);
  EXPECT_EQ(find("cuTensorMapEncodeIm2colWide")->params, 16);
}

// The resolver picks the newest entry point whose version is not above the one asked for.
TEST(Tables, OrderVersionsOfOneName) {
  EXPECT_EQ(find("cuMemAlloc")->since, 2000);
  EXPECT_EQ(find("cuMemAlloc_v2")->since, 3020);
  EXPECT_EQ(find("cuCtxCreate_v4")->since, 12050);
  EXPECT_EQ(find("cuStreamGetCaptureInfo_v3")->since, 12030);
  EXPECT_LT(find("cuGetProcAddress")->since, find("cuGetProcAddress_v2")->since);
}

TEST(Tables, ForwardToTheDriversFunction) {
  Next next;
  next.cuMemAlloc_v2 = [](CUdeviceptr* dptr, size_t bytes) noexcept -> CUresult {
    *dptr = bytes + 1;
    return CUDA_ERROR_OUT_OF_MEMORY;
  };
  CUdeviceptr pointer = 0;
  EXPECT_EQ(forward_cuMemAlloc_v2(next, &pointer, 41), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(pointer, 42u);
}

static_assert(std::is_same_v<decltype(Next::nvmlShutdown), nvmlReturn_t (*)() noexcept>);
static_assert(
    std::is_same_v<decltype(Next::nvmlErrorString), const char* (*)(nvmlReturn_t) noexcept>);

}  // namespace
