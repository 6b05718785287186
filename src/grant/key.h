// P-256 keys: the issuer's, which signs, and the trust file's, which verify (docs/formats/grant.md, 'Trust file'). OpenSSL's EVP; its
// errors end here.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/outcome.h"

struct evp_pkey_st;

namespace bulkhead::grant {

inline constexpr std::size_t kMostJwksBytes = 64u << 10;
inline constexpr std::size_t kMostKeys = 64;
inline constexpr std::size_t kSignatureBytes = 64;

struct KeyFree {
  void operator()(evp_pkey_st* key) const noexcept;
};
using Key = std::unique_ptr<evp_pkey_st, KeyFree>;

// A new key, or one from PEM (PKCS#8 or SEC 1; not P-256, or without its private half: a problem).
[[nodiscard]] Outcome<Key> new_key();
[[nodiscard]] Outcome<Key> key_from_pem(std::string_view pem);
// PKCS#8, not encrypted: whoever keeps it gives the file mode 0600.
[[nodiscard]] std::string to_pem(const Key& key);
// {"alg":"ES256","crv":"P-256","kid":...,"kty":"EC","use":"sig","x":...,"y":...} without a private member.
[[nodiscard]] std::string to_jwk(const Key& key, const std::string& kid);
// The SHA-256 thumbprint of RFC 7638: the usual kid.
[[nodiscard]] std::string thumbprint(const Key& key);
// r and s, 64 bytes; "" if OpenSSL fails.
[[nodiscard]] std::string sign(const Key& key, std::string_view bytes);
// False for any other length than 64, r or s out of range, and what was not signed by it.
[[nodiscard]] bool verify(const Key& key, std::string_view bytes, std::string_view signature);

// The keys of a trust file. Copies share them; any thread.
class KeySet {
 public:
  // The problem says which key and what.
  [[nodiscard]] static Outcome<KeySet> parse(std::string_view jwks);
  [[nodiscard]] const Key* find(std::string_view kid) const;
  [[nodiscard]] std::size_t size() const { return keys_.size(); }
  [[nodiscard]] std::size_t passed_over() const { return passed_over_; }
  [[nodiscard]] std::string kids() const;  // "a, b"

 private:
  std::map<std::string, std::shared_ptr<const Key>, std::less<>> keys_;
  std::size_t passed_over_ = 0;
};

}  // namespace bulkhead::grant
