// This process's life: how it is bound to a tenant, and what the rest of the doors share about it.
// One constinit state, never destroyed.
//
// undecided -> off | denied | on. A fork's child starts at undecided again. Binding happens at the
// first intercepted call after the driver was initialised, never in a constructor; cuInit itself
// refuses before it wakes the driver if the tenant's region is missing or damaged.
#pragma once
#include <atomic>
#include <cstdint>
#include <new>

#include "base/status.h"
#include "hook/hook.h"
#include "hook/private_lock.h"
#include "hook/settings.h"
#include "shm/tenant.h"

namespace bulkhead::hook {

// The attached region, never destroyed: threads of the program may still be in a hook while it
// exits. Bytes, not a Tenant, so that the library has neither constructors nor destructors to run.
class TenantPlace {
 public:
  [[nodiscard]] bool ok() const noexcept { return made_ && get().ok(); }
  [[nodiscard]] shm::Tenant& get() const noexcept {  // only if ok()
    return *std::launder(reinterpret_cast<shm::Tenant*>(const_cast<unsigned char*>(bytes_)));
  }
  // What was there before stays mapped: another thread may be reading it (NVML). That happens a
  // few times in a process at most: a region left over by others, or removed before it was joined.
  void put(shm::Tenant&& tenant) noexcept {
    ::new (bytes_) shm::Tenant(static_cast<shm::Tenant&&>(tenant));
    made_ = true;
  }

 private:
  alignas(shm::Tenant) unsigned char bytes_[sizeof(shm::Tenant)] = {};
  bool made_ = false;
};

// What a seat leads to, looked up once: for the hot path. Constant while a thread may read it.
struct Place {
  shm::ProcSlot* slot;
  std::uint64_t state;  // what slot->state is as long as the slot is ours
  shm::MemCell*
      cells[kMaxDevices];  // by device number; a cell without slack where nothing is granted
};
// Stands for "no slot": its state is never the one above. Counts made before there was a slot lie in its
// statistics until the binding moves them.
[[gnu::visibility("hidden")]] extern constinit shm::ProcSlot no_slot;
[[gnu::visibility("hidden")]] extern constinit shm::MemCell no_cell;
[[gnu::visibility("hidden")]] extern constinit const Place kNowhere;

struct Process {
  std::atomic<Mode> mode{Mode::kUndecided};
  // Written under `binding` before mode becomes kOn (release), read only after it was seen.
  shm::Region* region = nullptr;
  std::uint32_t granted = ~0u;  // the region's devices that the node page grants (apply_node)
  int device_count = 0;
  Device devices[kMaxDevices]{};
  std::uint64_t total_bytes[kMaxDevices]{};  // the real cuDeviceTotalMem
  // The seat as one word, slot | gen << 32: it may be replaced while threads charge.
  std::atomic<std::uint64_t> seat{~0ull};
  // The same for the hot path (hot.h). Never null.
  std::atomic<const Place*> place{&kNowhere};
  shm::Member member{};  // charge_or_reap()'s; its seat is written together with the word above
  TenantPlace tenant{};
  PrivateLock binding{};
  // What the slot held a second ago, to charge again if a reaper took it from us (bytes).
  std::atomic<std::uint64_t> remembered[kMaxDevices]{};
  // Raised by each charge_other(): a sample older than it never lowers `other`. Relaxed: advice.
  std::atomic<std::uint32_t> other_epoch{0};
  // Calls under way in which the books lead the driver for long; none lowers `other` meanwhile.
  std::atomic<std::uint32_t> leading{0};
  bool fork_handler = false;  // under `binding`
  bool thread_runs = false;   // under `binding`
};
[[gnu::visibility("hidden")]] extern constinit Process process;

// Whether anything is asked of this process at all. Cheap after the first call.
[[nodiscard]] inline bool wanted() noexcept { return settings().wanted; }

[[nodiscard]] inline const Place& place_now() noexcept {
  return *process.place.load(std::memory_order_acquire);  // pairs with set_place()
}
[[nodiscard]] inline shm::Seat seat_now() noexcept {
  // relaxed: what the seat leads to is checked by still_mine()
  const std::uint64_t word = process.seat.load(std::memory_order_relaxed);
  return {static_cast<unsigned>(word & 0xffff'ffff), static_cast<std::uint32_t>(word >> 32)};
}

// Attaches to the tenant's region without a slot: for cuInit's early refusal, and for a process
// that only looks (NVML). kNotFound may become a creation later, in bind().
[[nodiscard]] Status attach_early() noexcept;
// The region to read from, slot or not; null: none (yet), or nothing is wanted.
[[nodiscard]] const shm::Region* region_to_read() noexcept;
// A fault: counts it and says what becomes of the process (kDenied or kOff).
inline constexpr Status kMalformed{Errc::kInvalid, 0, "a BULKHEAD_ variable is malformed"};
Mode fault(const Status& why) noexcept;
// The slot was taken from us by a reaper: claims a new one and charges what we held. False: could
// not; the process is denied or off from here.
[[nodiscard]] bool take_new_seat() noexcept;

// beat.cc: a detached thread of ours, to which no signal comes. False: there is none.
[[nodiscard]] bool start_own_thread(void* (*run)(void*), void* argument) noexcept;
// The process's own thread (beat.cc): heartbeat, lock, and what the supervisor observed.
void start_thread() noexcept;
// Corrects `other` by the supervisor's figure for this process. From the thread, and from a growth
// that asked for a fresh figure. `lower`: a smaller figure may be believed.
void apply_observed(bool lower) noexcept;
// charge_other() without the note that a booking was made by the program itself.
void book_other(Device& device, std::int64_t delta) noexcept;
// Waits at most 5 ms for the supervisor's fresh figures; at once if there is no supervisor.
void ask_supervisor() noexcept;

// Which context belongs to which device (current.cc): forgets all of it.
void forget_contexts() noexcept;

}  // namespace bulkhead::hook
