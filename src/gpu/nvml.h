// NVML as far as the command line needs it, loaded at run time: which GPUs there are, and how much
// of each a process holds. One object, used by one thread at a time.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "abi/nvml_types.h"
#include "base/outcome.h"

namespace bulkhead::gpu {

using Uuid = std::array<std::uint8_t, 16>;
// From "GPU-..." or "MIG-..." with 32 hex digits.
[[nodiscard]] std::optional<Uuid> parse_uuid(const std::string& text);
[[nodiscard]] std::string uuid_digits(const std::uint8_t* uuid);  // 8-4-4-4-12, without a prefix

struct NvmlGpu {
  nvmlDevice_t handle = nullptr;
  unsigned index = 0;  // NVML's: the order of PCI addresses
  std::string uuid;    // "GPU-..."
  std::string name;
  std::uint64_t total_bytes = 0;
  std::uint64_t used_bytes = 0;  // at the time of the listing
  bool mig = false;              // split into MIG instances
};

struct NvmlProcess {
  unsigned pid;  // in the host's namespace or ours: NVML translates where it can
  std::uint64_t bytes;
};

// How a problem of open() begins if it is the simulated driver's.
inline constexpr const char* kSimulatedProblem = "simulated driver";

struct NvmlMemory {
  std::uint64_t total_bytes, used_bytes;
  std::uint64_t reserved_bytes;  // by the driver, in `used` too; 0: this NVML does not say
};
// What a process used of a device's SMs, by NVML: percent over NVML's own last sample period (1/6 to 1 s).
struct NvmlShare {
  unsigned pid;
  unsigned percent;          // 0..100
  std::uint64_t sampled_us;  // the system's clock
};

class Nvml {
 public:
  // `directory` empty: as the dynamic linker finds it. The library stays loaded.
  static Outcome<Nvml> open(const std::string& directory);

  [[nodiscard]] const std::string& driver_version() const { return driver_; }
  [[nodiscard]] bool simulated() const { return simulated_; }
  [[nodiscard]] std::vector<NvmlGpu> gpus() const;
  // The MIG instances of a GPU that is split: index, handle, UUID and memory of each.
  [[nodiscard]] std::vector<NvmlGpu> instances(const NvmlGpu& gpu) const;
  // MIG instances too. null: there is none with this UUID.
  [[nodiscard]] nvmlDevice_t by_uuid(const std::uint8_t* uuid) const;
  // nullopt: NVML refused. Processes whose memory it does not know are left out.
  [[nodiscard]] std::optional<std::vector<NvmlProcess>> processes(nvmlDevice_t gpu) const;
  // processes() with those of graphics and of MPS, each pid once. One whose memory NVML does not know has 0 bytes.
  [[nodiscard]] std::optional<std::vector<NvmlProcess>> users(nvmlDevice_t gpu) const;
  [[nodiscard]] std::optional<NvmlMemory> memory(nvmlDevice_t gpu) const;
  [[nodiscard]] std::optional<unsigned> busy_percent(nvmlDevice_t gpu) const;
  // The samples newer than `since_us`; none: nobody used it. nullopt: this device or driver does not measure it.
  [[nodiscard]] std::optional<std::vector<NvmlShare>> shares(nvmlDevice_t gpu,
                                                             std::uint64_t since_us) const;

 private:
  struct Functions;
  const Functions* next_ = nullptr;
  std::string driver_;
  bool simulated_ = false;
};

}  // namespace bulkhead::gpu
