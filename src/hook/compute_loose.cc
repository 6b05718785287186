// Launches in no segment: docs/compute.md, 'What a launch costs'. The compute thread's.
#include "hook/compute_books.h"
#include "hook/process.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// The book is ours.
void tell_loose(StreamBook& b, std::uint64_t now) noexcept {
  Loose told = b.loose;
  b.loose = {0, 0, 0, 0, told.until_ns, told.since_end_ns};
  if (told.from_ns + told.predicted_ns > told.until_ns)  // it was put right meanwhile
    told.from_ns = told.until_ns - told.predicted_ns;
  DeviceShare& share = compute.device[b.device];
  shm::ComputeEntry* const e = share_of(process.devices[b.device]);
  if (e == nullptr) return;
  // Streams that are loose at once share the time: who is told later pays for what is left of it.
  const std::uint64_t ns = beside_loose_ns(
      b, b.device, told.predicted_ns, told.until_ns - told.from_ns, told.from_ns, told.until_ns);
  const std::uint64_t charged = shares::detail::scaled(told.charged_ns, ns, told.predicted_ns);
  share.loose.add({told.from_ns, told.until_ns, ns, &b});
  const InForce& in = in_force(share, *e);
  if (charged < told.charged_ns)
    shares::refund(e->tat_ns, now, told.charged_ns - charged, in.rules);
  count_sums(*e, in, charged, told.launches);
  e->raw_ns.fetch_add(ns, kRelaxed);                                            // statistics, both
  if (!share.resting.load(kRelaxed)) e->shared_raw_ns.fetch_add(ns, kRelaxed);  // own
  if (now > share.busy_until_ns) share.busy_until_ns = now;
}

}  // namespace

std::uint64_t beside_loose_ns(const StreamBook& b, std::uint32_t device, std::uint64_t cost_ns,
                              std::uint64_t own_ns, std::uint64_t from,
                              std::uint64_t until) noexcept {
  const std::uint64_t taken = compute.device[device].loose.within(from, until, &b);
  if (taken == 0) return cost_ns;
  return shares::detail::least(cost_ns, own_ns > taken ? own_ns - taken : 0);
}

void place_loose(StreamBook& b, const Flight& f) noexcept {
  if (!b.had_loose.load(kRelaxed)) return;                      // a hint
  if (f.segment.ops != 1 || f.end_ns <= 1 || !take(b)) return;  // the samples among them will do
  const bool last = b.ended + 1 == b.head.load(kRelaxed) && b.cut.open == nullptr;  // the holder's
  const std::uint64_t until = f.real_end_ns + b.loose.since_end_ns;
  if (last && until < b.loose.until_ns) b.loose.until_ns = until;
  release_book(b);
}

// Of streams that nobody launches on just now; the others' at the next look. Books of which nothing is loose are left alone: a look at
// one takes its line from the thread that launches there.
void tell_all_loose(std::uint64_t now) noexcept {
  for (unsigned i = 0; i < kStreamBooks / 64; ++i) {
    // relaxed, here and below: a hint, changed by who has the book
    for (std::uint64_t left = compute.has_loose[i].load(kRelaxed); left != 0; left &= left - 1) {
      const unsigned bit = static_cast<unsigned>(__builtin_ctzll(left));
      StreamBook& b = compute.streams[i * 64 + bit];
      if (!take(b)) continue;
      tell_loose(b, now);
      compute.has_loose[i].fetch_and(~(1ull << bit), kRelaxed);
      release_book(b);
    }
  }
}

}  // namespace bulkhead::hook
