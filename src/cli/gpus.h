// The names of src/gpu that the commands use all the time.
#pragma once
#include "gpu/nvml.h"

namespace bulkhead::cli {

using gpu::kSimulatedProblem;
using gpu::Nvml;
using gpu::NvmlGpu;
using gpu::NvmlProcess;
using gpu::parse_uuid;
using gpu::Uuid;
using gpu::uuid_digits;

}  // namespace bulkhead::cli
