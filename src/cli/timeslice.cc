#include "cli/timeslice.h"

#include <dlfcn.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>

#include "abi/cuda_types.h"
#include "abi/table_macros.h"
#include "cli/child.h"
#include "cli/install.h"
#include "kernels/kernels.h"

namespace bulkhead::cli {
namespace {

constexpr int kPatience_ms = 60'000;
constexpr unsigned kOperations = 3'000;  // some 35 rounds of an H200's
constexpr std::uint64_t kOperation_ns = 30'000;

#define BH_FUNCTIONS(X)       \
  X(cuInit)                   \
  X(cuDeviceGet)              \
  X(cuDevicePrimaryCtxRetain) \
  X(cuCtxSetCurrent)          \
  X(cuCtxSynchronize)         \
  X(cuModuleLoadData)         \
  X(cuModuleGetFunction) X(cuLaunchKernel) X(cuEventCreate) X(cuEventRecord) X(cuEventElapsedTime)
#define BH_HOOK(name, since, family, ...) using name##_type = CUresult(BH_PARAMS(__VA_ARGS__));
#define BH_PASS(name, since, family, ...) using name##_type = CUresult(BH_PARAMS(__VA_ARGS__));
#include "abi/cuda.def"

[[noreturn]] void give_up(const std::string& what) {
  fmt::print("problem {}\n", what);
  std::fflush(stdout);
  ::_exit(1);
}
void must(CUresult r, const char* what) {
  if (r != CUDA_SUCCESS) give_up(fmt::format("{} answers {}", what, static_cast<int>(r)));
}

struct Device {
#define X(name) name##_type* name = nullptr;
  BH_FUNCTIONS(X)
#undef X
  CUfunction spin{};

  explicit Device(const std::string& simulator) {
    const std::string path = (simulator.empty() ? "" : simulator + "/") + "libcuda.so.1";
    void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) give_up("libcuda.so.1 cannot be loaded");
#define X(name)                                                   \
  name = reinterpret_cast<name##_type*>(::dlsym(library, #name)); \
  if (name == nullptr) give_up("libcuda has no " #name);
    BH_FUNCTIONS(X)
#undef X
    CUdevice dev = 0;
    CUcontext context{};
    CUmodule module{};
    must(cuInit(0), "cuInit");
    must(cuDeviceGet(&dev, 0), "cuDeviceGet");
    must(cuDevicePrimaryCtxRetain(&context, dev), "cuDevicePrimaryCtxRetain");
    must(cuCtxSetCurrent(context), "cuCtxSetCurrent");
    must(cuModuleLoadData(&module, kernels::kPtx), "cuModuleLoadData");
    must(cuModuleGetFunction(&spin, module, "bh_spin"), "cuModuleGetFunction");
  }
  void operation() {
    std::uint64_t ns = kOperation_ns;
    void* args[] = {&ns};
    must(cuLaunchKernel(spin, 1, 1, 1, 32, 1, 1, 0, nullptr, args, nullptr), "cuLaunchKernel");
  }
};

void say_ready(Device& d) {
  d.operation();
  must(d.cuCtxSynchronize(), "cuCtxSynchronize");
  fmt::print("ready\n");
  std::fflush(stdout);
}

// Never rests until its input ends: the driver's own queue holds it up.
void load(Device& d) {
  say_ready(d);
  for (pollfd in{0, POLLIN, 0}; ::poll(&in, 1, 0) == 0;)
    for (int i = 0; i < 32; ++i) d.operation();
}

void watch(Device& d) {
  std::vector<CUevent> ends(kOperations + 1);
  for (CUevent& e : ends) must(d.cuEventCreate(&e, 0), "cuEventCreate");
  say_ready(d);
  must(d.cuEventRecord(ends[0], nullptr), "cuEventRecord");
  for (unsigned i = 1; i <= kOperations; ++i) {
    d.operation();
    must(d.cuEventRecord(ends[i], nullptr), "cuEventRecord");
  }
  must(d.cuCtxSynchronize(), "cuCtxSynchronize");
  std::vector<std::uint64_t> at;
  for (unsigned i = 1; i <= kOperations; ++i) {
    float ms = 0;
    must(d.cuEventElapsedTime(&ms, ends[0], ends[i]), "cuEventElapsedTime");
    at.push_back(static_cast<std::uint64_t>(static_cast<double>(ms) * 1e6));
  }
  const gpu::Rounds r = gpu::rounds_of(at);
  if (r.count == 0) give_up(r.why);
  fmt::print("slice {} {} {}\n", r.slice_ns, r.loss_x1000, r.count);
}

gpu::TimeSlice measure(const Machine& machine, const gpu::NvmlGpu& gpu) {
  gpu::TimeSlice out;
  out.uuid = gpu.uuid;
  out.driver = machine.nvml->driver_version();
  out.measured = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  Variables env{{"LD_PRELOAD", ""},
                {"BULKHEAD_TENANT", ""},
                {"BULKHEAD_MEMORY", ""},
                {"CUDA_MPS_PIPE_DIRECTORY", "/nonexistent"},  // no MPS: contexts take turns
                {"CUDA_VISIBLE_DEVICES", gpu.uuid}};
  if (machine.simulated) env.emplace_back("BULKHEAD_SIM_TIMED", "1");
  const auto command = [&](const char* what) {
    return std::vector<std::string>{own_path(), "__timeslice", what, machine.simulator};
  };
  Talk other{command("load"), env};
  out.evidence = other.line(kPatience_ms);
  if (out.evidence != "ready") return out;
  Talk watcher{command("watch"), env};
  out.evidence = watcher.line(kPatience_ms);
  if (out.evidence == "ready") out.evidence = watcher.line(kPatience_ms);
  other.end_input();
  unsigned long long slice = 0;
  unsigned loss = 0, rounds = 0;
  if (std::sscanf(out.evidence.c_str(), "slice %llu %u %u", &slice, &loss, &rounds) != 3)
    return out;
  out.slice_ns = slice;
  out.loss_x1000 = loss;
  out.evidence = fmt::format("{} turns of two contexts that never rest", rounds);
  return out;
}

}  // namespace

std::string measure_time_slices(const Machine& machine, std::vector<gpu::TimeSlice>& out) {
  if (!machine.nvml) return machine.nvml_problem;
  for (const gpu::NvmlGpu& gpu : machine.nvml->gpus()) {
    out.push_back(measure(machine, gpu));
    if (std::string p = gpu::keep_time_slice(machine.state, out.back()); !p.empty()) return p;
  }
  return {};
}

int time_slice_worker(const std::string& what, const std::string& simulator) {
  if (what != "load" && what != "watch") return 2;
  Device d{simulator};
  what == "load" ? load(d) : watch(d);
  std::fflush(stdout);
  ::_exit(0);  // the driver's own end is not under test
}

}  // namespace bulkhead::cli
