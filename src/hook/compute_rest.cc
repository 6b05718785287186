// Streams of programmatic dependents come to rest now and then, so that their work can be cut into segments: docs/compute.md,
// 'Streams of programmatic dependents'. Cold: before a hold, and for who waits.
#include <time.h>

#include "base/clock.h"
#include "hook/compute_books.h"
#include "hook/next.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr std::uint64_t kLongestRest_ns = 100'000'000;
constexpr std::uint64_t kPauseFor_ns = 200'000;  // then it sleeps between two looks
constexpr long kLook_ns = 20'000;

void pause_a_little(bool asleep) noexcept {
  if (asleep) {
    const timespec look{0, kLook_ns};
    ::nanosleep(&look, nullptr);
    return;
  }
  for (int i = 0; i < 64; ++i) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("yield");
#endif
  }
}

// The stream's book if it has one that is open and nobody's now. Never makes one that is not there.
StreamBook* book_of(CUstream stream, Twin twin) noexcept {
  StreamBook* const b = take_book(stream, twin, 0);
  if (b == nullptr) return nullptr;
  if (b->cut.open != nullptr || b->cut.guarded) return b;
  release_book(*b);
  return nullptr;
}

// A wait on this stream was in vain, and nothing of it has been settled since: the next one would be, too. The book is ours.
bool is_hopeless(StreamBook& b) noexcept {
  b.gave_up = b.gave_up && b.tail.load(kRelaxed) == b.gave_up_tail;  // a look
  return b.gave_up;
}
void give_up(CUstream stream, Twin twin) noexcept {
  StreamBook* const b = take_book(stream, twin, 0);
  if (b == nullptr) return;
  b->gave_up = true;
  b->gave_up_tail = b->tail.load(kRelaxed);  // as above
  release_book(*b);
}

}  // namespace

// An error is no reason to wait.
bool at_rest(CUstream stream) noexcept {
  // Another thread may begin a capture at any moment: in this mode the question leaves it alone.
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  const bool relaxed = next.cuThreadExchangeStreamCaptureMode(&mode) == CUDA_SUCCESS;
  const CUresult r = next.cuStreamQuery(stream);
  if (relaxed) static_cast<void>(next.cuThreadExchangeStreamCaptureMode(&mode));
  return r != CUDA_ERROR_NOT_READY;
}

[[gnu::cold, gnu::noinline]] void end_before_hold(CUstream stream, Twin twin, std::uint64_t now,
                                                  std::uint64_t until) noexcept {
  const Undisturbed keep;
  StreamBook* const b = book_of(stream, twin);
  if (b == nullptr) return;
  const std::uint64_t queued = b->open_until_ns.load(kRelaxed);  // the holder's own
  if (shares::ends_before_hold(b->cut, queued > now ? queued : now, until)) {
    const CUstream handle = named(stream, twin);
    end_open(*b, handle, !at_rest(handle));
  }
  release_book(*b);
}

[[gnu::cold, gnu::noinline]] std::uint64_t wait_for_rest(DeviceShare& share, shm::ComputeEntry& e,
                                                         const shares::Op& op, CUstream stream,
                                                         Twin twin, std::uint64_t now) noexcept {
  const Undisturbed keep;
  const CUstream handle = named(stream, twin);
  StreamBook* const b = take_book(stream, twin, 0);
  const shares::StreamCut none{};
  const bool whole = in_force(share, e).rules.rate_x100 == shares::kWhole_x100;
  bool waits = shares::waits_for_rest(b == nullptr ? none : b->cut, op, whole);
  const bool rests = waits && at_rest(handle);
  waits = waits && !rests;
  if (b != nullptr) {
    if (rests) b->gave_up = false;
    waits = waits && !is_hopeless(*b);
    // What comes next waits for it, so the event parts nobody.
    if (waits && b->cut.open != nullptr) end_open(*b, handle, true);
    release_book(*b);
  }
  const std::uint64_t since = now;
  // acquire pairs with a capture's beginning: a question to the driver would end it
  while (waits && now - since < kLongestRest_ns && captures.load(std::memory_order_acquire) == 0) {
    want(share, e, now, Wants::kWaits);
    pause_a_little(now - since >= kPauseFor_ns);
    waits = !at_rest(handle);
    now = monotonic_ns();
  }
  if (waits && now - since >= kLongestRest_ns) give_up(stream, twin);
  if (now != since) e.held_ns.fetch_add(now - since, kRelaxed);  // a statistic
  return now;
}

}  // namespace bulkhead::hook
