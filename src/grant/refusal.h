// Why a token or a grant is refused, each by the name that stands in events and answers (docs/formats/grant.md, 'Token').
#pragma once
#include <cstdint>

namespace bulkhead::grant {

enum class Refusal : std::uint8_t {
  kNone,
  kTooLong,
  kNotCompact,
  kNotBase64url,
  kNotJson,
  kDuplicateKey,
  kAlgorithm,
  kType,
  kHeader,
  kUnknownKey,
  kSignatureLength,
  kSignature,
  kClaim,
  kConfirmation,
  kIssuer,
  kAudience,
  kSubject,
  kLifetime,
  kNotYetValid,
  kExpired,
  kAuthorization,
  kLocation,
  kDenied,
  kNoTenant,
  kNotYours,
  kNoSubject,
  kNoTrust,
  kTableFull,
};
inline constexpr unsigned kRefusals = static_cast<unsigned>(Refusal::kTableFull) + 1;

// "duplicate-key"; "" for kNone.
[[nodiscard]] const char* refusal_name(Refusal why) noexcept;
// What to do about it, a phrase.
[[nodiscard]] const char* refusal_fix(Refusal why) noexcept;

}  // namespace bulkhead::grant
