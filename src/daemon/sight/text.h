// Text that a tenant may have chosen, on its way to a reader. Made valid UTF-8 without control characters first;
// what the reader's own format needs comes on top.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace bulkhead::daemon {

// Control characters, DEL, and bytes that are not well-formed UTF-8 become '?'.
[[nodiscard]] std::string clean_text(std::string_view text);
// A label's value of OpenMetrics, cleaned; backslash, quote and line feed escaped (OpenMetrics 1.0, ABNF "escaped-string").
[[nodiscard]] std::string label_text(std::string_view text);
// "GPU-8-4-4-4-12" of 16 bytes.
[[nodiscard]] std::string gpu_text(const std::uint8_t* uuid);
// Equal for every wrong guess in how long it takes; lengths are no secret.
[[nodiscard]] bool same_secret(std::string_view a, std::string_view b);

}  // namespace bulkhead::daemon
