// From the words of the region to the rules of the bucket, and the rate in force. docs/compute.md, 'Who may use what
// is idle': without a daemon that tells of others' demand the rate is the floor.
#include "base/clock.h"
#include "hook/compute.h"
#include "hook/compute_books.h"
#include "hook/gate.h"
#include "hook/mode.h"
#include "hook/process.h"
#include "policy/compute/rates.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

std::uint32_t in_range(std::uint32_t rate_x100) noexcept {
  return rate_x100 > shares::kWhole_x100 ? shares::kWhole_x100 : rate_x100;
}

// Moves the tenant's rate to `rate`, if no other process did: then the debt is put into the new rate's terms.
void move_rate(shm::ComputeEntry& e, std::uint32_t from, std::uint32_t to,
               std::uint32_t burst_us) noexcept {
  // relaxed: who wins rescales, and the bucket's word orders itself
  if (from == to || !e.rate_x100.compare_exchange_strong(from, to, kRelaxed, kRelaxed)) return;
  if (from == 0) return;  // the first rate there is: nothing was charged at another
  const std::uint64_t burst_ns = std::uint64_t{burst_us} * 1000;
  // relaxed: a number
  const bool borrowed = from > in_range(e.floor_x100.load(kRelaxed));
  const std::uint64_t lost =
      shares::rescale(e.tat_ns, monotonic_ns(), shares::make_rules(from, burst_ns),
                      shares::make_rules(to, burst_ns), borrowed);
  if (lost != 0) e.forgiven_ns.fetch_add(lost, kRelaxed);  // a statistic
}

// The rate that this process has to bring about. A daemon that governs the tenant sets it between floor and ceiling
// itself; then it is left alone.
std::uint32_t rate_due(const shm::ComputeEntry& e, std::uint32_t floor,
                       std::uint32_t rate) noexcept {
  const bool governed = process.region->header.adopted.load(kRelaxed) != 0;  // one number
  const std::uint32_t ceiling = in_range(e.ceiling_x100.load(kRelaxed));     // as above
  return governed && rate >= floor && rate <= ceiling ? rate : floor;
}

std::uint32_t burst_of(const shm::ComputeEntry& e) noexcept {
  const std::uint32_t us = e.burst_us.load(kRelaxed);  // one number
  return us == 0 ? kDefaultBurst_us : us;
}

// Under share.changing.
const InForce& publish(DeviceShare& share, const shm::ComputeEntry& e, std::uint32_t rate,
                       std::uint32_t generation) noexcept {
  const std::uint32_t burst = e.burst_us.load(kRelaxed);  // one number
  InForce& made = share.ring[share.next++ % 16];
  const auto number = static_cast<unsigned>(&share - compute.device);
  made.rules =
      shares::make_rules(rate_in_partition(number, rate), std::uint64_t{burst_of(e)} * 1000);
  made.rate_x100 = rate;
  made.burst_us = burst;
  made.generation = generation;
  share.now.store(&made, std::memory_order_release);  // pairs with in_force()
  return made;
}

[[gnu::cold, gnu::noinline]] const InForce& change(DeviceShare& share,
                                                   shm::ComputeEntry& e) noexcept {
  const Held held{share.changing};
  // acquire pairs with the governor's raising: the limits it wrote before are seen
  const std::uint32_t generation = e.rules.load(std::memory_order_acquire);
  const InForce* const was = share.now.load(kRelaxed);  // written under this lock
  const std::uint32_t floor = floor_now(share, e);
  std::uint32_t rate = e.rate_x100.load(kRelaxed);  // relaxed: a number
  const bool first = rate == 0;
  if (floor != 0 && (first || was == nullptr || was->generation != generation)) {
    const std::uint32_t d = e.dampening_x1000.load(kRelaxed);  // as above
    const std::uint32_t due = rate_due(e, floor, rate);
    const std::uint32_t to = first ? due : shares::dampened(rate, due, d == 0 ? 1000 : d);
    move_rate(e, rate, to, burst_of(e));
    rate = e.rate_x100.load(kRelaxed);  // ours, or another process's
  }
  return publish(share, e, rate == 0 ? 1 : rate, generation);
}

}  // namespace

std::uint32_t floor_now(const DeviceShare& share, const shm::ComputeEntry& e) noexcept {
  const std::uint32_t floor = in_range(e.floor_x100.load(kRelaxed));  // one number
  return floor == 0 && gate_beside(number_of(share)) ? shares::kWhole_x100 : floor;
}

shm::ComputeEntry* share_of(const Device& d) noexcept {
  return d.index < 0 ? nullptr : &process.region->compute[d.index];
}

const InForce& in_force(DeviceShare& share, shm::ComputeEntry& e) noexcept {
  const InForce* const now = share.now.load(std::memory_order_acquire);  // pairs with publish()
  // relaxed: three numbers, each good by itself
  if (now != nullptr && now->rate_x100 == e.rate_x100.load(kRelaxed) &&
      now->generation == e.rules.load(kRelaxed) && now->burst_us == e.burst_us.load(kRelaxed))
      [[likely]] {
    return *now;
  }
  return change(share, e);
}

void step_rate(DeviceShare& share, shm::ComputeEntry& e) noexcept {
  const std::uint32_t floor = floor_now(share, e);
  const std::uint32_t rate = e.rate_x100.load(kRelaxed);  // as above
  const std::uint32_t due = rate_due(e, floor, rate);
  if (floor == 0 || rate == due) return;
  const std::uint32_t d = e.dampening_x1000.load(kRelaxed);  // as above
  const Held held{share.changing};
  move_rate(e, rate, rate == 0 ? due : shares::dampened(rate, due, d == 0 ? 1000 : d), burst_of(e));
}

}  // namespace bulkhead::hook
