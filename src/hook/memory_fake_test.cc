#include <utility>

#include "hook/books.h"
#include "hook/memory_fake_model.h"

namespace bulkhead::hook {

// Every entry answers "not supported" until reset() sets those that the model has.
namespace {
template <auto member>
struct Stub;
template <class R, class... A, Entry<R(A...) noexcept> CudaNext::*member>
struct Stub<member> {
  static R missing(A...) noexcept { return CUDA_ERROR_NOT_SUPPORTED; }
};
}  // namespace
#define BH_START(name) \
  decltype(CudaNext::name) { Stub<&CudaNext::name>::missing, Stub<&CudaNext::name>::missing }
constinit CudaNext next{
#define BH_HOOK(name, since, family, ...) BH_START(name),
#include "abi/cuda.def"
#define BH_CUDA(name) BH_START(name),
#include "hook/internal.def"
};

namespace fake {
Driver driver;
Quota quota;
std::uint64_t next_handle = 0x5500'0000'0000;

namespace {

std::uint64_t next_address = 0x7f00'0000'0000;
std::set<CUcontext> contexts;
CUcontext primary = nullptr;
thread_local CUcontext current = nullptr;
int retained = 0;

struct Plain {
  std::uint64_t bytes;
  CUcontext ctx;
  bool small;
  bool managed = false;
};
std::map<CUdeviceptr, Plain> plain;
std::map<CUcontext, Arena> slabs;
struct PoolModel {
  std::map<std::uint64_t, std::uint64_t> free_list;  // offset -> bytes, of the reserved space
  std::map<CUdeviceptr, std::uint64_t> live;
  std::uint64_t base = 0, extent = 0, reserved = 0, used = 0;
};
std::map<CUmemoryPool, PoolModel> pools;
CUmemoryPool current_pool = nullptr;
bool is_capturing = false;

}  // namespace

std::uint64_t up(std::uint64_t n, std::uint64_t to) { return (n + to - 1) / to * to; }
bool take(std::uint64_t bytes) {
  if (driver.taken + driver.contexts_taken + bytes > driver.capacity) return false;
  driver.taken += bytes;
  driver.most = std::max(driver.most, driver.taken + driver.contexts_taken);
  return true;
}
void give(std::uint64_t bytes) { driver.taken -= bytes; }
bool failing() { return driver.fail_next > 0 && driver.fail_next-- > 0; }
std::uint64_t fresh(std::uint64_t bytes, std::uint64_t align) {
  next_address = up(next_address, align);
  const std::uint64_t at = next_address;
  next_address += up(bytes, align);
  return at;
}

std::uint64_t arena_take(Arena& a, std::uint64_t n) {
  std::uint64_t at = a.fit(n);
  if (at == 0) {
    if (!take(a.block)) return 0;
    at = fresh(a.block, a.block);
    a.blocks[at];
  }
  a.blocks[at / a.block * a.block][at % a.block] = n;
  return at;
}
void arena_free(Arena& a, std::uint64_t at) {
  auto it = a.blocks.find(at / a.block * a.block);
  it->second.erase(at % a.block);
  if (!it->second.empty()) return;
  a.blocks.erase(it);
  give(a.block);
}

namespace {

CUresult mem_alloc(CUdeviceptr* p, size_t n) {
  const Lock l{driver.lock};
  if (current == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (n == 0 || p == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (failing()) return CUDA_ERROR_UNKNOWN;
  const std::uint64_t bytes = up(n, 512);
  if (bytes < 2 * kMiB) {
    Arena& a = slabs.try_emplace(current, Arena{2 * kMiB, 512, {}}).first->second;
    const std::uint64_t at = arena_take(a, bytes);
    if (at == 0) return CUDA_ERROR_OUT_OF_MEMORY;
    plain[*p = at] = {bytes, current, true};
    return CUDA_SUCCESS;
  }
  if (!take(up(bytes, 2 * kMiB))) return CUDA_ERROR_OUT_OF_MEMORY;
  plain[*p = fresh(bytes, 2 * kMiB)] = {up(bytes, 2 * kMiB), current, false};
  return CUDA_SUCCESS;
}

// Gives back the whole blocks of 32 MiB that hold nothing, as the driver does.
void trim(PoolModel& m) {
  std::map<std::uint64_t, std::uint64_t> kept;
  for (const auto& [from, bytes] : m.free_list) {
    const std::uint64_t first = up(from, 32 * kMiB);
    const std::uint64_t last = (from + bytes) / (32 * kMiB) * (32 * kMiB);
    if (first >= last) {
      kept.emplace(from, bytes);
      continue;
    }
    give(last - first);
    m.reserved -= last - first;
    if (first > from) kept.emplace(from, first - from);
    if (from + bytes > last) kept.emplace(last, from + bytes - last);
  }
  m.free_list = std::move(kept);
}

CUresult pool_alloc(CUmemoryPool pool, CUdeviceptr* p, size_t n) {
  PoolModel& m = pools[pool];
  if (failing()) return CUDA_ERROR_UNKNOWN;
  const std::uint64_t bytes = up(n, 512);
  auto it = m.free_list.begin();
  while (it != m.free_list.end() && it->second < bytes) ++it;
  if (it == m.free_list.end()) {
    const std::uint64_t growth = up(bytes, 32 * kMiB);
    if (!take(growth)) return CUDA_ERROR_OUT_OF_MEMORY;
    it = m.free_list.emplace(m.base + m.extent, growth).first;
    m.reserved += growth;
    m.extent += growth;
  }
  const auto [at, size] = *it;
  m.free_list.erase(it);
  if (size > bytes) m.free_list.emplace(at + bytes, size - bytes);
  m.live[*p = at] = bytes;
  m.used += bytes;
  return CUDA_SUCCESS;
}
bool pool_free(CUdeviceptr p) {
  for (auto& [handle, m] : pools) {
    auto it = m.live.find(p);
    if (it == m.live.end()) continue;
    m.used -= it->second;
    auto free = m.free_list.emplace(it->first, it->second).first;
    m.live.erase(it);
    if (auto after = std::next(free);
        after != m.free_list.end() && free->first + free->second == after->first) {
      free->second += after->second;
      m.free_list.erase(after);
    }
    if (free != m.free_list.begin()) {
      auto before = std::prev(free);
      if (before->first + before->second == free->first) {
        before->second += free->second;
        m.free_list.erase(free);
      }
    }
    return true;
  }
  return false;
}

// Unified memory: what is resident is taken in batches, and the last one stays.
CUresult managed_alloc(CUdeviceptr* p, size_t n) {
  const Lock l{driver.lock};
  if (current == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (failing()) return CUDA_ERROR_UNKNOWN;
  const std::uint64_t batches = std::max(driver.batches, up(driver.managed + n, 128 * kMiB));
  if (!take(batches - driver.batches)) return CUDA_ERROR_OUT_OF_MEMORY;
  driver.batches = batches;
  driver.managed += n;
  plain[*p = fresh(n, 2 * kMiB)] = {n, current, false, true};
  return CUDA_SUCCESS;
}
void give_plain(const Plain& gone) {
  if (!gone.managed) return give(gone.bytes);
  driver.managed -= gone.bytes;
  const std::uint64_t kept = up(std::max(driver.managed, kMiB), 128 * kMiB);
  give(driver.batches - std::min(kept, driver.batches));
  driver.batches = std::min(kept, driver.batches);
}

CUresult mem_free(CUdeviceptr p) {
  const Lock l{driver.lock};
  if (const auto f = std::exchange(driver.on_free, nullptr); f != nullptr) f();
  if (auto it = plain.find(p); it != plain.end()) {
    if (failing()) return CUDA_ERROR_UNKNOWN;
    const Plain gone = it->second;
    plain.erase(it);
    if (gone.small) {
      arena_free(slabs.at(gone.ctx), p);
    } else {
      give_plain(gone);
    }
    return CUDA_SUCCESS;
  }
  if (!pool_free(p)) return CUDA_ERROR_INVALID_VALUE;
  for (auto& [h, m] : pools) trim(m);
  return CUDA_SUCCESS;
}
CUresult free_async(CUdeviceptr p, CUstream) {
  const Lock l{driver.lock};
  if (plain.contains(p)) return mem_free(p);
  return pool_free(p) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult synchronize() {
  const Lock l{driver.lock};
  for (auto& [h, m] : pools) trim(m);
  return CUDA_SUCCESS;
}
CUresult pool_attribute(CUmemoryPool pool, CUmemPool_attribute attr, void* value) {
  const Lock l{driver.lock};
  ++driver.pool_queries;
  if (driver.on_query) driver.on_query();
  auto it = pools.find(pool);
  if (it == pools.end()) return CUDA_ERROR_INVALID_VALUE;
  *static_cast<std::uint64_t*>(value) =
      attr == CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT ? it->second.reserved : it->second.used;
  return CUDA_SUCCESS;
}
CUresult new_pool(CUmemoryPool* pool) {
  *pool = reinterpret_cast<CUmemoryPool>(next_handle += 64);
  pools[*pool].base = fresh(1ull << 40, 32 * kMiB);
  return CUDA_SUCCESS;
}

CUcontext new_context() {
  const auto ctx = reinterpret_cast<CUcontext>(next_handle += 64);
  contexts.insert(ctx);
  driver.contexts_taken += kContext;
  driver.most = std::max(driver.most, driver.taken + driver.contexts_taken);
  return ctx;
}
void drop_context(CUcontext ctx) {
  std::erase_if(plain, [&](auto& entry) {
    if (entry.second.ctx != ctx) return false;
    if (!entry.second.small) give_plain(entry.second);
    return true;
  });
  if (auto it = slabs.find(ctx); it != slabs.end()) {
    give(it->second.blocks.size() * 2 * kMiB);
    slabs.erase(it);
  }
  drop_arrays(ctx);
  contexts.erase(ctx);
  driver.contexts_taken -= kContext;
  if (contexts.empty()) {
    for (auto& [h, m] : pools) {
      give(m.reserved);
      m.live.clear();
      m.free_list.clear();
      m.used = m.reserved = 0;
    }
    drop_graph_memory();
  }
  if (current == ctx) current = nullptr;
}

void set_plain() {
  set(next.cuCtxGetCurrent, [](CUcontext* c) {
    *c = current;
    return CUDA_SUCCESS;
  });
  set(next.cuMemAlloc_v2, [](CUdeviceptr* p, size_t n) { return mem_alloc(p, n); });
  set(next.cuMemFree_v2, [](CUdeviceptr p) { return mem_free(p); });
  set(next.cuMemAllocManaged,
      [](CUdeviceptr* p, size_t n, unsigned) { return managed_alloc(p, up(n, 2 * kMiB)); });
  set(next.cuMemAllocPitch_v2, [](CUdeviceptr* p, size_t* pitch, size_t w, size_t h, unsigned) {
    *pitch = up(w, 512) + driver.extra_pitch;
    return mem_alloc(p, *pitch * h);
  });
  set(next.cuCtxSynchronize, [] { return synchronize(); });
  set(next.cuStreamSynchronize, [](CUstream) { return synchronize(); });
  set(next.cuDevicePrimaryCtxRetain, [](CUcontext* c, CUdevice) {
    const Lock l{driver.lock};
    if (primary == nullptr) primary = new_context();
    ++retained;
    *c = primary;
    return CUDA_SUCCESS;
  });
  set(next.cuDevicePrimaryCtxReset_v2, [](CUdevice) {
    const Lock l{driver.lock};
    if (primary != nullptr) drop_context(primary);
    primary = nullptr;
    retained = 0;
    return CUDA_SUCCESS;
  });
  set(next.cuDevicePrimaryCtxRelease_v2, [](CUdevice) {
    const Lock l{driver.lock};
    if (retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (--retained == 0) {
      drop_context(primary);
      primary = nullptr;
    }
    return CUDA_SUCCESS;
  });
  set(next.cuDevicePrimaryCtxGetState, [](CUdevice, unsigned* f, int* on) {
    *f = 0;
    *on = primary != nullptr;
    return CUDA_SUCCESS;
  });
  set(next.cuCtxCreate_v2, [](CUcontext* c, unsigned, CUdevice) {
    const Lock l{driver.lock};
    if (failing()) return CUDA_ERROR_UNKNOWN;
    *c = current = new_context();
    return CUDA_SUCCESS;
  });
  set(next.cuCtxDestroy_v2, [](CUcontext c) {
    const Lock l{driver.lock};
    if (!contexts.contains(c)) return CUDA_ERROR_INVALID_CONTEXT;
    drop_context(c);
    return CUDA_SUCCESS;
  });
}

void set_pools() {
  set(next.cuMemAllocAsync, [](CUdeviceptr* p, size_t n, CUstream) {
    const Lock l{driver.lock};
    if (is_capturing) return *p = next_handle += 64, CUDA_SUCCESS;
    return pool_alloc(current_pool, p, n);
  });
  set(next.cuMemAllocFromPoolAsync, [](CUdeviceptr* p, size_t n, CUmemoryPool pool, CUstream) {
    const Lock l{driver.lock};
    return pool_alloc(pool, p, n);
  });
  set(next.cuMemFreeAsync, [](CUdeviceptr p, CUstream s) { return free_async(p, s); });
  set(next.cuMemPoolGetAttribute,
      [](CUmemoryPool p, CUmemPool_attribute a, void* v) { return pool_attribute(p, a, v); });
  set(next.cuDeviceGetMemPool, [](CUmemoryPool* p, CUdevice) {
    *p = current_pool;
    return CUDA_SUCCESS;
  });
  set(next.cuDeviceSetMemPool, [](CUdevice, CUmemoryPool p) {
    current_pool = p;
    return CUDA_SUCCESS;
  });
  set(next.cuMemPoolCreate, [](CUmemoryPool* p, const CUmemPoolProps*) {
    const Lock l{driver.lock};
    return new_pool(p);
  });
  set(next.cuMemPoolTrimTo, [](CUmemoryPool p, size_t) {
    const Lock l{driver.lock};
    trim(pools[p]);
    return CUDA_SUCCESS;
  });
  set(next.cuMemPoolDestroy, [](CUmemoryPool p) {
    const Lock l{driver.lock};
    give(pools[p].reserved);
    pools.erase(p);
    return CUDA_SUCCESS;
  });
  set(next.cuStreamIsCapturing, [](CUstream, CUstreamCaptureStatus* s) {
    *s = is_capturing ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
  });
}

Device the_device{0, {}, 0, 0};

}  // namespace

void make_current(CUcontext ctx) { current = ctx; }
void set_capturing(bool on) { is_capturing = on; }
CUmemoryPool default_pool() { return current_pool; }
void reset(std::uint64_t limit) {
  const Lock l{driver.lock};
  plain.clear();
  slabs.clear();
  pools.clear();
  clear_more();
  contexts.clear();
  primary = current = nullptr;
  retained = 0;
  is_capturing = false;
  driver.managed = driver.batches = 0;
  driver.taken = driver.contexts_taken = driver.most = driver.extra_pitch = 0;
  driver.fail_next = 0;
  driver.probes = true;
  driver.capacity = 64ull << 30;
  quota.limit = limit;
  quota.held = quota.other = 0;
  for (auto& c : quota.counts) c = 0;
  set_plain();
  set_pools();
  set_more();
  static_cast<void>(new_pool(&current_pool));
  memory_forked_child();
  memory_bound();
}

}  // namespace fake

// The doors' part.
Mode mode() noexcept { return Mode::kOn; }
Here here() noexcept {
  CUcontext c = nullptr;
  next.cuCtxGetCurrent(&c);
  return c != nullptr ? Here{&fake::the_device, c} : Here{};
}
Here here(CUstream) noexcept { return here(); }
Device* device(CUdevice ordinal) noexcept { return ordinal == 0 ? &fake::the_device : nullptr; }
Device* devices(int* n) noexcept {
  *n = 1;
  return &fake::the_device;
}
bool charge(Device& d, std::uint64_t bytes) noexcept {
  for (int i = 0; i < 2; ++i) {
    std::uint64_t held = fake::quota.held.load();
    while (held + bytes <= fake::quota.limit.load()) {
      if (fake::quota.held.compare_exchange_weak(held, held + bytes)) return true;
    }
    if (!memory_trim(d)) break;
  }
  count(Count::kRefused);
  return false;
}
void give_back(Device&, std::uint64_t bytes) noexcept { fake::quota.held -= bytes; }
void leading_begin() noexcept {}
void leading_end() noexcept {}
void note_unseen(Device&, std::int64_t) noexcept {}
void charge_other(Device&, std::int64_t delta) noexcept {
  fake::quota.held += static_cast<std::uint64_t>(delta);
  fake::quota.other += static_cast<std::uint64_t>(delta);
}
View view(const Device&) noexcept {
  return {fake::quota.limit, fake::quota.held, fake::quota.limit - fake::quota.held};
}
std::uint64_t context_bytes(const Device&, bool) noexcept { return fake::kContext; }
void count(Count what) noexcept { ++fake::quota.counts[static_cast<int>(what)]; }

}  // namespace bulkhead::hook
