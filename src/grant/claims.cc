#include "grant/claims.h"

#include <openssl/rand.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>

#include "grant/base64url.h"
#include "grant/strict_json.h"

namespace bulkhead::grant {
namespace {

using nlohmann::json;
constexpr std::int64_t kLastSecond = 253'402'300'799;  // of the year 9999
constexpr std::uint64_t kMostBytes = (1ull << 48) - 1;

struct Word {
  const char* word;
  std::uint8_t bit;
};
constexpr Word kWords[] = {{"h2d", kH2d}, {"d2h", kD2h}, {"d2d", kD2d}, {"p2p", kP2p},
                           {"set", kSet}, {"h2h", kH2h}, {"map", kMap}};
constexpr std::uint8_t kAllDirections = kH2d | kD2h | kD2d | kP2p | kH2h;

bool is_id(const std::string& id) {
  const auto good = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
  };
  return id.size() >= 16 && id.size() <= 64 && std::all_of(id.begin(), id.end(), good);
}
bool is_label(const std::string& w) {
  const auto good = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  };
  return !w.empty() && w.size() <= 32 && std::all_of(w.begin(), w.end(), good) &&
         std::isalnum(static_cast<unsigned char>(w[0])) != 0;
}
// GPU-8-4-4-4-12 in lower case, as the driver writes it.
bool is_location(const std::string& u) {
  if (u.size() != 40 || (!u.starts_with("GPU-") && !u.starts_with("MIG-"))) return false;
  for (std::size_t i = 4; i < u.size(); ++i) {
    const bool dash = i == 12 || i == 17 || i == 22 || i == 27;
    const bool hex = (u[i] >= '0' && u[i] <= '9') || (u[i] >= 'a' && u[i] <= 'f');
    if (dash ? u[i] != '-' : !hex) return false;
  }
  return true;
}
// A line of printing characters.
bool is_line(const std::string& s, std::size_t most) {
  const auto good = [](char c) { return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f; };
  return !s.empty() && s.size() <= most && std::all_of(s.begin(), s.end(), good);
}

bool take_line(const json& from, const char* key, std::string& to) {
  const std::string* text = text_of(from, key);
  if (text == nullptr || !is_line(*text, 127)) return false;
  to = *text;
  return true;
}
bool take_second(const json& from, const char* key, std::int64_t& to) {
  const auto at = from.find(key);
  if (at == from.end() || !at->is_number_unsigned()) return false;
  const auto value = at->get<std::uint64_t>();
  to = static_cast<std::int64_t>(std::min<std::uint64_t>(value, kLastSecond + 1));
  return to <= kLastSecond;
}
bool take_audience(const json& claims, std::string& to) {
  const auto at = claims.find("aud");
  if (at == claims.end()) return false;
  if (at->is_string()) return take_line(claims, "aud", to);
  if (!at->is_array() || at->size() != 1 || !(*at)[0].is_string()) return false;
  to = (*at)[0].get<std::string>();
  return is_line(to, 127);
}
template <class Good>
bool take_list(const json& from, const char* key, std::size_t most, Good good,
               std::vector<std::string>& to) {
  const auto at = from.find(key);
  if (at == from.end() || !at->is_array() || at->empty() || at->size() > most) return false;
  for (const json& item : *at) {
    if (!item.is_string() || !good(item.get_ref<const std::string&>())) return false;
    to.push_back(item.get<std::string>());
  }
  return true;
}

// 0x and one to sixteen digits.
bool take_address(const json& limits, std::uint64_t& to) {
  const std::string* text = text_of(limits, "address");
  if (text == nullptr || !text->starts_with("0x") || text->size() < 3 || text->size() > 18)
    return false;
  if (text->find_first_not_of("0123456789abcdef", 2) != std::string::npos) return false;
  to = std::strtoull(text->c_str() + 2, nullptr, 16);
  return true;
}
const char* take_limits(const json& limits, Grant& g) {
  if (!limits.is_object()) return "limits";
  for (const auto& [key, value] : limits.items()) {
    if (key != "bytes" && key != "address" && key != "length") return "limits";
    if (key == "address") continue;
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() == 0) return "limits";
  }
  if (limits.contains("address") != limits.contains("length")) return "limits.length";
  if (limits.contains("bytes")) g.bytes = limits["bytes"].get<std::uint64_t>();
  if (g.bytes > kMostBytes) return "limits.bytes";
  if (!limits.contains("address")) return nullptr;
  if (!take_address(limits, g.address)) return "limits.address";
  g.length = limits["length"].get<std::uint64_t>();
  return g.address > ~std::uint64_t{0} - g.length ? "limits.length" : nullptr;
}
// What is wrong with it, or null.
const char* take_details(const json& claims, Grant& g) {
  const auto all = claims.find("authorization_details");
  if (all == claims.end() || !all->is_array() || all->size() != 1 || !(*all)[0].is_object())
    return "authorization_details";
  const json& d = (*all)[0];
  const std::string* type = text_of(d, "type");
  if (type == nullptr || *type != "gpu-dma") return "type";
  for (const auto& [key, value] : d.items()) {
    if (key != "type" && key != "actions" && key != "locations" && key != "datatypes" &&
        key != "limits")
      return "a member that is not known";
  }
  std::vector<std::string> words;
  const auto action = [](const std::string& w) { return action_of(w) != 0; };
  if (!take_list(d, "actions", 7, action, words)) return "actions";
  for (const std::string& w : words) g.actions |= action_of(w);
  if ((g.actions & kAllDirections) == kAllDirections) g.actions |= kEveryDirection;
  if (!take_list(d, "locations", 16, is_location, g.locations)) return "locations";
  if (!take_list(d, "datatypes", 8, is_label, g.datatypes)) return "datatypes";
  return d.contains("limits") ? take_limits(d["limits"], g) : nullptr;
}

}  // namespace

std::uint8_t action_of(std::string_view word) noexcept {
  for (const Word& w : kWords) {
    if (word == w.word) return w.bit;
  }
  return 0;
}

std::string actions_text(std::uint8_t actions, const char* between) {
  std::string out;
  for (const Word& w : kWords) {
    if ((actions & w.bit) != 0) out += (out.empty() ? "" : between) + std::string{w.word};
  }
  return out;
}

Verified read_claims(const json& claims) {
  Verified v;
  Grant& g = v.grant;
  const auto missing = [&v](Refusal why, const char* what) {
    v.why = why;
    v.detail = what;
    return v;
  };
  if (claims.contains("cnf")) return missing(Refusal::kConfirmation, "");
  if (!take_line(claims, "iss", g.issuer)) return missing(Refusal::kClaim, "iss");
  if (!take_line(claims, "sub", g.subject)) return missing(Refusal::kClaim, "sub");
  if (!take_audience(claims, g.audience)) return missing(Refusal::kClaim, "aud");
  if (!take_second(claims, "nbf", g.not_before_s)) return missing(Refusal::kClaim, "nbf");
  if (!take_second(claims, "iat", g.issued_s)) return missing(Refusal::kClaim, "iat");
  if (!take_second(claims, "exp", g.expires_s)) return missing(Refusal::kClaim, "exp");
  if (!take_line(claims, "jti", g.id) || !is_id(g.id)) return missing(Refusal::kClaim, "jti");
  if (const char* wrong = take_details(claims, g)) return missing(Refusal::kAuthorization, wrong);
  return v;
}

json write_claims(const Grant& g) {
  json actions = json::array();
  for (const Word& w : kWords) {
    if ((g.actions & w.bit) != 0) actions.push_back(w.word);
  }
  json detail = {{"type", "gpu-dma"},
                 {"actions", actions},
                 {"locations", g.locations},
                 {"datatypes", g.datatypes}};
  if (g.bytes != 0) detail["limits"]["bytes"] = g.bytes;
  if (g.length != 0) {
    char text[20];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(g.address));
    detail["limits"]["address"] = text;
    detail["limits"]["length"] = g.length;
  }
  return {{"iss", g.issuer},   {"sub", g.subject},
          {"aud", g.audience}, {"nbf", g.not_before_s},
          {"iat", g.issued_s}, {"exp", g.expires_s},
          {"jti", g.id},       {"authorization_details", json::array({detail})}};
}

std::string new_id() {
  char bytes[16];
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes), sizeof bytes) != 1) return "";
  return to_base64url({bytes, sizeof bytes});
}

std::string time_text(std::int64_t unix_s) {
  const time_t at = unix_s;
  tm parts{};
  char text[32] = "?";
  if (::gmtime_r(&at, &parts) != nullptr)
    (void)std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

}  // namespace bulkhead::grant
