// Prints, as JSON lines, the facts about one driver and device that the charge model rests on: what each API form takes
// from the device as seen from outside (NVML, per process), what the context costs, and how long the queries take.
// Needs a real GPU and the vendor's cuda.h. Build: g++ -std=c++20 -O2 driver_facts.cc -I$CUDA/include -ldl
#include "driver_facts.h"

#include "driver_facts_forms.h"

namespace {

void resolver(const char* names_file) {
  CU(cuGetProcAddress_v2);
  std::FILE* f = std::fopen(names_file, "r");
  if (f == nullptr) return;
  std::set<void*> known;
  std::vector<std::string> names;
  char line[256];
  while (std::fgets(line, sizeof line, f) != nullptr) {
    line[std::strcspn(line, "\n")] = 0;
    names.emplace_back(line);
    known.insert(::dlsym(cuda_lib, line));
  }
  int asked = 0, answered = 0, same = 0;
  std::set<std::string> odd;
  for (auto n : names) {
    for (const char* suffix : {"_ptsz", "_ptds"}) {
      const size_t k = std::strlen(suffix);
      if (n.size() > k && n.compare(n.size() - k, k, suffix) == 0) n.resize(n.size() - k);
    }
    const auto us = n.rfind("_v");
    if (us != std::string::npos && us + 3 == n.size()) n.resize(us);
    for (int v : {2000, 3020, 4000, 5050, 6050, 7000, 8000, 9000, 10000, 10020, 11000, 11020, 11040,
                  11060, 12000, 12020, 12040, 12080, 13000})
      for (cuuint64_t fl : {0ull, 1ull, 2ull}) {
        void* p = nullptr;
        CUdriverProcAddressQueryResult q{};
        ++asked;
        if (p_cuGetProcAddress_v2(n.c_str(), &p, v, fl, &q) != CUDA_SUCCESS || p == nullptr)
          continue;
        ++answered;
        if (known.count(p))
          ++same;
        else
          odd.insert(n);
      }
  }
  std::printf("{\"resolver_asked\":%d,\"answered\":%d,\"pointer_is_exported_symbol\":%d,\"odd\":[",
              asked, answered, same);
  for (auto& o : odd) std::printf("\"%s\",", o.c_str());
  std::printf("\"\"]}\n");
}

void death(size_t bytes) {
  int ready[2];
  if (::pipe(ready) != 0) return;
  const pid_t child = ::fork();
  if (child == 0) {
    cuda_lib = ::dlopen("libcuda.so.1", RTLD_NOW);
    auto init = sym<CUresult (*)(unsigned)>(cuda_lib, "cuInit");
    auto retain = sym<CUresult (*)(CUcontext*, CUdevice)>(cuda_lib, "cuDevicePrimaryCtxRetain");
    auto set = sym<CUresult (*)(CUcontext)>(cuda_lib, "cuCtxSetCurrent");
    auto alloc = sym<CUresult (*)(CUdeviceptr*, size_t)>(cuda_lib, "cuMemAlloc_v2");
    init(0);
    CUcontext c{};
    retain(&c, 0);
    set(c);
    CUdeviceptr p = 0;
    for (size_t i = 0; i < bytes; i += 1ul << 30) alloc(&p, 1ul << 30);
    char x = 1;
    if (::write(ready[1], &x, 1) != 1) ::_exit(1);
    ::pause();
    ::_exit(0);
  }
  char x = 0;
  if (::read(ready[0], &x, 1) != 1) return;
  const int fd = (int)::syscall(SYS_pidfd_open, child, 0);
  const auto held = device_used();
  const double t0 = now_us();
  ::kill(child, SIGKILL);
  pollfd pf{fd, POLLIN, 0};
  ::poll(&pf, 1, 10000);
  const double t1 = now_us();
  const auto at_pidfd = device_used();
  double t2 = 0;
  for (int i = 0; i < 20000; ++i) {
    if (device_used() + bytes <= held) {
      t2 = now_us();
      break;
    }
  }
  ::waitpid(child, nullptr, 0);
  std::printf(
      "{\"death\":%zu,\"kill_to_pidfd_ms\":%.2f,\"pidfd_to_memory_back_ms\":%.3f,\"freed_at_"
      "pidfd\":%lld}\n",
      bytes, (t1 - t0) / 1000, (t2 - t1) / 1000, (long long)(held - at_pidfd));
}

}  // namespace

int main(int argc, char** argv) {
  nvml_lib = ::dlopen("libnvidia-ml.so.1", RTLD_NOW);
  const double n0 = now_us();
  sym<int (*)()>(nvml_lib, "nvmlInit_v2")();
  std::printf("{\"time\":\"nvmlInit_v2\",\"us\":%.0f}\n", now_us() - n0);
  sym<int (*)(unsigned, void**)>(nvml_lib, "nvmlDeviceGetHandleByIndex_v2")(0, &nvml_dev);
  nvml_procs = sym<int (*)(void*, unsigned*, NvmlProc*)>(nvml_lib,
                                                         "nvmlDeviceGetComputeRunningProcesses_v3");
  nvml_mem = sym<int (*)(void*, NvmlMem*)>(nvml_lib, "nvmlDeviceGetMemoryInfo");
  NvmlMem m{};
  nvml_mem(nvml_dev, &m);
  std::printf("{\"nvml_total\":%llu,\"nvml_used\":%llu,\"nvml_free\":%llu}\n", m.total, m.used,
              m.free);
  death(6ul << 30);
  cuda_lib = ::dlopen("libcuda.so.1", RTLD_NOW);
  CU(cuInit);
  double t = now_us();
  CK(p_cuInit(0));
  std::printf("{\"time\":\"cuInit\",\"us\":%.0f,\"nvml\":%llu}\n", now_us() - t, mine());
  CU(cuDeviceTotalMem);
  size_t total = 0;
  CK(p_cuDeviceTotalMem(&total, 0));
  CU(cuDevicePrimaryCtxRetain);
  CU(cuCtxSetCurrent);
  CUcontext c{};
  t = now_us();
  CK(p_cuDevicePrimaryCtxRetain(&c, 0));
  std::printf("{\"time\":\"primary ctx\",\"us\":%.0f}\n", now_us() - t);
  CK(p_cuCtxSetCurrent(c));
  std::printf(
      "{\"cuDeviceTotalMem\":%zu,\"nvml_after_ctx\":%llu,\"cu_free\":%zu,\"device_used\":%llu}\n",
      total, mine(), cu_free(), device_used());
  timing("nvml processes", 50, [&] { (void)mine(); });
  timing("nvml memory", 50, [&] { (void)device_used(); });
  timing("cuMemGetInfo", 200, [&] { (void)cu_free(); });
  CU(cuCtxGetDevice);
  CU(cuCtxGetCurrent);
  timing("cuCtxGetDevice", 2000, [&] {
    CUdevice d = 0;
    p_cuCtxGetDevice(&d);
  });
  timing("cuCtxGetCurrent", 2000, [&] {
    CUcontext d{};
    p_cuCtxGetCurrent(&d);
  });
  CU(cuModuleLoadData);
  CU(cuModuleGetFunction);
  CU(cuLaunchKernel);
  CU(cuCtxSynchronize);
  CU(cuMemAlloc);
  CU(cuCtxSetLimit);
  auto before = mine();
  CUmodule mod{};
  CK(p_cuModuleLoadData(&mod, kPtx));
  fact("module load", before);
  CUfunction nop{}, big{};
  CK(p_cuModuleGetFunction(&nop, mod, "nop"));
  fact("get function", before);
  CK(p_cuLaunchKernel(nop, 1, 1, 1, 32, 1, 1, 0, nullptr, nullptr, nullptr));
  CK(p_cuCtxSynchronize());
  fact("first kernel", before);
  before = mine();
  CUdeviceptr p = 0;
  CK(p_cuMemAlloc(&p, 64));
  fact("one 64 B alloc", before);
  plain();
  pitch_managed();
  fact("after managed", before);
  pools();
  vmm();
  arrays();
  graphs();
  CU(cuCtxCreate);
  CU(cuCtxDestroy);
  before = mine();
  CUcontext c2{};
#if CUDA_VERSION >= 13000
  CK(p_cuCtxCreate(&c2, nullptr, 0, 0));
#else
  CK(p_cuCtxCreate(&c2, 0, 0));
#endif
  fact("second context", before);
  CK(p_cuMemAlloc(&p, 64));
  fact("64 B in second context", before);
  CK(p_cuCtxDestroy(c2));
  fact("second context destroyed", before);
  CK(p_cuCtxSetCurrent(c));
  before = mine();
  CK(p_cuModuleGetFunction(&big, mod, "big_local"));
  void* args[] = {&p};
  CK(p_cuMemAlloc(&p, 4096));
  CK(p_cuLaunchKernel(big, 132 * 8, 1, 1, 256, 1, 1, 0, nullptr, args, nullptr));
  CK(p_cuCtxSynchronize());
  fact("local memory kernel (64 KiB a thread)", before);
  before = mine();
  CK(p_cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, 256 << 20));
  fact("heap limit 256 MiB set", before);
  CK(p_cuLaunchKernel(nop, 1, 1, 1, 32, 1, 1, 0, nullptr, nullptr, nullptr));
  CK(p_cuCtxSynchronize());
  fact("heap limit then launch", before);
  CU(cuStreamCreate);
  CU(cuStreamDestroy);
  before = mine();
  std::vector<CUstream> st(64);
  for (auto& s : st) CK(p_cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  fact("64 streams", before);
  for (auto s : st) CK(p_cuLaunchKernel(nop, 1, 1, 1, 32, 1, 1, 0, s, nullptr, nullptr));
  CK(p_cuCtxSynchronize());
  fact("64 streams used", before);
  CU(cuMemHostAlloc);
  void* h = nullptr;
  before = mine();
  CK(p_cuMemHostAlloc(&h, 256 << 20, 0));
  fact("host alloc 256 MiB", before);
  if (argc > 1) resolver(argv[1]);
  CU(cuDevicePrimaryCtxReset);
  before = mine();
  CK(p_cuDevicePrimaryCtxReset(0));
  std::printf("{\"fact\":\"primary reset\",\"nvml\":%llu}\n", mine());
  CK(p_cuDevicePrimaryCtxRetain(&c, 0));
  std::printf("{\"fact\":\"primary again\",\"nvml\":%llu}\n", mine());
  return 0;
}
