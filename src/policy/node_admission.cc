#include "policy/node_admission.h"

#include "policy/compute_spec.h"
#include "policy/size.h"

namespace bulkhead::policy {
namespace {

std::uint64_t less(std::uint64_t a, std::uint64_t b) noexcept { return a > b ? a - b : 0; }

// With the exact number where the rounded one would hide why it did not fit.
std::string size_text(std::uint64_t bytes) {
  char text[kSizeText];
  std::string rounded = format_size(bytes, text);
  Size back;
  if (parse_size(text, Grammar::kHami, &back) && back.bytes == bytes) return rounded;
  return rounded + " (" + std::to_string(bytes) + " B)";
}

}  // namespace

std::uint64_t reserve_kept(std::uint64_t reserve_bytes, std::uint64_t promised_to_class,
                           bool of_the_class) noexcept {
  return of_the_class ? 0 : less(reserve_bytes, promised_to_class);
}

std::uint64_t node_room(const NodeSum& s) noexcept {
  return less(less(less(s.total_bytes, s.overhead_bytes), s.reserve_bytes), s.promised_bytes);
}

bool node_fits(const NodeSum& s) noexcept { return s.asked_bytes <= node_room(s); }

bool node_could_fit(const NodeSum& s) noexcept {
  return s.asked_bytes <= less(s.total_bytes, s.reserve_bytes);
}

std::string node_sum_text(const NodeSum& s, std::string_view device) {
  return size_text(s.asked_bytes) + " asked + " + size_text(s.promised_bytes) +
         " promised to others > " + size_text(s.total_bytes) + " total - " +
         size_text(s.overhead_bytes) + " held outside tenants - " + size_text(s.reserve_bytes) +
         " reserve on " + std::string{device};
}

std::uint32_t time_room(const TimeSum& s) noexcept {
  return s.promised_x100 < 10'000 ? 10'000 - s.promised_x100 : 0;
}
bool time_fits(const TimeSum& s) noexcept { return s.asked_x100 <= time_room(s); }

std::string share_text(std::uint32_t x100, bool borrow) {
  char text[kShareText];
  return format_share(x100, borrow, text);
}

std::string time_sum_text(const TimeSum& s, std::string_view device) {
  return share_text(s.asked_x100, false) + " asked + " + share_text(s.promised_x100, false) +
         " promised to others > 100% of the time of " + std::string{device};
}

}  // namespace bulkhead::policy
