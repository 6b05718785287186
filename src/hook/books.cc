#include "hook/books.h"

#include <sys/mman.h>

#include <bit>
#include <cerrno>

#include "hook/memory_plain.h"
#include "hook/shares.h"

namespace bulkhead::hook {

constinit Books books;

namespace {

constexpr AllocMap::Shifts kShifts{};
constexpr std::size_t page_up(std::size_t n) noexcept { return (n + 4095) & ~std::size_t{4095}; }

struct Layout {
  std::size_t slabs, nodes, arrays, scratch, end;
};
Layout layout() noexcept {
  Layout l{};
  l.slabs = page_up(AllocMap::bytes_needed(kShifts));
  l.nodes = l.slabs + page_up(SlabBook::bytes_needed());
  l.arrays = l.nodes + page_up(NodeStore::bytes_needed());
  l.scratch = l.arrays + page_up(ArrayBook::bytes_needed());
  l.end = l.scratch + page_up(hole_scratch_bytes());
  return l;
}
constinit std::atomic<char*> arena{nullptr};

void lay_out(char* zeroed) noexcept {
  const Layout l = layout();
  books.map.init(zeroed, kShifts);
  books.slabs.init(zeroed + l.slabs);
  books.nodes.init(zeroed + l.nodes);
  books.arrays.init(zeroed + l.arrays);
  books.scratch = reinterpret_cast<HoleScratch*>(zeroed + l.scratch);
  books.contexts.clear();
  books.pools.clear();
  for (Grain& g : books.grain) {
    if (g.alloc == 0) g = kDefaultGrain;
  }
}

}  // namespace

// Only address space is taken: a page costs memory when it is first written.
bool memory_bound() noexcept {
  const int keep_errno = errno;
  bool made = true;
  if (arena.load(std::memory_order_acquire) == nullptr) {  // pairs with the exchange below
    void* at = ::mmap(nullptr, layout().end, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char* none = nullptr;
    if (at == MAP_FAILED) {
      made = false;  // RLIMIT_AS: without books the process is not bound at all, as on_fault says
    } else if (arena.compare_exchange_strong(none, static_cast<char*>(at),
                                             std::memory_order_acq_rel)) {  // pairs with the load
      lay_out(static_cast<char*>(at));
      books.ready.store(true, std::memory_order_release);  // pairs with books_ready()
    } else {
      ::munmap(at, layout().end);
    }
  }
  errno = keep_errno;
  return made;
}

bool wait_for_books() noexcept {
  if (mode() != Mode::kOn) return false;
  memory_bound();
  for (int i = 0; i < 1 << 20; ++i) {
    if (books_ready()) return true;
    if (arena.load(std::memory_order_relaxed) == nullptr) return false;  // no memory for them
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  return false;
}

void memory_forked_child() noexcept {
  const int keep_errno = errno;
  char* const at = arena.load(std::memory_order_relaxed);  // alone after a fork
  if (at != nullptr) {
    ::madvise(at, layout().end, MADV_DONTNEED);  // private pages: zero again
    books.deferred.store(false, std::memory_order_relaxed);
    books.graph_memory.store(false, std::memory_order_relaxed);
    books.freed.store(false, std::memory_order_relaxed);
    // relaxed: alone after a fork
    books.scanning.store(0, std::memory_order_relaxed);
    forget_primaries();
    forget_unified();
    lay_out(at);
  }
  errno = keep_errno;
}

void set_grain(std::uint32_t device_number, const Grain& grain) noexcept {
  if (device_number >= kMaxDevices) return;
  Grain& g = books.grain[device_number];
  if (g.alloc == 0) g = kDefaultGrain;
  const auto usable = [](std::uint64_t n) {
    return n >= 512 && n <= std::uint64_t{1} << 32 && std::has_single_bit(n);
  };
  if (usable(grain.alloc)) g.alloc = grain.alloc;
  if (usable(grain.slab)) g.slab = grain.slab;
  if (usable(grain.array)) g.array = grain.array;
  if (usable(grain.pool) && grain.pool >= std::uint64_t{1} << kPoolUnitShift) g.pool = grain.pool;
}

Device& numbered(std::uint8_t number) noexcept {
  int n = 0;
  Device* const all = devices(&n);
  return all[number < n ? number : 0];
}

bool not_kept() noexcept {
  count(Count::kFault);
  return false;
}

void restore(std::uint64_t key, Value v) noexcept { static_cast<void>(keep(key, v)); }

// Managed memory, and what other processes may have open.
void release_special(std::uint64_t key, Value v) noexcept {
  Device& d = numbered(v.device);
  if (v.kind == Kind::kManaged) return unified_freed(d, bytes_of(v.units));
  if (v.kind == Kind::kExported && share_freed(key, bytes_of(v.units))) return;  // others hold it
  give_back(d, bytes_of(v.units));
}

void release_small(std::uint64_t key, Value v) noexcept {
  const std::uint64_t at = key & ((std::uint64_t{1} << 61) - 1);
  // the slab may be open for others: what they hold of it is charged anew
  if (any_exports()) static_cast<void>(share_freed(key, kSlabBytes, true));
  // relaxed: a number that only has to differ after a free
  books.contexts.record(v.context).epoch.fetch_add(1, std::memory_order_relaxed);
  if (books.slabs.leave(at)) slab_back(hot_numbered(v.device), v.context);
}

}  // namespace bulkhead::hook
