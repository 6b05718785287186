// Base64 with padding (RFC 4648 4), strict: one text for each value. And hexadecimal of a hash.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "audit/sha256.h"

namespace bulkhead::audit {

using Buffer = std::vector<std::uint8_t>;

[[nodiscard]] std::string base64(Bytes data);
[[nodiscard]] std::optional<Buffer> from_base64(std::string_view text);
[[nodiscard]] std::optional<Hash> hash_from_base64(std::string_view text);
[[nodiscard]] std::string hex(Bytes data);
[[nodiscard]] inline Bytes bytes_of(std::string_view text) noexcept {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

}  // namespace bulkhead::audit
