// The CUDA driver's types, declared by us from the interface's facts (names, values, layouts), so
// that no CUDA toolkit is needed to build. They stand in the global namespace under the vendor's
// names, because cuda.def's signatures use them; never include cuda.h in the same file. tests/abi
// compares every size, offset and value with the toolkit's header where one is installed.
#pragma once

// IWYU pragma: begin_exports
#include "abi/cuda_attributes.h"
#include "abi/cuda_copy.h"
#include "abi/cuda_enums.h"
#include "abi/cuda_graph.h"
#include "abi/cuda_handles.h"
#include "abi/cuda_memory.h"
#include "abi/cuda_misc.h"
#include "abi/cuda_result.h"
// IWYU pragma: end_exports
