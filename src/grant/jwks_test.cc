#include <gtest/gtest.h>

#include "grant/key.h"
#include "grant/strict_json.h"
#include "grant/test_token.h"

namespace bulkhead::grant {
namespace {

std::string problem(const std::string& text) { return KeySet::parse(text).problem; }
std::string set_of(const std::string& keys) { return "{\"keys\":[" + keys + "]}"; }

// RFC 7515, appendix A.3: a key and a signature we did not make.
constexpr const char* kRfcKey =
    R"({"kty":"EC","crv":"P-256","kid":"rfc","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"})";
constexpr const char* kRfcText =
    "eyJhbGciOiJFUzI1NiJ9."
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlf"
    "Q";
constexpr const char* kRfcSignature =
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

TEST(Jwks, VerifiesTheExampleOfTheRfc) {
  auto keys = KeySet::parse(set_of(kRfcKey));
  ASSERT_TRUE(keys.ok()) << keys.problem;
  const Key* key = keys->find("rfc");
  ASSERT_NE(key, nullptr);
  EXPECT_TRUE(verify(*key, kRfcText, *from_base64url(kRfcSignature)));
  EXPECT_FALSE(verify(*key, std::string{kRfcText} + "x", *from_base64url(kRfcSignature)));
}

TEST(Jwks, AKeyAndItsPemAreOne) {
  const Issuer one;
  auto again = key_from_pem(to_pem(one.key));
  ASSERT_TRUE(again.ok()) << again.problem;
  EXPECT_EQ(thumbprint(*again), thumbprint(one.key));
  EXPECT_TRUE(verify(*one.keys.find("k1"), "text", sign(*again, "text")));
  EXPECT_EQ(thumbprint(one.key).size(), 43u);
  EXPECT_FALSE(key_from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").ok());
  EXPECT_FALSE(key_from_pem("").ok());
}

TEST(Jwks, WhatIsWrongIsSaid) {
  const Issuer one;
  const std::string key = to_jwk(one.key, "a");
  EXPECT_EQ(problem(set_of(key)), "");
  EXPECT_EQ(problem(set_of("")), "");  // nobody is trusted: a state, not a fault
  EXPECT_NE(problem("[]"), "");
  EXPECT_NE(problem("{}"), "");
  EXPECT_NE(problem(set_of(key) + "x"), "");
  EXPECT_NE(problem("{\"keys\":{}}"), "");
  EXPECT_NE(problem(set_of("1")), "");
  EXPECT_EQ(problem(set_of(key + "," + key)), "two keys of kid a");
  EXPECT_NE(problem(set_of(with(key, "\"kid\"", "\"d\":\"AA\",\"kid\""))).find("private key"),
            std::string::npos);
  EXPECT_NE(problem(set_of(with(key, "\"kid\"", "\"kty\":\"EC\",\"kid\""))).find("duplicate-key"),
            std::string::npos);
  EXPECT_NE(problem(std::string(kMostJwksBytes + 1, ' ')), "");
  std::string many;
  for (int i = 0; i < 65; ++i) many += (i == 0 ? "" : ",") + to_jwk(one.key, std::to_string(i));
  EXPECT_EQ(problem(set_of(many)), "over 64 keys");
}

TEST(Jwks, PointsBesideTheCurveAreRefused) {
  const std::string zero = to_base64url(std::string(32, '\0'));
  const std::string ones = to_base64url(std::string(32, '\xff'));
  const auto at = [](const std::string& x, const std::string& y) {
    return problem(
        set_of(R"({"kty":"EC","crv":"P-256","kid":"a","x":")" + x + R"(","y":")" + y + "\"}"));
  };
  EXPECT_EQ(at(zero, zero), "key a: its point is not on the curve");
  EXPECT_EQ(at(ones, ones), "key a: its point is not on the curve");
  EXPECT_EQ(at("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
               "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a4"),
            "key a: its point is not on the curve");
  EXPECT_NE(at("AAAA", zero), "");
  EXPECT_NE(at(zero + "=", zero), "");
}

TEST(Jwks, OtherKindsArePassedOver) {
  const Issuer one;
  const std::string key = to_jwk(one.key, "a");
  auto keys = KeySet::parse(set_of(key + R"(,{"kty":"RSA","kid":"r","n":"AA","e":"AQAB"})" + "," +
                                   with(to_jwk(one.key, "e"), "\"sig\"", "\"enc\"") + "," +
                                   with(to_jwk(one.key, "l"), "\"ES256\"", "\"ES384\"")));
  ASSERT_TRUE(keys.ok()) << keys.problem;
  EXPECT_EQ(keys->size(), 1u);
  EXPECT_EQ(keys->passed_over(), 3u);
  EXPECT_EQ(keys->find("e"), nullptr);
  EXPECT_EQ(keys->kids(), "a");
}

TEST(StrictJson, SeesDoublesAtAnyDepth) {
  EXPECT_EQ(parse_object(R"({"a":1,"b":{"a":1}})").why, Refusal::kNone);
  EXPECT_EQ(parse_object(R"({"a":1,"a":1})").why, Refusal::kDuplicateKey);
  EXPECT_EQ(parse_object(R"({"a":1,"\u0061":1})").why, Refusal::kDuplicateKey);  // by its meaning
  EXPECT_EQ(parse_object(R"({"b":[{"a":1},{"a":1}]})").why, Refusal::kNone);
  EXPECT_EQ(parse_object(R"({"b":[{"a":1,"a":1}]})").why, Refusal::kDuplicateKey);
  EXPECT_EQ(parse_object(std::string(4000, '[')).why, Refusal::kNotJson);
  EXPECT_EQ(parse_object("{\"a\":NaN}").why, Refusal::kNotJson);
  EXPECT_EQ(parse_object("{\"a\":1}//").why, Refusal::kNotJson);
  EXPECT_EQ(parse_object("\xef\xbb\xbf[]").why, Refusal::kNotJson);
}

}  // namespace
}  // namespace bulkhead::grant
