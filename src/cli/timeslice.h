// `bulkhead doctor --self-test`, the part that measures how long a device's time slices are and what switching takes: two contexts
// that never rest, one of which stamps the ends of its operations. docs/formats/timeslice.md.
#pragma once
#include <string>
#include <vector>

#include "cli/machine.h"
#include "gpu/timeslice.h"

namespace bulkhead::cli {

// Measures every visible GPU, which nobody may use meanwhile, and keeps what was seen. The problem, one line, or "".
[[nodiscard]] std::string measure_time_slices(const Machine& machine,
                                              std::vector<gpu::TimeSlice>& out);

// The child's side: `bulkhead __timeslice load|watch SIMULATOR`, on the first visible GPU.
int time_slice_worker(const std::string& what, const std::string& simulator);

}  // namespace bulkhead::cli
