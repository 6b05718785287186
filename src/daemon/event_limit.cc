#include "daemon/event_limit.h"

#include <algorithm>

namespace bulkhead::daemon {

std::uint64_t EventLimit::burst_of(wire::EventKind kind) {
  switch (kind) {
    case wire::EventKind::kPeerRefused:
    case wire::EventKind::kAdmissionRefused:
    case wire::EventKind::kTenantFaulty:
    case wire::EventKind::kLimitTampered:
    case wire::EventKind::kGrantRefused:
    case wire::EventKind::kSiemAway:  // a receiver can come and go at will
    case wire::EventKind::kSiemBack:
      return kBurst;
    case wire::EventKind::kTenantRegistered:
    case wire::EventKind::kTenantUpdated:
    case wire::EventKind::kTenantRemoved:
    case wire::EventKind::kTenantAdopted:
    case wire::EventKind::kLimitBelowUse:
      return kBurstGranted;
    default:
      return 0;
  }
}

EventLimit::Key EventLimit::window_of(const Key& key) const {
  if (windows_.contains(key)) return key;
  const auto of_uid = std::count_if(windows_.begin(), windows_.end(), [&key](const auto& w) {
    return w.first.kind == key.kind && w.first.uid == key.uid && !w.first.tenant.empty();
  });
  const Key of_its_uid{key.kind, key.uid, ""};
  const bool names = static_cast<std::size_t>(of_uid) < kMostNamesOfOneUid;
  const auto of_kind = std::count_if(windows_.begin(), windows_.end(),
                                     [&key](const auto& w) { return w.first.kind == key.kind; });
  if (static_cast<std::size_t>(of_kind) < kMostWindows) return names ? key : of_its_uid;
  return windows_.contains(of_its_uid) ? of_its_uid : Key{key.kind, wire::kNoId, ""};
}

bool EventLimit::admit(const Now& now, const Key& key, wire::Severity severity) {
  Window& w = windows_[window_of(key)];
  if (w.since_ns == 0) w.since_ns = std::max<std::uint64_t>(now.mono_ns, 1);
  if (w.admitted < burst_of(key.kind)) {
    ++w.admitted;
    return true;
  }
  ++w.held;
  w.severity = std::max(w.severity, severity);
  return false;
}

std::vector<EventLimit::Held> EventLimit::due(const Now& now, bool all) {
  std::vector<Held> out;
  std::erase_if(windows_, [&](const auto& window) {
    const auto& [key, w] = window;
    const std::uint64_t span = now.mono_ns > w.since_ns ? now.mono_ns - w.since_ns : 0;
    if (!all && span < kWindow_ns) return false;
    if (w.held != 0) out.push_back({key, w.severity, w.held, span});
    return true;
  });
  return out;
}

}  // namespace bulkhead::daemon
