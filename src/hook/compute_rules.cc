// From the words of the region and of the node page to the rules of the bucket, and the rate in force. docs/compute.md, 'Who says
// what the rules are' and 'Who may use what is idle': without a daemon that tells of others' demand the rate is the floor.
#include "base/clock.h"
#include "hook/compute.h"
#include "hook/compute_books.h"
#include "hook/gate.h"
#include "hook/mode.h"
#include "hook/node_view.h"
#include "hook/process.h"
#include "hook/stream_class.h"
#include "policy/compute/rates.h"
#include "shm/compute.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

unsigned index_of(const shm::ComputeEntry& e) noexcept {
  return static_cast<unsigned>(&e - process.region->compute);
}

// What binds now: the lower of region and page. While the page is being written, what bound before.
shm::ComputeRules limits_now(const DeviceShare& share, const shm::ComputeEntry& e,
                             const InForce* was) noexcept {
  const Result<shm::ComputeRules> both =
      shm::compute_rules(*process.region, index_of(e), node_page(), process.tenant.get().name());
  shm::ComputeRules limits = both.ok()        ? *both
                             : was != nullptr ? was->limits
                                              : shm::region_compute(*process.region, index_of(e));
  // Beside latency tenants one without a limit is measured as if it had the whole device: its window is known then.
  if (!limits.limited() && gate_beside(number_of(share))) {
    limits =
        shm::in_range({.floor_x100 = shares::kWhole_x100, .ceiling_x100 = shares::kWhole_x100});
  }
  return limits;
}

// The rate that this process has to bring about: what the governor gives, within what the tenant was promised.
std::uint32_t rate_due(const DeviceShare& share, const shm::ComputeRules& limits) noexcept {
  const std::uint32_t given = share.given_x100.load(kRelaxed);  // one number
  return given <= limits.floor_x100    ? limits.floor_x100
         : given < limits.ceiling_x100 ? given
                                       : limits.ceiling_x100;
}

std::uint32_t next_rate(const shm::ComputeRules& limits, std::uint32_t rate,
                        std::uint32_t due) noexcept {
  return rate == 0 ? due : shares::dampened(rate, due, limits.dampening_x1000);
}

// Moves the tenant's rate to `to`, if no other process did: then the debt is put into the new rate's terms.
void move_rate(shm::ComputeEntry& e, std::uint32_t from, std::uint32_t to,
               const shm::ComputeRules& limits) noexcept {
  // relaxed: who wins rescales, and the bucket's word orders itself
  if (from == to || !e.rate_x100.compare_exchange_strong(from, to, kRelaxed, kRelaxed)) return;
  if (from == 0) return;  // the first rate there is: nothing was charged at another
  const std::uint64_t burst_ns = std::uint64_t{limits.burst_us} * 1000;
  const std::uint64_t lost =
      shares::rescale(e.tat_ns, monotonic_ns(), shares::make_rules(from, burst_ns),
                      shares::make_rules(to, burst_ns), from > limits.floor_x100);
  if (lost != 0) e.forgiven_ns.fetch_add(lost, kRelaxed);  // a statistic
}

// The word of the rate is the tenant's: it may be anything. A dampened rate may be on its way from above, no other.
std::uint32_t allowed_rate(const shm::ComputeRules& limits, std::uint32_t rate,
                           std::uint32_t due) noexcept {
  const std::uint32_t most =
      limits.dampening_x1000 >= shm::kDampening_x1000 ? due : limits.ceiling_x100;
  return rate < most ? rate : most;
}

// Nothing but the share may hold a launch or has to know of it.
bool share_alone_binds(const shm::ComputeRules& limits) noexcept {
  return limits.limited() && !gate_active() && !streams_shaped();
}

// Under share.changing.
const InForce& publish(DeviceShare& share, const shm::ComputeRules& limits, std::uint32_t seen_rate,
                       std::uint32_t due, std::uint32_t generation) noexcept {
  InForce& made = share.ring[share.next++ % kInForceRing];
  made.limits = limits;
  made.rate_x100 = allowed_rate(limits, seen_rate, due);
  made.rules = shares::make_rules(rate_in_partition(number_of(share), made.rate_x100),
                                  std::uint64_t{limits.burst_us} * 1000);
  made.window_ns = std::uint64_t{limits.window_us} * 1000;
  made.seen_rate_x100 = seen_rate;
  made.due_x100 = due;
  made.generation = generation;
  made.quick = share_alone_binds(limits);
  share.now.store(&made, std::memory_order_release);  // pairs with in_force()
  return made;
}

// Looks at what binds and brings the rate on its way. `look`: at the region and the page anew, else only if `rules` has moved.
[[gnu::cold, gnu::noinline]] const InForce& change(DeviceShare& share, shm::ComputeEntry& e,
                                                   bool look) noexcept {
  const Held held{share.changing};
  // acquire pairs with the governor's raising: the limits it wrote before are seen
  const std::uint32_t generation = e.rules.load(std::memory_order_acquire);
  const InForce* const was = share.now.load(kRelaxed);  // written under this lock
  const bool moved = was == nullptr || was->generation != generation;
  const shm::ComputeRules limits = moved || look ? limits_now(share, e, was) : was->limits;
  const std::uint32_t due = rate_due(share, limits);
  std::uint32_t rate = e.rate_x100.load(kRelaxed);  // relaxed: a number
  if (limits.limited() && (rate == 0 || moved || limits != was->limits)) {
    move_rate(e, rate, next_rate(limits, rate, due), limits);
    rate = e.rate_x100.load(kRelaxed);  // ours, or another process's
  }
  if (was != nullptr && !moved && limits == was->limits && rate == was->seen_rate_x100 &&
      due == was->due_x100 && share_alone_binds(limits) == was->quick) {
    return *was;
  }
  return publish(share, limits, rate == 0 ? 1 : rate, due, generation);
}

}  // namespace

shm::ComputeEntry* share_of(const Device& d) noexcept {
  return d.index < 0 ? nullptr : &process.region->compute[d.index];
}

const InForce& in_force(DeviceShare& share, shm::ComputeEntry& e) noexcept {
  const InForce* const now = still_in_force(share, e);
  return now != nullptr ? *now : change(share, e, false);
}

void step_rate(DeviceShare& share, shm::ComputeEntry& e) noexcept {
  const InForce& in = in_force(share, e);
  if (!in.limits.limited()) return;
  const std::uint32_t rate = e.rate_x100.load(kRelaxed);  // one number
  const std::uint32_t due = rate_due(share, in.limits);
  if (rate == due && in.due_x100 == due) return;
  const Held held{share.changing};
  move_rate(e, rate, next_rate(in.limits, rate, due), in.limits);
  publish(share, in.limits, e.rate_x100.load(kRelaxed), due, in.generation);  // a number
}

namespace {

// What the gate's first look is at: a word that is never 0 where the page limits the tenant's time, for the region's could be 0 by
// the tenant's own hand. Where the page does not, the region's own, so that a limit is felt at the next launch.
const std::atomic<std::uint32_t>* word_to_ask() noexcept {
  const std::atomic<std::uint32_t>* word = &kNeverLimited;
  int granted = 0;
  for (int i = 0; i < process.device_count; ++i) {
    shm::ComputeEntry* const e = share_of(process.devices[i]);
    if (e == nullptr) continue;
    const bool limited = change(compute.device[i], *e, true).limits.limited();
    const bool known = limited && node_page() != nullptr;
    ++granted;
    word = known || granted > 1 ? &kAskAlways : word == &kAskAlways ? word : &e->floor_x100;
  }
  return granted > 0 && gate_active() ? &kAskAlways : word;
}

}  // namespace

void compute_look() noexcept {
  find_given_places();
  const std::atomic<std::uint32_t>* const word = word_to_ask();
  if (compute_word.load(kRelaxed) != word)
    compute_word.store(word, std::memory_order_release);  // pairs with compute_limited()
}

}  // namespace bulkhead::hook
