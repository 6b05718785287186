#include "grant/token.h"

#include <array>

#include "grant/base64url.h"
#include "grant/claims.h"
#include "grant/strict_json.h"

namespace bulkhead::grant {
namespace {

Verified refuse(Refusal why, std::string detail = {}) {
  Verified v;
  v.why = why;
  v.detail = std::move(detail);
  return v;
}

struct Parts {
  std::string_view signed_bytes, header, claims, signature;
};
bool split(std::string_view token, Parts& out) {
  const std::size_t first = token.find('.');
  if (first == std::string_view::npos) return false;
  const std::size_t second = token.find('.', first + 1);
  if (second == std::string_view::npos || token.find('.', second + 1) != std::string_view::npos)
    return false;
  out = {token.substr(0, second), token.substr(0, first),
         token.substr(first + 1, second - first - 1), token.substr(second + 1)};
  return !out.header.empty() && !out.claims.empty();  // without a signature: the algorithm is named
}

// Alg, typ and kid, and nothing else: crit, jwk, jku, x5u, zip and what comes later have no way in.
Refusal check_header(const nlohmann::json& header, std::string& kid) {
  const std::string* alg = text_of(header, "alg");
  if (alg == nullptr || *alg != "ES256") return Refusal::kAlgorithm;
  const std::string* typ = text_of(header, "typ");
  if (typ == nullptr || *typ != kTokenType) return Refusal::kType;
  const std::string* id = text_of(header, "kid");
  if (id == nullptr || id->empty() || id->size() > 128) return Refusal::kUnknownKey;
  if (header.size() != 3) return Refusal::kHeader;
  kid = *id;
  return Refusal::kNone;
}

// `keys` null: read only.
Verified take(std::string_view token, const KeySet* keys) {
  if (token.size() > kMostTokenBytes) return refuse(Refusal::kTooLong);
  Parts parts;
  if (!split(token, parts)) return refuse(Refusal::kNotCompact);
  const auto header_text = from_base64url(parts.header);
  const auto claims_text = from_base64url(parts.claims);
  const auto signature = from_base64url(parts.signature);
  if (!header_text || !claims_text || !signature) return refuse(Refusal::kNotBase64url);
  const ParsedJson header = parse_object(*header_text);
  if (header.why != Refusal::kNone) return refuse(header.why, "in the header");
  std::string kid;
  if (const Refusal r = check_header(header.value, kid); r != Refusal::kNone) return refuse(r);
  if (signature->size() != kSignatureBytes)
    return refuse(Refusal::kSignatureLength, std::to_string(signature->size()) + " bytes");
  if (keys != nullptr) {
    const Key* key = keys->find(kid);
    if (key == nullptr) return refuse(Refusal::kUnknownKey);
    if (!verify(*key, parts.signed_bytes, *signature)) return refuse(Refusal::kSignature);
  }
  const ParsedJson claims = parse_object(*claims_text);
  if (claims.why != Refusal::kNone) return refuse(claims.why, "in the claims");
  Verified v = read_claims(claims.value);
  v.grant.kid = kid;
  return v;
}

Refusal check_time(const Grant& g, std::int64_t now_s, std::string& detail) {
  // issued long before it begins would be a way around the longest life
  if (g.expires_s <= g.not_before_s || g.expires_s - g.not_before_s > kMostLife_s ||
      g.expires_s - g.issued_s > kMostLife_s || g.issued_s > g.not_before_s + kSkew_s) {
    detail = std::to_string(g.expires_s - std::min(g.not_before_s, g.issued_s)) + " s";
    return Refusal::kLifetime;
  }
  detail = "at " + time_text(g.expires_s);
  if (now_s >= g.expires_s) return Refusal::kExpired;
  detail = "before " + time_text(g.not_before_s);
  if (g.not_before_s > now_s + kSkew_s || g.issued_s > now_s + kSkew_s)
    return Refusal::kNotYetValid;
  detail.clear();
  return Refusal::kNone;
}

}  // namespace

std::string Verified::text() const {
  if (ok()) return "";
  std::string out = refusal_name(why);
  if (!detail.empty()) out += " (" + detail + ")";
  return out + ": " + refusal_fix(why);
}

Verified verify(std::string_view token, const KeySet& keys, const Expected& e) {
  Verified v = take(token, &keys);
  if (!v.ok()) return v;
  const Grant& g = v.grant;
  if (!e.issuer.empty() && g.issuer != e.issuer) {
    v.why = Refusal::kIssuer;
    v.detail = g.issuer;
  } else if (g.audience != e.audience) {
    v.why = Refusal::kAudience;
    v.detail = g.audience + ", this node is " + std::string{e.audience};
  } else if (!e.subject.empty() && g.subject != e.subject) {
    v.why = Refusal::kSubject;
    v.detail = g.subject;
  } else {
    v.why = check_time(g, e.now_s, v.detail);
  }
  return v;
}

Verified read_unverified(std::string_view token) { return take(token, nullptr); }

std::string issue(const Grant& grant, const Key& key) {
  const nlohmann::json header = {{"alg", "ES256"}, {"typ", kTokenType}, {"kid", grant.kid}};
  constexpr auto kReplace = nlohmann::json::error_handler_t::replace;
  const std::string text = to_base64url(header.dump(-1, ' ', true, kReplace)) + "." +
                           to_base64url(write_claims(grant).dump(-1, ' ', true, kReplace));
  const std::string signature = sign(key, text);
  return signature.empty() ? "" : text + "." + to_base64url(signature);
}

}  // namespace bulkhead::grant
