#include "audit/log_time.h"

#include <algorithm>

namespace bulkhead::audit {
namespace {

constexpr std::uint64_t kSecondNs = 1'000'000'000, kHour = 3'600, kDay = 24 * kHour;
constexpr std::uint64_t kMostAway = 7 * kDay;
constexpr std::uint64_t kToBorder = 5 * kHour;  // 256 entries at one a minute, and some

}  // namespace

LogTime::LogTime(std::uint64_t retain_s, std::uint64_t segment_s) noexcept
    : away_ns_(std::min(kMostAway, retain_s / 8) * kSecondNs),
      between_ns_(((segment_s == 0 ? kDay : segment_s) + kToBorder) * kSecondNs + away_ns_),
      half_ns_(retain_s / 2 * kSecondNs) {}

std::uint64_t LogTime::counted(std::uint64_t from_ns, std::uint64_t to_ns,
                               std::uint64_t most_ns) const noexcept {
  if (to_ns <= from_ns || to_ns - from_ns > most_ns) return 0;
  return std::min(to_ns - from_ns, half_ns_);
}

std::uint64_t LogTime::begin(const std::vector<Begun>& segments, std::uint64_t found,
                             std::uint64_t last_ns, std::uint64_t utc_ns, std::uint64_t steady_ns) {
  begun_ = true;
  steady_ns_ = steady_ns;
  now_ns_ = 0;
  std::optional<std::uint64_t> before;  // when the segment before was made
  std::size_t i = 0;
  for (; i < segments.size() && segments[i].first < found; ++i) {
    const auto made = segments[i].made_ns;
    if (before && made) now_ns_ += counted(*before, *made, between_ns_);
    began_[segments[i].first] = now_ns_;
    before = made;
  }
  std::uint64_t last = last_ns;
  if (before) {
    now_ns_ += counted(*before, last, between_ns_);
    last = std::max(last, *before);
  }
  if (last != 0) now_ns_ += counted(last, utc_ns, away_ns_);
  for (; i < segments.size(); ++i) began_[segments[i].first] = now_ns_;  // made by this start
  return last != 0 && utc_ns > last && utc_ns - last > away_ns_ ? utc_ns - last : 0;
}

void LogTime::look(const std::vector<std::uint64_t>& segments, std::uint64_t steady_ns) {
  if (steady_ns > steady_ns_) now_ns_ += steady_ns - steady_ns_;
  steady_ns_ = std::max(steady_ns_, steady_ns);
  for (const std::uint64_t first : segments) began_.try_emplace(first, now_ns_);
  if (!segments.empty()) began_.erase(began_.begin(), began_.lower_bound(segments.front()));
}

std::uint64_t LogTime::age_ns(std::uint64_t first) const noexcept {
  const auto at = began_.find(first);
  return at == began_.end() ? 0 : now_ns_ - at->second;
}

}  // namespace bulkhead::audit
