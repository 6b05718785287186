// Keys and signatures, through OpenSSL: Ed25519 (RFC 8032) and ECDSA P-256 with SHA-256 (FIPS 186-5). The only file of
// the log that knows OpenSSL.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "audit/base64.h"

struct evp_pkey_st;

namespace bulkhead::audit {

enum class KeyType : std::uint8_t { kEd25519 = 1, kP256 = 2 };

struct FreeKey {
  void operator()(evp_pkey_st* key) const noexcept;
};
using OwnedKey = std::unique_ptr<evp_pkey_st, FreeKey>;

class PublicKey {
 public:
  // 32 raw bytes of Ed25519, or the DER SubjectPublicKeyInfo of a P-256 key. None: it is neither.
  static std::optional<PublicKey> of(KeyType type, Bytes bytes);
  // True if `signature` (64 bytes; DER for P-256) is this key's over `message`.
  [[nodiscard]] bool verify(Bytes message, Bytes signature) const noexcept;
  [[nodiscard]] KeyType type() const noexcept { return type_; }
  [[nodiscard]] const Buffer& bytes() const noexcept { return bytes_; }

 private:
  PublicKey(KeyType type, OwnedKey key, Buffer bytes)
      : type_(type), key_(key.release(), FreeKey{}), bytes_(std::move(bytes)) {}
  KeyType type_;
  std::shared_ptr<evp_pkey_st> key_;
  Buffer bytes_;
};

class PrivateKey {
 public:
  static std::optional<PrivateKey> generate(KeyType type);
  // The first key of this type among the PEM blocks (PKCS#8) of `text`.
  static std::optional<PrivateKey> from_pem(KeyType type, const std::string& text);
  [[nodiscard]] std::string pem() const;
  // Empty if OpenSSL fails.
  [[nodiscard]] Buffer sign(Bytes message) const;
  [[nodiscard]] PublicKey public_key() const;
  [[nodiscard]] KeyType type() const noexcept { return type_; }

 private:
  PrivateKey(KeyType type, OwnedKey key) : type_(type), key_(std::move(key)) {}
  KeyType type_;
  OwnedKey key_;
};

}  // namespace bulkhead::audit
