#include "gpu/nvml.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>

namespace bulkhead::gpu {
namespace {

constexpr std::uint64_t kNotAvailable = ~0ull;  // NVML_VALUE_NOT_AVAILABLE

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

struct Nvml::Functions {
  nvmlReturn_t (*init)();
  nvmlReturn_t (*driver_version)(char*, unsigned);
  nvmlReturn_t (*count)(unsigned*);
  nvmlReturn_t (*by_index)(unsigned, nvmlDevice_t*);
  nvmlReturn_t (*by_uuid)(const char*, nvmlDevice_t*);
  nvmlReturn_t (*uuid)(nvmlDevice_t, char*, unsigned);
  nvmlReturn_t (*name)(nvmlDevice_t, char*, unsigned);
  nvmlReturn_t (*memory)(nvmlDevice_t, nvmlMemory_t*);
  nvmlReturn_t (*processes)(nvmlDevice_t, unsigned*, nvmlProcessInfo_t*);
  nvmlReturn_t (*mig_mode)(nvmlDevice_t, unsigned*, unsigned*);
};

std::optional<Uuid> parse_uuid(const std::string& text) {
  if (!text.starts_with("GPU-") && !text.starts_with("MIG-")) return std::nullopt;
  Uuid out{};
  std::size_t digits = 0;
  for (const char c : text.substr(4)) {
    if (c == '-') continue;
    const int d = hex_digit(c);
    if (d < 0 || digits == 32) return std::nullopt;
    out[digits / 2] = static_cast<std::uint8_t>(out[digits / 2] << 4 | d);
    ++digits;
  }
  return digits == 32 ? std::optional{out} : std::nullopt;
}

std::string uuid_digits(const std::uint8_t* uuid) {
  std::string out;
  for (unsigned i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) out += '-';
    out += fmt::format("{:02x}", uuid[i]);
  }
  return out;
}

Outcome<Nvml> Nvml::open(const std::string& directory) {
  const std::string path = (directory.empty() ? "" : directory + "/") + "libnvidia-ml.so.1";
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return Outcome<Nvml>::because(::dlerror());
  // Asked instead of told by nvmlInit: the reason goes into our own one line.
  const char* (*sim_problem)() = nullptr;
  sim_problem = reinterpret_cast<decltype(sim_problem)>(::dlsym(library, "bulkhead_sim_problem"));
  if (sim_problem != nullptr && sim_problem() != nullptr) {
    const char* const named = std::getenv("BULKHEAD_SIM");
    const std::string profile = named != nullptr ? named : "";
    return Outcome<Nvml>::because(fmt::format("{}{}: {}", kSimulatedProblem,
                                              profile.empty() ? "" : " " + profile, sim_problem()));
  }
  static Functions f{};
  bool complete = true;
  const auto find = [&](auto& to, const char* name) {
    to = reinterpret_cast<std::remove_reference_t<decltype(to)>>(::dlsym(library, name));
    return to != nullptr;
  };
  complete &= find(f.init, "nvmlInit_v2");
  complete &= find(f.driver_version, "nvmlSystemGetDriverVersion");
  complete &= find(f.count, "nvmlDeviceGetCount_v2");
  complete &= find(f.by_index, "nvmlDeviceGetHandleByIndex_v2");
  complete &= find(f.by_uuid, "nvmlDeviceGetHandleByUUID");
  complete &= find(f.uuid, "nvmlDeviceGetUUID");
  complete &= find(f.name, "nvmlDeviceGetName");
  complete &= find(f.memory, "nvmlDeviceGetMemoryInfo");
  complete &= find(f.processes, "nvmlDeviceGetComputeRunningProcesses_v3");
  find(f.mig_mode, "nvmlDeviceGetMigMode");  // absent before CUDA 11
  if (!complete) return Outcome<Nvml>::because(path + " is too old: driver 470 or newer is needed");
  if (const nvmlReturn_t r = f.init(); r != NVML_SUCCESS) {
    return Outcome<Nvml>::because(
        fmt::format("{}: nvmlInit answers {}", path, static_cast<int>(r)));
  }
  Nvml out;
  out.next_ = &f;
  char version[96] = "";
  if (f.driver_version(version, sizeof version) == NVML_SUCCESS) out.driver_ = version;
  out.simulated_ = ::dlsym(library, "bulkhead_sim_version") != nullptr;
  return out;
}

std::vector<NvmlGpu> Nvml::gpus() const {
  std::vector<NvmlGpu> out;
  unsigned count = 0;
  if (next_->count(&count) != NVML_SUCCESS) return out;
  for (unsigned i = 0; i < count; ++i) {
    NvmlGpu gpu;
    char text[96] = "";
    if (next_->by_index(i, &gpu.handle) != NVML_SUCCESS) continue;
    if (next_->uuid(gpu.handle, text, sizeof text) != NVML_SUCCESS) continue;
    gpu.index = i;
    gpu.uuid = text;
    if (next_->name(gpu.handle, text, sizeof text) == NVML_SUCCESS) gpu.name = text;
    nvmlMemory_t memory{};
    if (next_->memory(gpu.handle, &memory) == NVML_SUCCESS) {
      gpu.total_bytes = memory.total;
      gpu.used_bytes = memory.used;
    }
    unsigned mode = 0;
    unsigned pending = 0;
    gpu.mig = next_->mig_mode != nullptr &&
              next_->mig_mode(gpu.handle, &mode, &pending) == NVML_SUCCESS && mode == 1;
    out.push_back(std::move(gpu));
  }
  return out;
}

nvmlDevice_t Nvml::by_uuid(const std::uint8_t* uuid) const {
  for (const char* prefix : {"GPU-", "MIG-"}) {
    nvmlDevice_t handle = nullptr;
    if (next_->by_uuid((prefix + uuid_digits(uuid)).c_str(), &handle) == NVML_SUCCESS)
      return handle;
  }
  return nullptr;
}

std::optional<std::vector<NvmlProcess>> Nvml::processes(nvmlDevice_t gpu) const {
  std::vector<nvmlProcessInfo_t> infos(64);
  for (int tries = 0; tries < 4; ++tries) {
    auto count = static_cast<unsigned>(infos.size());
    const nvmlReturn_t r = next_->processes(gpu, &count, infos.data());
    if (r == NVML_ERROR_INSUFFICIENT_SIZE) {
      infos.resize(count + 64);
      continue;
    }
    if (r != NVML_SUCCESS) return std::nullopt;
    std::vector<NvmlProcess> out;
    for (unsigned i = 0; i < count && i < infos.size(); ++i) {
      if (infos[i].usedGpuMemory != kNotAvailable)
        out.push_back({infos[i].pid, infos[i].usedGpuMemory});
    }
    return out;
  }
  return std::nullopt;
}

}  // namespace bulkhead::gpu
