// Who may open what another tenant exports: two tenants that name each other (`share_with`). Pure.
#pragma once
#include <cstdint>

namespace bulkhead::policy {

inline constexpr unsigned kMaxPartners = 8;

// What one tenant's entry of the node page names: indices of entries + 1, 0 = none.
struct Partners {
  std::uint16_t named[kMaxPartners] = {};
};

[[nodiscard]] constexpr bool names(const Partners& p, unsigned index) noexcept {
  for (const std::uint16_t n : p.named) {
    if (n != 0 && n == index + 1) return true;
  }
  return false;
}

// `a` and `b` are indices of entries, `of_a` and `of_b` what they name. A tenant may always open its own.
[[nodiscard]] constexpr bool may_share(unsigned a, const Partners& of_a, unsigned b,
                                       const Partners& of_b) noexcept {
  return a == b || (names(of_a, b) && names(of_b, a));
}

}  // namespace bulkhead::policy
