#include "sim/timed_work.h"

#include <time.h>

#include <algorithm>

#include "base/clock.h"

namespace bulkhead::sim {
namespace {

Context& owner(Context& c) noexcept { return c.green_of != nullptr ? *c.green_of : c; }

// Others may use the driver meanwhile. A signal only makes the caller look again.
void sleep_until(std::uint64_t at_ns) noexcept {
  pthread_mutex_unlock(&driver().lock);
  const timespec t{static_cast<time_t>(at_ns / 1'000'000'000u),
                   static_cast<long>(at_ns % 1'000'000'000u)};
  ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr);
  pthread_mutex_lock(&driver().lock);
}

// A stream's queue is made by its first work. When all are taken, it shares its context's first: then it waits
// for what it need not, but it runs.
QueueRef queue_of(Stream& s) noexcept {
  if (s.queue.index >= 0) return s.queue;
  Context& c = owner(*s.context);
  if (!begin_queue(c.timed, s.priority, s.context->green_sms, s.queue)) {
    s.queue = c.legacy.queue;
    s.shares_queue = true;
  }
  return s.queue;
}

struct Persistent {
  Ticket at;
  CUdeviceptr word;
};
std::vector<Persistent>& persistent() noexcept {
  static auto* list = new std::vector<Persistent>;
  return *list;
}

// Nobody but this process can see the words its kernels wait for, so it looks whenever it is called.
void mind_words() noexcept {
  std::erase_if(persistent(), [](const Persistent& p) {
    if (passed(p.at, nullptr)) return true;
    if (find_range(p.word) != nullptr && *reinterpret_cast<const std::uint32_t*>(p.word) == 0)
      return false;
    finish(p.at);
    return true;
  });
}

// A word may be written by the host, who tells nobody.
std::uint64_t no_later_than_a_word(std::uint64_t wake_ns) noexcept {
  return persistent().empty() ? wake_ns : std::min(wake_ns, monotonic_ns() + kSweepNs);
}

Ticket put(Stream& s, const Entry& e) noexcept {
  Ticket at;
  std::uint64_t wake_ns = 0;
  const QueueRef queue = queue_of(s);
  while (push(queue, e, machine.profile.queue_depth, at, wake_ns) == Push::kFull) {
    sleep_until(no_later_than_a_word(wake_ns));
    mind_words();
  }
  return at;
}

void flush(Stream& s) noexcept {
  if (s.held.a == 0) return;
  const Entry e = s.held;
  s.held = {};
  put(s, e);
}

Ticket add(Stream& s, const Entry& e) noexcept {
  flush(s);
  return put(s, e);
}

// A program that ends takes its work along and leaves its MPS server in peace; a killed one does not get here.
[[gnu::destructor]] void at_exit() noexcept {
  if (driver().phase == Phase::kReady && driver().timed) end_timed_process();
}

}  // namespace

bool timed_context(Context& c) noexcept {
  const MpsClient& mps = driver().mps;
  if (!begin_timed_context(c.unit, mps.server, mps.sms, c.timed)) return false;
  if (begin_queue(c.timed, 0, 0, c.legacy.queue)) return true;
  end_timed_context(c.timed);
  return false;
}

void timed_end(Context& c) noexcept {
  if (c.green_of == nullptr) {
    end_timed_context(c.timed);
    return;
  }
  timed_end(c.legacy);
  for (Stream* s : driver().streams) {
    if (s->context == &c) timed_end(*s);
  }
}

void timed_end(Stream& s) noexcept {
  if (s.queue.index >= 0 && !s.shares_queue) close_queue(s.queue);
  s.queue = {};
}

void timed_submit(Stream& s, EntryKind kind, std::uint64_t cost_ns, unsigned sms) noexcept {
  const Entry e{cost_ns, 0, 0, static_cast<std::uint16_t>(sms), kind, 0};
  if (!s.batching || kind != EntryKind::kKernel) {
    add(s, e);
  } else if (s.held.a != 0 && s.held.sms == e.sms) {
    s.held.a += cost_ns;
  } else {
    flush(s);
    s.held = e;
  }
}

void timed_persist(Stream& s, unsigned sms, CUdeviceptr word) noexcept {
  const Ticket at =
      add(s, {kForever, 0, 0, static_cast<std::uint16_t>(sms), EntryKind::kKernel, 0});
  persistent().push_back({at, word});
}

void timed_batch(Stream& s, bool begin) noexcept {
  s.batching = begin;
  if (!begin) flush(s);
}

bool timed_event(Event& e) noexcept {
  if ((e.flags & CU_EVENT_DISABLE_TIMING) != 0) return true;
  e.stamp = begin_stamp(owner(*e.context).timed);
  return e.stamp >= 0;
}

void timed_end(Event& e) noexcept {
  if (e.stamp >= 0) end_stamp(e.stamp);
}

void timed_record(Event& e, Stream& s) noexcept {
  const bool keeps_time = e.stamp >= 0;
  const std::uint64_t version = keeps_time ? renew_stamp(e.stamp) : ~0ull;
  const auto slot = static_cast<std::uint32_t>(keeps_time ? e.stamp : 0);
  e.done = add(s, {version, 0, slot, 0, EntryKind::kStamp, 1});
}

void timed_wait(Stream& s, const Ticket& at) noexcept {
  if (timed_done(at)) return;
  add(s, {at.sequence, at.queue.generation, static_cast<std::uint32_t>(at.queue.index), 0,
          EntryKind::kWait, 0});
}

Ticket timed_end_of(const Stream& s) noexcept { return end_of(s.queue); }

bool timed_done(const Ticket& at) noexcept {
  mind_words();
  return passed(at, nullptr);
}

void timed_sleep(const Ticket& at) noexcept {
  std::uint64_t wake_ns = 0;
  mind_words();
  while (!passed(at, &wake_ns)) {
    sleep_until(no_later_than_a_word(wake_ns));
    mind_words();
  }
  note_faults();
}

void note_faults() noexcept {
  if (driver().mps.server == 0) return;
  for (Context* c : driver().contexts) {
    if (!c->alive || c->sticky != CUDA_SUCCESS) continue;
    if (faulted(owner(*c).timed)) c->sticky = CUDA_ERROR_ILLEGAL_ADDRESS;
  }
}

void timed_fault(Context& c) noexcept { fault(owner(c).timed); }

}  // namespace bulkhead::sim
