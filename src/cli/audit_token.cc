#include "cli/audit_token.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "grant/token.h"

namespace bulkhead::cli {
namespace {

using nlohmann::json;

std::string text_of(const json& record, const char* key) {
  const auto at = record.find(key);
  return at != record.end() && at->is_string() ? at->get<std::string>() : std::string{};
}
std::int64_t number_of(const json& record, const char* key) {
  const auto at = record.find(key);
  return at != record.end() && at->is_number_integer() ? at->get<std::int64_t>() : 0;
}

json list_of(const json& record, const char* key) {
  const auto at = record.find(key);
  return at != record.end() && at->is_array() ? *at : json::array();
}

// Which member of the record says something else than the token; "": none.
std::string differs(const json& r, const grant::Grant& g) {
  if (text_of(r, "sub") != g.subject) return "sub";
  if (text_of(r, "iss") != g.issuer) return "iss";
  if (text_of(r, "jti") != g.id) return "jti";
  if (text_of(r, "kid") != g.kid) return "kid";
  if (number_of(r, "nbf") != g.not_before_s) return "nbf";
  if (number_of(r, "exp") != g.expires_s) return "exp";
  if (number_of(r, "bytes") != static_cast<std::int64_t>(g.bytes)) return "bytes";
  constexpr std::uint64_t kBelow = 0x7fff'ffff'ffff'ffff;  // as the record writes it
  if (number_of(r, "address") != static_cast<std::int64_t>(g.length == 0 ? 0 : g.address & kBelow))
    return "address";
  if (number_of(r, "length") != static_cast<std::int64_t>(g.length & kBelow)) return "length";
  std::uint8_t actions = 0;
  for (const json& word : list_of(r, "directions")) {
    if (word.is_string())
      actions = static_cast<std::uint8_t>(actions | grant::action_of(word.get<std::string>()));
  }
  constexpr std::uint8_t kWritten = 0x7f;  // what follows from the others is not written
  if ((actions & kWritten) != (g.actions & kWritten)) return "directions";
  // The record has those of the token that are the tenant's: never one that the token lacks.
  const json devices = list_of(r, "devices");
  for (const json& one : devices) {
    if (!one.is_string() || std::find(g.locations.begin(), g.locations.end(),
                                      one.get<std::string>()) == g.locations.end())
      return "devices";
  }
  if (devices.empty()) return "devices";  // in a record that means any
  return list_of(r, "datatypes") == json(g.datatypes) ? "" : "datatypes";
}

}  // namespace

audit::VerifyOptions::Token check_token(const grant::KeySet& keys, const std::string& text,
                                        std::string& why) {
  using Token = audit::VerifyOptions::Token;
  const json record = json::parse(text, nullptr, false);
  if (!record.is_object()) {
    why = "its record cannot be read";
    return Token::kBad;
  }
  const std::string token = text_of(record, "jwt");
  // Whose it is and until when is compared with the record; what is asked of the token is that its issuer signed it.
  const grant::Verified read = grant::read_unverified(token);
  grant::Expected expected;
  expected.audience = read.grant.audience;
  expected.now_s = read.grant.not_before_s;
  const grant::Verified v = grant::verify(token, keys, expected);
  if (v.why == grant::Refusal::kUnknownKey) return Token::kUnknownKey;
  if (!v.ok()) {
    why = std::string{"its token is not good: "} + grant::refusal_name(v.why);
    return Token::kBad;
  }
  const std::string member = differs(record, v.grant);
  if (member.empty()) return Token::kGood;
  why = "its record says another " + member + " than its token";
  return Token::kBad;
}

}  // namespace bulkhead::cli
