// Short time slices for this process's own channel groups. docs/spatial.md "Time slices". Off unless the node page or the self-test asks.
//
// Interface facts (NVIDIA's open kernel modules, nv_escape.h, nvos.h, ctrla06c.h): requests of type 'F'; 0x2B allocates an object (32 or 48
// bytes: client, parent, object, class, ..., status at 28 or 40), 0x29 frees one (16 bytes: client, parent, object, status), 0x2A is a
// control (32 bytes: client, object, command, flags, parameters, their size, status), 211 wraps one of them (command, size, pointer). A
// channel group is an object of class 0xA06C, its control 0xA06C0103 takes one u64 of microseconds.
#pragma once
#include <cstdint>

namespace bulkhead::hook {

using IoctlCall = int (*)(int fd, unsigned long request, void* argument);

inline constexpr std::uint32_t kSlice_us = 100;
inline constexpr std::uint32_t kLeastSlice_us = 20, kMostSlice_us = 2'000;
// A slice that is set when its group has just been made is accepted and ignored: the channels are not scheduled yet. When they are is not told, so it
// is set three times: at this age, at three times and at nine times of it.
inline constexpr std::uint64_t kSettled_ns = 1'000'000'000;
inline constexpr unsigned kSettings = 3;

// Slices of `us` from the next group on; 0: none any more. Any thread.
void want_slices(std::uint32_t us) noexcept;
// The same by BULKHEAD_SLICE_US, if it is set; the caller has looked at AT_SECURE.
void slices_by_environment() noexcept;
[[nodiscard]] std::uint32_t slices_wanted() noexcept;  // us, 0: off

// A call that has succeeded. Notes a group that it made, forgets one that it freed. True: there is one whose slice is to be set later.
bool note_ioctl(int fd, unsigned long request, const void* argument, std::uint64_t now_ns) noexcept;
// Sets the slices of groups that are due, through the descriptor they were made on, if that is still the
// same file. `set`: how many took it. Returns how many wait yet. One that is refused is left alone.
unsigned set_slices(IoctlCall real, std::uint64_t now_ns, unsigned* set) noexcept;
// In the child of a fork: nothing is ours.
void forget_slices() noexcept;

}  // namespace bulkhead::hook
