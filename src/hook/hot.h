// The hot half of hook.h, inline: what every allocation and free goes through. The same promises; what is not the
// usual case is one call away, out of line.
//
// A unit test that puts a model of the driver and of the quota under the memory families defines BH_HOOK_FAKE:
// then these are hook.h's own functions.
#pragma once
#include "hook/hook.h"

#if defined(BH_HOOK_FAKE)

namespace bulkhead::hook {
Device& numbered(std::uint8_t number) noexcept;
inline Here hot_here() noexcept { return here(); }
inline bool hot_charge(Device& d, std::uint64_t bytes) noexcept { return charge(d, bytes); }
inline void hot_give_back(Device& d, std::uint64_t bytes) noexcept { give_back(d, bytes); }
inline void hot_count(Count what) noexcept { count(what); }
inline Device& hot_numbered(std::uint8_t number) noexcept { return numbered(number); }
}  // namespace bulkhead::hook

#else

#include "hook/next.h"
#include "hook/process.h"
#include "shm/quota.h"

namespace bulkhead::hook {

// admit.cc: not ours any more, not granted, or no slack left.
[[gnu::noinline]] bool charge_slow(Device& d, std::uint64_t bytes) noexcept;
// current.cc: with several devices, whose a context is.
Device* device_of(CUcontext context) noexcept;

[[gnu::always_inline]] inline Here hot_here() noexcept {
  // acquire pairs with bind_locked()
  if (process.mode.load(std::memory_order_acquire) != Mode::kOn) [[unlikely]]
    return here();
  CUcontext context = nullptr;
  if (next.cuCtxGetCurrent(&context) != CUDA_SUCCESS || context == nullptr) [[unlikely]]
    return {};
  if (process.device_count == 1) [[likely]]
    return {&process.devices[0], context};
  return {device_of(context), context};
}

[[gnu::always_inline]] inline bool hot_charge(Device& d, std::uint64_t bytes) noexcept {
  const std::uint64_t seat =
      process.seat.load(std::memory_order_relaxed);  // judged by seat_holds()
  shm::Region& r = *process.region;
  if (d.index < 0 || !seat_holds(r, seat)) [[unlikely]]
    return charge_slow(d, bytes);
  const auto dev = static_cast<unsigned>(d.index);
  const std::uint64_t units = shm::units_up(bytes, r.devices[dev].unit_shift);
  if (shm::charge_slack(r.cells[dev][seat_slot(seat)].w, units)) [[likely]]
    return true;
  return charge_slow(d, bytes);
}

[[gnu::always_inline]] inline void hot_give_back(Device& d, std::uint64_t bytes) noexcept {
  const std::uint64_t seat =
      process.seat.load(std::memory_order_relaxed);  // judged by seat_holds()
  shm::Region& r = *process.region;
  if (d.index < 0 || !seat_holds(r, seat)) [[unlikely]]
    return;
  shm::give_back(r, seat_slot(seat), static_cast<unsigned>(d.index), bytes);
}

// With a constant: one addition to the slot's statistic.
[[gnu::always_inline]] inline void hot_count(Count what) noexcept {
  // relaxed: a statistic; of a slot lost meanwhile it is counted to its next owner
  const std::uint64_t seat = process.seat.load(std::memory_order_relaxed);
  if (seat == kNoSeat) [[unlikely]]
    return count(what);
  shm::ProcSlot& slot = process.region->slots[seat_slot(seat)];
  switch (what) {
    case Count::kAlloc:
      return shm::count(slot.allocs);
    case Count::kFree:
      return shm::count(slot.frees);
    default:
      return count(what);
  }
}

[[gnu::always_inline]] inline Device& hot_numbered(std::uint8_t number) noexcept {
  return process.devices[number < process.device_count ? number : 0];
}

}  // namespace bulkhead::hook

#endif
