// The claims of a grant as JSON and as values: form and bounds, no clock (docs/formats/grant.md, 'Token').
#pragma once
#include <nlohmann/json.hpp>

#include "grant/token.h"

namespace bulkhead::grant {

// kClaim, kConfirmation, kAuthorization, or the grant without its kid.
[[nodiscard]] Verified read_claims(const nlohmann::json& claims);
[[nodiscard]] nlohmann::json write_claims(const Grant& grant);

}  // namespace bulkhead::grant
