#include "hook/gate.h"

#include <time.h>

#include "base/clock.h"
#include "hook/compute.h"
#include "hook/compute_books.h"
#include "hook/gate_inside.h"
#include "hook/process.h"

namespace bulkhead::hook {

constinit GateWords latency_gate{};
constinit GateState gate_state{};

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr std::uint32_t kPauses = 256;  // about 10 us, before the first sleep

// The latest of the flags that we believe; 0: none is up. `who`: whose it is.
std::uint64_t believed(BeaconSet& set, unsigned device, std::uint64_t now, Before*& who) noexcept {
  std::uint64_t latest = 0;
  for (std::uint32_t i = 0; i < set.count && i < wire::kMaxBeacons; ++i) {
    const std::uint64_t word = flag_of(set, i, device);
    if (!shares::flag_up(word, now) || word <= latest) continue;
    Before& b = set.before[i];
    // relaxed: the word orders nothing but itself
    if (shares::wait_ns(b.holds[device].load(kRelaxed), now, rules_of(b, device)) != 0) continue;
    latest = word;
    who = &b;
  }
  return latest;
}

// Several threads that are held at once are held by the same time.
void count_hold(Before& b, unsigned device, std::uint64_t from, std::uint64_t to) noexcept {
  std::uint64_t covered = b.covered_ns[device].load(kRelaxed);  // a guess, the CAS decides
  if (covered >= to) return;
  const std::uint64_t begin = covered > from ? covered : from;
  // relaxed: the word is all there is; who loses the race leaves it to the winner
  if (b.covered_ns[device].compare_exchange_strong(covered, to, kRelaxed, kRelaxed))
    static_cast<void>(shares::charge(b.holds[device], to, to - begin, rules_of(b, device)));
}

void rest(std::uint64_t now, std::uint64_t left, bool first) noexcept {
  if (first) {
    for (std::uint32_t i = 0; i < kPauses; ++i) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#else
      __asm__ volatile("yield");
#endif
    }
    return;
  }
  const std::uint64_t until = now + left;
  const timespec at{static_cast<time_t>(until / 1'000'000'000),
                    static_cast<long>(until % 1'000'000'000)};
  ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr);
}

}  // namespace

[[gnu::noinline]] std::uint64_t gate_hold(unsigned device, shm::ComputeEntry& e,
                                          std::uint64_t now) noexcept {
  const std::uint64_t since = now;
  Before* who = nullptr;
  // acquire pairs with gate_set(): the set is written
  BeaconSet* set = gate_state.set.load(std::memory_order_acquire);
  if (set == nullptr || believed(*set, device, now, who) == 0) [[likely]]
    return now;
  const Undisturbed keep;
  for (bool first = true;; first = false) {
    set = gate_state.set.load(std::memory_order_acquire);  // as above
    const std::uint64_t word = believed(*set, device, now, who);
    const std::uint64_t left = shares::hold_left_ns(word, now, now - since);
    if (left == 0 || compute.account_only.load(kRelaxed)) break;  // a flag of its own
    rest(now, left, first);
    const std::uint64_t then = monotonic_ns();
    count_hold(*who, device, now, then);
    now = then;
  }
  e.gated_ns.fetch_add(now - since, kRelaxed);  // statistics
  e.gates.fetch_add(1, kRelaxed);
  return now;
}

std::uint64_t gate_window_ns(unsigned device, std::uint64_t now) noexcept {
  const BeaconSet* const set = gate_state.set.load(std::memory_order_acquire);  // as above
  std::uint64_t window = shares::kMostWindow_ns;
  for (std::uint32_t i = 0; set != nullptr && i < set->count && i < wire::kMaxBeacons; ++i) {
    const std::uint64_t w = shares::window_beside_ns(flag_of(*set, i, device), now);
    if (w < window) window = w;
  }
  return window;
}

[[gnu::noinline]] void gate_raise_flag(unsigned device, CUstream stream) noexcept {
  GateState& g = gate_state;
  const std::uint8_t word = g.own_word[device];
  if (word >= shm::kMaxDevices) return;
  const std::uint64_t now = monotonic_ns();
  // relaxed, all: hints of one process about its own flag
  if (g.began_ns.load(kRelaxed) == 0) {
    g.stream.store(stream, kRelaxed);
    g.several.store(false, kRelaxed);
    g.began_ns.store(now, kRelaxed);
    const std::uint64_t idle = g.idle_ns.load(kRelaxed);
    if (idle != 0 && now > idle) {
      g.longest_gap_ns.store(shares::gap_lately_ns(g.longest_gap_ns.load(kRelaxed), now - idle),
                             kRelaxed);
    }
  } else if (g.stream.load(kRelaxed) != stream) {
    g.several.store(true, kRelaxed);
  }
  g.calls.fetch_add(1, kRelaxed);
  shares::raise_flag(g.own->busy_until_ns[word], now,
                     now + shares::linger_ns(g.longest_ns.load(kRelaxed)));
}

void GateWait::begin(CUstream stream, bool all) noexcept {
  // relaxed: hints, as above
  calls_ = gate_state.calls.load(kRelaxed);
  covers_ =
      all || (!gate_state.several.load(kRelaxed) && gate_state.stream.load(kRelaxed) == stream);
}

void GateWait::end() const noexcept {
  GateState& g = gate_state;
  // relaxed, all: hints, as above
  if (!covers_ || g.calls.load(kRelaxed) != calls_) return;
  const std::uint64_t began = g.began_ns.exchange(0, kRelaxed);
  if (began == 0) return;
  const std::uint64_t now = monotonic_ns();
  g.longest_ns.store(shares::longest_lately_ns(g.longest_ns.load(kRelaxed), now - began), kRelaxed);
  g.idle_ns.store(now, kRelaxed);
  const std::uint64_t until = now + shares::bridge_ns(g.longest_gap_ns.load(kRelaxed));
  for (const std::uint8_t word : g.own_word) {
    if (word < shm::kMaxDevices && g.own->busy_until_ns[word].load(kRelaxed) > now)
      shares::lower_flag(g.own->busy_until_ns[word], until);
  }
}

}  // namespace bulkhead::hook
