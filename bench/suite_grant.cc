// The check of a transfer against its grant, over memory alone (src/shm/grant_table.h): what the table costs, with and without the clock,
// on one hot slot and over all of them. The whole hook is another row's.
#include <time.h>

#include <memory>

#include "base/clock.h"
#include "bench/suites.h"
#include "shm/grant_table.h"

namespace bulkhead::bench {
namespace {

constexpr unsigned kHandles = shm::kGrantSlots;
constexpr unsigned kRounds = 1'000'000;

// A table whose every slot holds a grant: put_grant() lists 64 at most, and what is measured here is the look at a slot.
struct Filled {
  std::unique_ptr<shm::GrantTable> table = std::make_unique<shm::GrantTable>();
  std::unique_ptr<shm::GrantHandle[]> handles = std::make_unique<shm::GrantHandle[]>(kHandles);
  Filled() {
    const std::uint8_t uuids[1][16] = {{1}};
    shm::format_grants(*table, "bench", uuids, 1);
    for (unsigned i = 0; i < kHandles; ++i) {
      shm::GrantValues v;
      v.not_after_ns = ~0ull;
      v.serial = i + 1;
      v.devices = 1;
      v.directions = 2;
      const auto h = shm::put_grant(*table, v, i * 0x9e3779b97f4a7c15ull);
      handles[i] = *h;
      if ((i + 1) % shm::kMostLivingGrants == 0) forget();
    }
  }
  // Takes the list of the living away and leaves their slots.
  void forget() { table->header.live.store(0, std::memory_order_relaxed); }
};

template <bool kClock>
double ns_a_check(const Filled& f, unsigned spread, bool& good) {
  shm::GrantNeed need;
  need.directions = 2;
  need.devices = 1;
  need.bytes = need.bytes_here = 4096;
  std::uint32_t serial = 0;
  unsigned at = 0, refused = 0;
  const std::uint64_t began = clock_ns(CLOCK_THREAD_CPUTIME_ID);  // ours, whoever else runs here
  for (unsigned i = 0; i < kRounds; ++i) {
    const std::uint64_t now = kClock ? clock_ns(CLOCK_MONOTONIC_COARSE) : shm::kAnyTime;
    refused +=
        shm::check_grant(*f.table, f.handles[at], need, now, &serial) != abi::DenyReason::kNone ? 1
                                                                                                : 0;
    at = (at + 1617) % spread;  // no neighbour after the other
    asm volatile("" : : "r"(serial) : "memory");
  }
  const double ns = static_cast<double>(clock_ns(CLOCK_THREAD_CPUTIME_ID) - began) / kRounds;
  good = good && refused == 0;
  return ns;
}

}  // namespace

void suite_grant(Bench& b) {
  b.results.begin(17, "grant");
  const Filled f;
  bool good = true;
  for (unsigned repeat = 0; repeat < b.lab.repeats && !b.lab.late(); ++repeat) {
    const auto add = [&b](const char* name, double ns, const char* goal) {
      b.results.add(name, "a check", "ns", "bulkhead", ns, goal);
    };
    add("one slot, no clock", ns_a_check<false>(f, 1, good), "goal <= 6 ns");
    add("one slot, expiry", ns_a_check<true>(f, 1, good), "goal <= 11 ns");
    add("4,096 slots, no clock", ns_a_check<false>(f, kHandles, good), "");
    add("4,096 slots, expiry", ns_a_check<true>(f, kHandles, good), "");
  }
  if (!good) b.results.failed("one slot, no clock", "bulkhead", "a good handle was refused");
  b.results.print(b.lab, stdout);
}

}  // namespace bulkhead::bench
