// The signed shim: a manifest of what may be preloaded, and a detached CMS signature over it (RFC 5652) by a code-signing certificate that
// chains to one pinned root. `openssl cms -verify -binary -inform DER` reads the same files.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "base/outcome.h"

namespace bulkhead::grant {

inline constexpr std::size_t kMostManifest = 64u << 10;
inline constexpr const char* kShimLibrary = "libbulkhead.so";  // the manifest's names of the two
inline constexpr const char* kShimDaemon = "bulkheadd";

struct Manifest {
  std::string version, minimum;  // 0.1.0; nothing older than `minimum` may be used any more
  std::map<std::string, std::string> files;  // name -> SHA-256, lower-case hexadecimal
};
// {"files":{...},"minimum":"0.1.0","schema":1,"version":"0.1.0"}
[[nodiscard]] std::string to_json(const Manifest& manifest);
[[nodiscard]] Outcome<Manifest> manifest_from(std::string_view json);

// DER. `certificates`: the leaf first, then what is needed to reach the root; PEM.
[[nodiscard]] Outcome<std::string> sign_manifest(std::string_view manifest,
                                                 const std::string& key_pem,
                                                 const std::string& certificates_pem);
// Signature, chain to that root and to no other, code-signing leaf. The problem names which of them fails.
[[nodiscard]] Outcome<Manifest> verify_manifest(std::string_view manifest,
                                                std::string_view signature,
                                                const std::string& root_pem);

[[nodiscard]] std::string sha256_hex(std::string_view bytes);
// -1, 0, 1 by numbers between dots; a part that is no number is 0.
[[nodiscard]] int compare_versions(std::string_view a, std::string_view b) noexcept;

}  // namespace bulkhead::grant
