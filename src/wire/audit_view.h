// What the daemon shows of its audit and of the grants: over the socket (AuditReply) and in the picture. Little endian, no pointers.
#pragma once
#include <cstdint>
#include <type_traits>

namespace bulkhead::wire {

enum AuditViewFlag : std::uint32_t {
  kAuditOn = 1,
  kAuditFull = 2,    // the log has no room: entries wait in their lanes
  kAuditFailed = 4,  // it is not written any more
};
inline constexpr unsigned kMostReasons = 32;

struct RefusalCount {
  char name[24];  // of docs/formats/grant.md, 'Token'; "" = no more
  std::uint64_t count;
};

struct AuditView {
  std::uint32_t flags;
  std::uint32_t witnesses, witnesses_away;
  std::uint32_t reserved;
  std::uint64_t gaps;  // entries that are known to be missing, since the daemon's start
  std::uint64_t size, durable, signed_size;
  std::uint64_t cosigned;  // the largest size that a witness cosigned; 0 = none since the start
  std::uint64_t segments, packed, removed;  // closed; of them packed, and removed, since the start
  std::uint64_t clock_steps;
  std::int64_t last_step_ns;
  std::uint64_t grants_living, grants_accepted, grants_expired, grants_revoked;
  RefusalCount refused[kMostReasons];  // grants, by reason
};
static_assert(std::is_trivially_copyable_v<AuditView> && sizeof(AuditView) == 1152);

}  // namespace bulkhead::wire
