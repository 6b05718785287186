#include "hook/compute_quick.h"

#include "base/clock.h"
#include "hook/compute_books.h"
#include "hook/gate.h"
#include "hook/nccl.h"
#include "hook/next.h"
#include "hook/process.h"
#include "hook/stream_class.h"
#include "hook/thread_places.h"
#include "policy/compute/hold.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr unsigned kLines = 32;

struct alignas(64) QuickLine {
  QuickKey key;
  shares::CostEntry* cost;
  StreamBook* book;
};
struct QuickCache {
  QuickLine lines[kLines];
  std::uint32_t epoch;  // that they are of
};
// Each is one thread's own from its first launch to its end.
constinit QuickCache caches[ThreadPlaces::kPlaces + 1]{};  // the first is nobody's and stays empty
constinit ThreadPlaces places{};
constinit std::atomic<std::uint32_t> quick_epoch{1};
// The thread's own; 0: none. Two bytes, for static storage of threads is scarce.
[[gnu::visibility("hidden")]] thread_local constinit std::uint16_t mine
    __attribute__((tls_model("initial-exec"))) = 0;

void left(void* place) noexcept {
  mine = 0;  // a later destructor that launches asks again
  places.give(static_cast<std::uint16_t>(reinterpret_cast<std::uintptr_t>(place)));
}

[[nodiscard]] inline QuickLine& line_of(QuickCache& cache, const QuickKey& k) noexcept {
  const std::uint64_t bits =
      k.what ^ (k.shape << 1) ^ (k.block << 17) ^ reinterpret_cast<std::uintptr_t>(k.stream);
  return cache.lines[bits * 0x9E37'79B9'7F4A'7C15ull >> 59];
}
static_assert(kLines == 1u << (64 - 59));

[[nodiscard]] inline bool same(const QuickKey& a, const QuickKey& b) noexcept {
  return ((a.what ^ b.what) | (a.shape ^ b.shape) | (a.grid ^ b.grid) | (a.block ^ b.block) |
          (a.cluster ^ b.cluster) |
          (reinterpret_cast<std::uintptr_t>(a.stream) ^
           reinterpret_cast<std::uintptr_t>(b.stream))) == 0;
}

// Whether any launch may have to be held or left alone for a reason beside its share.
[[nodiscard]] inline bool unusual() noexcept {
  // acquire pairs with a capture's beginning in this thread or one that told it
  return captures.load(std::memory_order_acquire) != 0 || in_callback || nccl_groups != 0 ||
         streams_shaped() || gate_active();
}

// A default stream's book is of one context.
[[nodiscard]] inline bool is_current(const QuickKey& k, const StreamBook& b) noexcept {
  if (reinterpret_cast<std::uintptr_t>(k.stream) > kStreamPerThread) return true;
  CUcontext current = nullptr;
  // relaxed: an identity
  return next.cuCtxGetCurrent(&current) == CUDA_SUCCESS && b.context != nullptr &&
         current == b.context->context.load(kRelaxed);
}

// Whether the open segment has a part for this key, may take one more launch and go on. The book is ours.
[[nodiscard]] inline bool has_room(const StreamBook& b, const shares::CostEntry* cost,
                                   std::uint64_t predicted_ns) noexcept {
  const shares::Segment& g = *b.cut.open;
  if (b.pdl || b.lost || b.cut.last_alone || g.ops + 1 >= shares::kSegmentOps ||
      g.predicted_ns + predicted_ns >= shares::kSegment_ns)
    return false;
  for (std::uint32_t i = 0; i < g.part_count; ++i)
    if (g.parts[i].entry == cost) return true;
  return false;
}
// Whether it needs no segment. The book is ours.
[[nodiscard]] inline bool may_be_loose(const StreamBook& b, const DeviceShare& share,
                                       const InForce& in, std::uint64_t predicted_ns,
                                       std::uint64_t now) noexcept {
  return !b.lost && within(b, now, in.window_ns) && b.context != nullptr &&
         predicted_ns < shares::kSegment_ns && is_sparse(share, in);
}

// Whether the bucket and the window let it go without a wait.
[[nodiscard]] inline bool admitted(const shm::ComputeEntry& e, const DeviceShare& share,
                                   const InForce& in, std::uint64_t now) noexcept {
  const std::uint64_t in_flight = share.in_flight_ns.load(kRelaxed);  // a sum
  return compute.account_only.load(kRelaxed) ||                       // a flag of its own
         ((in_flight < in.window_ns || in_flight == 0) &&
          // the word orders nothing but itself
          (in.rules.rate_x100 == shares::kWhole_x100 ||
           shares::wait_ns(e.tat_ns.load(kRelaxed), now, in.rules) == 0));
}

}  // namespace

[[gnu::noinline]] bool quick_begin(Quick& q, const QuickKey& key) noexcept {
  QuickCache& cache = caches[mine];
  // relaxed: who unloads a module or forks orders its own launches. Nobody's is of epoch 0.
  if (cache.epoch != quick_epoch.load(kRelaxed) || unusual()) return false;
  const QuickLine& line = line_of(cache, key);  // zeros: of no key, for a stream is never null
  if (!same(line.key, key)) return false;
  shares::CostEntry& cost = *line.cost;
  StreamBook& book = *line.book;
  DeviceShare& share = compute.device[0];
  const int index = process.devices[0].index;
  if (index < 0) return false;
  shm::ComputeEntry* const e = &process.region->compute[index];
  const InForce* const rules = still_in_force(share, *e);
  if (rules == nullptr) return false;
  const InForce& in = *rules;
  const std::uint64_t predicted = cost.prediction_ns.load(kRelaxed);  // one number
  if (!in.limits.limited() || predicted == 0 || shares::wants_sample(cost)) return false;
  const std::uint64_t now = monotonic_ns();
  if (now >= share.launched_ns.load(kRelaxed) + kWantStep_ns)  // a hint, which is due
    return false;
  if (!admitted(*e, share, in, now) || !take(book)) return false;
  const bool loose = book.cut.open == nullptr;
  if (!is_current(key, book) || (loose ? !may_be_loose(book, share, in, predicted, now)
                                       : !has_room(book, &cost, predicted))) {
    release_book(book);
    return false;
  }
  shares::count_quick(cost);
  const std::uint32_t kappa = share.kappa.load(kRelaxed);  // one number
  q = {e,   &cost, &book, predicted, kappa == 0 ? predicted : shares::with_kappa(predicted, kappa),
       now, loose};
  const std::uint64_t lost = shares::charge(e->tat_ns, now, q.charged_ns, in.rules);
  if (lost != 0) [[unlikely]]
    e->forgiven_ns.fetch_add(lost, kRelaxed);  // a statistic
  count_class(*e, StreamClass::kCompute);
  return true;
}

[[gnu::noinline]] CUresult quick_end(const Quick& q, CUresult r) noexcept {
  StreamBook& b = *q.book;
  if (q.loose && r == CUDA_SUCCESS) {
    add_loose(b, q.now_ns, q.predicted_ns, q.charged_ns);
    release_book(b);
    return r;
  }
  shares::Segment* const g = b.cut.open;  // null: its context ended meanwhile
  if (r == CUDA_SUCCESS && g != nullptr) [[likely]] {
    Flight& f = b.ring[b.head.load(kRelaxed) % kInFlight];  // the holder's own
    ++b.launches;
    f.window_ns += q.predicted_ns;
    // relaxed, both: the holder's own, read by who tells the governor
    const std::uint64_t until = b.open_until_ns.load(kRelaxed);
    const bool idled = q.now_ns > until;
    if (idled && until != 0) f.gap_ns += q.now_ns - until;
    b.open_until_ns.store((idled ? q.now_ns : until) + q.predicted_ns, kRelaxed);
    ++g->ops;
    g->predicted_ns += q.predicted_ns;
    g->charged_ns += q.charged_ns;
    b.cut.last_op_ns = q.now_ns;
    for (std::uint32_t i = 0; i < g->part_count; ++i) {
      if (g->parts[i].entry != q.cost) continue;
      ++g->parts[i].count;
      g->parts[i].predicted_ns += q.predicted_ns;
      break;
    }
  }
  release_book(b);
  if (r != CUDA_SUCCESS) [[unlikely]] {
    shares::refund(q.entry->tat_ns, monotonic_ns(), q.charged_ns,
                   in_force(compute.device[0], *q.entry).rules);
  }
  return r;
}

void quick_learn(const QuickKey& key, const Ticket& t) noexcept {
  if (t.book == nullptr || t.collective || t.dependent || process.device_count != 1 ||
      shares::is_coarse(compute.costs, *t.cost))
    return;
  const std::uint32_t epoch = quick_epoch.load(kRelaxed);  // as in quick_begin()
  if (mine == 0) {
    mine = places.take(left);
    if (mine == 0) return;
    caches[mine].epoch = 0;  // its lines are of a thread that has ended
  }
  QuickCache& cache = caches[mine];
  if (cache.epoch != epoch) {
    for (QuickLine& line : cache.lines) line = {};
    cache.epoch = epoch;
  }
  line_of(cache, key) = {key, t.cost, t.book};
}

void quick_forked_child() noexcept { places.forked_child(mine); }

void quick_forget() noexcept {
  // a number that has to differ, and never 0: 2^31 modules later the oldest lines would be believed again
  quick_epoch.fetch_add(2, kRelaxed);
}

}  // namespace bulkhead::hook
