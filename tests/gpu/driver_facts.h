// What the parts of driver_facts.cc have in common: both libraries, what NVML shows of this process, and a line a fact.
// For that one source only.
#pragma once
#include <cuda.h>
#include <dlfcn.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace {

struct NvmlProc {
  unsigned pid;
  unsigned long long used;
  unsigned gi, ci;
};
struct NvmlMem {
  unsigned long long total, free, used;
};
void* cuda_lib;
void* nvml_lib;
template <class F>
F sym(void* lib, const char* name) {
  void* p = ::dlsym(lib, name);
  if (p == nullptr) std::fprintf(stderr, "missing %s\n", name);
  return reinterpret_cast<F>(p);
}
#define CU(name) static auto p_##name = sym<decltype(&::name)>(cuda_lib, BH_STR(name))
#define BH_STR2(x) #x
#define BH_STR(x) BH_STR2(x)
#define CK(call)                                                                             \
  do {                                                                                       \
    const CUresult r_ = (call);                                                              \
    if (r_ != CUDA_SUCCESS) std::printf("{\"error\":\"%s\",\"code\":%d}\n", #call, (int)r_); \
  } while (0)

void* nvml_dev;
int (*nvml_procs)(void*, unsigned*, NvmlProc*);
int (*nvml_mem)(void*, NvmlMem*);

unsigned long long mine() {
  NvmlProc list[128];
  unsigned n = 128;
  if (nvml_procs(nvml_dev, &n, list) != 0) return ~0ull;
  for (unsigned i = 0; i < n; ++i)
    if (list[i].pid == (unsigned)::getpid()) return list[i].used;
  return 0;
}
unsigned long long device_used() {
  NvmlMem m{};
  nvml_mem(nvml_dev, &m);
  return m.used;
}
double now_us() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}
size_t cu_free() {
  CU(cuMemGetInfo);
  size_t f = 0, t = 0;
  CK(p_cuMemGetInfo(&f, &t));
  return f;
}
void fact(const char* what, unsigned long long before) {
  const auto after = mine();
  std::printf(
      "{\"fact\":\"%s\",\"nvml_delta\":%lld,\"nvml\":%llu,\"cu_free\":%zu,\"device_used\":%llu}\n",
      what, (long long)(after - before), after, cu_free(), device_used());
  std::fflush(stdout);
}
template <class F>
void timing(const char* what, int n, F f) {
  std::vector<double> v;
  for (int i = 0; i < n; ++i) {
    const double a = now_us();
    for (int k = 0; k < 16; ++k) f();
    v.push_back((now_us() - a) * 1000 / 16);
  }
  std::sort(v.begin(), v.end());
  std::printf("{\"time\":\"%s\",\"p50_ns\":%.1f,\"p99_ns\":%.1f}\n", what, v[v.size() / 2],
              v[v.size() * 99 / 100]);
}

const char* kPtx = R"(.version 7.0
.target sm_70
.address_size 64
.visible .entry nop() { ret; }
.visible .entry big_local(.param .u64 p) {
  .local .align 16 .b8 buf[65536];
  .reg .u64 %rd<6>; .reg .u32 %r<3>;
  ld.param.u64 %rd1, [p];
  mov.u64 %rd2, buf; cvta.local.u64 %rd2, %rd2;
  mov.u32 %r1, %tid.x; cvt.u64.u32 %rd3, %r1; add.u64 %rd4, %rd2, %rd3;
  st.u8 [%rd4], %r1; ld.u8 %r2, [%rd4+64]; st.global.u8 [%rd1], %r2; ret; }
)";

}  // namespace
