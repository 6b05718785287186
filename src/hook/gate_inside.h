// What gate.cc and gate_map.cc share: the beacons as this process knows them.
#pragma once
#include <atomic>
#include <cstdint>

#include "hook/gate.h"
#include "policy/compute/gate.h"
#include "shm/beacon.h"

namespace bulkhead::hook {

namespace shares = policy::compute;

inline constexpr std::uint8_t kNoWord = 0xff;

// A latency tenant beside us. Only `holds` and `covered_ns` change once the set is published.
struct Before {
  std::uint8_t word[kMaxDevices];          // our device -> its word; kNoWord: it has none there
  std::uint32_t share_x100[kMaxDevices];   // of the bucket below, by our device
  shares::Bucket holds[kMaxDevices];       // wall time that this tenant has held us
  shares::Bucket covered_ns[kMaxDevices];  // until when that is counted
};
// Made anew at each look while a flag is up: so that all of this stands in .bss.
[[nodiscard]] inline shares::Rules rules_of(const Before& b, unsigned device) noexcept {
  return shares::make_rules(b.share_x100[device], shares::kHoldBurst_ns);
}
struct BeaconSet {
  std::uint32_t count;
  Before before[wire::kMaxBeacons];
};

// The last few sets: a thread looks at one for less than the second in which at most one new one comes.
inline constexpr unsigned kSets = 4;

struct GateState {
  const shm::Beacon* pages = nullptr;  // kMaxBeacons of them; set once, before the first set
  shm::Beacon* own = nullptr;          // the same; anonymous until we are a latency tenant
  std::uint8_t own_word[kMaxDevices] = {};
  std::atomic<BeaconSet*> set{nullptr};
  BeaconSet sets[kSets] = {};
  unsigned next_set = 0;
  // Of a latency tenant: statistics and hints, each good by itself.
  std::atomic<std::uint64_t> calls{0};
  std::atomic<std::uint64_t> began_ns{0};  // first call after idling; 0: idle
  std::atomic<std::uint64_t> longest_ns{0};
  std::atomic<std::uint64_t> idle_ns{0};         // since when; 0: nothing was waited for yet
  std::atomic<std::uint64_t> longest_gap_ns{0};  // between requests lately; 0: none was short
  std::atomic<CUstream> stream{nullptr};         // of the calls since then
  std::atomic<bool> several{false};              // more than one stream since then
};
[[gnu::visibility("hidden")]] extern constinit GateState gate_state;

// A word of a beacon in somebody else's hands; as an atomic of ours it is only read.
[[nodiscard]] inline std::uint64_t flag_of(const BeaconSet& set, std::uint32_t i,
                                           unsigned device) noexcept {
  const std::uint8_t word = set.before[i].word[device];
  if (word >= shm::kMaxDevices) return 0;
  return gate_state.pages[i].busy_until_ns[word].load(
      std::memory_order_relaxed);  // bounded by who reads it
}

}  // namespace bulkhead::hook
