// Any bytes as a token, and any bytes as claims that were signed well: no crash, and nothing but what the page names is accepted.
#include <cstdint>
#include <cstdlib>

#include "grant/strict_json.h"
#include "grant/test_token.h"

using namespace bulkhead::grant;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Issuer issuer;
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (verify(text, issuer.keys, expected()).ok()) std::abort();  // it has no key of ours
  const Verified v = read_unverified(text);
  if (v.ok() && v.grant.subject.empty()) std::abort();
  const ParsedJson claims = parse_object(text);
  if (claims.why != Refusal::kNone) return 0;
  const Verified signed_well = verify(issuer.make(kGoodHeader, text), issuer.keys, expected());
  if (!signed_well.ok()) return 0;
  const Grant& g = signed_well.grant;
  if (g.expires_s <= kNow || g.expires_s - g.not_before_s > kMostLife_s || g.audience != "node1" ||
      g.actions == 0 || g.locations.empty() || g.id.size() < 16)
    std::abort();
  return 0;
}
