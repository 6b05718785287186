#include "hook/nccl.h"

#include "hook/compute.h"
#include "hook/compute_books.h"
#include "hook/next.h"
#include "hook/private_lock.h"
#include "hook/process.h"
#include "hook/thread_launch.h"

namespace bulkhead::hook {

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// The living communicators of this process: who launches looks at `newest` alone.
struct Comm {
  ncclComm_t handle;  // null: free
  std::uint64_t id;
  std::uint32_t splits;
  std::uint8_t device;
  std::uint8_t place;
  std::uint32_t age;
};
constinit Comm comms[shm::kMaxComms]{};
constinit std::uint32_t next_age = 1;
constinit PrivateLock changing{};
// By device: {launched:32, place + 1:8} of its newest communicator; 0: none.
constinit std::atomic<std::uint64_t> newest[kMaxDevices]{};

std::uint64_t hash(const char* bytes, std::size_t n, std::uint64_t h) noexcept {
  for (std::size_t i = 0; i < n; ++i)
    h = (h ^ static_cast<unsigned char>(bytes[i])) * 0x100000001b3ull;
  return h | 1;  // FNV-1a; 0 is no id
}
std::uint64_t id_of(const ncclUniqueId& id) noexcept {
  return hash(id.internal, sizeof id.internal, 0xcbf29ce484222325ull);
}
std::uint64_t id_with(std::uint64_t id, std::uint64_t a, std::uint64_t b) noexcept {
  const std::uint64_t words[] = {a, b};
  return hash(reinterpret_cast<const char*>(words), sizeof words, id);
}

// Its word in the region, ours or another rank's. When all are taken one is taken over: then the ranks of two
// communicators meet there, and are charged their own figures or less.
std::uint8_t place_of(std::uint64_t id) noexcept {
  shm::CommEntry(&all)[shm::kMaxComms] = process.region->header.comms;
  for (unsigned i = 0; i < shm::kMaxComms; ++i) {
    const unsigned at = static_cast<unsigned>((id >> 8) + i) % shm::kMaxComms;
    std::uint64_t seen =
        all[at].id.load(kRelaxed);  // an identity; the word beside it orders itself
    if (seen == 0 && all[at].id.compare_exchange_strong(seen, id, kRelaxed, kRelaxed)) seen = id;
    if (seen == id) return static_cast<std::uint8_t>(at);
  }
  const unsigned at = static_cast<unsigned>(id >> 8) % shm::kMaxComms;
  all[at].id.store(id, kRelaxed);  // as above
  return static_cast<std::uint8_t>(at);
}

// Under `changing`. What was launched so far is another communicator's count.
void renew(unsigned device) noexcept {
  const Comm* last = nullptr;
  for (const Comm& c : comms)
    if (c.handle != nullptr && c.device == device && (last == nullptr || c.age > last->age))
      last = &c;
  newest[device].store(last == nullptr ? 0 : last->place + 1ull, kRelaxed);  // one word
}

void add(ncclComm_t handle, std::uint64_t id, unsigned device) noexcept {
  if (handle == nullptr || device >= kMaxDevices || mode() != Mode::kOn) return;
  const Held held{changing};
  Comm* at = &comms[0];
  for (Comm& c : comms) {
    if (c.handle == nullptr) at = &c;
    if (c.handle == nullptr) break;
    if (c.age < at->age) at = &c;  // more than there is room for: the oldest is forgotten
  }
  *at = Comm{handle, id, 0, static_cast<std::uint8_t>(device), place_of(id), next_age++};
  renew(device);
}

void forget_communicator(ncclComm_t handle) noexcept {
  const Held held{changing};
  for (Comm& c : comms) {
    if (handle == nullptr || c.handle != handle) continue;
    c.handle = nullptr;
    renew(c.device);
  }
}

// Of the thread's current context; kMaxDevices: none of ours.
unsigned device_here() noexcept {
  const Here h = here();
  return h.device == nullptr ? static_cast<unsigned>(kMaxDevices) : h.device->number;
}

std::uint64_t split_id(ncclComm_t parent, int color) noexcept {
  const Held held{changing};
  for (Comm& c : comms)
    if (c.handle == parent) return id_with(c.id, c.splits++, static_cast<std::uint32_t>(color));
  return id_with(1, static_cast<std::uint32_t>(color), 0);
}

// Of this process among all that the tenant ever had.
std::uint64_t process_mark() noexcept {
  const shm::Seat seat = seat_now();
  return std::uint64_t{seat.slot} << 32 | seat.gen;
}

bool done(ncclResult_t r) noexcept { return r == ncclSuccess || r == ncclInProgress; }

}  // namespace

Collective nccl_launched(unsigned device) noexcept {
  std::uint64_t seen = newest[device].load(kRelaxed);  // one word
  while (seen != 0) {
    const std::uint64_t more = seen + (1ull << 32);
    // relaxed: as above; a launch of another thread took the number: the next one
    if (newest[device].compare_exchange_weak(seen, more, kRelaxed, kRelaxed))
      return {static_cast<int>(seen & 0xff) - 1, static_cast<std::uint32_t>(seen >> 32)};
  }
  return {};
}

void nccl_forked_child() noexcept {
  for (Comm& c : comms) c.handle = nullptr;  // alone
  for (auto& n : newest) n.store(0, kRelaxed);
  thread_launch.nccl_groups = 0;
}

}  // namespace bulkhead::hook

#define BH_REAL(call, ...)                                               \
  using namespace bulkhead::hook;                                        \
  const NcclCalls* const real = nccl_calls(__builtin_return_address(0)); \
  if (real == nullptr || real->call == nullptr) [[unlikely]]             \
    return ncclSystemError;                                              \
  const ncclResult_t r = real->call(__VA_ARGS__)

#define BH_EXPORT extern "C" [[gnu::visibility("default")]]

BH_EXPORT ncclResult_t ncclCommInitRank(ncclComm_t* comm, int nranks, ncclUniqueId commId,
                                        int rank) noexcept {
  BH_REAL(ncclCommInitRank, comm, nranks, commId, rank);
  if (done(r) && comm != nullptr && wanted()) add(*comm, id_of(commId), device_here());
  return r;
}
BH_EXPORT ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int nranks, ncclUniqueId commId,
                                              int rank, ncclConfig_t* config) noexcept {
  BH_REAL(ncclCommInitRankConfig, comm, nranks, commId, rank, config);
  if (done(r) && comm != nullptr && wanted()) add(*comm, id_of(commId), device_here());
  return r;
}
// One of each device in the list (all from 0 on without a list); the ids are made up, for no other process has a rank.
BH_EXPORT ncclResult_t ncclCommInitAll(ncclComm_t* comm, int ndev, const int* devlist) noexcept {
  BH_REAL(ncclCommInitAll, comm, ndev, devlist);
  if (r != ncclSuccess || comm == nullptr || !wanted() || mode() != Mode::kOn) return r;
  const std::uint64_t id = id_with(process_mark(), reinterpret_cast<std::uintptr_t>(comm[0]), 0);
  for (int i = 0; i < ndev; ++i) {
    const Device* const d = device(devlist == nullptr ? i : devlist[i]);
    if (d != nullptr) add(comm[i], id, d->number);
  }
  return r;
}
BH_EXPORT ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* newcomm,
                                     ncclConfig_t* config) noexcept {
  BH_REAL(ncclCommSplit, comm, color, key, newcomm, config);
  if (!done(r) || !wanted()) return r;
  const std::uint64_t id = split_id(comm, color);
  if (newcomm != nullptr) add(*newcomm, id, device_here());  // null: this rank is in none
  return r;
}
BH_EXPORT ncclResult_t ncclCommFinalize(ncclComm_t comm) noexcept {
  BH_REAL(ncclCommFinalize, comm);
  return r;
}
// Forgotten first: the handle may be another's as soon as the call returns.
BH_EXPORT ncclResult_t ncclCommDestroy(ncclComm_t comm) noexcept {
  bulkhead::hook::forget_communicator(comm);
  BH_REAL(ncclCommDestroy, comm);
  return r;
}
BH_EXPORT ncclResult_t ncclCommAbort(ncclComm_t comm) noexcept {
  bulkhead::hook::forget_communicator(comm);
  BH_REAL(ncclCommAbort, comm);
  return r;
}
BH_EXPORT ncclResult_t ncclGroupStart() noexcept {
  BH_REAL(ncclGroupStart);
  if (r == ncclSuccess) ++thread_launch.nccl_groups;
  return r;
}
// What was grouped is launched in here: the group ends behind it.
BH_EXPORT ncclResult_t ncclGroupEnd() noexcept {
  BH_REAL(ncclGroupEnd);
  if (thread_launch.nccl_groups != 0) --thread_launch.nccl_groups;
  return r;
}
#undef BH_EXPORT
#undef BH_REAL
