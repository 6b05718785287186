// `run --streams high=25%`: what stands in the way of dividing a process's streams among the multiprocessors. docs/spatial.md, 'Streams'.
#pragma once
#include <string>

#include "cli/machine.h"

namespace bulkhead::cli {

// One line, or "": `spec` is in its grammar, was given, and is about to be put into the tenant's environment. By what self-tests saw,
// here or as the node page tells it.
[[nodiscard]] std::string streams_problem(const Machine& machine, const std::string& tenant,
                                          const std::string& spec);

}  // namespace bulkhead::cli
