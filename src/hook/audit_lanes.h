// The lanes of this process: asked of the daemon at a thread's first transfer, kept in a pool, one thread each
// (docs/formats/lane.md). Everything but the hot path's look at `my_lane` is cold.
#pragma once
#include <cstdint>

#include "base/status.h"
#include "hook/audit.h"
#include "hook/private_lock.h"
#include "shm/lane.h"

namespace bulkhead::hook {

// One lane as its thread writes it. Lies in memory that a fork's child finds zeroed: no lane.
struct alignas(64) ThreadLane {
  shm::LaneEnd end;
  // Up to this sequence one more entry is all that a call has to write: there is room, no mark, gap or timing is due. 0: always look.
  std::uint64_t plain_until = 0;
  // UTC is CLOCK_MONOTONIC and this much; asked anew when the former has come to `offset_until_ns` (lane.md, "Clock").
  std::uint64_t utc_offset_ns = 0;
  std::uint64_t offset_until_ns = 0;
  std::uint64_t marked = 0;  // the sequence of the last mark
  std::uint64_t timed_at =
      0;  // the next call at this sequence or beyond is timed. From here on a second line
  std::uint64_t lost = 0;  // entries without room since the last gap entry
  std::uint32_t tid = 0;   // whose it is; 0: nobody's. Under the table's lock
  bool waited = false;     // the call under way was timed by its wait
  bool shared = false;     // many threads': under `lock`
  bool choked = false;     // a wait for room has failed, and none was found since
  PrivateLock lock{};
};

[[gnu::visibility("hidden")]] extern thread_local constinit ThreadLane* my_lane
    __attribute__((tls_model("initial-exec")));
// What the daemon says to all lanes; null before the first lane.
[[gnu::visibility("hidden")]] extern constinit const shm::Bell* bell;

// A lane for the calling thread, its own or the shared one; null: there is none. `patient`, under enforce: it waits up to two
// seconds for a daemon that does not answer (it may be on its way back).
[[nodiscard]] ThreadLane* claim_lane(bool patient) noexcept;
// Whether the daemon would give this process lanes.
[[nodiscard]] Status lanes_answer() noexcept;
// In the child of a fork.
void lanes_forked_child() noexcept;
// One futex call: the writer sleeps.
void wake_writer() noexcept;

}  // namespace bulkhead::hook
