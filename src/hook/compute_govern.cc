// The governor's half in a process: hears the device's clock and its rate, tells whether it has work. docs/compute.md, 'The
// governor'. The compute thread's, each millisecond while there is anything to do.
#include <sys/stat.h>

#include <cstring>

#include "hook/compute_books.h"
#include "hook/node_view.h"
#include "hook/process.h"
#include "hook/slice.h"
#include "shm/governed.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

void uuid_of(const Device& d, std::uint8_t (&uuid)[shm::kUuidBytes]) noexcept {
  std::memcpy(uuid, process.region->devices[d.index].uuid, sizeof uuid);
}

// Nobody divides the device: the clock goes on by itself.
void go_on(DeviceShare& share, std::uint64_t now) noexcept {
  shares::VPoint& p = share.clock;
  if (p.at_ns == 0) p.v_ns = now;
  if (p.at_ns != 0 && now > p.at_ns) p.v_ns += now - p.at_ns;
  if (now > p.at_ns) p.at_ns = now;
  p.pace_q20 = 1u << 20;
  p.shared = 0;
}

void hear(Device& d, DeviceShare& share, std::uint64_t now) noexcept {
  const shm::NodePage* const page = node_page();
  std::uint8_t uuid[shm::kUuidBytes];
  uuid_of(d, uuid);
  shm::Governed g;
  const bool in_force = page != nullptr &&
                        shm::read_governed(*page, shm::governed_index(*page, uuid), uuid, g) &&
                        g.in_force(now);
  // relaxed: a flag of its own
  share.resting.store(!in_force || (g.state & shm::kResting) != 0, kRelaxed);
  const std::atomic<std::uint16_t>* const given = share.given_place.load(kRelaxed);  // in the page
  share.given_x100.store(in_force && given != nullptr ? given->load(kRelaxed) : 0,
                         kRelaxed);  // numbers, each good by itself
  share.kappa_told = in_force ? static_cast<std::uint32_t>(g.kappa) : 0;
  const std::uint64_t slice_ns = in_force && g.slice_ns != 0 ? g.slice_ns : shares::kSlice_ns;
  // What is long for a process is by its own slice: beyond it the neighbours' turns are inside.
  const std::uint64_t own_ns = std::uint64_t{slices_wanted()} * 1000;
  share.slice_ns = own_ns != 0 && own_ns < slice_ns ? own_ns : slice_ns;
  if (share.resting.load(kRelaxed)) {  // own
    if (in_force && g.v_ns + (now - g.at_ns) > share.clock.v_ns && now > g.at_ns)
      share.clock = {now, g.v_ns + (now - g.at_ns), g.shared_ns, 0, 1u << 20, 0};
    else
      go_on(share, now);
  } else if (g.at_ns > share.clock.at_ns) {
    share.clock = {g.at_ns,
                   g.v_ns,
                   g.shared_ns,
                   0,
                   static_cast<std::uint32_t>(g.pace),
                   static_cast<std::uint32_t>(g.pace >> 32)};
  }
  share.history.add(share.clock);
  share.kappa.store(share.clock.shared != 0 ? share.kappa_told : 0, kRelaxed);  // as above
}

struct Told {
  bool work = false, with_long = false;
};

// What of a device's work is queued, as far as is known: segments not seen ended, and open ones by their prediction.
Told look(unsigned device, std::uint64_t now) noexcept {
  Told out;
  const std::uint64_t slice = compute.device[device].slice_ns;
  for_each_book([&](StreamBook& b) {
    const std::uint32_t head = b.head.load(std::memory_order_acquire);  // pairs with end_open()
    for (std::uint32_t i = b.ended; i != head; ++i) {
      const Flight& f = b.ring[i % kInFlight];
      if (f.device != device) continue;
      out.work = true;
      out.with_long = out.with_long || !shares::is_short(f.segment, slice);
    }
    // relaxed: a time; which of several devices an open segment is of is told when it ends
    if (now < b.open_until_ns.load(kRelaxed)) out.work = true;
  });
  return out;
}

// A touch of the region's file, which the daemon watches while it rests.
void ring() noexcept { static_cast<void>(::futimens(process.tenant.get().descriptor(), nullptr)); }

}  // namespace

void note_busy(DeviceShare& share, std::uint64_t queued_ns, std::uint64_t end_ns,
               std::uint64_t gap_ns) noexcept {
  std::uint64_t& until = share.busy_until_ns;
  if (until != 0 && queued_ns > until) share.empty_ns += queued_ns - until;
  share.empty_ns += gap_ns;
  if (end_ns > until) until = end_ns;
}

void hear_governor(std::uint64_t now) noexcept {
  for (int i = 0; i < process.device_count; ++i)
    if (share_of(process.devices[i]) != nullptr) hear(process.devices[i], compute.device[i], now);
}

void tell_governor(std::uint64_t now) noexcept {
  if (node_page() == nullptr) return;
  const shm::Seat seat = seat_now();
  if (!shm::still_mine(*process.region, seat)) return;
  bool news = false;
  for (int i = 0; i < process.device_count; ++i) {
    const Device& d = process.devices[i];
    if (share_of(d) == nullptr) continue;
    DeviceShare& share = compute.device[i];
    Told t = look(static_cast<unsigned>(i), now);
    // relaxed: a hint. What is short may have been launched and be over since the last look.
    if (share.launched.load(kRelaxed) != 0) share.launched.store(0, kRelaxed), t.work = true;
    // Idle from the last end on, until something is known to have been queued.
    if (!t.work && share.busy_until_ns != 0 && now > share.busy_until_ns && !share.had_work) {
      share.empty_ns += now - share.busy_until_ns;
      share.busy_until_ns = now;
    }
    shm::tell_work(process.region->cells[d.index][seat.slot], now, t.work || share.had_work,
                   t.with_long, share.empty_ns);
    news = news || (t.work && !share.had_work && share.resting.load(kRelaxed));  // own
    share.had_work = t.work;
  }
  if (news) ring();
}

void find_given_places() noexcept {
  const shm::NodePage* const page = node_page();
  for (int i = 0; i < process.device_count; ++i) {
    const Device& d = process.devices[i];
    if (share_of(d) == nullptr) continue;
    std::uint8_t uuid[shm::kUuidBytes];
    uuid_of(d, uuid);
    // relaxed: it points into the page, which the compute thread has by an acquire of its own
    compute.device[i].given_place.store(
        page == nullptr ? nullptr : shm::given_place(*page, process.tenant.get().name(), uuid),
        kRelaxed);
  }
}

}  // namespace bulkhead::hook
