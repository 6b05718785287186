#include "daemon/sight/history.h"

#include <algorithm>

#include "daemon/sight/text.h"

namespace bulkhead::daemon {
namespace {

constexpr std::uint64_t kStep_ns = std::uint64_t{kHistoryStep_s} * 1'000'000'000;
constexpr std::size_t kMostSeries = 16'384;

}  // namespace

void History::put(const Key& key, std::uint64_t used_bytes, std::uint32_t share_x100) {
  auto at = series_.find(key);
  if (at == series_.end()) {
    if (series_.size() >= kMostSeries) return;
    at = series_.emplace(key, Series{}).first;
    at->second.used_mib.fill(kNoPoint);
    at->second.share_x100.fill(kNoPoint);
  }
  Series& s = at->second;
  s.used_mib[tick_ % kHistoryPoints] =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(used_bytes >> 20, kNoPoint - 1));
  s.share_x100[tick_ % kHistoryPoints] = share_x100;
  s.last_tick = tick_;
}

void History::forget_old() {
  for (auto it = series_.begin(); it != series_.end();) {
    it = it->second.last_tick + kHistoryPoints <= tick_ ? series_.erase(it) : std::next(it);
  }
}

void History::sample(std::uint64_t mono_ns, const wire::Picture* p) {
  const std::uint64_t now = mono_ns / kStep_ns;
  if (now == tick_) return;
  // Steps that were missed are gaps, not the values of a round ago.
  const std::uint64_t missed = std::min<std::uint64_t>(now - tick_, kHistoryPoints);
  for (auto& [key, s] : series_) {
    for (std::uint64_t i = 0; i < missed; ++i) {
      s.used_mib[(now - i) % kHistoryPoints] = kNoPoint;
      s.share_x100[(now - i) % kHistoryPoints] = kNoPoint;
    }
  }
  tick_ = now;
  forget_old();
  if (p == nullptr) return;
  for (std::uint32_t i = 0; i < p->devices; ++i) {
    put({"", gpu_text(p->device[i].uuid)}, p->device[i].used_bytes, p->device[i].utilisation_x100);
  }
  for (std::uint32_t t = 0; t < p->tenants; ++t) {
    const wire::TenantView& tenant = p->tenant[t];
    for (std::uint32_t d = 0; d < tenant.device_count; ++d) {
      const wire::DeviceView& view = tenant.devices[d];
      // counted is better than estimated
      const bool counted = view.compute_x100 != 0 && view.delivered_x100 != wire::kUnknownShare;
      put({tenant.name, gpu_text(view.uuid)}, view.used_bytes,
          counted ? view.delivered_x100 : view.share_x100);
    }
  }
}

}  // namespace bulkhead::daemon
