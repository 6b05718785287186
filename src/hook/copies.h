// Copies and sets, by bytes: what a tenant moved, and the pace it may move at. docs/compute.md, 'Copies'.
//
// A family of transfers does
//     copy_admit(device, bytes, direction);       // before the driver's call: may wait, if the tenant has a copy rate
//     const CUresult r = next.cuMemcpy...;
//     if (r == CUDA_SUCCESS) note_copy(device, bytes, direction);
// `device` is Device::number, < kMaxDevices. They run on engines of their own, so nothing of this is ever charged as GPU time. Any thread; no
// heap, no lock; only a wait for the rate makes a system call. Without a slot in a tenant's region both do nothing.
#pragma once
#include <cstdint>

namespace bulkhead::hook {

// As the region counts them (ComputeEntry::moved_bytes); kPeer: between two devices, counted where it was started.
enum class CopyDirection : std::uint8_t { kToDevice, kToHost, kWithin, kPeer, kSet };

#if defined(BH_HOOK_FAKE)

constexpr bool copy_admit(unsigned, std::uint64_t, CopyDirection) noexcept { return true; }
constexpr void note_copy(unsigned, std::uint64_t, CopyDirection) noexcept {}

#else

// Before the driver is called. Waits while the tenant is over its copy rate: 1 s at most, and never inside a host callback or
// while anything captures. True: it may go; nothing is refused today, a later limit may.
bool copy_admit(unsigned device, std::uint64_t bytes, CopyDirection direction) noexcept;
// The driver took it: counted, and charged to the bucket of copies if there is a rate. Of what a graph copies each
// launch counts. Nothing is counted of a copy that was captured instead.
void note_copy(unsigned device, std::uint64_t bytes, CopyDirection direction) noexcept;

#endif

}  // namespace bulkhead::hook
