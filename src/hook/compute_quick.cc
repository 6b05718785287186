#include "hook/compute_quick.h"

#include "base/clock.h"
#include "hook/compute_books.h"
#include "hook/compute_quick_way.h"
#include "hook/process.h"

namespace bulkhead::hook {
constinit QuickCache
    quick_caches[ThreadPlaces::kPlaces + 1]{};  // the first is nobody's and stays empty
constinit std::atomic<std::uint32_t> quick_epoch{1};

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

constinit ThreadPlaces places{};

void left(void* place) noexcept {
  thread_launch.place = 0;  // a later destructor that launches asks again
  places.give(static_cast<std::uint16_t>(reinterpret_cast<std::uintptr_t>(place)));
}

void take_out(shares::Segment& g, const shares::CostEntry& cost, const QuickOp& op) noexcept {
  --g.ops;
  g.predicted_ns -= op.predicted_ns;
  g.charged_ns -= op.charged_ns;
  for (std::uint32_t i = 0; i < g.part_count; ++i) {
    if (g.parts[i].entry != &cost) continue;
    --g.parts[i].count;
    g.parts[i].predicted_ns -= op.predicted_ns;
    return;
  }
}

}  // namespace

// The pauses of the host stay: the next launch adds what is missing.
[[gnu::cold, gnu::noinline]] void quick_refused(StreamBook& b) noexcept {
  const QuickOp& op = b.quick;
  shm::ComputeEntry* const e = share_of(process.devices[b.device]);
  if (e == nullptr) return;
  --b.quick_ops;
  // relaxed: the holder's own, read by who tells the governor
  b.open_until_ns.store(b.open_until_ns.load(kRelaxed) - op.predicted_ns, kRelaxed);
  if (op.cost == nullptr) {
    --b.loose.launches;
    b.loose.predicted_ns -= op.predicted_ns;
    b.loose.charged_ns -= op.charged_ns;
    b.loose.until_ns -= op.predicted_ns;
    b.loose.since_end_ns -= op.predicted_ns;
  } else if (shares::Segment* const open = b.cut.open; open != nullptr && !b.lost) {
    take_out(*open, *op.cost, op);  // else it went with its context
  }
  shares::refund(e->tat_ns, monotonic_ns(), op.charged_ns,
                 in_force(compute.device[b.device], *e).rules);
}

void quick_learn(const QuickKey& key, const Ticket& t) noexcept {
  if (t.book == nullptr || key.cluster == kNoQuick || t.collective || t.dependent ||
      shares::is_coarse(compute.costs, *t.cost))
    return;
  if (thread_launch.place == 0) {
    thread_launch.place = places.take(left);
    if (thread_launch.place == 0) return;
    quick_caches[thread_launch.place] = {};  // of a thread that has ended
  }
  quick_caches[thread_launch.place].lines[quick_line(key)] = {key, t.cost, t.book};
}

void quick_forked_child() noexcept { places.forked_child(thread_launch.place); }

void quick_forget() noexcept {
  // a number that has to differ, and never 0: 2^31 modules later the oldest lines would be believed again
  quick_epoch.fetch_add(2, kRelaxed);
}

}  // namespace bulkhead::hook
