// Managed and pitched memory.
#include <atomic>

#include "hook/memory_plain.h"

namespace bulkhead::hook {
namespace {

// What the driver's unified memory takes for itself from a process's first managed allocation on: on one H200 30 to 38
// MiB, shown for no process. Kept until the process ends, as the driver does.
constexpr std::uint64_t kUnifiedBytes = 48u << 20;
constinit std::atomic<bool> unified[kMaxDevices]{};

bool unified_paid(Device& d) noexcept {
  // relaxed, both: whoever turns the word pays; nothing else is published by it
  if (unified[d.number].load(std::memory_order_relaxed)) [[likely]]
    return true;
  if (!charge(d, kUnifiedBytes)) return false;
  if (unified[d.number].exchange(true, std::memory_order_relaxed)) {
    give_back(d, kUnifiedBytes);  // another thread was first
  } else {
    note_unseen(d, static_cast<std::int64_t>(kUnifiedBytes));
  }
  return true;
}

}  // namespace

void forget_unified() noexcept {
  for (auto& word : unified) word.store(false, std::memory_order_relaxed);  // alone after a fork
}

CUresult cuMemAllocManaged(CUdeviceptr* dptr, size_t bytesize, unsigned int flags) noexcept {
  const auto call = [=](CUdeviceptr* p) { return next.cuMemAllocManaged(p, bytesize, flags); };
  const Here at = here();
  if (at.device == nullptr || !usable() || dptr == nullptr || bytesize == 0) [[unlikely]] {
    return unplaced([&] { return call(dptr); });
  }
  if (bytesize > kMostBytes || !unified_paid(*at.device)) return CUDA_ERROR_OUT_OF_MEMORY;
  return whole_alloc<Kind::kManaged>(
      at, dptr, round_up(bytesize, books.grain[at.device->number].alloc), call);
}

namespace {

constexpr std::uint64_t kPitch = 512;

// The pitch is the driver's choice. It is predicted; where the driver took more, the difference is paid afterwards
// or the allocation undone.
template <class Pointer, class Size, class Call>
CUresult pitch_alloc(Pointer* dptr, Size* pitch, std::uint64_t width, std::uint64_t height,
                     Call call) noexcept {
  if (dptr == nullptr || pitch == nullptr || width == 0 || height == 0) return call(dptr, pitch);
  std::uint64_t bytes = 0;
  Size chosen{};
  if (__builtin_mul_overflow(round_up(width, kPitch), height, &bytes)) bytes = ~std::uint64_t{0};
  Pointer p{};
  const CUresult r = plain_alloc(&p, bytes, [&](Pointer* out) { return call(out, &chosen); });
  if (r != CUDA_SUCCESS) return r;
  Value v;
  if (chosen > round_up(width, kPitch) && books_ready() && books.map.remove(pointer_key(p), v)) {
    // A larger pitch than predicted: booked as a whole allocation of its real size.
    Device& d = numbered(v.device);
    const std::uint64_t real =
        round_up(std::uint64_t{chosen} * height, books.grain[v.device].alloc);
    const std::uint64_t had = v.kind == Kind::kSmall ? 0 : bytes_of(v.units);
    Value larger = v;
    larger.kind = Kind::kLarge;
    larger.units = units_of(real);
    if (real > had && (real > kMostBytes || !charge(d, real - had))) {
      next.cuMemFree_v2(p);
      release_pointer(pointer_key(p), v);
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (v.kind == Kind::kSmall && books.slabs.leave(p)) slab_back(d, v.context);
    restore(pointer_key(p), real > had ? larger : v);
  }
  *pitch = chosen;
  *dptr = p;
  return r;
}

}  // namespace

CUresult cuMemAllocPitch_v2(CUdeviceptr* dptr, size_t* pPitch, size_t WidthInBytes, size_t Height,
                            unsigned int ElementSizeBytes) noexcept {
  return pitch_alloc(dptr, pPitch, WidthInBytes, Height, [=](CUdeviceptr* p, size_t* pitch) {
    return next.cuMemAllocPitch_v2(p, pitch, WidthInBytes, Height, ElementSizeBytes);
  });
}

CUresult cuMemAllocPitch(CUdeviceptr_v1* dptr, unsigned int* pPitch, unsigned int WidthInBytes,
                         unsigned int Height, unsigned int ElementSizeBytes) noexcept {
  return pitch_alloc(
      dptr, pPitch, WidthInBytes, Height, [=](CUdeviceptr_v1* p, unsigned int* pitch) {
        return next.cuMemAllocPitch(p, pitch, WidthInBytes, Height, ElementSizeBytes);
      });
}

}  // namespace bulkhead::hook
