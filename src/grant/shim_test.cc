#include "grant/shim.h"

#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "grant/key.h"

namespace bulkhead::grant {
namespace {

// A certificate of a key, signed by another (or by itself), in PEM.
struct Signed {
  Key key = std::move(*new_key());
  X509* certificate = X509_new();
  ~Signed() { X509_free(certificate); }
  std::string pem() const {
    BIO* out = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(out, certificate);
    char* at = nullptr;
    const long n = BIO_get_mem_data(out, &at);
    std::string text(at, static_cast<std::size_t>(n));
    BIO_free(out);
    return text;
  }
  void make(const char* name, const Signed& by, const char* usage, bool authority,
            long seconds = 3600) {
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1 + (authority ? 1 : 0));
    X509_gmtime_adj(X509_getm_notBefore(certificate), -7200);
    X509_gmtime_adj(X509_getm_notAfter(certificate), seconds);
    X509_set_pubkey(certificate, key.get());
    X509_NAME* subject = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name), -1, -1, 0);
    X509_set_issuer_name(certificate, X509_get_subject_name(by.certificate));
    add(NID_basic_constraints, authority ? "critical,CA:TRUE" : "CA:FALSE");
    if (usage != nullptr) add(NID_ext_key_usage, usage);
    X509_sign(certificate, by.key.get(), EVP_sha256());
  }
  void add(int nid, const char* value) {
    X509_EXTENSION* e = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value);
    X509_add_ext(certificate, e, -1);
    X509_EXTENSION_free(e);
  }
};

class Shim : public testing::Test {
 protected:
  Signed root, leaf;
  std::string manifest =
      to_json({"0.1.0",
               "0.1.0",
               {{kShimLibrary, sha256_hex("the library")}, {kShimDaemon, sha256_hex("d")}}});
  void SetUp() override {
    root.make("root", root, nullptr, true);
    leaf.make("leaf", root, "codeSigning", false);
  }
  std::string sign(const Signed& by) {
    auto s = sign_manifest(manifest, to_pem(by.key), by.pem());
    EXPECT_TRUE(s.ok()) << s.problem;
    return s.ok() ? *s : "";
  }
  std::string problem(const std::string& signature) {
    return verify_manifest(manifest, signature, root.pem()).problem;
  }
};

TEST_F(Shim, ASignedManifestVerifies) {
  const auto m = verify_manifest(manifest, sign(leaf), root.pem());
  ASSERT_TRUE(m.ok()) << m.problem;
  EXPECT_EQ(m.value->files.at(kShimLibrary), sha256_hex("the library"));
  EXPECT_EQ(m.value->version, "0.1.0");
}

TEST_F(Shim, EveryChangedByteIsRefused) {
  const std::string signature = sign(leaf), good = manifest;
  for (std::size_t i = 0; i < good.size(); ++i) {
    manifest = good;
    manifest[i] = static_cast<char>(manifest[i] ^ 1);
    EXPECT_NE(problem(signature), "") << i;
  }
  manifest = good + " ";
  EXPECT_NE(problem(signature), "");
  EXPECT_NE(problem(""), "");
  EXPECT_NE(problem(signature.substr(0, signature.size() / 2)), "");
}

TEST_F(Shim, OnlyThePinnedRootCounts) {
  Signed other, stranger;
  other.make("root", other, nullptr, true);  // of the same name
  stranger.make("leaf", other, "codeSigning", false);
  EXPECT_NE(problem(sign(stranger)), "");
  EXPECT_NE(problem(sign(other)), "");
}

TEST_F(Shim, OnlyCodeSignersCount) {
  Signed server, plain, late;
  server.make("server", root, "serverAuth", false);
  plain.make("plain", root, nullptr, false);
  late.make("late", root, "codeSigning", false, -60);
  EXPECT_NE(problem(sign(server)).find("not for signing code"), std::string::npos);
  EXPECT_NE(problem(sign(plain)).find("not for signing code"), std::string::npos);
  EXPECT_NE(problem(sign(late)), "");  // its time is over
}

TEST_F(Shim, ManifestsAreStrict) {
  EXPECT_FALSE(manifest_from("{}").ok());
  EXPECT_FALSE(manifest_from(R"({"schema":1,"version":"1","minimum":"1","files":{}})").ok());
  EXPECT_FALSE(
      manifest_from(R"({"schema":1,"version":"1","minimum":"1","files":{"a":"00"}})").ok());
  manifest = to_json({"0.1.0", "0.2.0", {{kShimLibrary, sha256_hex("x")}}});
  EXPECT_NE(problem(sign(leaf)).find("minimum"), std::string::npos);
  EXPECT_LT(compare_versions("0.9", "0.10"), 0);
  EXPECT_EQ(compare_versions("1.0", "1"), 0);
  EXPECT_GT(compare_versions("1.0.1", "1.0"), 0);
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace bulkhead::grant
