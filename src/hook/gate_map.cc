// Taking beacons over from the daemon. Cold; the process's own thread alone.
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstring>

#include "hook/compute.h"
#include "hook/gate.h"
#include "hook/gate_inside.h"
#include "hook/process.h"
#include "shm/files.h"

namespace bulkhead::hook {
namespace {

constexpr std::size_t kPage = sizeof(shm::Beacon);

// Address space for all of them: zeros, that is no flag, wherever nothing is mapped over it.
bool reserve() noexcept {
  GateState& g = gate_state;
  if (g.pages != nullptr) return true;
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS;
  void* const theirs = ::mmap(nullptr, wire::kMaxBeacons * kPage, PROT_READ, kFlags, -1, 0);
  if (theirs == MAP_FAILED) return false;
  void* const own = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, kFlags, -1, 0);
  if (own == MAP_FAILED) {
    ::munmap(theirs, wire::kMaxBeacons * kPage);
    return false;
  }
  g.own = static_cast<shm::Beacon*>(own);
  g.pages = static_cast<const shm::Beacon*>(theirs);
  return true;
}

// A memfd that nobody can cut short: a mapping of it never faults.
bool is_beacon(int fd) noexcept {
  struct stat st {};
  if (!shm::stat_fd(fd, st) || st.st_size != static_cast<off_t>(kPage)) return false;
  const int seals = ::fcntl(fd, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
}

// Over what is there, in one step: a reader sees the one or the other.
bool map_over(const void* place, int fd, int protection) noexcept {
  return ::mmap(const_cast<void*>(place), kPage, protection, MAP_SHARED | MAP_FIXED, fd, 0) !=
         MAP_FAILED;
}

int device_with(const std::uint8_t (&uuid)[wire::kUuidBytes]) noexcept {
  for (int i = 0; i < process.device_count; ++i) {
    const Device& d = process.devices[i];
    if (d.index >= 0 && std::memcmp(d.uuid.bytes, uuid, sizeof uuid) == 0) return i;
  }
  return -1;
}

// Our devices' words in the beacon.
void words_of(const wire::BeaconEntry& e, std::uint8_t (&word)[kMaxDevices]) noexcept {
  for (auto& w : word) w = kNoWord;
  for (std::uint32_t i = 0; i < e.device_count && i < wire::kMaxDevices; ++i) {
    const int d = device_with(e.uuids[i]);
    if (d >= 0) word[d] = static_cast<std::uint8_t>(i);
  }
}

void fill(Before& b, const wire::BeaconEntry& e) noexcept {
  words_of(e, b.word);
  for (unsigned d = 0; d < kMaxDevices; ++d) {
    const std::uint8_t word = b.word[d];
    const std::uint32_t share = word < wire::kMaxDevices ? e.share_x100[word] : 0;
    b.share_x100[d] = share == 0 ? shares::kHoldShare_x100 : share;
    b.holds[d].store(0, std::memory_order_relaxed);       // published with the set
    b.covered_ns[d].store(0, std::memory_order_relaxed);  // as above
  }
}

}  // namespace

// Under process.binding, with mode kOn.
void gate_set(const wire::BeaconsReply& reply, UniqueFd* fds, unsigned count) noexcept {
  GateState& g = gate_state;
  if (!reserve()) return;
  BeaconSet& made = g.sets[g.next_set++ % kSets];
  made.count = 0;
  bool latency = false;
  std::uint32_t beside = 0;
  for (std::uint32_t i = 0; i < reply.count && i < count && i < wire::kMaxBeacons; ++i) {
    const wire::BeaconEntry& e = reply.beacons[i];
    if (!is_beacon(fds[i].get())) continue;
    if ((e.flags & wire::kOwnBeacon) != 0) {
      words_of(e, g.own_word);
      latency = map_over(g.own, fds[i].get(), PROT_READ | PROT_WRITE);
      continue;
    }
    if (!map_over(g.pages + made.count, fds[i].get(), PROT_READ)) continue;
    Before& b = made.before[made.count++];
    fill(b, e);
    for (unsigned d = 0; d < kMaxDevices; ++d)
      if (b.word[d] != kNoWord) beside |= 1u << d;
  }
  g.set.store(&made, std::memory_order_release);                   // pairs with gate_hold()
  latency_gate.beside.store(beside, std::memory_order_release);    // pairs with gate_beside()
  latency_gate.latency.store(latency, std::memory_order_release);  // pairs with gate_raise()
  compute_bound();
}

void gate_forked_child() noexcept {
  // relaxed: the child has one thread. The places stay reserved; what is mapped there is read by nobody.
  latency_gate.latency.store(false, std::memory_order_relaxed);
  latency_gate.beside.store(0, std::memory_order_relaxed);
  gate_state.set.store(nullptr, std::memory_order_relaxed);
  gate_state.began_ns.store(0, std::memory_order_relaxed);
}

}  // namespace bulkhead::hook
