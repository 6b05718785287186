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
inline Here hot_here(CUstream stream) noexcept { return here(stream); }
inline bool hot_charge(Device& d, std::uint64_t bytes) noexcept { return charge(d, bytes); }
inline void hot_give_back(Device& d, std::uint64_t bytes) noexcept { give_back(d, bytes); }
inline void hot_count(Count what) noexcept { count(what); }
inline Device& hot_numbered(std::uint8_t number) noexcept { return numbered(number); }
}  // namespace bulkhead::hook

#else

#include "hook/alone.h"
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

// The context may be null: with one device nobody asked for it. (A call without any is the driver's to refuse.)
[[gnu::always_inline]] inline Here hot_here(CUstream stream) noexcept {
  // acquire pairs with bind_locked()
  if (process.mode.load(std::memory_order_acquire) != Mode::kOn || process.device_count != 1)
      [[unlikely]] {
    return here(stream);
  }
  return {&process.devices[0], nullptr};
}

// Whether the slot is still ours, as shm::still_mine().
[[gnu::always_inline]] inline bool holds(const Place& at) noexcept {
  // acquire pairs with the CAS of a reaper: who sees the slot lost sees why
  return at.slot->state.load(std::memory_order_acquire) == at.state;
}
[[gnu::always_inline]] inline std::uint64_t units_in(const Device& d,
                                                     std::uint64_t bytes) noexcept {
  return (bytes + (std::uint64_t{1} << d.unit_shift) - 1) >> d.unit_shift;
}

// 0 < bytes < 2^63.
[[gnu::always_inline]] inline bool hot_charge(Device& d, std::uint64_t bytes) noexcept {
  const Place& at = place_now();
  if (holds(at) && shm::charge_slack(at.cells[d.number]->w, units_in(d, bytes))) [[likely]]
    return true;
  return charge_slow(d, bytes);
}

// What hot_charge() or charge() took.
[[gnu::always_inline]] inline void hot_give_back(Device& d, std::uint64_t bytes) noexcept {
  const Place& at = place_now();
  if (!holds(at) || d.entry == nullptr ||
      !shm::give_back_slack(at.cells[d.number]->w, d.entry->slack_cap, units_in(d, bytes)))
      [[unlikely]] {
    give_back(d, bytes);
  }
}

// With a constant: one addition to the slot's statistic. Of a slot lost meanwhile it goes to the next owner.
[[gnu::always_inline]] inline void hot_count(Count what) noexcept {
  shm::ProcSlot& slot = *place_now().slot;
  switch (what) {
    case Count::kAlloc:
      return alone() ? shm::count_alone(slot.first_allocs) : shm::count(slot.allocs);
    case Count::kFree:
      return alone() ? shm::count_alone(slot.first_frees) : shm::count(slot.frees);
    default:
      return count(what);
  }
}

[[gnu::always_inline]] inline Device& hot_numbered(std::uint8_t number) noexcept {
  return process.devices[number < process.device_count ? number : 0];
}

}  // namespace bulkhead::hook

#endif
