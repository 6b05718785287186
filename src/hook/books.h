// The process-private books, all of them: one state, in one reservation of address space made when the process is
// bound to its tenant. Nothing here is shared with another process and nothing is on the heap.
#pragma once
#include <atomic>
#include <cstdint>

#include "abi/cuda_types.h"
#include "hook/alloc_map.h"
#include "hook/array_book.h"
#include "hook/contexts.h"
#include "hook/hook.h"
#include "hook/hot.h"
#include "hook/nodes.h"
#include "hook/pool.h"
#include "hook/reuse.h"
#include "hook/slab.h"

namespace bulkhead::hook {

// Bytes; powers of two. docs/formats/charge.md, Units.
struct Grain {
  std::uint64_t alloc, slab, array, pool;
};
inline constexpr Grain kDefaultGrain{std::uint64_t{2} << 20, kSlabBytes, std::uint64_t{2} << 20,
                                     std::uint64_t{32} << 20};

struct Import;

struct Books {
  std::atomic<bool> ready{false};
  std::atomic<bool> deferred{false};       // plain pointers given to cuMemFreeAsync are in the map
  std::atomic<bool> graph_memory{false};   // some executable graph has allocation nodes
  std::atomic<bool> freed{false};          // stream-ordered frees since pools were last trimmed
  std::atomic<bool> multicast{false};      // something was bound to a multicast object
  std::atomic<std::uint32_t> frees{0};     // stream-ordered frees, about; a hint
  std::atomic<std::uint32_t> scanning{0};  // the hole scratch is in use
  std::atomic<std::uint32_t> graph_epoch{0};  // trims of graph memory
  AllocMap map;
  SlabBook slabs;
  ContextTable contexts;
  PoolTable pools;
  GivenTable given;
  NodeStore nodes;
  ArrayBook arrays;
  HoleScratch* scratch = nullptr;
  Grain grain[kMaxDevices] = {};
};
[[gnu::visibility("hidden")]] extern constinit Books books;

// Replaces a device's figures by calibrated ones; see charge.md for what is ignored. Before the first allocation.
void set_grain(std::uint32_t device_number, const Grain& grain) noexcept;

// Rounds up; a sum that would wrap becomes the largest multiple, which every quota refuses.
[[nodiscard]] constexpr std::uint64_t round_up(std::uint64_t n, std::uint64_t grain) noexcept {
  const std::uint64_t mask = grain - 1;
  return n > ~mask ? ~mask : (n + mask) & ~mask;
}
[[nodiscard]] constexpr std::uint64_t round_down(std::uint64_t n, std::uint64_t grain) noexcept {
  return n & -grain;
}
inline constexpr std::uint64_t kSmallUnit = std::uint64_t{1} << kUnitShift;
[[nodiscard]] constexpr std::uint32_t units_of(std::uint64_t bytes) noexcept {
  return static_cast<std::uint32_t>(bytes >> kUnitShift);
}
[[nodiscard]] constexpr std::uint64_t bytes_of(std::uint32_t units) noexcept {
  return std::uint64_t{units} << kUnitShift;
}
// What fits into Value::units; more is refused by any quota.
inline constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 40;

inline bool books_ready() noexcept {
  return books.ready.load(std::memory_order_acquire);  // pairs with memory_bound()
}
inline std::uint64_t pointer_key(CUdeviceptr p) noexcept { return map_key(p, Space::kPointer); }
template <class Handle>
inline std::uint64_t handle_key(Handle* h, Space space) noexcept {
  return map_key(reinterpret_cast<std::uintptr_t>(h), space);
}
// The device of a number that a book remembers.
Device& numbered(std::uint8_t number) noexcept;

// Whether the books can be written: true once the process is bound. Another thread may have bound it a moment ago and
// still be laying them out; that is waited for, with a bound. False and bound: they could not be made.
[[gnu::cold, gnu::noinline]] bool wait_for_books() noexcept;
inline bool usable() noexcept { return books_ready() || wait_for_books(); }

// A call that no device stands behind: refused if the process should be bound and is not, else the driver's.
template <class Call>
inline CUresult unplaced(Call call) noexcept {
  const Mode m = mode();
  if (m == Mode::kDenied || (m == Mode::kOn && !books_ready())) [[unlikely]] {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  return call();
}

// The charge of a live pointer is given back: called after the driver freed it.
[[gnu::noinline]] void release_small(std::uint64_t key, Value v) noexcept;
[[gnu::cold, gnu::noinline]] void release_special(std::uint64_t key, Value v) noexcept;
inline void release_pointer(std::uint64_t key, Value v) noexcept {
  if (v.kind == Kind::kSmall) {
    release_small(key, v);
  } else if (v.kind >= Kind::kManaged) [[unlikely]] {
    release_special(key, v);
  } else {
    hot_give_back(hot_numbered(v.device), bytes_of(v.units));
  }
  hot_count(Count::kFree);
}
// Books a pointer. False: no room in the map; counted.
[[gnu::cold, gnu::noinline]] bool not_kept() noexcept;
inline bool keep(std::uint64_t key, Value v) noexcept {
  return books.map.insert(key, v) || not_kept();
}
// Puts an entry back whose free the driver refused.
void restore(std::uint64_t key, Value v) noexcept;

// array.cc: an array's charge is given back.
void release_array(const Value& v) noexcept;
// context.cc: what a context held and took is given back; the records of primary contexts are forgotten.
void context_tag_gone(std::uint8_t tag) noexcept;
void forget_primaries() noexcept;
void forget_unified() noexcept;
// Managed memory of `bytes` (a multiple of 2 MiB) was freed: gives back the batches that nothing is left in.
void unified_freed(Device& d, std::uint64_t bytes) noexcept;
// share.cc: a context went with an IPC pointer opened in it.
void opened_gone(const Value& v) noexcept;
// vmm.cc: a shareable handle was imported, or exported; an object that is not an allocation was released.
// False: no room to record it.
[[nodiscard]] bool vmm_imported(CUmemGenericAllocationHandle h, const Import& import) noexcept;
void vmm_exported(CUmemGenericAllocationHandle h, CUmemAllocationHandleType type,
                  const void* handle) noexcept;
void multicast_gone(CUmemGenericAllocationHandle mc) noexcept;

}  // namespace bulkhead::hook
