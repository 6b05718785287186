#include "cli/probe.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/fd.h"
#include "cli/driver.h"
#include "cli/gpus.h"
#include "cli/install.h"

namespace bulkhead::cli {
namespace {

constexpr std::uint64_t kTwoMiB = 2u << 20;
using Measured = Outcome<std::vector<Calibration>>;

// What NVML says this process holds on one GPU. In another process namespace NVML shows other
// numbers than getpid(): then ours is the entry that came with the first context.
class OwnUse {
 public:
  OwnUse(const Nvml* nvml, const std::uint8_t* uuid)
      : nvml_(nvml), gpu_(nvml != nullptr ? nvml->by_uuid(uuid) : nullptr) {
    for (const NvmlProcess& p : list()) before_.push_back(p.pid);
  }
  // Bytes; nullopt: not to be told apart from others.
  [[nodiscard]] std::optional<std::uint64_t> bytes() {
    const auto now = list();
    std::optional<std::uint64_t> mine;
    unsigned fresh = 0;
    for (const NvmlProcess& p : now) {
      if (p.pid == static_cast<unsigned>(::getpid())) return p.bytes;
      if (std::find(before_.begin(), before_.end(), p.pid) != before_.end()) continue;
      ++fresh;
      mine = p.bytes;
    }
    return fresh == 1 ? mine : std::nullopt;
  }

 private:
  [[nodiscard]] std::vector<NvmlProcess> list() const {
    if (gpu_ == nullptr) return {};
    return nvml_->processes(gpu_).value_or(std::vector<NvmlProcess>{});
  }
  const Nvml* nvml_;
  nvmlDevice_t gpu_;
  std::vector<unsigned> before_;
};

// Bytes this process holds: NVML's figure, else how far the device's free memory fell.
class Meter {
 public:
  Meter(const Driver& cu, OwnUse& use) : cu_(cu), use_(use) {}
  [[nodiscard]] std::uint64_t read() {
    if (const auto bytes = use_.bytes()) return *bytes;
    std::size_t free = 0;
    std::size_t total = 0;
    return cu_.cuMemGetInfo_v2(&free, &total) == CUDA_SUCCESS ? total - free : 0;
  }
  // How much more is held than at the last call; never negative.
  std::uint64_t rise() {
    const std::uint64_t now = read();
    const std::uint64_t by = now > last_ ? now - last_ : 0;
    last_ = now;
    return by;
  }

 private:
  const Driver& cu_;
  OwnUse& use_;
  std::uint64_t last_ = 0;
};

std::uint64_t measure_alloc(const Driver& cu, Meter& meter, std::size_t bytes) {
  CUdeviceptr p = 0;
  meter.rise();
  if (cu.cuMemAlloc_v2(&p, bytes) != CUDA_SUCCESS) return 0;
  const std::uint64_t took = meter.rise();
  cu.cuMemFree_v2(p);
  return took;
}

std::uint64_t measure_array(const Driver& cu, Meter& meter) {
  CUDA_ARRAY_DESCRIPTOR d{};
  d.Width = 256;
  d.Height = 16;
  d.Format = CU_AD_FORMAT_FLOAT;
  d.NumChannels = 1;
  CUarray array = nullptr;
  meter.rise();
  if (cu.cuArrayCreate_v2(&array, &d) != CUDA_SUCCESS) return 0;
  const std::uint64_t took = meter.rise();
  cu.cuArrayDestroy(array);
  return took;
}

std::uint64_t measure_pool(const Driver& cu, CUdevice dev) {
  CUmemoryPool pool = nullptr;
  CUdeviceptr p = 0;
  std::uint64_t reserved = 0;
  if (cu.cuDeviceGetDefaultMemPool(&pool, dev) != CUDA_SUCCESS) return 0;
  if (cu.cuMemAllocAsync(&p, 1, nullptr) != CUDA_SUCCESS) return 0;
  cu.cuCtxSynchronize();
  cu.cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved);
  cu.cuMemFreeAsync(p, nullptr);
  cu.cuCtxSynchronize();
  return reserved;
}

std::uint64_t ask_vmm(const Driver& cu, CUdevice dev) {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  prop.location.id = dev;
  std::size_t bytes = 0;
  cu.cuMemGetAllocationGranularity(&bytes, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
  return bytes;
}

// False: not even a context could be made.
bool measure(const Driver& cu, CUdevice dev, OwnUse& use, Calibration& out) {
  CUcontext primary = nullptr;
  if (cu.cuDevicePrimaryCtxRetain(&primary, dev) != CUDA_SUCCESS) return false;
  cu.cuCtxSetCurrent(primary);
  Meter meter{cu, use};
  out.facts.context_bytes = use.bytes().value_or(0);
  meter.rise();
  CUcontext second = nullptr;
  if (cu.cuCtxCreate_v2(&second, 0, dev) == CUDA_SUCCESS) {
    out.facts.extra_context_bytes = meter.rise();
    cu.cuCtxDestroy_v2(second);
    cu.cuCtxSetCurrent(primary);
  }
  out.facts.small_slab_bytes = measure_alloc(cu, meter, 1);
  const std::uint64_t over = measure_alloc(cu, meter, kTwoMiB + 1);
  out.facts.alloc_granularity = over > kTwoMiB ? over - kTwoMiB : 0;
  out.facts.array_granularity = measure_array(cu, meter);
  out.facts.pool_granularity = measure_pool(cu, dev);
  out.vmm_granularity = ask_vmm(cu, dev);
  if (out.facts.context_bytes == 0) out.facts.context_bytes = out.facts.extra_context_bytes;
  cu.cuDevicePrimaryCtxRelease_v2(dev);
  return true;
}

std::string describe_gpu(const Driver& cu, const Nvml* nvml, CUdevice dev, Calibration& out) {
  CUuuid uuid{};
  std::size_t total = 0;
  char name[256] = "";
  if (cu.cuDeviceGetUuid_v2(&uuid, dev) != CUDA_SUCCESS ||
      cu.cuDeviceTotalMem_v2(&total, dev) != CUDA_SUCCESS) {
    return "the driver does not describe its own device";
  }
  cu.cuDeviceGetName(name, sizeof name - 1, dev);
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(uuid.bytes);
  const bool mig = std::strstr(name, " MIG ") != nullptr;  // "NVIDIA H200 MIG 1g.18gb"
  out.uuid = (mig ? "MIG-" : "GPU-") + uuid_digits(bytes);
  out.name = name;
  out.total_bytes = total;
  out.measured = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  OwnUse use{nvml, bytes};
  if (!measure(cu, dev, use, out)) {
    return fmt::format("no context can be made on {} ({}): it is full or in exclusive use",
                       out.uuid, out.name);
  }
  return {};
}

Measured probe_here(const std::string& simulator) {
  auto cu = open_driver(simulator);
  if (!cu.ok()) return Measured::because(cu.problem);
  auto nvml = Nvml::open(simulator);
  if (const CUresult r = cu->cuInit(0); r != CUDA_SUCCESS) {
    return Measured::because("cuInit answers " + result_text(r));
  }
  int count = 0;
  int version = 0;
  cu->cuDeviceGetCount(&count);
  cu->cuDriverGetVersion(&version);
  std::vector<Calibration> out;
  for (int i = 0; i < count; ++i) {
    CUdevice dev = 0;
    Calibration c;
    c.driver = nvml.ok() ? nvml->driver_version() : fmt::format("cuda-{}", version);
    if (cu->cuDeviceGet(&dev, i) != CUDA_SUCCESS) continue;
    const std::string problem = describe_gpu(*cu, nvml.ok() ? &*nvml : nullptr, dev, c);
    if (!problem.empty()) return Measured::because(problem);
    out.push_back(std::move(c));
  }
  return out;
}

// In the child, after fork: becomes the probe.
[[noreturn]] void become_probe(int result_fd, const std::string& simulator) {
  ::dup2(result_fd, STDOUT_FILENO);
  for (const char* name : {"BULKHEAD_TENANT", "BULKHEAD_MEMORY", "LD_PRELOAD"}) ::unsetenv(name);
  const std::string self = own_path();
  ::execl(self.c_str(), "bulkhead", "__probe", simulator.c_str(), nullptr);
  ::_exit(kExitOurs);
}

std::string read_all(int fd) {
  std::string text;
  char part[4096];
  for (ssize_t n = 0; (n = ::read(fd, part, sizeof part)) > 0 || (n < 0 && errno == EINTR);) {
    if (n > 0) text.append(part, static_cast<std::size_t>(n));
  }
  return text;
}

}  // namespace

int probe_main(const std::string& simulator) {
  auto out = probe_here(simulator);
  const std::string text =
      out.ok() ? calibration_to_json(*out) : nlohmann::json{{"problem", out.problem}}.dump() + "\n";
  return ::write(STDOUT_FILENO, text.data(), text.size()) == static_cast<ssize_t>(text.size())
             ? kExitOk
             : kExitProblem;
}

Measured probe_devices(const std::string& simulator) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Measured::because("no pipe for the probe");
  const UniqueFd from{ends[0]};
  UniqueFd to{ends[1]};
  const pid_t pid = ::fork();
  if (pid < 0) return Measured::because("no process for the probe");
  if (pid == 0) become_probe(to.get(), simulator);
  to.reset();
  const std::string text = read_all(from.get());
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  const auto answer = nlohmann::json::parse(text, nullptr, false);
  if (answer.is_object() && answer.contains("problem") && answer["problem"].is_string()) {
    return Measured::because(answer["problem"].get<std::string>());
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return Measured::because("the driver ended the process that measured it");
  }
  return calibration_from_json(text);
}

}  // namespace bulkhead::cli
