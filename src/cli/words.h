// Looks over a command line before it is parsed: for values that are missing, and for those that stand where the grammar has none.
// Parsed, they mean something else (`run --sim h200 --memory 1GiB` would run a command h200), and what is said then misleads.
#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace bulkhead::cli {

// One line with what to write instead, or "". `words`: up to the first "--"; `dashes`: a command stands behind it.
[[nodiscard]] std::string misused_word(const CLI::App& app, const std::vector<std::string>& words,
                                       bool dashes);

}  // namespace bulkhead::cli
