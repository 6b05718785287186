// atomics: launching threads and the one that measures share these words inside one process.
// What an operation costs: a fixed table of one process, from a key (what is launched, and how large) to the GPU time it
// has taken lately. docs/compute.md, 'What is charged'.
//
// Any thread may find and read; learn() belongs to one thread at a time (the process's compute thread). Nothing is ever
// evicted, so a reference stays good and stands for the same key as long as the process lives: no ABA. When a key's eight
// places are taken, it shares one of 32 coarse entries with keys of about the same prior (is_coarse() tells), and
// what runs under it is charged by its segment's measurement, not by a quantile of a mixture.
// A handle that the driver gives out again for other code keeps the old cost until 32 new samples came in.
// The table is 0.8 MiB of zeros: put it in .bss, untouched pages cost nothing.
#pragma once
#include <atomic>
#include <cstdint>

namespace bulkhead::policy::compute {

// The device's time slice: an H200's default. What takes a `slice_ns` is told another one if it was measured.
inline constexpr std::uint64_t kSlice_ns = 2'000'000;
inline constexpr std::uint32_t kCostEntries = 4096;  // a power of 2
inline constexpr std::uint32_t kCostProbes = 8;
inline constexpr std::uint32_t kCoarseEntries = 32;
inline constexpr std::uint32_t kSamples = 32;
inline constexpr std::uint32_t kSampleEvery = 64;  // launches of a key, one of them timed alone;
inline constexpr std::uint32_t kKnownEvery = 256;  // of one with a full ring of samples

inline constexpr std::uint32_t kCleanLasts = 256;

// Two words into one: the multiply-xorshift of splitmix64, which is a bijection of b for each a.
[[nodiscard]] constexpr std::uint64_t mix(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t x = a ^ (b + 0x9e37'79b9'7f4a'7c15u + (a << 6) + (a >> 2));
  x = (x ^ (x >> 30)) * 0xbf58'476d'1ce4'e5b9u;
  x = (x ^ (x >> 27)) * 0x94d0'49bb'1331'11ebu;
  return x ^ (x >> 31);
}

struct Shape {
  std::uint32_t grid[3] = {1, 1, 1};
  std::uint32_t block[3] = {1, 1, 1};
  std::uint32_t cluster[3] = {1, 1, 1};
  std::uint32_t shared_bytes = 0;  // dynamic
};

// Keys; never 0. Two keys meet by chance with probability 2^-64 a pair.
[[nodiscard]] constexpr std::uint64_t kernel_key(std::uint64_t function, const Shape& s) noexcept {
  const auto pair = [](std::uint32_t high, std::uint32_t low) {
    return (std::uint64_t{high} << 32) | low;
  };
  std::uint64_t k = mix(function, pair(s.grid[0], s.shared_bytes));
  k = mix(k, pair(s.grid[1], s.grid[2]));
  k = mix(k, pair(s.block[0], (s.block[1] << 16) | (s.block[2] & 0xffff)));
  if ((s.cluster[0] | s.cluster[1] | s.cluster[2]) > 1)
    k = mix(k, pair(s.cluster[0], (s.cluster[1] << 16) | (s.cluster[2] & 0xffff)));
  return k | 1;
}
[[nodiscard]] constexpr std::uint64_t graph_key(std::uint64_t exec,
                                                std::uint64_t generation) noexcept {
  return mix(exec ^ 0x6772'6170'6800u, generation) | 1;
}

// For a key never seen: 4 us for each wave of threads over the device, 4 us..1 ms. `device_threads`: resident at once.
[[nodiscard]] constexpr std::uint64_t prior_ns(std::uint64_t threads,
                                               std::uint64_t device_threads) noexcept {
  const std::uint64_t waves = device_threads == 0 ? 1 : threads / device_threads + 1;
  return waves < 250 ? waves * 4'000 : 1'000'000;
}

struct alignas(64) CostEntry {
  std::atomic<std::uint64_t> key;            // 0 free; set once, by CAS
  std::atomic<std::uint64_t> prediction_ns;  // 0: no sample yet; written by the learner
  std::atomic<std::uint32_t> launches;       // wraps; by launching threads
  std::atomic<std::uint32_t> samples;        // kept so far, the first one apart; by the learner
  std::uint32_t reserved;
  std::uint32_t offered;         // the learner's own, as the ring
  std::uint32_t clean_left;      // how many more samples a clean one outweighs
  std::uint32_t ring[kSamples];  // ns; 4.29 s and more are kept as 2^32 - 1
};

struct CostTable {
  CostEntry entries[kCostEntries];
  CostEntry coarse[kCoarseEntries];
};

// The entry of `key`; its place by prior among the coarse ones if there is no room. Lock-free, at most eight probes.
[[nodiscard]] inline CostEntry& find_or_add(CostTable& table, std::uint64_t key,
                                            std::uint64_t prior) noexcept {
  const std::uint32_t home = static_cast<std::uint32_t>(key >> 32) & (kCostEntries - 1);
  for (std::uint32_t i = 0; i < kCostProbes; ++i) {
    CostEntry& e = table.entries[(home + i) & (kCostEntries - 1)];
    std::uint64_t seen = e.key.load(std::memory_order_relaxed);  // the entry's fields stand alone
    if (seen == key) [[likely]]
      return e;
    if (seen != 0) continue;
    // Relaxed: nothing is published with the key, a fresh entry is all zeros.
    if (e.key.compare_exchange_strong(seen, key, std::memory_order_relaxed,
                                      std::memory_order_relaxed) ||
        seen == key)
      return e;
  }
  const int octave = prior == 0 ? 0 : 63 - __builtin_clzll(prior);
  return table.coarse[octave < static_cast<int>(kCoarseEntries) ? octave : kCoarseEntries - 1];
}

[[nodiscard]] inline bool is_coarse(const CostTable& table, const CostEntry& e) noexcept {
  return &e >= table.coarse && &e < table.coarse + kCoarseEntries;
}

// GPU time that the next launch will take, as far as is known.
[[nodiscard]] inline std::uint64_t predict(const CostEntry& e, std::uint64_t prior) noexcept {
  const std::uint64_t p = e.prediction_ns.load(std::memory_order_relaxed);  // one number
  return p != 0 ? p : prior;
}

// Whether its samples are free of others' slices. The learner's thread.
[[nodiscard]] inline bool knows_clean(CostEntry& e) noexcept { return e.clean_left != 0; }

// Whether the next launch wants a segment of its own: until the key has two samples, then 1 in 64, once it is well known 1 in
// 256 (an event costs the caller 0.9 us, so this is most of what a launch costs).
[[nodiscard]] inline bool wants_sample(const CostEntry& e) noexcept {
  // Relaxed, both: too old a figure costs one more sample.
  const std::uint32_t n = e.launches.load(std::memory_order_relaxed);
  if (n % kSampleEvery != 0) [[likely]]
    return e.samples.load(std::memory_order_relaxed) < 2;
  return n % kKnownEvery == 0 || e.samples.load(std::memory_order_relaxed) < kSamples;
}
// Counts one that wants none: a load and a store, for of two at once one may be lost.
inline void count_quick(CostEntry& e) noexcept {
  // Relaxed: a statistic.
  e.launches.store(e.launches.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}
// Counts a launch; true when it wants a segment of its own.
[[nodiscard]] inline bool count_launch(CostEntry& e) noexcept {
  const bool wants = wants_sample(e);
  e.launches.fetch_add(1, std::memory_order_relaxed);  // a statistic
  return wants;
}

// A low quantile of the samples kept: the 20th percentile while the least is under half a slice. A longer operation is
// free of others' slices with probability 1 - cost / slice, so half of that is the quantile.
[[nodiscard]] inline std::uint64_t low_quantile_ns(const std::uint32_t* ring, std::uint32_t count,
                                                   std::uint64_t slice_ns) noexcept {
  if (count == 0) return 0;
  std::uint32_t sorted[kSamples];
  for (std::uint32_t i = 0; i < count; ++i) {
    std::uint32_t at = i;
    for (; at > 0 && sorted[at - 1] > ring[i]; --at) sorted[at] = sorted[at - 1];
    sorted[at] = ring[i];
  }
  const std::uint64_t left = sorted[0] < slice_ns ? slice_ns - sorted[0] : 0;
  const std::uint64_t share = left < slice_ns / 2 ? left : slice_ns / 2;
  return sorted[(count - 1) * share * 2 / (5 * slice_ns)];
}

// What a launch costs by these samples: the mean of those that are not above one and a half times a low quantile.
// The quantile tells clean samples from those with a foreign slice inside; the mean over the clean ones is no lower than
// the truth when a key's launches differ, which the quantile is.
[[nodiscard]] inline std::uint64_t clean_mean_ns(const std::uint32_t* ring, std::uint32_t count,
                                                 std::uint64_t slice_ns) noexcept {
  const std::uint64_t low = low_quantile_ns(ring, count, slice_ns);
  std::uint64_t sum = 0, kept = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (ring[i] > low + low / 2) continue;
    sum += ring[i];
    ++kept;
  }
  return kept == 0 ? low : sum / kept;
}

// One launch of this key, timed alone, took `sample_ns` of GPU time. The first one is dropped (it may have loaded code)
// and false is returned. One thread at a time.
// `clean`: no slice of others can be in it. The first of those makes a new sheet.
inline bool learn(CostEntry& e, std::uint64_t sample_ns, bool clean,
                  std::uint64_t slice_ns = kSlice_ns) noexcept {
  if (e.offered++ == 0) return false;
  if (clean && e.clean_left == 0) e.samples.store(0, std::memory_order_relaxed);  // own word
  e.clean_left = clean ? kCleanLasts : e.clean_left == 0 ? 0 : e.clean_left - 1;
  if (e.offered == 0) e.offered = 1;                                  // wrapped
  const std::uint32_t n = e.samples.load(std::memory_order_relaxed);  // own word
  const std::uint64_t kept = sample_ns < 0xffff'ffffu ? sample_ns : 0xffff'ffffu;
  e.ring[n % kSamples] = static_cast<std::uint32_t>(kept);
  const std::uint32_t next = n + 1 == 0 ? kSamples : n + 1;
  const std::uint64_t q = clean_mean_ns(e.ring, next < kSamples ? next : kSamples, slice_ns);
  e.prediction_ns.store(q == 0 ? 1 : q, std::memory_order_relaxed);  // one number, nothing with it
  e.samples.store(next, std::memory_order_relaxed);                  // the same
  return true;
}

}  // namespace bulkhead::policy::compute
