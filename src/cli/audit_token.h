// A grant's record against the issuer's keys, offline: signature of its token, and each member against the token's claims.
#pragma once
#include <string>

#include "audit/verify.h"
#include "grant/key.h"

namespace bulkhead::cli {

[[nodiscard]] audit::VerifyOptions::Token check_token(const grant::KeySet& keys,
                                                      const std::string& record, std::string& why);

}  // namespace bulkhead::cli
