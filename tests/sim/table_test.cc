// Every function of the driver's table, called with nothing but zeros: none may crash, before cuInit or after. Those
// not modelled are listed in not_modelled.txt; they and no other answer NOT_SUPPORTED to such a call.
#include <sys/mman.h>

#include <fstream>
#include <set>

#include "tests/sim/machine.h"

namespace bulkhead::test {
namespace {

class SimTable : public Machine {};

struct Line {
  const char* name;
  CUresult (*call)();
};

template <class R, class... A>
CUresult with_zeros(R (*f)(A...)) {
  return static_cast<CUresult>(f(A{}...));
}
#define BH_HOOK(name, since, family, ...) {#name, [] { return with_zeros(CU(name)); }},
#define BH_PASS BH_HOOK
const Line kLines[] = {
#include "abi/cuda.def"
};

#define BH_HOOK(name, since, family, ...) \
  {#name, [] { return static_cast<CUresult>(with_zeros(ML(name))); }},
#define BH_PASS BH_HOOK
#define BH_PASS_TEXT(name, since, reason, ...)
const Line kNvmlLines[] = {
#include "abi/nvml.def"
};

TEST_F(SimTable, NoFunctionCrashesBeforeInit) {
  for (const Line& line : kLines) {
    SCOPED_TRACE(line.name);
    run([&] { line.call(); });
    if (HasFailure()) return;
  }
}

TEST_F(SimTable, WhatIsNotModelledSaysSoAndNothingElseDoes) {
  std::set<std::string> expected;
  std::ifstream file{BH_SIM_TESTS "/not_modelled.txt"};
  for (std::string name; file >> name;) expected.insert(name);
  ASSERT_FALSE(expected.empty());
  // Shared with the child, so that a crash has a name.
  const char*& last = *static_cast<const char**>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  run([&] {
    CUcontext c = start();
    for (const Line& line : kLines) {
      if (CU(cuCtxGetCurrent)(&c) != CUDA_SUCCESS || c == nullptr) start();
      SCOPED_TRACE(line.name);
      last = line.name;
      EXPECT_EQ(line.call() == CUDA_ERROR_NOT_SUPPORTED, expected.contains(line.name));
      expected.erase(line.name);
    }
    EXPECT_TRUE(expected.empty()) << *expected.begin() << " is not in the table";
  });
  if (HasFailure()) std::printf("the last function called: %s\n", last);
}

TEST_F(SimTable, NoNvmlFunctionCrashes) {
  run([] {
    for (const Line& line : kNvmlLines) line.call();
    for (const Line& line : kNvmlLines) {
      ML(nvmlInit_v2)();
      line.call();
    }
  });
}

}  // namespace
}  // namespace bulkhead::test
