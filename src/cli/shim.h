// bulkhead shim: sign what nodes may preload, and check it (docs/compliance/grants.md, 'Signed shim').
#pragma once
#include <string>

#include "shm/dir.h"

namespace CLI {  // NOLINT(readability-identifier-naming): the library's
class App;
}

namespace bulkhead::cli {

struct ShimOptions {
  std::string key, certificate, library, daemon, version = "0.1.0", minimum, out, manifest, root;
};
void add_shim(CLI::App& app, ShimOptions& options);
int shim(const std::string& which, const ShimOptions& options);

// The library that this directory's daemon verified; "" = none is signed here. Its bytes are checked again. `problem`: it may not be used.
[[nodiscard]] std::string signed_library(const shm::Dir& dir, std::string& problem);

}  // namespace bulkhead::cli
