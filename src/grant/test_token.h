// Tests' tokens: a good grant, and pieces to make bad ones of.
#pragma once
#include <string>

#include "grant/base64url.h"
#include "grant/key.h"
#include "grant/token.h"

namespace bulkhead::grant {

inline constexpr std::int64_t kNow = 1'795'352'400;
inline constexpr const char* kGpu = "GPU-00000000-0000-0000-0000-000000000001";

inline Grant good_grant() {
  Grant g;
  g.kid = "k1";
  g.issuer = "https://issuer.example";
  g.subject = "spiffe://firm.example/trade";
  g.audience = "node1";
  g.id = "AAAAAAAAAAAAAAAAAAAAAA";
  g.not_before_s = g.issued_s = kNow - 10;
  g.expires_s = kNow + 600;
  g.actions = kH2d | kD2h;
  g.locations = {kGpu};
  g.datatypes = {"mnpi"};
  return g;
}
inline std::string good_claims() {
  return R"({"iss":"https://issuer.example","sub":"spiffe://firm.example/trade","aud":"node1","iat":1795352390,"nbf":1795352390,"exp":1795353000,"jti":"AAAAAAAAAAAAAAAAAAAAAA","authorization_details":[{"type":"gpu-dma","actions":["h2d","d2h"],"locations":["GPU-00000000-0000-0000-0000-000000000001"],"datatypes":["mnpi"]}]})";
}
inline constexpr const char* kGoodHeader =
    R"({"alg":"ES256","typ":"gpu-dma-grant+jwt","kid":"k1"})";

struct Issuer {
  Key key;
  KeySet keys;
  explicit Issuer(const std::string& kid = "k1") {
    key = std::move(*new_key());
    keys = std::move(*KeySet::parse("{\"keys\":[" + to_jwk(key, kid) + "]}"));
  }
  [[nodiscard]] std::string make(const std::string& header, const std::string& claims) const {
    const std::string text = to_base64url(header) + "." + to_base64url(claims);
    return text + "." + to_base64url(sign(key, text));
  }
};
inline Expected expected(std::int64_t now = kNow) {
  return {"node1", "https://issuer.example", "spiffe://firm.example/trade", now};
}
inline std::string with(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  return at == std::string::npos ? "NOT THERE: " + from : text.replace(at, from.size(), to);
}

}  // namespace bulkhead::grant
