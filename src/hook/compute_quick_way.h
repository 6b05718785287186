// The short way itself, inline in the launches that are most frequent: compute_quick.h says what it is. All that is done of a launch is
// done before the driver is called, so nothing has to be kept over the call but the book; what the driver refuses is taken back.
#pragma once
#include "hook/compute_quick.h"

#if !defined(BH_HOOK_FAKE)

#include "base/clock.h"
#include "hook/compute_books.h"
#include "hook/next.h"
#include "hook/process.h"
#include "hook/thread_launch.h"
#include "hook/thread_places.h"

namespace bulkhead::hook {

inline constexpr unsigned kQuickLines = 32;

struct alignas(64) QuickLine {
  QuickKey key;
  shares::CostEntry* cost;
  StreamBook* book;
};
static_assert(sizeof(QuickLine) == 64);
struct QuickCache {
  QuickLine lines[kQuickLines];
};
// Each is one thread's own from its first launch to its end; the first is nobody's, and stays zeros.
[[gnu::visibility("hidden")]] extern constinit QuickCache quick_caches[ThreadPlaces::kPlaces + 1];

[[nodiscard]] inline std::uint64_t quick_line(const QuickKey& k) noexcept {
  const std::uint64_t bits =
      k.what ^ (k.shape << 1) ^ (k.block << 17) ^ reinterpret_cast<std::uintptr_t>(k.stream);
  return bits * 0x9E37'79B9'7F4A'7C15ull >> 59;
}
static_assert(kQuickLines == 1u << (64 - 59));

namespace quick {

[[nodiscard]] inline bool same(const QuickKey& a, const QuickKey& b) noexcept {
  return ((a.what ^ b.what) | (a.shape ^ b.shape) | (a.grid ^ b.grid) | (a.block ^ b.block) |
          (a.cluster ^ b.cluster) |
          (reinterpret_cast<std::uintptr_t>(a.stream) ^
           reinterpret_cast<std::uintptr_t>(b.stream))) == 0;
}

// Whether this launch may have to be held or left alone for a reason beside its share; InForce::quick is of the reasons that last.
[[nodiscard]] inline bool unusual(std::uint64_t thread_bits) noexcept {
  // acquire pairs with a capture's beginning in this thread or one that told it
  return captures.load(std::memory_order_acquire) != 0 || ThreadLaunch::unusual(thread_bits);
}

// A default stream's book is of one context.
[[nodiscard, gnu::noinline]] inline bool is_current(const StreamBook& b) noexcept {
  CUcontext current = nullptr;
  // relaxed: an identity
  return next.cuCtxGetCurrent(&current) == CUDA_SUCCESS && b.context != nullptr &&
         current == b.context->context.load(std::memory_order_relaxed);
}

// The key's part of the open segment if it has one and may take one more launch and go on; else null. The book is ours. One that is
// lost has none open.
[[nodiscard]] inline shares::Part* part_of(const StreamBook& b, shares::Segment& g,
                                           const shares::CostEntry& cost,
                                           std::uint64_t predicted_ns) noexcept {
  if (b.pdl || b.cut.last_alone || g.ops + 1 >= shares::kSegmentOps ||
      g.predicted_ns + predicted_ns >= shares::kSegment_ns)
    return nullptr;
  if (g.parts[0].entry == &cost) [[likely]]
    return &g.parts[0];
  for (std::uint32_t i = 1; i < g.part_count; ++i)
    if (g.parts[i].entry == &cost) return &g.parts[i];
  return nullptr;
}
// Whether it needs no segment. The book is ours.
[[nodiscard]] inline bool may_be_loose(const StreamBook& b, const DeviceShare& share,
                                       const InForce& in, std::uint64_t predicted_ns,
                                       std::uint64_t now) noexcept {
  return !b.lost && within(b, now, in.window_ns) && b.context != nullptr &&
         predicted_ns < shares::kSegment_ns && is_sparse(share, in);
}

// cut_after(), into a segment that is open and stays so.
inline void put(StreamBook& b, shares::Segment& g, shares::Part& part, std::uint64_t now) noexcept {
  const QuickOp& op = b.quick;
  ++g.ops;
  g.predicted_ns += op.predicted_ns;
  g.charged_ns += op.charged_ns;
  ++part.count;
  part.predicted_ns += op.predicted_ns;
  // relaxed, both: the holder's own, read by who tells the governor
  std::uint64_t until = b.open_until_ns.load(std::memory_order_relaxed);
  if (now > until) {
    if (until != 0)
      b.ring[b.head.load(std::memory_order_relaxed) % kInFlight].gap_ns += now - until;
    until = now;
  }
  b.open_until_ns.store(until + op.predicted_ns, std::memory_order_relaxed);
}

// The book is ours. False: nothing was done.
[[nodiscard, gnu::always_inline]] inline bool enter(StreamBook& b, shares::CostEntry& cost,
                                                    shm::ComputeEntry& e, const DeviceShare& share,
                                                    const InForce& in, std::uint64_t now) noexcept {
  // relaxed, both: one number
  const std::uint64_t predicted = cost.prediction_ns.load(std::memory_order_relaxed);
  const std::uint32_t kappa = share.kappa.load(std::memory_order_relaxed);
  shares::Part* part = nullptr;
  // Read once: a context that ends takes it away without the book. Segments lie in static storage.
  shares::Segment* const open = b.cut.open;
  if (open != nullptr) [[likely]] {
    part = part_of(b, *open, cost, predicted);
    if (part == nullptr) return false;
  } else if (!may_be_loose(b, share, in, predicted, now)) {
    return false;
  }
  const std::uint64_t charged =
      kappa == 0 ? predicted : predicted * kappa / shares::kKappaOne;  // both are short
  const auto is_free = [&in] {
    return in.rules.rate_x100 == shares::kWhole_x100 ||
           compute.account_only.load(std::memory_order_relaxed);  // a flag of its own
  };
  if (!shares::charge_admitted(e.tat_ns, now, charged, in.rules, is_free)) return false;
  shares::count_quick(cost);
  ++b.quick_ops;
  b.quick = {part == nullptr ? nullptr : &cost, predicted, charged};
  if (part != nullptr) [[likely]]
    put(b, *open, *part, now);
  else
    add_loose(b, now, predicted, charged);
  return true;
}

}  // namespace quick

// What the driver refused is no part of anything. The book is ours.
void quick_refused(StreamBook& b) noexcept;

// Null: nothing was done, the long way is to be gone. Else the book, ours: launch now, then quick_end().
[[nodiscard, gnu::always_inline]] inline StreamBook* quick_begin(const QuickKey& key) noexcept {
  const std::uint64_t thread = thread_launch.bits();
  if (quick::unusual(thread)) return nullptr;
  const std::uint64_t now = monotonic_ns();  // first: what is known by then would have to be kept
  // zeros: of no key, a stream is never null
  const QuickLine& line = quick_caches[thread].lines[quick_line(key)];
  if (!quick::same(line.key, key)) return nullptr;
  shares::CostEntry& cost = *line.cost;
  StreamBook& b = *line.book;
  const std::uint32_t device = b.device;  // of its stream, the same for as long as it has that key
  const int index = process.devices[device].index;
  if (index < 0) return nullptr;
  const DeviceShare& share = compute.device[device];
  shm::ComputeEntry& e = process.region->compute[index];
  // Never null: there were some when the line was made. acquire pairs with publish()
  const InForce* const in = share.now.load(std::memory_order_acquire);
  if (!stands(*in, e) || !in->quick || shares::wants_sample(cost) ||
      // relaxed, both: a hint, which is due; a sum
      now >= share.launched_ns.load(std::memory_order_relaxed) + kWantStep_ns ||
      share.in_flight_ns.load(std::memory_order_relaxed) >= in->window_ns)
    return nullptr;
  if (!take(b)) return nullptr;
  const bool is_default = reinterpret_cast<std::uintptr_t>(key.stream) <= kStreamPerThread;
  if ((is_default && !quick::is_current(b)) || !quick::enter(b, cost, e, share, *in, now)) {
    release_book(b);
    return nullptr;
  }
  return &b;
}

[[gnu::always_inline]] inline CUresult quick_end(StreamBook& b, CUresult r) noexcept {
  if (r != CUDA_SUCCESS) [[unlikely]]
    quick_refused(b);
  release_book(b);
  return r;
}

}  // namespace bulkhead::hook

#endif
