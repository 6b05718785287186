// What this process exports to others of its tenant, what it has opened of theirs, and what it pays for both.
// docs/formats/sharing.md; the table itself is src/shm/shares.h.
//
// Cold: each function takes one lock of this process and scans. Any thread; errno stays as it was.
#pragma once
#include <cstdint>

#include "hook/hook.h"
#include "shm/shares.h"

namespace bulkhead::hook {

using shm::ShareKind;

// An opened export. Empty: let through without a record (not bound, another tenant's, or exports were lost).
struct Import {
  std::uint32_t index = ~0u;
  std::uint64_t id = 0;
  explicit operator bool() const noexcept { return index != ~0u; }
};

// After the driver made a handle. `owner_key`: the map key of what is exported, by which share_freed() finds it; 0: nothing of
// ours is charged for it. `bytes` are what is owed for it while others hold it; `block` names the memory if
// several exports are of the same piece, else 0.
void share_exported(ShareKind kind, const void* bytes64, std::uint64_t owner_key, Device* d,
                    std::uint64_t bytes, std::uint64_t block) noexcept;
void share_exported_fd(ShareKind kind, int fd, std::uint64_t owner_key, Device* d,
                       std::uint64_t bytes, std::uint64_t block) noexcept;

// Before the driver opens a handle. False: refuse with CUDA_ERROR_NOT_PERMITTED; counted.
[[nodiscard]] bool share_open(ShareKind kind, const void* bytes64, Import& out) noexcept;
[[nodiscard]] bool share_open_fd(ShareKind kind, int fd, Import& out) noexcept;
// After the driver closed it, or failed to open it.
void share_closed(const Import& import) noexcept;
[[nodiscard]] Import import_at(std::uint32_t index) noexcept;  // of one that is open: its record

// After the driver freed what was exported under `owner_key`. True: others hold it; its charge of `bytes` stays and is given
// back by shares_tick(). `separate`: the books take the bytes back all the same, and what stays is charged anew.
[[nodiscard]] bool share_freed(std::uint64_t owner_key, std::uint64_t bytes,
                               bool separate = false) noexcept;
[[nodiscard]] bool any_exports() noexcept;  // of this process; a hint, for the way of a free

// Takes over what the dead and the careless left, gives back what nobody holds. From the own thread, and before a refusal.
// True: something was given back.
bool shares_tick() noexcept;
[[nodiscard]] bool shares_pending() noexcept;  // whether shares_tick() has anything to look at
void forget_shares() noexcept;                 // in the child of a fork
void reseat_shares() noexcept;                 // after take_new_seat()

}  // namespace bulkhead::hook
