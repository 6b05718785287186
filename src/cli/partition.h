// A tenant's static MPS partition, for `run` and `status`: what the daemon made, and what the command's environment needs.
// docs/spatial.md "Partitions".
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "cli/machine.h"

namespace bulkhead::cli {

// Of a tenant that the page says has a partition: waits until it stands, then puts the group's directory and the partition into our own
// environment, for the command. Nothing for any other tenant. Why there is none, one line; "" else. `note`: a warning, if the processes
// will be held in time instead.
[[nodiscard]] std::string enter_partition(const Machine& machine, const std::string& tenant,
                                          std::string& note);

// "4 chunks, 32 multiprocessors (GPU-.../...)", or why there is none; "": nothing is known of one.
[[nodiscard]] std::string partition_text(const Machine& machine, const std::string& tenant);
// null: nothing is known of one.
[[nodiscard]] nlohmann::json partition_json(const Machine& machine, const std::string& tenant);

}  // namespace bulkhead::cli
