// bulkhead grant: keys, tokens and the trust file for an issuer, and what lives on this node (docs/compliance/grants.md).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace CLI {  // NOLINT(readability-identifier-naming): the library's
class App;
}

namespace bulkhead::cli {

struct GrantOptions {
  std::string key, out, file, jwks, tenant, id;
  std::vector<std::string> files;
  // issue
  std::string subject, audience, issuer, life = "10m", address;
  std::vector<std::string> actions, gpus, classes;
  std::uint64_t bytes = 0, length = 0;
  bool json = false, all = false;
};

void add_grant(CLI::App& app, GrantOptions& options);
// `which`: the subcommand.
int grant(const std::string& which, const GrantOptions& options);

// A token's file: at most 8 KiB, one line. The problem, or "".
[[nodiscard]] std::string read_token(const std::string& path, std::string& token);

}  // namespace bulkhead::cli
