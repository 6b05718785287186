// One JSON object, parsed strictly: UTF-8, nothing behind it, no member named twice at any depth, at most so deep.
// nlohmann's exceptions end here.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "grant/refusal.h"

namespace bulkhead::grant {

inline constexpr int kMostDepth = 8;

struct ParsedJson {
  Refusal why = Refusal::kNone;  // kNotJson, kDuplicateKey
  nlohmann::json value;          // an object if why is kNone
};
[[nodiscard]] ParsedJson parse_object(std::string_view text);

// The member as text; null if it is absent or no text.
[[nodiscard]] const std::string* text_of(const nlohmann::json& object, const char* key);

}  // namespace bulkhead::grant
