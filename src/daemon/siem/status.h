// What the exporter tells the daemon: one page that it rewrites and the daemon reads (pread: whatever the child does to it, the daemon
// sees text and numbers).
#pragma once
#include <cstdint>
#include <type_traits>

namespace bulkhead::daemon::siem {

inline constexpr std::uint64_t kStatusMagic = 0x0031'5445'4d45'4953;  // "SIEMET1\0" in memory order

enum class LinkState : std::uint32_t { kStarting = 0, kConnected = 1, kAway = 2, kStuck = 3 };

struct Status {
  std::uint64_t magic;
  LinkState state;
  std::uint32_t reserved;
  std::uint64_t events_sent,
      events_confirmed;  // since the exporter started; sent again counts again
  std::uint64_t bytes_sent, connections;
  std::uint64_t signed_leaves;     // in the log, signed
  std::uint64_t sent_leaves;       // read and sent
  std::uint64_t confirmed_leaves;  // and kept as confirmed
  std::uint64_t missed_leaves;     // gone before they were read
  char text[160];                  // why it is away or stuck
};
static_assert(std::is_trivially_copyable_v<Status> && sizeof(Status) == 240);

}  // namespace bulkhead::daemon::siem
