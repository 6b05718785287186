// Where events go: the url of [siem]. Pure.
#pragma once
#include <cstdint>
#include <string>

#include "base/outcome.h"

namespace bulkhead::daemon::siem {

struct Target {
  bool tls = false;
  bool relp = false;
  std::string host;
  std::uint16_t port = 0;
};
// "relp+tls://host:2514". The problem says what to write instead.
[[nodiscard]] Outcome<Target> parse_target(const std::string& url);

// What [siem] says, and what of the daemon's own the exporter must know.
struct Settings {
  std::string url, ca, cert, key, name;
  std::uint32_t enterprise = 32473;
  std::uint64_t overlap_bytes = 8u << 20;
  friend bool operator==(const Settings&, const Settings&) = default;
};

}  // namespace bulkhead::daemon::siem
