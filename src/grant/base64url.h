// Base64url without padding (RFC 4648, section 5; RFC 7515, appendix C), canonical: what decodes has one spelling.
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace bulkhead::grant {

[[nodiscard]] std::string to_base64url(std::string_view bytes);
// Nothing: another character, padding, an impossible length, or bits beyond the last byte that are not zero.
[[nodiscard]] std::optional<std::string> from_base64url(std::string_view text);

}  // namespace bulkhead::grant
