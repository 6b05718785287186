#include "audit/key.h"

#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

namespace bulkhead::audit {
namespace {

struct FreeContext {
  void operator()(EVP_MD_CTX* c) const noexcept { EVP_MD_CTX_free(c); }
};
using Context = std::unique_ptr<EVP_MD_CTX, FreeContext>;
struct FreeBio {
  void operator()(BIO* b) const noexcept { BIO_free_all(b); }
};
using OwnedBio = std::unique_ptr<BIO, FreeBio>;

bool is(evp_pkey_st* key, KeyType type) noexcept {
  if (key == nullptr) return false;
  if (type == KeyType::kEd25519) return EVP_PKEY_get_base_id(key) == EVP_PKEY_ED25519;
  char group[32] = {};
  std::size_t length = 0;
  return EVP_PKEY_get_base_id(key) == EVP_PKEY_EC &&
         EVP_PKEY_get_group_name(key, group, sizeof group, &length) == 1 &&
         std::string_view{group, length} == "prime256v1";
}

const EVP_MD* digest_of(KeyType type) noexcept {
  return type == KeyType::kP256 ? EVP_sha256() : nullptr;
}

}  // namespace

void FreeKey::operator()(evp_pkey_st* key) const noexcept { EVP_PKEY_free(key); }

std::optional<PublicKey> PublicKey::of(KeyType type, Bytes bytes) {
  OwnedKey key;
  if (type == KeyType::kEd25519) {
    if (bytes.size() == 32)
      key.reset(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, bytes.data(), 32));
  } else if (bytes.size() < 1024) {
    const unsigned char* at = bytes.data();
    key.reset(d2i_PUBKEY(nullptr, &at, static_cast<long>(bytes.size())));
    if (at != bytes.data() + bytes.size()) key.reset();
  }
  if (!is(key.get(), type)) {
    ERR_clear_error();
    return std::nullopt;
  }
  return PublicKey{type, std::move(key), Buffer{bytes.begin(), bytes.end()}};
}

bool PublicKey::verify(Bytes message, Bytes signature) const noexcept {
  const Context context{EVP_MD_CTX_new()};
  const bool good =
      context != nullptr &&
      EVP_DigestVerifyInit(context.get(), nullptr, digest_of(type_), nullptr, key_.get()) == 1 &&
      EVP_DigestVerify(context.get(), signature.data(), signature.size(), message.data(),
                       message.size()) == 1;
  if (!good) ERR_clear_error();
  return good;
}

std::optional<PrivateKey> PrivateKey::generate(KeyType type) {
  OwnedKey key{type == KeyType::kEd25519 ? EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519")
                                         : EVP_EC_gen("P-256")};
  if (key == nullptr) return std::nullopt;
  return PrivateKey{type, std::move(key)};
}

std::optional<PrivateKey> PrivateKey::from_pem(KeyType type, const std::string& text) {
  const OwnedBio in{BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))};
  // No pass phrase is asked for: an encrypted key is not ours.
  const auto no_phrase = [](char*, int, int, void*) { return -1; };
  while (in != nullptr) {
    OwnedKey key{PEM_read_bio_PrivateKey(in.get(), nullptr, no_phrase, nullptr)};
    if (key == nullptr) break;
    if (is(key.get(), type)) return PrivateKey{type, std::move(key)};
  }
  ERR_clear_error();
  return std::nullopt;
}

std::string PrivateKey::pem() const {
  const OwnedBio out{BIO_new(BIO_s_secmem())};
  if (out == nullptr || PEM_write_bio_PKCS8PrivateKey(out.get(), key_.get(), nullptr, nullptr, 0,
                                                      nullptr, nullptr) != 1)
    return {};
  char* data = nullptr;
  const long n = BIO_get_mem_data(out.get(), &data);
  return {data, static_cast<std::size_t>(n)};
}

Buffer PrivateKey::sign(Bytes message) const {
  const Context context{EVP_MD_CTX_new()};
  std::size_t n = 0;
  if (context == nullptr ||
      EVP_DigestSignInit(context.get(), nullptr, digest_of(type_), nullptr, key_.get()) != 1 ||
      EVP_DigestSign(context.get(), nullptr, &n, message.data(), message.size()) != 1)
    return {};
  Buffer out(n);
  if (EVP_DigestSign(context.get(), out.data(), &n, message.data(), message.size()) != 1) return {};
  out.resize(n);
  return out;
}

PublicKey PrivateKey::public_key() const {
  Buffer bytes;
  if (type_ == KeyType::kEd25519) {
    std::size_t n = 32;
    bytes.resize(n);
    EVP_PKEY_get_raw_public_key(key_.get(), bytes.data(), &n);
  } else {
    unsigned char* der = nullptr;
    const int n = i2d_PUBKEY(key_.get(), &der);
    if (n > 0) bytes.assign(der, der + n);
    OPENSSL_free(der);
  }
  // A key's own public half always reads back.
  return *PublicKey::of(type_, bytes);
}

}  // namespace bulkhead::audit
