#include "grant/key.h"

#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/sha.h>

#include <cstring>

#include "grant/base64url.h"
#include "grant/strict_json.h"

namespace bulkhead::grant {
namespace {

constexpr std::size_t kCoordinate = 32;

template <auto F>
struct Free {
  template <class T>
  void operator()(T* at) const noexcept {
    F(at);
  }
};
using Bio = std::unique_ptr<BIO, Free<BIO_free_all>>;
using Context = std::unique_ptr<EVP_PKEY_CTX, Free<EVP_PKEY_CTX_free>>;
using Digest = std::unique_ptr<EVP_MD_CTX, Free<EVP_MD_CTX_free>>;
using Signature = std::unique_ptr<ECDSA_SIG, Free<ECDSA_SIG_free>>;

const unsigned char* bytes_of(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

bool is_p256(EVP_PKEY* key) {
  char group[64] = {};
  std::size_t length = 0;
  return EVP_PKEY_is_a(key, "EC") == 1 &&
         EVP_PKEY_get_group_name(key, group, sizeof group, &length) == 1 &&
         (std::strcmp(group, "prime256v1") == 0 || std::strcmp(group, "P-256") == 0);
}

bool has_private(EVP_PKEY* key) {
  BIGNUM* d = nullptr;
  const bool has = EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_PRIV_KEY, &d) == 1;
  BN_clear_free(d);
  return has;
}

// x and y, 32 bytes each; "" on failure.
std::string point_of(EVP_PKEY* key) {
  std::string out;
  for (const char* name : {OSSL_PKEY_PARAM_EC_PUB_X, OSSL_PKEY_PARAM_EC_PUB_Y}) {
    BIGNUM* n = nullptr;
    unsigned char bytes[kCoordinate];
    const bool good = EVP_PKEY_get_bn_param(key, name, &n) == 1 &&
                      BN_bn2binpad(n, bytes, sizeof bytes) == static_cast<int>(sizeof bytes);
    BN_free(n);
    if (!good) return "";
    out.append(reinterpret_cast<const char*>(bytes), sizeof bytes);
  }
  return out;
}

// The point must lie on the curve: fromdata checks it, public_check again.
Key key_from_point(std::string_view x, std::string_view y) {
  std::string point = "\x04";
  point.append(x).append(y);
  char group[] = "P-256";
  OSSL_PARAM params[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group, 0),
      OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point.data(), point.size()),
      OSSL_PARAM_construct_end()};
  const Context make{EVP_PKEY_CTX_new_from_name(nullptr, "EC", nullptr)};
  EVP_PKEY* raw = nullptr;
  if (!make || EVP_PKEY_fromdata_init(make.get()) != 1 ||
      EVP_PKEY_fromdata(make.get(), &raw, EVP_PKEY_PUBLIC_KEY, params) != 1) {
    ERR_clear_error();
    return nullptr;
  }
  Key key{raw};
  const Context check{EVP_PKEY_CTX_new(raw, nullptr)};
  if (!check || EVP_PKEY_public_check(check.get()) != 1) {
    ERR_clear_error();
    return nullptr;
  }
  return key;
}

// A word that must be absent or this.
bool fits(const nlohmann::json& jwk, const char* key, const char* wanted) {
  if (!jwk.contains(key)) return true;
  const std::string* has = text_of(jwk, key);
  return has != nullptr && *has == wanted;
}

}  // namespace

void KeyFree::operator()(evp_pkey_st* key) const noexcept { EVP_PKEY_free(key); }

Outcome<Key> new_key() {
  Key key{EVP_EC_gen("P-256")};
  if (!key) return Outcome<Key>::because("cannot make a key: OpenSSL has no P-256");
  return Outcome<Key>{std::move(key)};
}

Outcome<Key> key_from_pem(std::string_view pem) {
  const Bio in{BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()))};
  // no passphrase is ever asked for
  const auto never = [](char*, int, int, void*) { return 0; };
  Key key{in ? PEM_read_bio_PrivateKey(in.get(), nullptr, never, nullptr) : nullptr};
  ERR_clear_error();
  if (!key) return Outcome<Key>::because("not a private key in PEM without a passphrase");
  if (!is_p256(key.get()) || !has_private(key.get()))
    return Outcome<Key>::because("not a P-256 key: 'bulkhead grant keygen' makes one");
  return Outcome<Key>{std::move(key)};
}

std::string to_pem(const Key& key) {
  const Bio out{BIO_new(BIO_s_mem())};
  if (!out || PEM_write_bio_PKCS8PrivateKey(out.get(), key.get(), nullptr, nullptr, 0, nullptr,
                                            nullptr) != 1)
    return "";
  char* at = nullptr;
  const long length = BIO_get_mem_data(out.get(), &at);
  return length > 0 ? std::string(at, static_cast<std::size_t>(length)) : "";
}

std::string to_jwk(const Key& key, const std::string& kid) {
  const std::string point = point_of(key.get());
  if (point.empty()) return "";
  const nlohmann::json jwk = {{"kty", "EC"},
                              {"crv", "P-256"},
                              {"alg", "ES256"},
                              {"use", "sig"},
                              {"kid", kid},
                              {"x", to_base64url(point.substr(0, kCoordinate))},
                              {"y", to_base64url(point.substr(kCoordinate))}};
  return jwk.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

std::string thumbprint(const Key& key) {
  const std::string point = point_of(key.get());
  if (point.empty()) return "";
  // RFC 7638: the required members only, in order, without white space
  const std::string text = R"({"crv":"P-256","kty":"EC","x":")" +
                           to_base64url(point.substr(0, kCoordinate)) + R"(","y":")" +
                           to_base64url(point.substr(kCoordinate)) + R"("})";
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(bytes_of(text), text.size(), digest);
  return to_base64url({reinterpret_cast<const char*>(digest), sizeof digest});
}

std::string sign(const Key& key, std::string_view bytes) {
  const Digest md{EVP_MD_CTX_new()};
  unsigned char der[128];
  std::size_t length = sizeof der;
  if (!md || EVP_DigestSignInit(md.get(), nullptr, EVP_sha256(), nullptr, key.get()) != 1 ||
      EVP_DigestSign(md.get(), der, &length, bytes_of(bytes), bytes.size()) != 1) {
    ERR_clear_error();
    return "";
  }
  const unsigned char* at = der;
  const Signature sig{d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(length))};
  unsigned char raw[kSignatureBytes];
  if (!sig || BN_bn2binpad(ECDSA_SIG_get0_r(sig.get()), raw, kCoordinate) < 0 ||
      BN_bn2binpad(ECDSA_SIG_get0_s(sig.get()), raw + kCoordinate, kCoordinate) < 0)
    return "";
  return {reinterpret_cast<const char*>(raw), sizeof raw};
}

bool verify(const Key& key, std::string_view bytes, std::string_view signature) {
  if (signature.size() != kSignatureBytes) return false;
  const Signature sig{ECDSA_SIG_new()};
  BIGNUM* r = BN_bin2bn(bytes_of(signature), kCoordinate, nullptr);
  BIGNUM* s = BN_bin2bn(bytes_of(signature) + kCoordinate, kCoordinate, nullptr);
  if (!sig || r == nullptr || s == nullptr || ECDSA_SIG_set0(sig.get(), r, s) != 1) {
    BN_free(r);
    BN_free(s);
    return false;
  }
  unsigned char* der = nullptr;  // the range of r and s is OpenSSL's to check
  const int length = i2d_ECDSA_SIG(sig.get(), &der);
  const Digest md{EVP_MD_CTX_new()};
  const bool good =
      length > 0 && md &&
      EVP_DigestVerifyInit(md.get(), nullptr, EVP_sha256(), nullptr, key.get()) == 1 &&
      EVP_DigestVerify(md.get(), der, static_cast<std::size_t>(length), bytes_of(bytes),
                       bytes.size()) == 1;
  OPENSSL_free(der);
  ERR_clear_error();
  return good;
}

Outcome<KeySet> KeySet::parse(std::string_view jwks) {
  using Out = Outcome<KeySet>;
  if (jwks.size() > kMostJwksBytes) return Out::because("over 64 KiB");
  const ParsedJson parsed = parse_object(jwks);
  if (parsed.why != Refusal::kNone)
    return Out::because(parsed.why == Refusal::kDuplicateKey
                            ? "duplicate-key: a member is named twice"
                            : "not a JSON object like {\"keys\":[...]}");
  const auto keys = parsed.value.find("keys");
  if (keys == parsed.value.end() || !keys->is_array()) return Out::because("has no array \"keys\"");
  if (keys->size() > kMostKeys) return Out::because("over 64 keys");
  KeySet out;
  for (const auto& jwk : *keys) {
    if (!jwk.is_object()) return Out::because("a key that is no object");
    for (const char* secret : {"d", "k", "p", "q", "oth"}) {
      if (jwk.contains(secret))
        return Out::because(std::string{"a private key ('"} + secret +
                            "') lies in it: replace that key, it is not secret any more");
    }
    const std::string* kid = text_of(jwk, "kid");
    if (kid == nullptr || kid->empty() || kid->size() > 128 || !fits(jwk, "kty", "EC") ||
        !fits(jwk, "crv", "P-256") || !fits(jwk, "alg", "ES256") || !fits(jwk, "use", "sig") ||
        !jwk.contains("kty")) {
      ++out.passed_over_;
      continue;
    }
    const std::string* x = text_of(jwk, "x");
    const std::string* y = text_of(jwk, "y");
    const auto px = x == nullptr ? std::nullopt : from_base64url(*x);
    const auto py = y == nullptr ? std::nullopt : from_base64url(*y);
    if (!px || !py || px->size() != kCoordinate || py->size() != kCoordinate)
      return Out::because("key " + *kid + ": x and y are 32 bytes in base64url each");
    Key key = key_from_point(*px, *py);
    if (!key) return Out::because("key " + *kid + ": its point is not on the curve");
    if (!out.keys_.emplace(*kid, std::make_shared<const Key>(std::move(key))).second)
      return Out::because("two keys of kid " + *kid);
  }
  return Out{std::move(out)};
}

const Key* KeySet::find(std::string_view kid) const {
  const auto at = keys_.find(kid);
  return at == keys_.end() ? nullptr : at->second.get();
}

std::string KeySet::kids() const {
  std::string out;
  for (const auto& [kid, key] : keys_) out += (out.empty() ? "" : ", ") + kid;
  return out;
}

}  // namespace bulkhead::grant
