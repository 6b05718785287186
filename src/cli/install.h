// Where our own files are: the library to preload, the simulated driver.
#pragma once
#include <string>

namespace bulkhead::cli {

// ../lib beside this program (a build tree), else ../lib/bulkhead, else /usr/lib/bulkhead. Empty: not found.
[[nodiscard]] std::string find_library();
// The directory that holds the simulated libcuda.so.1 and libnvidia-ml.so.1; empty: not found.
[[nodiscard]] std::string find_simulator();
// The program bulkhead-bench: beside this one, else in ../lib/bulkhead or /usr/lib/bulkhead; empty: not installed.
[[nodiscard]] std::string find_bench();
// This program's own path.
[[nodiscard]] std::string own_path();
// Makes a directory and its parents, 0755 for root, else 0700. False: errno says why.
[[nodiscard]] bool make_directories(const std::string& path);

// value with `entry` in front, entries split by `separators`; unchanged in meaning if it has it
// already (then it is moved nowhere).
[[nodiscard]] std::string with_entry(const char* value, const std::string& entry,
                                     const char* separators);
// The environment's value, or "" if it is unset.
[[nodiscard]] std::string env_or_empty(const char* name);

}  // namespace bulkhead::cli
