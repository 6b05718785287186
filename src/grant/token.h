// The token of a grant: an ES256 JWT of a narrow profile (docs/formats/grant.md, 'Token'; RFC 7515, 7519, 8725, 9396). Text in, values or
// a named refusal out; no clock, no file.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "grant/key.h"
#include "grant/refusal.h"

namespace bulkhead::grant {

inline constexpr std::size_t kMostTokenBytes = 8192;
inline constexpr std::int64_t kMostLife_s = 900;
inline constexpr std::int64_t kSkew_s = 5;  // an issuer's clock may be ahead by this
inline constexpr const char* kTokenType = "gpu-dma-grant+jwt";

// Bit d: abi::Direction d. The table's own two beside them.
enum Action : std::uint8_t {
  kMap = 1 << 0,
  kH2d = 1 << 1,
  kD2h = 1 << 2,
  kD2d = 1 << 3,
  kP2p = 1 << 4,
  kSet = 1 << 5,
  kH2h = 1 << 6,
  kEveryDirection = 1 << 7,  // follows from h2d, d2h, d2d, p2p and h2h
};
// 0: no such word.
[[nodiscard]] std::uint8_t action_of(std::string_view word) noexcept;
// "h2d, d2h".
[[nodiscard]] std::string actions_text(std::uint8_t actions, const char* between = ", ");

struct Grant {
  std::string kid, issuer, subject, audience, id;  // id: jti
  std::int64_t not_before_s = 0, issued_s = 0, expires_s = 0;
  std::uint8_t actions = 0;
  std::vector<std::string> locations, datatypes;
  std::uint64_t bytes = 0;                // 0: any
  std::uint64_t address = 0, length = 0;  // length 0: any
};
struct Expected {
  std::string_view audience;
  std::string_view issuer;   // empty: any
  std::string_view subject;  // empty: any (inspect)
  std::int64_t now_s = 0;
};
struct Verified {
  Refusal why = Refusal::kNone;
  std::string
      detail;  // what exactly, or ""; of our own making but for names out of claims whose signature was good
  Grant grant;  // whole only if why is kNone
  [[nodiscard]] bool ok() const { return why == Refusal::kNone; }
  [[nodiscard]] std::string text() const;  // "expired: at ... ; ask the issuer for a new one"
};

[[nodiscard]] Verified verify(std::string_view token, const KeySet& keys, const Expected& expected);
// Form and claims alone, for `inspect`: nothing of it may be believed.
[[nodiscard]] Verified read_unverified(std::string_view token);
// The issuer's side: the compact token, or "" if OpenSSL fails. The grant is written as it is.
[[nodiscard]] std::string issue(const Grant& grant, const Key& key);
// 128 random bits in base64url.
[[nodiscard]] std::string new_id();
[[nodiscard]] std::string time_text(std::int64_t unix_s);  // 2026-11-22T13:04:05Z

}  // namespace bulkhead::grant
