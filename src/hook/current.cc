// Which device a call is for: the current context's, found without asking the driver twice.
#include "hook/hot.h"
#include "hook/next.h"
#include "hook/process.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// Context -> device number, direct mapped: context << 5 | number + 1 in one word (user addresses
// have 47 bits, numbers 4). A word is right or absent: contexts end only in calls that come through
// forget_contexts().
constexpr unsigned kPlaces = 64;
constinit std::atomic<std::uint64_t> known[kPlaces]{};

std::atomic<std::uint64_t>& place_of(CUcontext context) noexcept {
  const auto bits = reinterpret_cast<std::uintptr_t>(context);
  return known[(bits >> 4 ^ bits >> 10 ^ bits >> 16) % kPlaces];
}

// The device of a context that need not be current, from the driver. Null: it has none we know.
[[gnu::cold, gnu::noinline]] Device* ask_device(CUcontext context) noexcept {
  CUcontext current = nullptr;
  static_cast<void>(next.cuCtxGetCurrent(&current));
  const bool push = current != context;
  if (push && next.cuCtxPushCurrent_v2(context) != CUDA_SUCCESS) return nullptr;
  CUdevice ordinal = -1;
  const bool known_device = next.cuCtxGetDevice(&ordinal) == CUDA_SUCCESS;
  if (push) static_cast<void>(next.cuCtxPopCurrent_v2(&current));
  if (!known_device) return nullptr;
  Device* const d = device(ordinal);
  if (d != nullptr) {
    const auto bits = reinterpret_cast<std::uintptr_t>(context);
    // relaxed: the word is the whole of it
    place_of(context).store(static_cast<std::uint64_t>(bits) << 5 | (d->number + 1), kRelaxed);
  }
  return d;
}

bool is_named(CUstream stream) noexcept {
  // null, CU_STREAM_LEGACY (1) and CU_STREAM_PER_THREAD (2) mean the current context
  return reinterpret_cast<std::uintptr_t>(stream) > 2;
}

}  // namespace

Device* device_of(CUcontext context) noexcept {
  Process& p = process;
  if (p.device_count == 1) return &p.devices[0];
  const std::uint64_t word = place_of(context).load(kRelaxed);  // as above
  const auto bits = reinterpret_cast<std::uintptr_t>(context);
  if (word >> 5 == bits && (word & 31) != 0) [[likely]]
    return &p.devices[(word & 31) - 1];
  return ask_device(context);
}

Here here() noexcept {
  if (mode() != Mode::kOn) return {};
  CUcontext context = nullptr;
  if (next.cuCtxGetCurrent(&context) != CUDA_SUCCESS || context == nullptr) return {};
  return {device_of(context), context};
}

Here here(CUstream stream) noexcept {
  if (!is_named(stream)) return here();
  if (mode() != Mode::kOn) return {};
  CUcontext context = nullptr;
  if (process.device_count == 1) {  // the device is known, and the current context will do
    static_cast<void>(next.cuCtxGetCurrent(&context));
    if (context != nullptr) return {&process.devices[0], context};
  }
  if (next.cuStreamGetCtx(stream, &context) != CUDA_SUCCESS || context == nullptr) return {};
  return {device_of(context), context};
}

Device* device(CUdevice ordinal) noexcept {
  if (mode() != Mode::kOn) return nullptr;
  Process& p = process;
  if (ordinal < 0 || ordinal >= p.device_count) return nullptr;
  return &p.devices[ordinal];
}

Device* devices(int* count) noexcept {
  const bool on = mode() == Mode::kOn;
  *count = on ? process.device_count : 0;
  return on ? process.devices : nullptr;
}

void forget_contexts() noexcept {
  for (auto& word : known) word.store(0, kRelaxed);  // as above
}

}  // namespace bulkhead::hook
