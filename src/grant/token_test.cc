#include "grant/token.h"

#include <gtest/gtest.h>
#include <openssl/bn.h>

#include "grant/test_token.h"

namespace bulkhead::grant {
namespace {

const Issuer& issuer() {
  static const Issuer one;
  return one;
}
std::string why(const std::string& token, std::int64_t now = kNow) {
  return refusal_name(verify(token, issuer().keys, expected(now)).why);
}
std::string of_claims(const std::string& claims) { return issuer().make(kGoodHeader, claims); }
std::string of_header(const std::string& header) { return issuer().make(header, good_claims()); }

TEST(Token, WhatIsIssuedVerifies) {
  Grant g = good_grant();
  g.bytes = 1 << 20;
  g.address = 0x7f0000000000;
  g.length = 4096;
  g.actions = kH2d | kD2h | kD2d | kP2p | kH2h | kSet | kMap;
  const Verified v = verify(issue(g, issuer().key), issuer().keys, expected());
  ASSERT_TRUE(v.ok()) << v.text();
  EXPECT_EQ(v.grant.subject, g.subject);
  EXPECT_EQ(v.grant.id, g.id);
  EXPECT_EQ(v.grant.kid, "k1");
  EXPECT_EQ(v.grant.expires_s, g.expires_s);
  EXPECT_EQ(v.grant.actions, 0xff);  // all directions: what is not told, too
  EXPECT_EQ(v.grant.locations, g.locations);
  EXPECT_EQ(v.grant.datatypes, g.datatypes);
  EXPECT_EQ(v.grant.bytes, g.bytes);
  EXPECT_EQ(v.grant.address, g.address);
  EXPECT_EQ(v.grant.length, g.length);
  EXPECT_EQ(actions_text(v.grant.actions), "h2d, d2h, d2d, p2p, set, h2h, map");
}

TEST(Token, OnesMadeByHandVerifyToo) { EXPECT_EQ(why(of_claims(good_claims())), ""); }

TEST(Token, TimesAreHeld) {
  const std::string t = of_claims(good_claims());  // 1795352390 .. 1795353000
  EXPECT_EQ(why(t, 1795352999), "");
  EXPECT_EQ(why(t, 1795353000), "expired");
  EXPECT_EQ(why(t, 1795353001), "expired");
  EXPECT_EQ(why(t, 1795352385), "");  // five seconds of skew
  EXPECT_EQ(why(t, 1795352384), "not-yet-valid");
  EXPECT_EQ(why(t, 0), "not-yet-valid");
}

TEST(Token, EachWrongHeaderHasItsName) {
  const std::string h = kGoodHeader;
  const auto alg = [&h](const char* to) { return of_header(with(h, "ES256", to)); };
  for (const char* a : {"none", "HS256", "RS256", "ES384", "ES256K", "es256", ""})
    EXPECT_EQ(why(alg(a)), "algorithm") << a;
  EXPECT_EQ(why(of_header(with(h, "\"ES256\"", "[\"ES256\"]"))), "algorithm");
  EXPECT_EQ(why(of_header(with(h, "gpu-dma-grant+jwt", "JWT"))), "type");
  EXPECT_EQ(why(of_header(R"({"alg":"ES256","kid":"k1"})")), "type");
  EXPECT_EQ(why(of_header(with(h, "k1", "k2"))), "unknown-key");
  EXPECT_EQ(why(of_header(R"({"alg":"ES256","typ":"gpu-dma-grant+jwt"})")), "unknown-key");
  for (const char* more : {R"("crit":["exp"])", R"("jwk":{"kty":"EC"})", R"("jku":"https://a")",
                           R"("x5u":"https://a")", R"("x5c":[])", R"("zip":"DEF")",
                           R"("b64":false)", R"("anything":1)"})
    EXPECT_EQ(why(of_header(with(h, "\"kid\"", std::string{more} + ",\"kid\""))), "header") << more;
  EXPECT_EQ(why(of_header(with(h, "\"kid\"", R"("alg":"none","kid")"))), "duplicate-key");
  EXPECT_EQ(why(of_header("[]")), "not-json");
  EXPECT_EQ(why(of_header("null")), "not-json");
  EXPECT_EQ(why(of_header(h + " x")), "not-json");
}

TEST(Token, EachWrongClaimHasItsName) {
  const std::string c = good_claims();
  const auto changed = [&c](const char* from, const char* to) {
    return why(of_claims(with(c, from, to)));
  };
  EXPECT_EQ(changed("https://issuer.example", "https://other.example"), "issuer");
  EXPECT_EQ(changed("firm.example/trade", "firm.example/other"), "subject");
  EXPECT_EQ(changed("\"node1\"", "\"node2\""), "audience");
  EXPECT_EQ(changed("\"node1\"", "[\"node1\"]"), "");
  EXPECT_EQ(changed("\"node1\"", "[\"node1\",\"node2\"]"), "claim");
  EXPECT_EQ(changed("\"node1\"", "[]"), "claim");
  for (const char* name : {"iss", "sub", "aud", "iat", "nbf", "exp", "jti"})
    EXPECT_EQ(changed((std::string{"\""} + name + "\"").c_str(), "\"x\""), "claim") << name;
  EXPECT_EQ(changed("\"exp\":1795353000", "\"exp\":\"1795353000\""), "claim");
  EXPECT_EQ(changed("\"exp\":1795353000", "\"exp\":1795353000.5"), "claim");
  EXPECT_EQ(changed("\"exp\":1795353000", "\"exp\":-1"), "claim");
  EXPECT_EQ(changed("\"exp\":1795353000", "\"exp\":1e400"), "not-json");
  EXPECT_EQ(changed("\"exp\":1795353000", "\"exp\":18446744073709551615"), "claim");
  EXPECT_EQ(changed("\"exp\":1795353000", "\"exp\":1795353300"), "lifetime");
  EXPECT_EQ(changed("\"exp\":1795353000", "\"exp\":1795352390"), "lifetime");
  EXPECT_EQ(changed("\"iat\":1795352390", "\"iat\":1795000000"), "lifetime");
  EXPECT_EQ(changed("\"iat\":1795352390", "\"iat\":1795352410"), "lifetime");
  EXPECT_EQ(changed("AAAAAAAAAAAAAAAAAAAAAA", "short"), "claim");
  EXPECT_EQ(changed("AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAA\\nAAA"), "claim");
  EXPECT_EQ(changed("\"jti\"", "\"cnf\":{\"x5t#S256\":\"a\"},\"jti\""), "confirmation");
  EXPECT_EQ(changed("\"jti\"", "\"extra\":{\"a\":[1]},\"jti\""), "");
  EXPECT_EQ(changed("\"jti\"", "\"sub\":\"spiffe://evil\",\"jti\""), "duplicate-key");
  EXPECT_EQ(changed("\"jti\"", "\"extra\":[{\"a\":1,\"a\":2}],\"jti\""), "duplicate-key");
  EXPECT_EQ(changed("\"jti\"", "\"extra\":[[[[[[[[1]]]]]]]],\"jti\""), "not-json");
  EXPECT_EQ(changed("\"jti\"", "\"extra\":\"\xff\",\"jti\""), "not-json");
}

TEST(Token, EachWrongAuthorizationIsNamed) {
  const std::string c = good_claims();
  const auto changed = [&c](const char* from, const char* to) {
    return why(of_claims(with(c, from, to)));
  };
  EXPECT_EQ(changed("\"gpu-dma\"", "\"gpu\""), "authorization");
  EXPECT_EQ(changed("\"h2d\",", "\"write\","), "authorization");
  EXPECT_EQ(changed("[\"h2d\",\"d2h\"]", "[]"), "authorization");
  EXPECT_EQ(changed("[\"h2d\",\"d2h\"]", "\"h2d\""), "authorization");
  EXPECT_EQ(changed("GPU-00000000-", "GPU-0000000G-"), "authorization");
  EXPECT_EQ(changed("GPU-00000000-", "*"), "authorization");
  EXPECT_EQ(changed("mnpi", "MNPI!"), "authorization");
  EXPECT_EQ(changed("[\"mnpi\"]", "[]"), "authorization");
  const auto limits = [&](const char* text) {
    return changed("\"datatypes\"", (std::string{"\"limits\":"} + text + ",\"datatypes\"").c_str());
  };
  EXPECT_EQ(limits(R"({"bytes":4096})"), "");
  EXPECT_EQ(limits(R"({"bytes":0})"), "authorization");
  EXPECT_EQ(limits(R"({"bytes":-1})"), "authorization");
  EXPECT_EQ(limits(R"({"bytes":281474976710656})"), "authorization");
  EXPECT_EQ(limits(R"({"address":"0x1000","length":16})"), "");
  EXPECT_EQ(limits(R"({"address":"0x1000"})"), "authorization");
  EXPECT_EQ(limits(R"({"address":"1000","length":16})"), "authorization");
  EXPECT_EQ(limits(R"({"address":"0xffffffffffffffff","length":16})"), "authorization");
  EXPECT_EQ(limits(R"({"rate":1})"), "authorization");
  EXPECT_EQ(changed("\"datatypes\"", "\"privileges\":[\"all\"],\"datatypes\""), "authorization");
}

TEST(Token, FormIsStrict) {
  const std::string t = of_claims(good_claims());
  EXPECT_EQ(why(std::string(8193, 'a')), "too-long");
  EXPECT_EQ(why(""), "not-compact");
  EXPECT_EQ(why("a.b"), "not-compact");
  EXPECT_EQ(why(t + ".x"), "not-compact");
  EXPECT_EQ(why(".." + t.substr(0, 5)), "not-compact");
  EXPECT_EQ(why(t + "="), "not-base64url");
  EXPECT_EQ(why(t + "\n"), "not-base64url");
  EXPECT_EQ(why(" " + t), "not-base64url");
  std::string loose = t;  // the last character of 64 bytes has four bits that must be zero
  const std::string alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  loose.back() = alphabet[alphabet.find(loose.back()) | 1];
  EXPECT_EQ(why(loose), "not-base64url");
  EXPECT_EQ(why(R"({"payload":"","signatures":[]})"), "not-compact");  // JSON serialisation
}

TEST(Token, EveryChangedCharacterIsRefused) {
  const std::string t = of_claims(good_claims());
  for (std::size_t i = 0; i < t.size(); ++i) {
    std::string other = t;
    other[i] = other[i] == 'A' ? 'B' : 'A';
    EXPECT_NE(why(other), "") << i;
  }
}

// The cases Project Wycheproof has for raw (P1363) ECDSA signatures, made with a key of our own.
class Signatures : public testing::Test {
 protected:
  std::string text = to_base64url(kGoodHeader) + "." + to_base64url(good_claims());
  std::string good = sign(issuer().key, text);
  std::string r = good.substr(0, 32), s = good.substr(32);
  static std::string number(const char* hex) {
    BIGNUM* n = nullptr;
    BN_hex2bn(&n, hex);
    std::string out(32, '\0');
    BN_bn2binpad(n, reinterpret_cast<unsigned char*>(out.data()), 32);
    BN_free(n);
    return out;
  }
  std::string order = number("FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551");
  std::string last = number("FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632550");
  std::string prime = number("FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF");
  std::string zero = std::string(32, '\0');
  std::string one = std::string(31, '\0') + '\x01';
  std::string ones = std::string(32, '\xff');
  std::string tell(const std::string& signature) const {
    return why(text + "." + to_base64url(signature));
  }
};

TEST_F(Signatures, ValuesOutOfRangeAreRefused) {
  ASSERT_EQ(tell(good), "");
  const std::string* const edges[] = {&zero, &one, &order, &last, &prime, &ones};
  for (const auto* a : edges) {
    for (const auto* b : edges) EXPECT_EQ(tell(*a + *b), "signature");
    EXPECT_EQ(tell(r + *a), "signature");
    EXPECT_EQ(tell(*a + s), "signature");
  }
  EXPECT_EQ(tell(s + r), "signature");
}

TEST_F(Signatures, LengthsAreExact) {
  EXPECT_EQ(tell(good.substr(0, 63)), "signature-length");
  EXPECT_EQ(tell(good + '\0'), "signature-length");
  EXPECT_EQ(tell('\0' + good), "signature-length");
  EXPECT_EQ(tell('\0' + r + '\0' + s), "signature-length");  // 33-byte integers
  EXPECT_EQ(tell(good + good), "signature-length");
  EXPECT_EQ(tell(r), "signature-length");
  // DER, whose length is another: SEQUENCE of two INTEGERs
  const auto integer = [](const std::string& v) {
    const bool pad = (v[0] & '\x80') != 0;
    return std::string{"\x02"} + static_cast<char>(32 + pad) + (pad ? std::string(1, '\0') : "") +
           v;
  };
  const std::string body = integer(r) + integer(s);
  EXPECT_EQ(tell(std::string{"\x30"} + static_cast<char>(body.size()) + body), "signature-length");
}

// s and order - s are both signatures of it (RFC 7518 knows no low-s rule): the same claims, so nothing is gained.
TEST_F(Signatures, TheOtherSIsASignatureToo) {
  BIGNUM* n = BN_bin2bn(reinterpret_cast<const unsigned char*>(order.data()), 32, nullptr);
  BIGNUM* v = BN_bin2bn(reinterpret_cast<const unsigned char*>(s.data()), 32, nullptr);
  BN_sub(v, n, v);
  std::string high(32, '\0');
  BN_bn2binpad(v, reinterpret_cast<unsigned char*>(high.data()), 32);
  BN_free(n);
  BN_free(v);
  EXPECT_EQ(tell(r + high), "");
}

TEST_F(Signatures, AnotherKeyIsRefused) {
  const Issuer other;
  EXPECT_EQ(why(other.make(kGoodHeader, good_claims())), "signature");
}

TEST(Token, NothingOfTheClaimsIsLookedAtBeforeTheSignature) {
  const Issuer other;
  EXPECT_EQ(why(other.make(kGoodHeader, "not even JSON")), "signature");
}

TEST(Token, InspectReadsWithoutBelieving) {
  const Issuer other;
  const Verified v = read_unverified(other.make(kGoodHeader, good_claims()));
  ASSERT_TRUE(v.ok());
  EXPECT_EQ(v.grant.subject, "spiffe://firm.example/trade");
}

TEST(Token, EveryRefusalHasAName) {
  for (unsigned i = 1; i < kRefusals; ++i) {
    EXPECT_STRNE(refusal_name(static_cast<Refusal>(i)), "") << i;
    EXPECT_STRNE(refusal_fix(static_cast<Refusal>(i)), "") << i;
    for (unsigned j = 1; j < i; ++j)
      EXPECT_STRNE(refusal_name(static_cast<Refusal>(i)), refusal_name(static_cast<Refusal>(j)));
  }
}

TEST(Base64url, IsCanonical) {
  for (std::size_t n = 0; n < 70; ++n) {
    std::string bytes;
    for (std::size_t i = 0; i < n; ++i) bytes += static_cast<char>(i * 37 + n);
    EXPECT_EQ(from_base64url(to_base64url(bytes)), bytes);
  }
  EXPECT_EQ(to_base64url("\xfb\xff"), "-_8");
  for (const char* bad : {"A", "AAAAA", "A=", "AB==", "A+", "A/", "A A", "AB", "AAB"})
    EXPECT_EQ(from_base64url(bad), std::nullopt) << bad;
}

}  // namespace
}  // namespace bulkhead::grant
