// What the files of the preloaded library share: which device a call is for, and how its memory is
// admitted.
//
// One constinit state, never destroyed. Everything here may be called from any thread of the
// tenant's program at any time after the first intercepted call; nothing allocates, locks, logs or
// changes errno on the hot path.
#pragma once
#include <cstddef>
#include <cstdint>

#include "abi/cuda_types.h"

namespace bulkhead::shm {
struct ComputeEntry;
struct DeviceEntry;
}  // namespace bulkhead::shm

namespace bulkhead::hook {

inline constexpr int kMaxDevices = 16;

// How this process stands. Decided once, at the first call that needs it (never in a constructor).
enum class Mode : std::uint8_t {
  kUndecided,
  kOff,     // no tenant was asked for: every call passes through, nothing is counted
  kOn,      // bound to a slot of a tenant's region
  kDenied,  // a tenant was asked for and could not be bound, on_fault=deny: cuInit answers
            // SYSTEM_NOT_READY, allocations are refused
};

// One visible device of this process.
struct Device {
  CUdevice ordinal;  // the driver's number in this process
  CUuuid uuid;       // of the device or MIG instance
  int index;  // its entry in the tenant's region, -1: the tenant has no grant for it (allocations
              // refused)
  std::uint32_t number;  // position in the table below, 0..kMaxDevices-1
  // Of that entry, for the hot path; null and 0 if there is none.
  const shm::DeviceEntry* entry = nullptr;
  std::uint32_t unit_shift = 0;
  shm::ComputeEntry* compute = nullptr;
};

// Binds the process if that has not happened yet (cold: maps the region, claims a slot) and says
// how it stands.
Mode mode() noexcept;

// The device and context a call without an explicit device is for: those current in the calling
// thread. device is null if no context is current or mode() is not kOn: such a call is forwarded
// untouched. About 10 ns.
struct Here {
  Device* device;
  CUcontext context;
};
Here here() noexcept;
// The context of a stream, for calls that name one (CU_STREAM_LEGACY, PER_THREAD and null: the
// current context).
Here here(CUstream stream) noexcept;
// By the driver's ordinal; null if there is no such device or mode() is not kOn.
Device* device(CUdevice ordinal) noexcept;
// All visible devices, for cold paths that walk them.
Device* devices(int* count) noexcept;

// Admission against the tenant's quota; bytes are rounded up to the region's unit. charge() false:
// refuse the call with CUDA_ERROR_OUT_OF_MEMORY; the refusal is already counted, the dead are
// already reaped, and pools() was trimmed once.
[[nodiscard]] bool charge(Device& device, std::uint64_t bytes) noexcept;
void give_back(Device& device, std::uint64_t bytes) noexcept;
// Contexts, modules, heaps, local memory: never refused; past the quota growth stops. Negative
// delta gives back.
void charge_other(Device& device, std::int64_t delta) noexcept;
// Around a call in which the books lead the driver for long (a context takes 0.1 to 1 s): meanwhile,
// and until a figure taken later, what the supervisor sees of this process never lowers `other`.
void leading_begin() noexcept;
void leading_end() noexcept;
// Of what is charged, this much more (or less) is memory that NVML shows for no process.
void note_unseen(Device& device, std::int64_t delta) noexcept;
// What the tenant is told: its quota and what is free of it, bytes; used <= limit always holds.
struct View {
  std::uint64_t limit, used, free;
};
View view(const Device& device) noexcept;
// Bytes the calibration says a context takes on this device (the first one, a further one).
std::uint64_t context_bytes(const Device& device, bool first) noexcept;

// Statistics of this process's slot.
enum class Count : std::uint8_t { kAlloc, kFree, kRefused, kFault, kUncovered };
void count(Count what) noexcept;

// Re-entry: the driver calls itself through its own exports; such a call passes through.
extern thread_local constinit bool inside __attribute__((tls_model("initial-exec")));

// The memory side's part in the process's life, called by the doors.
void memory_forked_child() noexcept;  // in the child of a fork: forget everything, the child owns
                                      // nothing
bool memory_bound() noexcept;  // before the process is bound to a slot: its books are made; false: no
                               // address space for them
bool memory_trim(
    Device& device) noexcept;  // before a refusal: give unused pool memory back; true if some came
bool memory_may_trim() noexcept;  // whether that can bring anything; no call into the driver
void memory_context_gone(
    CUcontext ctx) noexcept;  // a context was destroyed or reset: its allocations are gone

}  // namespace bulkhead::hook
