// What others are shown of the grants, and what the reserve asks.
#include <algorithm>
#include <cstring>

#include "daemon/grants.h"

namespace bulkhead::daemon {

void Grants::fill(wire::AuditView& view) const {
  static_assert(grant::kRefusals <= wire::kMostReasons);
  view.grants_living = living_.size();
  view.grants_accepted = accepted_;
  view.grants_expired = expired_;
  view.grants_revoked = revoked_;
  for (unsigned i = 1; i < grant::kRefusals; ++i) {  // 0 is none
    wire::RefusalCount& to = view.refused[i - 1];
    std::strncpy(to.name, grant::refusal_name(static_cast<grant::Refusal>(i)), sizeof to.name - 1);
    to.count = refusals_[i];
  }
}

bool Grants::has_class(const std::string& tenant, const std::string& word) const {
  return std::any_of(living_.begin(), living_.end(), [&](const Living& one) {
    const auto& words = one.grant.datatypes;
    return one.tenant == tenant && std::find(words.begin(), words.end(), word) != words.end();
  });
}

}  // namespace bulkhead::daemon
