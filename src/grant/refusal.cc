#include "grant/refusal.h"

namespace bulkhead::grant {
namespace {

struct Row {
  const char* name;
  const char* fix;
};
constexpr Row kRows[kRefusals] = {
    {"", ""},
    {"too-long", "a token has at most 8192 bytes"},
    {"not-compact", "three parts with dots between them; is this the token's file?"},
    {"not-base64url", "the token was changed on its way; ask the issuer for it again"},
    {"not-json", "header and claims are one JSON object each"},
    {"duplicate-key", "a member is named twice; the issuer must not do that"},
    {"algorithm", "only ES256 is accepted"},
    {"type", "typ must be gpu-dma-grant+jwt"},
    {"header", "the header has alg, typ and kid and nothing else"},
    {"unknown-key", "add the issuer's public key to the trust file and reload"},
    {"signature-length", "64 bytes r and s, not DER"},
    {"signature", "not signed by the key it names, or changed since"},
    {"claim", "see docs/formats/grant.md for the claims"},
    {"confirmation", "cnf is not checked here; issue it without"},
    {"issuer", "[trust] issuer names another"},
    {"audience", "it is for another node"},
    {"subject", "it is for another service than the tenant's grant_subject"},
    {"lifetime", "at most 15 minutes"},
    {"not-yet-valid", "wait, or compare the clocks of issuer and node"},
    {"expired", "ask the issuer for a new one"},
    {"authorization", "see docs/formats/grant.md for authorization_details"},
    {"location", "it names no GPU that the tenant has"},
    {"denied", "it was revoked; ask the issuer for a new one"},
    {"no-tenant", "there is no such tenant"},
    {"not-yours", "only the tenant's owner, root and the daemon's user may give it a grant"},
    {"no-subject", "set grant_subject in the tenant's [[tenant]]"},
    {"no-trust", "set [trust] jwks, or install /etc/bulkhead/trust/jwks.json, and reload"},
    {"table-full", "64 grants of this tenant live; let some end or revoke them"},
};

const Row& row(Refusal why) noexcept {
  const auto i = static_cast<unsigned>(why);
  return kRows[i < kRefusals ? i : 0];
}

}  // namespace

const char* refusal_name(Refusal why) noexcept { return row(why).name; }
const char* refusal_fix(Refusal why) noexcept { return row(why).fix; }

}  // namespace bulkhead::grant
