// The GPUs a command will see, in its order, each with what the driver takes on it.
#pragma once
#include <string>
#include <vector>

#include "cli/calibration.h"
#include "cli/gpus.h"

namespace bulkhead::cli {

// What CUDA makes of CUDA_VISIBLE_DEVICES: the positions in `gpus` it shows, in order; the list
// ends at its first entry that names nothing. nullopt: only the driver can tell (MIG, GPUs of
// several kinds in the driver's own order, an ambiguous prefix). `visible` null: unset. `by_bus`:
// CUDA_DEVICE_ORDER=PCI_BUS_ID.
[[nodiscard]] std::optional<std::vector<std::size_t>> visible_positions(
    const std::vector<NvmlGpu>& gpus, const char* visible, bool by_bus);

struct DeviceChoice {
  const Nvml* nvml = nullptr;  // null: there is none
  std::string simulator;       // directory of the simulated driver, or ""
  std::string state;           // where charge.json is
};
// From charge.json if it has all of them, else measured by the probe, and kept. `note` receives
// what did not stop us (the file could not be written).
[[nodiscard]] Outcome<std::vector<Calibration>> visible_devices(const DeviceChoice& choice,
                                                                std::string& note);

}  // namespace bulkhead::cli
