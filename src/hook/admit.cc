// Admission: hook.h's charge(), give_back(), charge_other() and view() over the region's quota.
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "base/clock.h"
#include "hook/hot.h"
#include "hook/probe.h"
#include "hook/process.h"
#include "hook/shares.h"
#include "shm/quota.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr std::uint64_t kNearBytes = 64u << 20;  // or a fiftieth of the limit, if that is more
constexpr std::uint64_t kSampler_s = 2;          // a supervisor silent for longer is gone
constexpr std::uint64_t kFresh_ns = 10'000'000;  // a figure this young is not asked for again
constexpr long kWait_ns = 5'000'000;
constexpr std::uint64_t kMostCharge = std::uint64_t{1} << 62;  // of hot_charge()
constinit std::atomic<std::uint64_t> asked_ns{0};              // relaxed: only spares questions

bool supervised(const shm::Region& r) noexcept {
  const std::uint64_t beat = r.header.sampler_beat_s.load(kRelaxed);  // a clock's reading
  return beat != 0 && boottime_ns() / 1'000'000'000u <= beat + kSampler_s;
}

bool near_limit(const shm::Region& r, unsigned dev, std::uint64_t bytes) noexcept {
  const shm::QuotaView v = shm::view(r, dev);
  const std::uint64_t margin = std::max(kNearBytes, v.limit_bytes / 50);
  return bytes <= v.limit_bytes && bytes + margin > v.free_bytes;
}

// After a refusal: the dead, then what unused pools can spare.
[[gnu::noinline]] bool charge_refused(Device& d, unsigned dev, std::uint64_t bytes,
                                      const shm::Holders* holders = nullptr) noexcept {
  Process& p = process;
  if (shm::worth_reaping(p.member, dev, holders)) {
    const Undisturbed keep;
    if (shm::reap_and_charge(p.member, dev, bytes)) {
      BH_PROBE2(reaped, dev, bytes);
      return true;
    }
  }
  if (shares_pending() && shares_tick() && shm::charge(*p.region, p.member.seat.slot, dev, bytes)) {
    return true;
  }
  if (memory_may_trim()) {
    const Undisturbed keep;
    if (memory_trim(d) && shm::charge_or_reap(p.member, dev, bytes)) return true;
  }
  count(Count::kRefused);
  BH_PROBE2(refused, dev, bytes);
  return false;
}

// The slow side of charge(): growth, the supervisor's figure, the dead, trimming.
[[gnu::cold, gnu::noinline]] bool charge_cold(Device& d, std::uint64_t bytes) noexcept {
  const Undisturbed keep;
  Process& p = process;
  if (d.index < 0) {
    count(Count::kRefused);
    return false;
  }
  const auto dev = static_cast<unsigned>(d.index);
  if (!shm::still_mine(*p.region, seat_now()) && !take_new_seat()) return mode() == Mode::kOff;
  BH_PROBE2(grow, dev, bytes);
  if (near_limit(*p.region, dev, bytes) && supervised(*p.region)) ask_supervisor();
  if (shm::charge(*p.region, p.member.seat.slot, dev, bytes)) return true;
  return charge_refused(d, dev, bytes);
}

}  // namespace

bool charge_slow(Device& d, std::uint64_t bytes) noexcept {
  Process& p = process;
  const shm::Seat seat = seat_now();
  if (d.index < 0 || !shm::still_mine(*p.region, seat)) return charge_cold(d, bytes);
  const auto dev = static_cast<unsigned>(d.index);
  const std::uint64_t units = shm::units_up(bytes, d.unit_shift);
  if (shm::above_limit(*p.region, dev, units)) {
    count(Count::kRefused);
    return false;
  }
  // What the supervisor could tell would only make it fuller.
  shm::Holders holders;
  if (shm::lately_refused(dev) && shm::surely_full(*p.region, dev, units, holders)) {
    return charge_refused(d, dev, bytes, &holders);
  }
  // a supervisor's figure may be wanted (relaxed: whether there is one at all)
  if (p.region->header.sampler_beat_s.load(kRelaxed) != 0 && near_limit(*p.region, dev, bytes)) {
    return charge_cold(d, bytes);
  }
  if (shm::grow(*p.region, seat.slot, dev, units)) [[likely]]
    return true;
  return charge_refused(d, dev, bytes);
}

bool charge(Device& d, std::uint64_t bytes) noexcept {
  return bytes - 1 < kMostCharge ? hot_charge(d, bytes) : charge_slow(d, bytes);
}

void give_back(Device& d, std::uint64_t bytes) noexcept {
  Process& p = process;
  const shm::Seat seat = seat_now();
  if (d.index < 0 || !shm::still_mine(*p.region, seat)) return;
  shm::give_back(*p.region, seat.slot, static_cast<unsigned>(d.index), bytes);
}

void charge_other(Device& d, std::int64_t delta) noexcept {
  book_other(d, delta);
  if (delta > 0) process.other_epoch.fetch_add(1, kRelaxed);  // advice to the thread
}

void book_other(Device& d, std::int64_t delta) noexcept {
  const Undisturbed keep;
  Process& p = process;
  BH_PROBE2(other, d.index, delta);
  if (d.index < 0 || delta == 0) return;
  if (!shm::still_mine(*p.region, seat_now()) && !take_new_seat()) return;
  const shm::Seat seat = seat_now();
  const auto dev = static_cast<unsigned>(d.index);
  const std::uint64_t unit = 1ull << (p.region->devices[dev].unit_shift & 31);
  shm::AtomicU64& other = p.region->cells[dev][seat.slot].other_bytes;
  if (delta > 0) {
    const std::uint64_t bytes = (static_cast<std::uint64_t>(delta) + unit - 1) & ~(unit - 1);
    shm::charge_forced(*p.region, seat.slot, dev, bytes);
    other.fetch_add(bytes, kRelaxed);  // a statistic of our own
    return;
  }
  // never more than is booked as `other`: the rest belongs to allocations
  std::uint64_t have = other.load(kRelaxed);  // the CAS validates it
  std::uint64_t bytes = 0;
  do {
    bytes = std::min((static_cast<std::uint64_t>(-delta)) & ~(unit - 1), have);
    // relaxed: a statistic of our own
  } while (!other.compare_exchange_weak(have, have - bytes, kRelaxed, kRelaxed));
  if (bytes > 0) shm::give_back(*p.region, seat.slot, dev, bytes);
}

void leading_begin() noexcept { process.leading.fetch_add(1, kRelaxed); }  // advice, as below
void leading_end() noexcept {
  process.other_epoch.fetch_add(1, kRelaxed);  // a figure taken before this moment may be too low
  process.leading.fetch_sub(1, kRelaxed);
}

void note_unseen(Device& d, std::int64_t delta) noexcept {
  const shm::Seat seat = seat_now();
  if (d.index < 0 || !shm::still_mine(*process.region, seat)) return;
  shm::AtomicU64& word =
      process.region->cells[static_cast<unsigned>(d.index)][seat.slot].unseen_bytes;
  std::uint64_t have = word.load(kRelaxed);  // the CAS validates it; nothing is ordered by it
  std::uint64_t after = 0;
  do {
    const std::uint64_t less = delta < 0 ? static_cast<std::uint64_t>(-delta) : 0;
    after = delta < 0 ? have - std::min(have, less) : have + static_cast<std::uint64_t>(delta);
    // relaxed: a figure of our own, ordered by nothing
  } while (!word.compare_exchange_weak(have, after, kRelaxed, kRelaxed));
}

View view(const Device& d) noexcept {
  if (d.index < 0) return {};
  const auto dev = static_cast<unsigned>(d.index);
  const std::uint64_t limit = shm::limit_bytes(*process.region, dev);
  const std::uint64_t used = std::min(shm::held_bytes(*process.region, dev), limit);
  return {limit, used, limit - used};
}

std::uint64_t context_bytes(const Device& d, bool first) noexcept {
  if (d.index < 0) return 0;
  const shm::DeviceEntry& e = process.region->devices[d.index];
  // relaxed: a measured constant; 0 = not measured, and what no context can take is rubbish
  const std::uint64_t bytes = (first ? e.context_bytes : e.extra_context_bytes).load(kRelaxed);
  return bytes <= process.total_bytes[d.number] ? bytes : 0;
}

void ask_supervisor() noexcept {
  shm::Region& r = *process.region;
  const std::uint64_t now = clock_ns(CLOCK_MONOTONIC_COARSE);
  // relaxed: only spares questions
  if (now - asked_ns.load(kRelaxed) < kFresh_ns) return;
  const std::uint64_t until = monotonic_ns() + kWait_ns;
  const std::uint32_t before = r.header.sampled.load(std::memory_order_acquire);
  r.header.ask.fetch_add(1, std::memory_order_release);  // pairs with the supervisor's load
  ::syscall(SYS_futex, &r.header.ask, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  // acquire pairs with the supervisor's add: its `observed` words are there
  while (r.header.sampled.load(std::memory_order_acquire) == before) {
    const std::uint64_t t = monotonic_ns();
    if (t >= until) break;
    const timespec left{0, static_cast<long>(until - t)};
    ::syscall(SYS_futex, &r.header.sampled, FUTEX_WAIT, before, &left, nullptr, 0);
  }
  // relaxed: only spares questions
  asked_ns.store(clock_ns(CLOCK_MONOTONIC_COARSE), kRelaxed);
  apply_observed(false);
}

}  // namespace bulkhead::hook
