#include "gpu/nvml.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
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
  nvmlReturn_t (*memory_v2)(nvmlDevice_t, nvmlMemory_v2_t*);
  nvmlReturn_t (*processes)(nvmlDevice_t, unsigned*, nvmlProcessInfo_t*);
  nvmlReturn_t (*mig_mode)(nvmlDevice_t, unsigned*, unsigned*);
  nvmlReturn_t (*mig_count)(nvmlDevice_t, unsigned*);
  nvmlReturn_t (*mig_handle)(nvmlDevice_t, unsigned, nvmlDevice_t*);
  nvmlReturn_t (*graphics)(nvmlDevice_t, unsigned*, nvmlProcessInfo_t*);
  nvmlReturn_t (*mps)(nvmlDevice_t, unsigned*, nvmlProcessInfo_t*);
  nvmlReturn_t (*utilisation)(nvmlDevice_t, nvmlUtilization_t*);
  nvmlReturn_t (*shares)(nvmlDevice_t, nvmlProcessUtilizationSample_t*, unsigned*,
                         unsigned long long);
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
  find(f.memory_v2, "nvmlDeviceGetMemoryInfo_v2");  // absent before CUDA 11.8
  find(f.mig_mode, "nvmlDeviceGetMigMode");         // absent before CUDA 11
  find(f.mig_count, "nvmlDeviceGetMaxMigDeviceCount");
  find(f.mig_handle, "nvmlDeviceGetMigDeviceHandleByIndex");
  find(f.graphics, "nvmlDeviceGetGraphicsRunningProcesses_v3");
  find(f.mps, "nvmlDeviceGetMPSComputeRunningProcesses_v3");
  find(f.utilisation, "nvmlDeviceGetUtilizationRates");
  find(f.shares, "nvmlDeviceGetProcessUtilization");
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

std::vector<NvmlGpu> Nvml::instances(const NvmlGpu& gpu) const {
  std::vector<NvmlGpu> out;
  unsigned most = 0;
  if (!gpu.mig || next_->mig_count == nullptr || next_->mig_handle == nullptr ||
      next_->mig_count(gpu.handle, &most) != NVML_SUCCESS) {
    return out;
  }
  for (unsigned i = 0; i < most; ++i) {  // indices may have holes
    NvmlGpu part;
    char text[96] = "";
    if (next_->mig_handle(gpu.handle, i, &part.handle) != NVML_SUCCESS) continue;
    if (next_->uuid(part.handle, text, sizeof text) != NVML_SUCCESS) continue;
    part.index = gpu.index;
    part.uuid = text;
    part.name = gpu.name;
    part.mig = true;
    if (const auto bytes = memory(part.handle)) {
      part.total_bytes = bytes->total_bytes;
      part.used_bytes = bytes->used_bytes;
    }
    out.push_back(std::move(part));
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

namespace {

using Lister = nvmlReturn_t (*)(nvmlDevice_t, unsigned*, nvmlProcessInfo_t*);

// The list may grow while we ask: a few tries.
std::optional<std::vector<nvmlProcessInfo_t>> list(Lister ask, nvmlDevice_t gpu) {
  std::vector<nvmlProcessInfo_t> infos(64);
  for (int tries = 0; tries < 4; ++tries) {
    auto count = static_cast<unsigned>(infos.size());
    const nvmlReturn_t r = ask(gpu, &count, infos.data());
    if (r == NVML_ERROR_INSUFFICIENT_SIZE) {
      infos.resize(count + 64);
      continue;
    }
    if (r != NVML_SUCCESS) return std::nullopt;
    if (count < infos.size()) infos.resize(count);
    return infos;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::vector<NvmlProcess>> Nvml::processes(nvmlDevice_t gpu) const {
  const auto infos = list(next_->processes, gpu);
  if (!infos) return std::nullopt;
  std::vector<NvmlProcess> out;
  for (const nvmlProcessInfo_t& info : *infos) {
    if (info.usedGpuMemory != kNotAvailable) out.push_back({info.pid, info.usedGpuMemory});
  }
  return out;
}

std::optional<std::vector<NvmlProcess>> Nvml::users(nvmlDevice_t gpu) const {
  std::vector<NvmlProcess> out;
  bool any = false;
  for (const Lister ask : {next_->processes, next_->graphics, next_->mps}) {
    const auto infos = ask == nullptr ? std::nullopt : list(ask, gpu);
    if (ask == next_->processes) any = infos.has_value();
    if (!infos) continue;  // the others are not there on every driver
    for (const nvmlProcessInfo_t& info : *infos) {
      const std::uint64_t bytes = info.usedGpuMemory == kNotAvailable ? 0 : info.usedGpuMemory;
      const auto same = std::find_if(out.begin(), out.end(),
                                     [&](const NvmlProcess& p) { return p.pid == info.pid; });
      if (same == out.end()) {
        out.push_back({info.pid, bytes});
      } else {
        same->bytes = std::max(same->bytes, bytes);  // a process may be in two of the lists
      }
    }
  }
  return any ? std::optional{std::move(out)} : std::nullopt;
}

// One call: each takes the driver a while. The first version's `used` is the second's with what is reserved (nvml.h).
std::optional<NvmlMemory> Nvml::memory(nvmlDevice_t gpu) const {
  nvmlMemory_v2_t more{};
  more.version = nvmlMemory_v2;
  if (next_->memory_v2 != nullptr && next_->memory_v2(gpu, &more) == NVML_SUCCESS)
    return NvmlMemory{more.total, more.used + more.reserved, more.reserved};
  nvmlMemory_t memory{};
  if (next_->memory(gpu, &memory) != NVML_SUCCESS) return std::nullopt;
  return NvmlMemory{memory.total, memory.used, 0};
}

std::optional<unsigned> Nvml::busy_percent(nvmlDevice_t gpu) const {
  nvmlUtilization_t use{};
  if (next_->utilisation == nullptr || next_->utilisation(gpu, &use) != NVML_SUCCESS)
    return std::nullopt;
  return std::min(use.gpu, 100u);
}

std::optional<std::vector<NvmlShare>> Nvml::shares(nvmlDevice_t gpu, std::uint64_t since_us) const {
  if (next_->shares == nullptr) return std::nullopt;
  std::vector<nvmlProcessUtilizationSample_t> samples(128);
  for (int tries = 0; tries < 4; ++tries) {
    auto count = static_cast<unsigned>(samples.size());
    const nvmlReturn_t r = next_->shares(gpu, samples.data(), &count, since_us);
    if (r == NVML_ERROR_NOT_FOUND) return std::vector<NvmlShare>{};
    if (r == NVML_ERROR_INSUFFICIENT_SIZE) {
      samples.resize(count + 64);
      continue;
    }
    if (r != NVML_SUCCESS) return std::nullopt;
    std::vector<NvmlShare> out;
    for (unsigned i = 0; i < count && i < samples.size(); ++i) {
      // The driver fills unused entries with zeros.
      if (samples[i].pid == 0 || samples[i].timeStamp <= since_us) continue;
      out.push_back({samples[i].pid, std::min(samples[i].smUtil, 100u), samples[i].timeStamp});
    }
    return out;
  }
  return std::nullopt;
}

}  // namespace bulkhead::gpu
