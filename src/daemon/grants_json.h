// The texts of the grants duty: its files, its records for the audit log (canonical JSON, RFC 8785), its answers.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "daemon/duty.h"
#include "grant/token.h"

namespace bulkhead::daemon {

struct KeptGrants {
  struct One {
    std::uint32_t serial = 0;
    std::string tenant, token;
    std::uint64_t bytes_used = 0;
  };
  std::uint32_t next_serial = 1;
  std::map<std::string, std::int64_t> denied;
  std::vector<One> grants;
};
[[nodiscard]] std::string to_json(const KeptGrants& kept);
// False: not schema 1, or damaged; nothing of it counts then.
[[nodiscard]] bool from_json(const std::string& text, KeptGrants& out);

// {"record":"grant",...}
[[nodiscard]] std::string grant_record(std::uint32_t serial, const std::string& tenant,
                                       const std::string& token, const grant::Grant& grant,
                                       const std::vector<std::string>& devices, const Now& now);
// {"record":"policy","revoked_grant":...}
[[nodiscard]] std::string revoked_record(std::uint32_t serial, const std::string& id,
                                         const std::string& why, const Now& now);
// {"record":"jwks",...}
[[nodiscard]] std::string jwks_record(const std::string& jwks, const Now& now);
// "grant 7 of tenant's service until 2026-...: h2d, d2h"
[[nodiscard]] std::string accepted_text(std::uint32_t serial, const grant::Grant& grant);

}  // namespace bulkhead::daemon
