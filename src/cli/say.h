// What the command prints besides its result: one clear line on stderr for each failure, naming
// what, where and the fix; and the exit codes of timeout(1) and env(1).
#pragma once
#include <cstdint>
#include <string>

#include "base/outcome.h"
#include "base/status.h"

namespace bulkhead::cli {

enum ExitCode : int {
  kExitOk = 0,
  kExitProblem = 1,  // doctor, demo, status: something is not as it should be
  kExitUsage = 2,    // the command line is wrong
  kExitOurs = 125,   // run itself failed; the command was not started
  kExitNotExecutable = 126,
  kExitNotFound = 127,
};

// Prints "bulkhead: TEXT" and returns `code`.
[[gnu::cold]] int fail(int code, const std::string& text);
// The same line for something that does not stop the command.
[[gnu::cold]] void warn(const std::string& text);

// "text: strerror" as far as the status has them.
[[nodiscard]] std::string describe(const Status& status);
// "517.99 MiB": rounded down to two digits after the point.
[[nodiscard]] std::string short_size(std::uint64_t bytes);
// "10 GiB", and with the exact number where it is not a round one: "9.31 GiB (10000000000 B)".
[[nodiscard]] std::string size_text(std::uint64_t bytes);
[[nodiscard]] std::string exact_text(std::uint64_t bytes);

}  // namespace bulkhead::cli
