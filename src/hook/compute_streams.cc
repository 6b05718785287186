// Segments of streams and the events between them: policy/compute/segments.h decides, this records.
#include "base/clock.h"
#include "hook/alone.h"
#include "hook/compute.h"
#include "hook/compute_books.h"
#include "hook/next.h"
#include "hook/process.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr unsigned kProbes = 16;

bool is_named(CUstream stream) noexcept {
  return reinterpret_cast<std::uintptr_t>(stream) > kStreamPerThread;
}

// The stream's identity: a handle, or a default stream of this context (and thread). Never 0.
std::uint64_t identity(CUstream stream, Twin twin, CUcontext& context) noexcept {
  if (is_named(stream)) return reinterpret_cast<std::uintptr_t>(stream);
  if (next.cuCtxGetCurrent(&context) != CUDA_SUCCESS || context == nullptr) return 0;
  const auto number = reinterpret_cast<std::uintptr_t>(stream);
  const bool own = number == kStreamPerThread || (number == 0 && twin == Twin::kPerThread);
  const std::uint64_t who = own ? reinterpret_cast<std::uintptr_t>(&thread_mark) : 1;
  return shares::mix(reinterpret_cast<std::uintptr_t>(context), who) | 1;  // handles are even
}

ContextBook* context_book(CUcontext context) noexcept {
  for (ContextBook& c : compute.contexts) {
    CUcontext seen = c.context.load(kRelaxed);  // an identity
    if (seen == context) return &c;
    // acquire pairs with compute_context_gone(): the book is clean
    if (seen == nullptr &&
        (c.context.compare_exchange_strong(seen, context, std::memory_order_acquire, kRelaxed) ||
         seen == context)) {
      return &c;
    }
  }
  return nullptr;
}

// Makes the book ready for its first launch since the stream was made. Taken. False: no room for its context.
[[gnu::cold, gnu::noinline]] bool open_book(StreamBook& b, CUstream stream,
                                            CUcontext context) noexcept {
  if (context == nullptr && next.cuStreamGetCtx(stream, &context) != CUDA_SUCCESS) return false;
  ContextBook* const c = context == nullptr ? nullptr : context_book(context);
  if (c == nullptr) return false;
  b.context = c;
  b.pdl = b.lost = b.gave_up = false;
  b.last_end = b.start = b.also = nullptr;
  b.behind = false;
  b.cut = {};
  b.row = {};
  return true;
}

StreamBook* find(std::uint64_t key) noexcept {
  const std::uint64_t at = key * 0x9E37'79B9'7F4A'7C15ull >> 56;
  static_assert(kStreamBooks == 256);
  for (unsigned i = 0; i < kProbes; ++i) {
    StreamBook& b = compute.streams[(at + i) % kStreamBooks];
    std::uint64_t seen = b.key.load(kRelaxed);  // an identity; the rest is its holder's
    if (seen == key) return &b;
    if (seen != 0) continue;
    if (b.key.compare_exchange_strong(seen, key, kRelaxed, kRelaxed)) {
      const std::uint32_t n = compute.used_count.fetch_add(1, kRelaxed);  // a place of its own
      const auto index = static_cast<std::uint16_t>(&b - compute.streams + 1);
      compute.used[n].store(index, kRelaxed);  // the book is opened by its holder
      return &b;
    }
    if (seen == key) return &b;
  }
  return nullptr;
}

// A segment that no launch got into: its events are not where they should be any more.
void abandon_open(StreamBook& b) noexcept {
  b.cut.open = nullptr;
  b.open_until_ns.store(0, kRelaxed);     // a time
  compute.queued.fetch_sub(1, kRelaxed);  // a sum
  if (b.start != nullptr && b.start != b.last_end) give_event(*b.context, b.start);
  b.start = nullptr;
}

}  // namespace

// The launches between the events are over: into the ring, for the measuring thread.
void end_open(StreamBook& b, CUstream stream, bool tight) noexcept {
  const std::uint32_t head = b.head.load(kRelaxed);  // the holder's own
  Flight& f = b.ring[head % kInFlight];
  CUevent end = spare_event(*b.context);
  if (end == nullptr) return;  // it goes on
  // Whether the device had come to it: only then can a pause of the host be inside, or behind the last operation.
  const bool reached = (!tight || f.segment.ops > 1) && next.cuEventQuery(b.start) == CUDA_SUCCESS;
  if (next.cuEventRecord(end, stream) != CUDA_SUCCESS) {
    give_event(*b.context, end);
    return;
  }
  (void)shares::end_segment(b.cut, reached, tight);
  f.context = b.context;
  f.start = b.start;
  f.end = end;
  f.also = b.also;
  f.ended_ns = monotonic_ns();
  f.began_ns = f.end_ns = 0;
  f.others_ns = b.others_ns.exchange(0, kRelaxed);  // a sum
  f.window_ns += f.segment.predicted_ns;
  if (shm::ComputeEntry* const e = share_of(process.devices[f.device]); e != nullptr)
    tell_quick_ops(*e, b);
  b.last_end = end;
  b.start = b.also = nullptr;
  b.open_until_ns.store(0, kRelaxed);  // a time, for who tells the governor
  b.loose.since_end_ns = 0;
  // relaxed: a sum; who waits for it to fall looks again by time
  compute.device[f.device].in_flight_ns.fetch_add(f.window_ns, kRelaxed);
  compute.pending.fetch_add(1, kRelaxed);             // published by the store below
  b.head.store(head + 1, std::memory_order_release);  // pairs with the measuring thread
  wake_measuring();
}

CUevent spare_event(ContextBook& c) noexcept {
  const std::uint32_t from = c.hint.load(kRelaxed);  // hints, both
  for (std::uint32_t i = 0; i < kSpareEvents && c.spares.load(kRelaxed) > 0; ++i) {
    const std::uint32_t at = (from - i) % kSpareEvents;
    if (c.events[at].load(kRelaxed) == nullptr) continue;  // a look
    // acquire pairs with give_event(): nobody uses it any more
    if (CUevent e = c.events[at].exchange(nullptr, std::memory_order_acquire)) {
      c.spares.fetch_sub(1, kRelaxed);  // hints
      c.hint.store(at - 1, kRelaxed);
      return e;
    }
  }
  CUevent e = nullptr;
  return next.cuEventCreate(&e, CU_EVENT_DEFAULT) == CUDA_SUCCESS ? e : nullptr;
}

void give_event(ContextBook& c, CUevent e) noexcept {
  const std::uint32_t from = c.hint.load(kRelaxed) + 1;  // a hint
  for (std::uint32_t i = 0; i < kSpareEvents; ++i) {
    const std::uint32_t at = (from + i) % kSpareEvents;
    CUevent none = nullptr;
    // release pairs with spare_event()
    if (c.events[at].load(kRelaxed) == nullptr &&
        c.events[at].compare_exchange_strong(none, e, std::memory_order_release, kRelaxed)) {
      c.spares.fetch_add(1, kRelaxed);  // hints
      c.hint.store(at, kRelaxed);
      return;
    }
  }
  static_cast<void>(next.cuEventDestroy_v2(e));
}

StreamBook* take_book(CUstream stream, Twin twin, std::uint64_t predicted_ns) noexcept {
  CUcontext context = nullptr;
  const std::uint64_t key = identity(stream, twin, context);
  StreamBook* const b = key == 0 ? nullptr : find(key);
  if (b == nullptr) return nullptr;
  if (!take(*b)) {
    b->others_ns.fetch_add(predicted_ns, kRelaxed);  // a sum
    return nullptr;
  }
  if ((b->context == nullptr || b->lost) && !open_book(*b, stream, context)) {
    release_book(*b);
    return nullptr;
  }
  return b;
}

bool cut_before(StreamBook& b, CUstream stream, shares::Op& op) noexcept {
  if (op.dependent) b.pdl = b.cut.dependents = true;
  const std::uint32_t head = b.head.load(kRelaxed);  // the holder's own
  // acquire pairs with the measuring thread: it has left the place
  const bool full = head - b.tail.load(std::memory_order_acquire) >= kInFlight - 1;
  if (full && b.cut.open == nullptr) return false;
  bool drained = true, idle = true;
  if (op.dependent) {
    // relaxed: the holder's own. What is open is not asked about before it can have ended.
    idle = drained = (b.cut.open == nullptr || monotonic_ns() >= b.open_until_ns.load(kRelaxed)) &&
                     at_rest(stream);
    op.alone = op.alone && drained;
  } else if (b.behind && b.cut.open == nullptr) {  // no event tells whether the loose ones are over
    // relaxed: the holder's own
    idle = monotonic_ns() >= b.open_until_ns.load(kRelaxed);
  } else if (b.last_end != nullptr && (b.cut.open == nullptr || op.alone)) {
    idle = drained = next.cuEventQuery(b.last_end) != CUDA_ERROR_NOT_READY;
  }
  // What begins on an idle device is timed with the host's own delay in it: good enough for the first two samples.
  if (op.alone && idle && b.cut.open == nullptr && !op.dependent &&
      op.entry->samples.load(kRelaxed) >= 2) {  // a statistic
    op.alone = false;
  }
  const shares::Cut cut = full ? shares::Cut{} : shares::cut(b.cut, op, drained);
  // Among dependents the last operation may run still: then the event is right behind it.
  if (cut.end) end_open(b, stream, b.pdl && !op.dependent && !at_rest(stream));
  if (!cut.begin || b.cut.open != nullptr) return true;
  const bool own_start = cut.end ? false : cut.start || b.last_end == nullptr;
  // An event of its own would keep a programmatic dependent from its primary, unless that one is done; and behind loose
  // ones the last end is not where it begins.
  if ((own_start && op.dependent && !drained) || (!own_start && b.behind)) {
    b.cut.guarded = false;
    return false;
  }
  CUevent start = b.last_end;
  if (own_start) {
    start = spare_event(*b.context);
    if (start == nullptr) return false;
    if (next.cuEventRecord(start, stream) != CUDA_SUCCESS) {
      give_event(*b.context, start);
      return false;
    }
    if (b.last_end != nullptr) b.also = b.last_end;  // nobody begins at it any more
    b.last_end = nullptr;
    b.others_ns.store(0, kRelaxed);  // a sum; those before are no part of it
  }
  b.start = start;
  // cut_before() may have ended one: the place is the next
  Flight& f = b.ring[b.head.load(kRelaxed) % kInFlight];
  f.window_ns = f.queued_ns = f.gap_ns = 0;
  f.own_start = own_start || (cut.end && op.dependent);  // at rest: that end is of now
  b.behind = false;
  // relaxed: sums; of this stream it is known, the others' segments are in the second
  f.fresh = f.own_start && idle &&
            (compute.used_count.load(kRelaxed) == 1 || compute.queued.load(kRelaxed) == 0);
  compute.queued.fetch_add(1, kRelaxed);
  f.collective = false;
  f.comm_place = kNotAgreed;
  shares::begin_segment(b.cut, &f.segment);
  return true;
}

void cut_after(StreamBook& b, const Ticket& t, bool taken) noexcept {
  if (t.loose && taken) add_loose(b, t.now_ns, t.predicted_ns, t.charged_ns);
  if (t.loose || b.cut.open == nullptr) return;
  if (!taken) {
    if (b.cut.open->ops == 0) abandon_open(b);
    return;
  }
  Flight& f = b.ring[b.head.load(kRelaxed) % kInFlight];  // the holder's own
  f.device = t.device;
  f.window_ns += t.window_ns - t.predicted_ns;
  // relaxed, both: the holder's own, read by who tells the governor
  const std::uint64_t until = b.open_until_ns.load(kRelaxed);
  if (f.queued_ns == 0) f.queued_ns = t.now_ns;
  if (until != 0 && t.now_ns > until) f.gap_ns += t.now_ns - until;
  b.open_until_ns.store((until > t.now_ns ? until : t.now_ns) + t.predicted_ns, kRelaxed);
  if (t.collective) [[unlikely]] {
    f.collective = true;
    f.comm_place = t.alone ? t.comm_place : kNotAgreed;
    f.comm_number = t.comm_number;
  }
  const shares::Op op{t.cost, t.predicted_ns, t.alone, t.dependent, false};
  shares::add_op(b.cut, op, t.now_ns, t.charged_ns);
  // What is long or not known is looked at while it runs, so its end is marked at once; on a stream of programmatic
  // dependents the next launch may be one, so there it waits.
  const bool close = op.alone || f.segment.predicted_ns >= shares::kSegment_ns;
  if (close && (!b.pdl || (op.alone && op.dependent))) end_open(b, t.stream, true);
}

// What is in flight goes on; the open segment stays charged as predicted.
void compute_stream_gone(CUstream stream) noexcept {
  if (!is_named(stream) || !compute.started.load(kRelaxed)) return;  // a look: launches make books
  const std::uint64_t key = reinterpret_cast<std::uintptr_t>(stream);
  for (StreamBook& b : compute.streams) {
    if (b.key.load(kRelaxed) != key) continue;  // an identity
    // The measuring thread looks at books, too, and is soon done; else a launch on a stream that is being destroyed: the program's fault.
    bool taken = take(b);
    for (unsigned i = 0; i < 4096 && !taken; ++i) {
      __builtin_ia32_pause();
      taken = take(b);
    }
    if (!taken) return;
    if (shm::ComputeEntry* const e = share_of(process.devices[b.device]); e != nullptr)
      tell_quick_ops(*e, b);
    if (b.cut.open != nullptr) abandon_open(b);
    // acquire pairs with the measuring thread: it is done with what it took out
    if (b.tail.load(std::memory_order_acquire) == b.head.load(kRelaxed) && b.context != nullptr) {
      for (CUevent e : {b.last_end, b.also})
        if (e != nullptr && !b.lost) give_event(*b.context, e);
    }
    b.last_end = b.also = nullptr;  // else: it goes with its context
    b.lost = true;
    release_book(b);
    return;
  }
}

}  // namespace bulkhead::hook
