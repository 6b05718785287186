#include "wire/view.h"

namespace bulkhead::wire {

const char* event_name(EventKind kind) noexcept {
  switch (kind) {
    case EventKind::kDaemonStarted:
      return "daemon-started";
    case EventKind::kDaemonStopping:
      return "daemon-stopping";
    case EventKind::kTenantRegistered:
      return "tenant-registered";
    case EventKind::kTenantUpdated:
      return "tenant-updated";
    case EventKind::kTenantRemoved:
      return "tenant-removed";
    case EventKind::kTenantAdopted:
      return "tenant-adopted";
    case EventKind::kTenantFaulty:
      return "tenant-faulty";
    case EventKind::kProcessJoined:
      return "process-joined";
    case EventKind::kProcessEnded:
      return "process-ended";
    case EventKind::kProcessReaped:
      return "process-reaped";
    case EventKind::kLimitBelowUse:
      return "limit-below-use";
    case EventKind::kAdmissionRefused:
      return "admission-refused";
    case EventKind::kWaiting:
      return "waiting";
    case EventKind::kBypassFound:
      return "bypass-found";
    case EventKind::kBypassGone:
      return "bypass-gone";
    case EventKind::kBypassKilled:
      return "bypass-killed";
    case EventKind::kDrift:
      return "drift";
    case EventKind::kLimitTampered:
      return "limit-tampered";
    case EventKind::kStoreFailed:
      return "store-failed";
    case EventKind::kStoreRecovered:
      return "store-recovered";
    case EventKind::kClockJumped:
      return "clock-jumped";
    case EventKind::kConfigLoaded:
      return "config-loaded";
    case EventKind::kConfigRefused:
      return "config-refused";
    case EventKind::kPeerRefused:
      return "peer-refused";
    case EventKind::kMpsStarted:
      return "mps-started";
    case EventKind::kMpsAdopted:
      return "mps-adopted";
    case EventKind::kMpsStopped:
      return "mps-stopped";
    case EventKind::kMpsFailed:
      return "mps-failed";
    case EventKind::kMpsHit:
      return "mps-hit";
    case EventKind::kMpsPartition:
      return "mps-partition";
    case EventKind::kMpsTerminated:
      return "mps-terminated";
    case EventKind::kSelfTested:
      return "self-tested";
    case EventKind::kTimeUnderstated:
      return "time-understated";
    case EventKind::kGrantAccepted:
      return "grant-accepted";
    case EventKind::kGrantRefused:
      return "grant-refused";
    case EventKind::kGrantRevoked:
      return "grant-revoked";
    case EventKind::kGrantExpired:
      return "grant-expired";
    case EventKind::kGrantExpiring:
      return "grant-expiring";
    case EventKind::kTrustLoaded:
      return "trust-loaded";
    case EventKind::kTrustRefused:
      return "trust-refused";
    case EventKind::kSiemAway:
      return "siem-away";
    case EventKind::kSiemBack:
      return "siem-back";
    case EventKind::kSiemFailed:
      return "siem-failed";
    case EventKind::kSiemMissed:
      return "siem-missed";
    case EventKind::kShimRefused:
      return "shim-refused";
    case EventKind::kAuditMode:
      return "audit-mode";
    case EventKind::kAuditGap:
      return "audit-gap";
    case EventKind::kRolloutBegan:
      return "rollout-began";
    case EventKind::kRolloutMoved:
      return "rollout-moved";
    case EventKind::kRolloutFellBack:
      return "rollout-fell-back";
    case EventKind::kRolloutDone:
      return "rollout-done";
    case EventKind::kRolloutStopped:
      return "rollout-stopped";
  }
  return "unknown";
}

const char* severity_name(Severity severity) noexcept {
  switch (severity) {
    case Severity::kInfo:
      return "info";
    case Severity::kNotice:
      return "notice";
    case Severity::kWarning:
      return "warning";
    case Severity::kAlarm:
      return "alarm";
  }
  return "unknown";
}

const char* self_test_name(unsigned test) noexcept {
  constexpr const char* kWords[kSelfTests] = {"spatial", "partitions", "green", "slice"};
  return kWords[test % kSelfTests];
}
const char* seen_name(std::uint32_t seen) noexcept {
  constexpr const char* kWords[] = {"unknown", "works", "no"};
  return seen < 3 ? kWords[seen] : "unknown";
}
const char* mode_name(std::uint32_t asked) noexcept {
  constexpr const char* kWords[] = {"auto", "spatial", "slice", "temporal", "partition"};
  return asked < 5 ? kWords[asked] : "unknown";
}
const char* enforcer_name(std::uint32_t enforcer) noexcept {
  constexpr const char* kWords[] = {"temporal", "spatial", "slice", "partition"};
  return enforcer < 4 ? kWords[enforcer] : "unknown";
}
const char* mps_state_name(std::uint32_t mps_state) noexcept {
  constexpr const char* kWords[] = {"none", "serving", "not there", "silent", "refused"};
  return mps_state < 5 ? kWords[mps_state] : "unknown";
}

}  // namespace bulkhead::wire
