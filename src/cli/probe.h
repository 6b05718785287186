// The probe: a child process that initialises the driver and measures what it takes.
#pragma once
#include <string>
#include <vector>

#include "cli/calibration.h"

namespace bulkhead::cli {

// Runs `bulkhead __probe` with our environment less the preloaded library and returns the GPUs the
// driver shows, in its order (CUDA_VISIBLE_DEVICES applies), measured. `simulator`: the simulated
// driver's directory or "".
[[nodiscard]] Outcome<std::vector<Calibration>> probe_devices(const std::string& simulator);

// The child's side: prints the result, or {"problem": text}, on stdout.
int probe_main(const std::string& simulator);

}  // namespace bulkhead::cli
