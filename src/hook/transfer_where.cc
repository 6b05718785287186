#include "hook/transfer_where.h"

#include <sys/mman.h>

#include "hook/books.h"
#include "hook/next.h"
#include "hook/process.h"

namespace bulkhead::hook {

// One byte for each 2 MiB of addresses: 0 not known, else a device's number + 1, or kMovable. 64 MiB of addresses, of which
// those pages exist that were written. Bytes are written by whoever asked the driver, and cleared by whoever frees.
constinit std::atomic<std::atomic<std::uint8_t>*> places{nullptr};

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr unsigned kShift = 21;
constexpr std::uint64_t kPlaces = std::uint64_t{1} << (47 - kShift);
constexpr std::uint8_t kMovable = 0xff;  // managed memory

using PlaceByte = std::atomic<std::uint8_t>;  // relaxed throughout: one byte is the whole of it

[[gnu::cold, gnu::noinline]] PlaceByte* make_places() noexcept {
  const Undisturbed keep;
  void* const at = ::mmap(nullptr, kPlaces, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return nullptr;
  PlaceByte* none = nullptr;
  // acq_rel pairs with the loads below: the mapping is there
  if (places.compare_exchange_strong(none, static_cast<PlaceByte*>(at), std::memory_order_acq_rel))
    return static_cast<PlaceByte*>(at);
  ::munmap(at, kPlaces);
  return none;
}

void fill(std::uint64_t at, std::uint64_t bytes, std::uint8_t value) noexcept {
  PlaceByte* table = places.load(std::memory_order_acquire);  // pairs with make_places()
  if (table == nullptr) table = make_places();
  const std::uint64_t first = at >> kShift;
  const std::uint64_t last = (at + (bytes != 0 ? bytes - 1 : 0)) >> kShift;
  if (table == nullptr || last < first) return;
  // relaxed: as above
  for (std::uint64_t i = first; i <= last && i < kPlaces; ++i) table[i].store(value, kRelaxed);
}

Side side_of(CUdeviceptr p, std::uint8_t place) noexcept {
  if (place == kMovable) return {p, Side::Kind::kUnknown, abi::kRemoteDevice};
  return {p, Side::Kind::kDevice, static_cast<std::uint8_t>(place - 1)};
}

// From the driver: a whole allocation at once. Host memory is not kept, for nobody tells us when it goes.
[[gnu::cold, gnu::noinline]] Side ask_driver(CUdeviceptr p) noexcept {
  unsigned type = 0, managed = 0;
  int ordinal = -1;
  CUdeviceptr start = 0;
  std::size_t bytes = 0;
  CUpointer_attribute what[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_IS_MANAGED,
                                CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
                                CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
                                CU_POINTER_ATTRIBUTE_RANGE_SIZE};
  void* out[] = {&type, &managed, &ordinal, &start, &bytes};
  if (next.cuPointerGetAttributes(5, what, out, p) != CUDA_SUCCESS)
    return {p, Side::Kind::kUnknown, abi::kRemoteDevice};
  if (managed == 0 && type != CU_MEMORYTYPE_DEVICE) return {p, Side::Kind::kHost, abi::kHostDevice};
  const Device* const d = device(ordinal);
  if (managed == 0 && d == nullptr) return {p, Side::Kind::kDevice, abi::kRemoteDevice};
  const auto place = managed != 0 ? kMovable : static_cast<std::uint8_t>(d->number + 1);
  const bool whole = start != 0 && start <= p && p - start < bytes;
  fill(whole ? start : p, whole ? bytes : 1, place);
  return side_of(p, place);
}

// handle << 16 | ordinal; handles are user addresses of 47 bits. 0: never used, 1: its stream is gone.
constexpr unsigned kStreams = 4096, kProbes = 32;
constinit std::atomic<std::uint64_t> streams[kStreams]{};
constinit std::atomic<std::uint32_t> last_ordinal{0};

unsigned first_place(std::uint64_t handle) noexcept {
  return static_cast<unsigned>(handle * 0x9E37'79B9'7F4A'7C15ull >> 52);
}
static_assert(kStreams == 1u << (64 - 52));

[[gnu::cold, gnu::noinline]] std::uint16_t new_ordinal(std::uint64_t handle) noexcept {
  const std::uint32_t n = last_ordinal.fetch_add(1, kRelaxed) + 1;  // a number, no more
  if (n >= abi::kManyStreams) {
    last_ordinal.store(abi::kManyStreams, kRelaxed);  // keeps it from wrapping
    return abi::kManyStreams;
  }
  for (unsigned i = 0; i < kProbes; ++i) {
    std::atomic<std::uint64_t>& place = streams[(first_place(handle) + i) % kStreams];
    std::uint64_t seen = place.load(kRelaxed);  // the CAS decides
    if (seen <= 1 && place.compare_exchange_strong(seen, handle << 16 | n, kRelaxed, kRelaxed))
      return static_cast<std::uint16_t>(n);
    if (seen >> 16 == handle) return static_cast<std::uint16_t>(seen);  // another thread was first
  }
  return abi::kManyStreams;
}

}  // namespace

void places_forget(std::uint64_t address, std::uint64_t bytes) noexcept { fill(address, bytes, 0); }

void places_forget_all() noexcept {
  const Undisturbed keep;
  // acquire pairs with make_places(). Pages that come back are zero
  if (PlaceByte* const table = places.load(std::memory_order_acquire))
    static_cast<void>(::madvise(table, kPlaces, MADV_DONTNEED));
}

std::uint8_t device_of_some(CUdeviceptr p) noexcept {
  const Side s = anywhere(p);
  return s.kind == Side::Kind::kDevice ? s.device : abi::kRemoteDevice;
}

Side anywhere(CUdeviceptr p) noexcept {
  const PlaceByte* const table =
      places.load(std::memory_order_acquire);  // pairs with make_places()
  const std::uint64_t index = p >> kShift;
  if (table != nullptr && index < kPlaces) {
    if (const std::uint8_t place = table[index].load(kRelaxed); place != 0)
      return side_of(p, place);
  }
  return ask_driver(p);
}

Side in_array(CUarray array) noexcept {
  Side s{reinterpret_cast<std::uintptr_t>(array), Side::Kind::kDevice, 0};
  if (process.device_count == 1) return s;
  const AllocMap::Cursor c =
      books_ready() ? books.map.find(handle_key(array, Space::kArray)) : AllocMap::Cursor{};
  s.device = c ? AllocMap::value_of(c).device : current_device();
  return s;
}

Side in_context(CUdeviceptr p, CUcontext context) noexcept {
  if (context == nullptr) return {p, Side::Kind::kDevice, current_device()};
  const Device* const d = device_of(context);
  return {p, Side::Kind::kDevice,
          d != nullptr ? static_cast<std::uint8_t>(d->number) : abi::kRemoteDevice};
}

std::uint8_t current_device() noexcept {
  const Device* const d = hot_here().device;
  return d != nullptr ? static_cast<std::uint8_t>(d->number) : abi::kRemoteDevice;
}
std::uint8_t device_number(CUdevice ordinal) noexcept {
  const Device* const d = device(ordinal);
  return d != nullptr ? static_cast<std::uint8_t>(d->number) : abi::kRemoteDevice;
}
std::uint8_t location_number(const CUmemLocation& where) noexcept {
  if (where.type == CU_MEM_LOCATION_TYPE_DEVICE) return device_number(where.id);
  const bool host = where.type == CU_MEM_LOCATION_TYPE_HOST ||
                    where.type == CU_MEM_LOCATION_TYPE_HOST_NUMA ||
                    where.type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
  return host ? abi::kHostDevice : abi::kRemoteDevice;
}

std::uint16_t stream_ordinal(CUstream stream) noexcept {
  if (is_default_stream(stream)) return 0;
  const auto handle = reinterpret_cast<std::uintptr_t>(stream);
  for (unsigned i = 0; i < kProbes; ++i) {
    // relaxed: handle and ordinal are one word
    const std::uint64_t seen = streams[(first_place(handle) + i) % kStreams].load(kRelaxed);
    if (seen >> 16 == handle) return static_cast<std::uint16_t>(seen);
    if (seen == 0) break;
  }
  return new_ordinal(handle);
}

void stream_ordinal_gone(CUstream stream) noexcept {
  if (is_default_stream(stream) || last_ordinal.load(kRelaxed) == 0) return;  // a look
  const auto handle = reinterpret_cast<std::uintptr_t>(stream);
  for (unsigned i = 0; i < kProbes; ++i) {
    std::atomic<std::uint64_t>& place = streams[(first_place(handle) + i) % kStreams];
    const std::uint64_t seen = place.load(kRelaxed);  // as above
    if (seen == 0) return;
    if (seen >> 16 == handle) return place.store(1, kRelaxed);
  }
}

}  // namespace bulkhead::hook
