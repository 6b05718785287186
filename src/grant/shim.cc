#include "grant/shim.h"

#include <openssl/bio.h>
#include <openssl/cms.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <memory>

#include "grant/strict_json.h"

namespace bulkhead::grant {
namespace {

template <auto F>
struct Free {
  template <class T>
  void operator()(T* at) const noexcept {
    F(at);
  }
};
void free_certificates(STACK_OF(X509) * all) noexcept { sk_X509_pop_free(all, X509_free); }
using Bio = std::unique_ptr<BIO, Free<BIO_free_all>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Certificates = std::unique_ptr<STACK_OF(X509), Free<free_certificates>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;
using Cms = std::unique_ptr<CMS_ContentInfo, Free<CMS_ContentInfo_free>>;
using Store = std::unique_ptr<X509_STORE, Free<X509_STORE_free>>;

Bio reader(std::string_view text) {
  return Bio{BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))};
}
// OpenSSL's newest reason, and nothing of it is left behind.
std::string reason() {
  const unsigned long code = ERR_peek_last_error();
  const char* text = code == 0 ? nullptr : ERR_reason_error_string(code);
  std::string out = text == nullptr ? "no reason given" : text;
  ERR_clear_error();
  return out;
}
Certificate next_certificate(BIO* from) {
  Certificate out{PEM_read_bio_X509(from, nullptr, nullptr, nullptr)};
  ERR_clear_error();
  return out;
}
bool is_hex(const std::string& s) {
  const auto hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  return s.size() == 64 && std::all_of(s.begin(), s.end(), hex);
}
bool is_version(const std::string& s) {
  return !s.empty() && s.size() <= 31 && s.find_first_not_of("0123456789.") == std::string::npos &&
         s[0] != '.';
}
// Every one that signed: there must be one, and all of them may sign code.
std::string signers_problem(CMS_ContentInfo* cms) {
  STACK_OF(X509)* signers = CMS_get0_signers(cms);
  const int count = signers == nullptr ? 0 : sk_X509_num(signers);
  std::string problem = count == 0 ? "nobody signed it" : "";
  for (int i = 0; i < count; ++i) {
    X509* leaf = sk_X509_value(signers, i);
    // without the extension get_extended_key_usage() says all: that is not enough here
    const bool has = (X509_get_extension_flags(leaf) & EXFLAG_XKUSAGE) != 0;
    if (!has || (X509_get_extended_key_usage(leaf) & XKU_CODE_SIGN) == 0)
      problem = "its certificate is not for signing code (extendedKeyUsage codeSigning)";
  }
  sk_X509_free(signers);
  return problem;
}

}  // namespace

std::string to_json(const Manifest& m) {
  const nlohmann::json j = {
      {"schema", 1}, {"version", m.version}, {"minimum", m.minimum}, {"files", m.files}};
  return j.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
}

Outcome<Manifest> manifest_from(std::string_view text) {
  using Out = Outcome<Manifest>;
  if (text.size() > kMostManifest) return Out::because("manifest over 64 KiB");
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  const ParsedJson parsed = parse_object(text);
  if (parsed.why != Refusal::kNone) return Out::because("manifest is no JSON object of ours");
  const auto& j = parsed.value;
  Manifest m;
  const std::string* version = text_of(j, "version");
  const std::string* minimum = text_of(j, "minimum");
  const auto schema = j.find("schema"), files = j.find("files");
  if (schema == j.end() || *schema != 1) return Out::because("manifest of another schema");
  if (version == nullptr || minimum == nullptr || !is_version(*version) || !is_version(*minimum))
    return Out::because("manifest without version and minimum");
  if (files == j.end() || !files->is_object() || files->empty())
    return Out::because("manifest without files");
  for (const auto& [name, digest] : files->items()) {
    const std::string* hex = digest.get_ptr<const std::string*>();
    if (hex == nullptr || !is_hex(*hex))
      return Out::because("manifest: " + name + " has no SHA-256");
    m.files[name] = *hex;
  }
  m.version = *version;
  m.minimum = *minimum;
  return Out{std::move(m)};
}

Outcome<std::string> sign_manifest(std::string_view manifest, const std::string& key_pem,
                                   const std::string& certificates_pem) {
  using Out = Outcome<std::string>;
  const Bio key_in = reader(key_pem), certificates_in = reader(certificates_pem);
  const auto never = [](char*, int, int, void*) { return 0; };
  const PrivateKey key{PEM_read_bio_PrivateKey(key_in.get(), nullptr, never, nullptr)};
  if (!key) return Out::because("not a private key in PEM without a passphrase: " + reason());
  const Certificate leaf = next_certificate(certificates_in.get());
  if (!leaf) return Out::because("no certificate in PEM");
  const Certificates chain{sk_X509_new_null()};
  while (Certificate one = next_certificate(certificates_in.get()))
    sk_X509_push(chain.get(), one.release());
  const Bio data = reader(manifest);
  constexpr unsigned kFlags = CMS_BINARY | CMS_DETACHED | CMS_NOSMIMECAP;
  const Cms cms{CMS_sign(leaf.get(), key.get(), chain.get(), data.get(), kFlags)};
  if (!cms) return Out::because("cannot sign: " + reason());
  unsigned char* der = nullptr;
  const int length = i2d_CMS_ContentInfo(cms.get(), &der);
  if (length <= 0) return Out::because("cannot sign: " + reason());
  std::string out(reinterpret_cast<const char*>(der), static_cast<std::size_t>(length));
  OPENSSL_free(der);
  return Out{std::move(out)};
}

Outcome<Manifest> verify_manifest(std::string_view manifest, std::string_view signature,
                                  const std::string& root_pem) {
  using Out = Outcome<Manifest>;
  if (manifest.size() > kMostManifest || signature.size() > kMostManifest)
    return Out::because("over 64 KiB");
  const Bio root_in = reader(root_pem);
  const Certificate root = next_certificate(root_in.get());
  if (!root) return Out::because("the root is no certificate in PEM");
  const Store store{X509_STORE_new()};  // that root and nothing of the system's
  X509_STORE_add_cert(store.get(), root.get());
  X509_STORE_set_purpose(store.get(), X509_PURPOSE_ANY);  // usage: signers_problem()
  const auto* at = reinterpret_cast<const unsigned char*>(signature.data());
  const Cms cms{d2i_CMS_ContentInfo(nullptr, &at, static_cast<long>(signature.size()))};
  if (!cms || OBJ_obj2nid(CMS_get0_type(cms.get())) != NID_pkcs7_signed) {
    ERR_clear_error();
    return Out::because("the signature is no CMS in DER");
  }
  if (CMS_is_detached(cms.get()) != 1) return Out::because("the signature brings its own content");
  const Bio data = reader(manifest);
  if (CMS_verify(cms.get(), nullptr, store.get(), data.get(), nullptr, CMS_BINARY) != 1)
    return Out::because("the signature does not hold: " + reason());
  if (const std::string p = signers_problem(cms.get()); !p.empty()) return Out::because(p);
  auto m = manifest_from(manifest);  // believed from here on
  if (m.ok() && compare_versions(m->version, m->minimum) < 0)
    return Out::because("version " + m->version + " is below the manifest's own minimum");
  return m;
}

std::string sha256_hex(std::string_view bytes) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest);
  std::string out;
  for (const unsigned char b : digest) {
    out += "0123456789abcdef"[b >> 4];
    out += "0123456789abcdef"[b & 15];
  }
  return out;
}

int compare_versions(std::string_view a, std::string_view b) noexcept {
  const auto part = [](std::string_view& v) {
    unsigned long n = 0;
    std::size_t i = 0;
    for (; i < v.size() && v[i] != '.'; ++i)
      n = v[i] >= '0' && v[i] <= '9' && n < 100'000'000
              ? n * 10 + static_cast<unsigned long>(v[i] - '0')
              : n;
    v.remove_prefix(i < v.size() ? i + 1 : i);
    return n;
  };
  while (!a.empty() || !b.empty()) {
    const unsigned long x = part(a), y = part(b);
    if (x != y) return x < y ? -1 : 1;
  }
  return 0;
}

}  // namespace bulkhead::grant
