// bulkhead bench: runs bulkhead-bench, which is a program of its own beside this one.
#pragma once
#include <string>
#include <vector>

namespace CLI {  // NOLINT(readability-identifier-naming): the library's
class App;
}

namespace bulkhead::cli {

struct BenchOptions {
  std::vector<std::string> suites;  // none: all
  bool quick = false, only_native = false;
  std::string json;  // "-": standard output
  std::string only, launch, simulator, repeats, seconds, load;
  std::vector<std::string> rivals;
};
void add_bench(CLI::App& app, BenchOptions& o);
// Becomes bulkhead-bench; returns only if there is none.
int bench(const BenchOptions& options);

}  // namespace bulkhead::cli
