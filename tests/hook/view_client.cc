// What a program is told, by the driver and by NVML, on the simulator.
//     view_client uuids          NVML only: each device's UUID as text
//     view_client nvml           NVML only: memory, processes
//     view_client cuda [MiB]     a context on device 0 and an allocation; then both views; then waits
#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "abi/nvml_types.h"
#include "tests/hook/client.h"

namespace {

void* driver = nullptr;
void* nvml = nullptr;
template <class Fn>
Fn cuda(const char* name) {
  return reinterpret_cast<Fn>(dlsym(driver, name));
}
template <class... A>
nvmlReturn_t call(const char* name, A... args) {
  void* fn = dlsym(nvml, name);
  if (fn == nullptr) return NVML_ERROR_FUNCTION_NOT_FOUND;
  return reinterpret_cast<nvmlReturn_t (*)(A...)>(fn)(args...);
}

template <class Info>
void list(nvmlDevice_t d, const char* function, const char* key) {
  unsigned count = 0;
  say("asked", call(function, d, &count, static_cast<Info*>(nullptr)));
  Info infos[64];
  unsigned room = 64;
  say("listed", call(function, d, &room, infos));
  for (unsigned i = 0; i < room; ++i) {
    say(key, infos[i].pid);
    say("process_used", infos[i].usedGpuMemory);
  }
}

void show(nvmlDevice_t d) {
  nvmlMemory_t one{};
  say("v1", call("nvmlDeviceGetMemoryInfo", d, &one));
  say("v1_total", one.total);
  say("v1_used", one.used);
  say("v1_free", one.free);
  nvmlMemory_v2_t two{};
  two.version = nvmlMemory_v2;
  say("v2", call("nvmlDeviceGetMemoryInfo_v2", d, &two));
  say("v2_total", two.total);
  say("v2_used", two.used);
  say("v2_reserved", two.reserved);
  list<nvmlProcessInfo_v1_t>(d, "nvmlDeviceGetComputeRunningProcesses", "pid_v1");
  list<nvmlProcessInfo_t>(d, "nvmlDeviceGetComputeRunningProcesses_v3", "pid_v3");
  nvmlUtilization_t rates{~0u, ~0u};
  say("rates", call("nvmlDeviceGetUtilizationRates", d, &rates));
  say("rate", rates.gpu);
}

void each_device(bool text_only) {
  unsigned count = 0;
  call("nvmlDeviceGetCount_v2", &count);
  for (unsigned i = 0; i < count; ++i) {
    nvmlDevice_t d = nullptr;
    call("nvmlDeviceGetHandleByIndex_v2", i, &d);
    char uuid[96] = "";
    call("nvmlDeviceGetUUID", d, uuid, 96u);
    if (text_only) {
      std::puts(uuid);
    } else {
      show(d);
    }
  }
}

int with_cuda(unsigned long long mib) {
  driver = dlopen("libcuda.so.1", RTLD_NOW);
  CUcontext context = nullptr;
  int count = 0;
  size_t free = 0, total = 0;
  say("init", cuda<Init>("cuInit")(0));
  cuda<CUresult (*)(int*)>("cuDeviceGetCount")(&count);
  for (int i = 0; i < count; ++i) {
    cuda<TotalMem>("cuDeviceTotalMem_v2")(&total, i);
    say("total", total);
  }
  say("context",
      cuda<CUresult (*)(CUcontext*, unsigned, CUdevice)>("cuCtxCreate_v2")(&context, 0, 0));
  CUdeviceptr p = 0;
  if (mib != 0) {
    say("alloc", cuda<CUresult (*)(CUdeviceptr*, size_t)>("cuMemAlloc_v2")(&p, mib << 20));
  }
  say("info", cuda<CUresult (*)(size_t*, size_t*)>("cuMemGetInfo_v2")(&free, &total));
  say("info_free", free);
  say("info_total", total);
  CUuuid uuid{};
  cuda<CUresult (*)(CUuuid*, CUdevice)>("cuDeviceGetUuid_v2")(&uuid, 0);
  for (const char c : uuid.bytes) std::printf("%02x", static_cast<unsigned char>(c));
  std::puts("=uuid");
  say("ready", static_cast<unsigned long long>(getpid()));
  std::fflush(stdout);
  static_cast<void>(std::getchar());
  return 0;
}

}  // namespace

int main(int count, char** args) {
  nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW);
  const char* way = count > 1 ? args[1] : "";
  if (!std::strcmp(way, "cuda")) {
    const int r = with_cuda(count > 2 ? std::strtoull(args[2], nullptr, 10) : 0);
    if (call("nvmlInit_v2") == NVML_SUCCESS) each_device(false);
    std::fflush(stdout);
    static_cast<void>(std::getchar());
    return r;
  }
  say("nvml_init", call("nvmlInit_v2"));
  each_device(std::strcmp(way, "uuids") == 0);
}
