// Managed and pitched memory.
#include <atomic>

#include "hook/memory_plain.h"
#include "hook/transfer_map.h"

namespace bulkhead::hook {
namespace {

// Unified memory comes in batches of 64 chunks of 2 MiB (measured on one H200; docs/formats/charge.md): what is resident
// on a device is what was asked, rounded up to this. The rest of the last batch serves what comes next, of any process;
// so that no interleaving passes a quota, each process pays for the rest of its own.
constexpr std::uint64_t kBatchBytes = 128u << 20;
// asked:32 | paid:32 in units of 2 MiB, a device: what managed allocations of this process hold, and what is charged
// for them. Freed memory keeps its batch paid until the process ends, as the driver keeps it.
constinit std::atomic<std::uint64_t> unified[kMaxDevices]{};
constexpr unsigned kChunkShift = 21;

struct Unified {
  std::uint64_t asked, paid;  // units
};
constexpr Unified unpack(std::uint64_t word) noexcept { return {word >> 32, word & 0xffff'ffff}; }
constexpr std::uint64_t pack(Unified u) noexcept { return u.asked << 32 | u.paid; }
constexpr std::uint64_t chunks_of(std::uint64_t bytes) noexcept {
  return (bytes + (1u << kChunkShift) - 1) >> kChunkShift;
}
constexpr std::uint64_t batches_of(std::uint64_t units) noexcept {
  constexpr std::uint64_t kBatch = kBatchBytes >> kChunkShift;
  return (units + kBatch - 1) / kBatch * kBatch;
}

// False: the batch it needs does not fit.
bool unified_taken(Device& d, std::uint64_t bytes) noexcept {
  std::atomic<std::uint64_t>& word = unified[d.number];
  std::uint64_t have = word.load(std::memory_order_relaxed);  // the CAS validates it
  for (;;) {  // lock-free: repeated only because another thread took or gave
    const Unified before = unpack(have);
    const std::uint64_t asked = before.asked + chunks_of(bytes);
    const std::uint64_t needed = batches_of(asked);
    const std::uint64_t paid = needed > before.paid ? needed : before.paid;
    const std::uint64_t more = (paid - before.paid) << kChunkShift;
    if (asked > 0xffff'ffff || paid > 0xffff'ffff) return false;
    if (more != 0 && !charge(d, more)) return false;
    // relaxed: a figure of our own, ordered by nothing
    if (word.compare_exchange_weak(have, pack({asked, paid}), std::memory_order_relaxed)) {
      if (more != 0) note_unseen(d, static_cast<std::int64_t>(more));
      return true;
    }
    if (more != 0) give_back(d, more);
  }
}

}  // namespace

void unified_freed(Device& d, std::uint64_t bytes) noexcept {
  std::atomic<std::uint64_t>& word = unified[d.number];
  std::uint64_t have = word.load(std::memory_order_relaxed);  // the CAS validates it
  std::uint64_t less = 0;
  Unified after{};
  do {  // lock-free
    const Unified before = unpack(have);
    const std::uint64_t units = chunks_of(bytes);
    after.asked = before.asked - (units < before.asked ? units : before.asked);
    const std::uint64_t kept = batches_of(after.asked != 0 ? after.asked : 1);
    after.paid = kept < before.paid ? kept : before.paid;
    less = (before.paid - after.paid) << kChunkShift;
    // relaxed: a figure of our own, ordered by nothing
  } while (!word.compare_exchange_weak(have, pack(after), std::memory_order_relaxed));
  if (less == 0) return;
  // before it is given back: until then the books lead, which is the safe side
  note_unseen(d, -static_cast<std::int64_t>(less));
  give_back(d, less);
}

void forget_unified() noexcept {
  for (auto& word : unified) word.store(0, std::memory_order_relaxed);  // alone after a fork
}

static CUresult mem_alloc_managed(CUdeviceptr* dptr, size_t bytesize, unsigned int flags) noexcept {
  const auto call = [=](CUdeviceptr* p) { return next.cuMemAllocManaged(p, bytesize, flags); };
  const Here at = here();
  if (at.device == nullptr || !usable() || dptr == nullptr || bytesize == 0) [[unlikely]] {
    return unplaced([&] { return call(dptr); });
  }
  if (bytesize > kMostBytes) return CUDA_ERROR_OUT_OF_MEMORY;
  Device& d = *at.device;
  const std::uint64_t bytes = round_up(bytesize, books.grain[d.number].alloc);
  if (!unified_taken(d, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUdeviceptr p{};
  CUresult r = call(&p);
  const Value v{units_of(bytes), static_cast<std::uint8_t>(d.number), Kind::kManaged,
                books.contexts.tag(at.context)};
  if (r == CUDA_SUCCESS && !keep(pointer_key(p), v)) [[unlikely]] {
    next.cuMemFree_v2(p);
    r = CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (r != CUDA_SUCCESS) [[unlikely]] {
    unified_freed(d, bytes);
    return r;
  }
  hot_count(Count::kAlloc);
  *dptr = p;
  return CUDA_SUCCESS;
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

// Managed memory moves without a call: granted and recorded first.

CUresult cuMemAllocManaged(CUdeviceptr* dptr, size_t bytesize, unsigned int flags) noexcept {
  return map_event([&] { return map_of(AuditOp::k_cuMemAllocManaged, 0, bytesize); },
                   [&] { return mem_alloc_managed(dptr, bytesize, flags); });
}

}  // namespace bulkhead::hook
