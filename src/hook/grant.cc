// The check of each audited call against the tenant's grants. Hot: the handle this thread used last, in the table of now. Cold: the
// others, and the table itself.
#include "hook/grant.h"

#include <sys/mman.h>
#include <time.h>

#include <atomic>
#include <cstring>

#include "base/clock.h"
#include "hook/audit_grant.h"
#include "hook/process.h"
#include "hook/resolve.h"
#include "hook/thread_places.h"
#include "shm/files.h"
#include "shm/grant_table.h"
#include "wire/client.h"

namespace bulkhead::hook {

constinit std::atomic<const GrantMapping*> grant_mapped{nullptr};
constinit GrantCache grant_caches[ThreadPlaces::kPlaces + 1]{};
thread_local constinit std::uint16_t grant_place = 0;

namespace {

using abi::DenyReason;
constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr int kPatience_ms =
    1000;  // of a call that is the first to ask; later ones are refused or served at once
constexpr std::uint32_t kNotOurs = 1u << 16;  // no grant has this device bit
constexpr std::uint64_t kAskAgain_ns = 1'000'000'000;
constexpr std::uint64_t kBytesMask = (1ull << 48) - 1;

using Mapped =
    GrantMapping;  // never unmapped: threads may be reading it. A process sees as many as it sees daemons
using Cache = GrantCache;
constexpr unsigned kMostMapped = 64;
constinit Mapped all_mapped[kMostMapped]{};
constinit unsigned mapped_used = 0;  // under `mapping`
constinit std::atomic<std::uint64_t> ask_again_ns{
    0};  // a daemon that gave none is not asked each call
constinit std::atomic<bool> old{false};
constinit std::atomic<std::uint64_t> last_handle{
    0};  // of any thread: why it ended is still to be read
// What this process has moved under grants that count bytes: generation:16 | bytes:48, by slot modulo.
constexpr unsigned kSpent = 64;
constinit std::atomic<std::uint64_t> spent[kSpent]{};
constinit PrivateLock mapping{};

constinit ThreadPlaces places{};

void left(void* place) noexcept {
  grant_place = 0;  // a later destructor that transfers asks again
  places.give(static_cast<std::uint16_t>(reinterpret_cast<std::uintptr_t>(place)));
}

Cache* own_cache() noexcept {
  if (grant_place == 0) {
    grant_place = places.take(left);
    if (grant_place == 0) return nullptr;
    grant_caches[grant_place] = {};  // what a thread kept that has ended
  }
  return &grant_caches[grant_place];
}

std::uint64_t coarse_ns() noexcept { return clock_ns(CLOCK_MONOTONIC_COARSE); }

std::uint32_t bit(const Mapped& v, std::uint8_t device) noexcept {
  if (device < kMaxDevices) return v.bit_of[device];
  return 0;  // the host, or a device of another process: its map event was granted
}

// The answer for each Device::number.
std::uint64_t refused_numbers(const Mapped& v, const shm::GrantKept& kept) noexcept {
  std::uint64_t refused = 0;
  for (unsigned i = 0; i < kMaxDevices; ++i) {
    if ((v.bit_of[i] & kept.refused_devices) != 0) refused |= 1ull << i;
  }
  return refused;
}

shm::GrantNeed need_of(const Mapped& v, const AuditEvent& e) noexcept {
  shm::GrantNeed need;
  need.directions = static_cast<std::uint8_t>(1u << grant_direction(e));
  need.devices = bit(v, e.source_device) | bit(v, e.destination_device);
  need.bytes = e.bytes;
  if (e.source_device < kMaxDevices) need.source = e.source;
  if (e.destination_device < kMaxDevices) need.destination = e.destination;
  // of more dimensions: all that lies between its first and last row, by the source's pitch
  const std::uint64_t depth = e.depth == 0 ? 1 : e.depth;
  need.bytes_here = e.height == 0 ? e.bytes : e.pitch * e.height * depth;
  if (need.bytes_here < e.bytes) need.bytes_here = e.bytes;
  return need;
}

// Of a grant that counts bytes: whether this process's own part leaves room for these. The daemon adds up over all processes.
bool spend(shm::GrantHandle handle, std::uint64_t limit, std::uint64_t bytes) noexcept {
  std::atomic<std::uint64_t>& word = spent[handle.slot() % kSpent];
  const std::uint64_t own = std::uint64_t{handle.generation() & 0xffff} << 48;
  std::uint64_t was = word.load(kRelaxed);  // a sum of its own
  for (;;) {
    const std::uint64_t sum = (was & ~kBytesMask) == own ? was & kBytesMask : 0;
    if (bytes > limit || sum > limit - bytes) return false;
    // relaxed: a sum of its own
    if (word.compare_exchange_weak(was, own | (sum + bytes), kRelaxed, kRelaxed)) return true;
  }
}

DenyReason check_counted(const Mapped& v, shm::GrantHandle handle, const shm::GrantNeed& need,
                         std::uint64_t now_ns, std::uint32_t* serial) noexcept {
  const DenyReason r = shm::check_grant(*v.table, handle, need, now_ns, serial);
  if (r != DenyReason::kNone) return r;
  const std::uint64_t limit =
      v.table->slots[handle.slot()].bytes.load(kRelaxed);  // was just checked
  return limit == 0 || spend(handle, limit, need.bytes) ? DenyReason::kNone : DenyReason::kBytes;
}

// Asks the daemon for the table. The descriptor is closed as soon as it is mapped: programs close what they did not open.
const shm::GrantTable* fetch() noexcept {
  Result<shm::Dir> dir = shm::open_dir(shm::dir_options(on_simulator(), false));
  struct stat st {};
  if (!dir.ok() || !shm::stat_fd(dir->fd.get(), st)) return nullptr;
  Result<wire::Client> client = wire::Client::connect(dir->fd.get(), st.st_uid, kPatience_ms);
  if (!client.ok()) return nullptr;
  wire::NameRequest request{};
  wire::put_text(request.name, process.tenant.get().name());
  const std::uint32_t sequence = client->next_sequence();
  wire::begin(request, wire::Kind::kGrantTable, sequence);
  if (!client->send(&request, sizeof request, kPatience_ms).ok()) return nullptr;
  wire::Verdict verdict;
  UniqueFd fd;
  unsigned count = 0;
  const auto got = client->receive_with(&verdict, sizeof verdict, wire::Kind::kGrantTable, sequence,
                                        kPatience_ms, &fd, 1, count);
  if (!got.ok() || verdict.header.result != 0 || count != 1) return nullptr;
  if (!shm::stat_fd(fd.get(), st) || st.st_size != static_cast<off_t>(sizeof(shm::GrantTable)))
    return nullptr;
  constexpr std::size_t kBytes = sizeof(shm::GrantTable);
  void* const at = ::mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return nullptr;
  ::madvise(at, kBytes, MADV_DONTFORK);
  const auto* table = static_cast<const shm::GrantTable*>(at);
  if (shm::check_grants(*table, kBytes).ok()) return table;
  ::munmap(at, kBytes);
  return nullptr;
}

// Under `mapping`.
void map_locked() noexcept {
  const Undisturbed keep;
  if (mapped_used == kMostMapped) return;
  const shm::GrantTable* table = fetch();
  ask_again_ns.store(coarse_ns() + kAskAgain_ns, kRelaxed);  // a hint
  if (table == nullptr) return;
  Mapped& v = all_mapped[mapped_used++];
  v.table = table;
  for (int i = 0; i < kMaxDevices; ++i) v.bit_of[i] = kNotOurs;
  for (int i = 0; i < process.device_count; ++i) {
    const Device& d = process.devices[i];
    for (unsigned k = 0; k < table->header.device_count && k < shm::kGrantDevices; ++k) {
      if (std::memcmp(table->header.uuids[k], d.uuid.bytes, sizeof d.uuid.bytes) == 0)
        v.bit_of[d.number] = 1u << k;
    }
  }
  old.store(false, kRelaxed);                         // under the lock
  grant_mapped.store(&v, std::memory_order_release);  // pairs with grant_check()
}

const Mapped* map_now() noexcept {
  const Held held{mapping};
  const Mapped* v = grant_mapped.load(kRelaxed);  // written under the lock
  if (v != nullptr || coarse_ns() < ask_again_ns.load(kRelaxed)) return v;
  map_locked();
  return grant_mapped.load(kRelaxed);  // written under the lock
}

// What the tenant is told when no grant lives.
DenyReason none_lives(const Mapped& v) noexcept {
  const std::uint64_t had = last_handle.load(kRelaxed);  // advice
  if (had == 0) return DenyReason::kNoGrant;
  const DenyReason why = shm::ended_why(*v.table, shm::GrantHandle{had, 0});
  return why == DenyReason::kNone ? DenyReason::kNoGrant : why;
}

// The first grant that covers the event, the one that ends last first; else the reason of that one.
[[gnu::cold, gnu::noinline]] GrantAnswer look(const AuditEvent& event) noexcept {
  const Mapped* v = grant_mapped.load(std::memory_order_acquire);  // pairs with map_locked()
  if (v == nullptr) v = map_now();
  if (v == nullptr) return {DenyReason::kNoGrant, 0};
  const std::uint32_t changes =
      v->table->header.changes.load(std::memory_order_acquire);  // pairs with end_change()
  const shm::GrantNeed need = need_of(*v, event);
  const std::uint64_t now_ns = monotonic_ns();  // the table may have been waited for
  GrantAnswer answer;
  Cache* const cache = own_cache();
  if (cache != nullptr && cache->limited_from == v && cache->limited_changes == changes &&
      check_counted(*v, cache->limited, need, now_ns, &answer.serial) == DenyReason::kNone)
    return answer;
  shm::GrantHandle handles[shm::kMostLivingGrants];
  const unsigned n = shm::living_grants(*v->table, handles);
  answer = {none_lives(*v), 0};
  for (unsigned i = 0; i < n; ++i) {
    std::uint32_t serial = 0;
    const DenyReason r = check_counted(*v, handles[i], need, now_ns, &serial);
    if (i == 0 || r == DenyReason::kNone) answer = {r, serial};
    if (r != DenyReason::kNone) continue;
    if (cache != nullptr) {
      cache->from = shm::keep_grant(*v->table, handles[i], cache->kept) ? v : nullptr;
      cache->changes = &v->table->header.changes;
      cache->refused_numbers = refused_numbers(*v, cache->kept);
      cache->limited_from = cache->from == nullptr ? v : nullptr;
      cache->limited = handles[i];
      cache->limited_changes = changes;
    }
    last_handle.store(handles[i].high, kRelaxed);  // advice
    break;
  }
  return answer;
}

}  // namespace

GrantAnswer grant_check(const AuditEvent& event, std::uint64_t now_ns) noexcept {
  // else another may cover it, or it is one that is looked at each time
  const GrantCache* const c = grant_kept(event, now_ns);
  return c != nullptr ? GrantAnswer{DenyReason::kNone, c->kept.serial} : look(event);
}

void grant_table_is_old() noexcept { old.store(true, kRelaxed); }  // the own thread's

void grant_second() noexcept {
  if (!old.load(kRelaxed) || grant_mapped.load(kRelaxed) == nullptr) return;  // the own thread's
  const Held held{mapping};
  map_locked();
}

void grant_forked_child() noexcept {
  // relaxed: the child has one thread
  grant_mapped.store(nullptr, kRelaxed);
  last_handle.store(0, kRelaxed);
  ask_again_ns.store(0, kRelaxed);
  old.store(false, kRelaxed);
  for (auto& word : spent) word.store(0, kRelaxed);
  mapped_used = 0;
  for (Cache& c : grant_caches) c = {};
  places.forked_child(grant_place);
}

}  // namespace bulkhead::hook
