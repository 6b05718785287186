// What lies outside the region: processes, locks, clocks. Liveness (slots.h) asks through this
// interface, so that tests put equal pids, other namespaces and stopped processes in its place.
#pragma once
#include <sys/types.h>

#include <cstdint>

namespace bulkhead::shm {

enum class Presence : std::uint8_t { kThere, kGone, kUnknown };
enum class Lock : std::uint8_t { kHeld, kFree, kUnknown };  // by another process

// Functions are called with `self`; they must not touch the heap and may be called by any thread.
struct World {
  void* self = nullptr;
  // Whether the process `pid` of our own pid namespace that started at `start_ticks` still runs any
  // thread. A zombie without threads is gone.
  Presence (*presence)(void* self, std::uint32_t pid, std::uint64_t start_ticks) = nullptr;
  // The record lock on one byte of the region's file, as seen by this process.
  Lock (*lock_state)(void* self, unsigned byte) = nullptr;
  // Takes or drops our own record lock on a byte, without waiting. False = another process has it.
  bool (*take_lock)(void* self, unsigned byte) = nullptr;
  void (*drop_lock)(void* self, unsigned byte) = nullptr;
  std::uint64_t (*boottime_s)(void* self) = nullptr;
  std::uint64_t pid_namespace = 0;  // ours; 0 = unknown, and then no pid is believed
  // Whether an open file description with this mark is left anywhere (shares.h); null: none is.
  bool (*mark_exists)(void* self, std::uint64_t start, std::uint64_t length) = nullptr;
};

// Who this process is, as it is written into a slot.
struct Identity {
  std::uint32_t pid = 0;
  std::uint32_t uid = 0;
  std::uint64_t start_ticks = 0;    // field 22 of /proc/self/stat; 0 = unknown
  std::uint64_t pid_namespace = 0;  // inode of /proc/self/ns/pid; 0 = /proc is absent or another's
  std::uint64_t image = 0;          // hash of AT_RANDOM: differs after exec, equal after fork
};

[[nodiscard]] Identity read_identity() noexcept;
[[nodiscard]] Presence presence_in_proc(std::uint32_t pid, std::uint64_t start_ticks) noexcept;
// F_GETLK / F_SETLK on one byte of `fd`.
[[nodiscard]] Lock lock_state_of(int fd, unsigned byte) noexcept;
// Who has it, as our own pid namespace numbers that process: the kernel's word (fcntl(2), F_GETLK), so also of one in a
// namespace below ours and whatever the region says. 0: nobody, ourselves, or a process that cannot be seen from here.
[[nodiscard]] std::uint32_t lock_holder_of(int fd, unsigned byte) noexcept;
[[nodiscard]] bool set_lock(int fd, unsigned byte, bool take) noexcept;

}  // namespace bulkhead::shm
