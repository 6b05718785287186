// Who takes part in a timeline: contexts, their queues, and the ends of both.
#include <cstddef>

#include "sim/timeline.h"

namespace bulkhead::sim {
namespace {

bool same_group(const TimedContext& a, const TimedContext& b) noexcept {
  return a.pid != 0 && b.pid != 0 && a.unit == b.unit && a.mps != 0 && a.mps == b.mps;
}

// A group is known by its first context; -1: nobody is left.
int first_of_group(const Timeline& t, const TimedContext& like) noexcept {
  for (unsigned i = 0; i < t.contexts_high; ++i) {
    if (same_group(t.contexts[i], like)) return static_cast<int>(i);
  }
  return -1;
}

void empty(Timeline& t, TimedQueue& q) noexcept {
  const auto index = static_cast<std::uint32_t>(&q - t.queues) + 1;
  for (std::uint32_t& engine : t.units[t.contexts[q.context - 1].unit].engine) {
    if (engine == index) engine = 0;
  }
  q.head = q.tail;
  q.left_ns = q.order = 0;
  q.begun = 0;
  q.granted = 0;
}

}  // namespace

int add_context(Timeline& t, const TimedContext& as) noexcept {
  unsigned i = 0;
  while (i < kMaxTimedContexts && i < t.contexts_high && t.contexts[i].pid != 0) ++i;
  if (i == kMaxTimedContexts) return -1;
  TimedContext& c = t.contexts[i];
  const std::uint32_t generation = i < t.contexts_high ? c.generation : 1;
  c = as;
  c.generation = generation;
  if (i >= t.contexts_high) t.contexts_high = i + 1;
  const int first = c.mps != 0 ? first_of_group(t, c) : static_cast<int>(i);
  for (unsigned k = 0; k < t.contexts_high; ++k) {
    if (k != i && !same_group(t.contexts[k], c)) continue;
    TimedUnit& u = t.units[c.unit];  // a lower index now leads the group
    if (k != i && u.resident == t.contexts[k].group + 1) {
      u.resident = static_cast<std::uint32_t>(first) + 1;
    }
    if (k != i && u.next == t.contexts[k].group + 1) u.next = static_cast<std::uint32_t>(first) + 1;
    t.contexts[k].group = static_cast<std::uint32_t>(first);
  }
  return static_cast<int>(i);
}

void end_context(Timeline& t, unsigned index) noexcept {
  for (unsigned q = 0; q < t.queues_high; ++q) {
    if (t.queues[q].context == index + 1) free_queue(t, q);
  }
  TimedContext& c = t.contexts[index];
  TimedUnit& u = t.units[c.unit];
  u.gone_busy_ns += c.busy_ns;
  TimedContext was = c;
  c.pid = 0;
  ++c.generation;
  c.busy_ns = c.work_ns = c.sm_ns = c.copy_ns = c.kernels = 0;
  int heir = -1;
  for (unsigned k = 0; was.mps != 0 && k < t.contexts_high && heir < 0; ++k) {
    if (same_group(t.contexts[k], was)) heir = static_cast<int>(k);
  }
  if (heir >= 0) {
    for (unsigned k = 0; k < t.contexts_high; ++k) {
      if (same_group(t.contexts[k], was)) t.contexts[k].group = static_cast<std::uint32_t>(heir);
    }
  }
  const auto successor = static_cast<std::uint32_t>(heir + 1);
  if (u.resident == was.group + 1) u.resident = successor;
  if (u.next == was.group + 1) u.next = successor;
}

void abort_work(Timeline& t, unsigned context) noexcept {
  for (unsigned i = 0; i < t.queues_high; ++i) {
    if (t.queues[i].context == context + 1) empty(t, t.queues[i]);
  }
}

int add_queue(Timeline& t, unsigned context, int priority, unsigned sm_limit) noexcept {
  unsigned i = 0;
  while (i < kMaxTimedQueues && i < t.queues_high && t.queues[i].context != 0) ++i;
  if (i == kMaxTimedQueues) return -1;
  TimedQueue& q = t.queues[i];
  const std::uint32_t generation = i < t.queues_high ? q.generation : 1;
  q = {};
  q.generation = generation;
  q.context = context + 1;
  q.priority = priority;
  q.sm_limit = static_cast<std::uint16_t>(sm_limit);
  if (i >= t.queues_high) t.queues_high = i + 1;
  return static_cast<int>(i);
}

void free_queue(Timeline& t, unsigned queue) noexcept {
  TimedQueue& q = t.queues[queue];
  empty(t, q);
  q.context = 0;
  ++q.generation;
}

bool in_kernel(const Timeline& t, const TimeWorld& w, unsigned context) noexcept {
  for (unsigned i = 0; i < t.queues_high; ++i) {
    const TimedQueue& q = t.queues[i];
    if (q.context != context + 1 || q.head == q.tail || q.begun == 0) continue;
    if (w.rings[i][q.head % kRing].kind == EntryKind::kKernel && q.left_ns != 0) return true;
  }
  return false;
}

bool has_work(const Timeline& t, unsigned context) noexcept {
  for (unsigned i = 0; i < t.queues_high; ++i) {
    const TimedQueue& q = t.queues[i];
    if (q.context == context + 1 && q.head < q.tail) return true;
  }
  return false;
}

void fault_others(Timeline& t, unsigned context) noexcept {
  const TimedContext& c = t.contexts[context];
  for (unsigned i = 0; i < t.contexts_high; ++i) {
    if (i == context || !same_group(t.contexts[i], c)) continue;
    t.contexts[i].faulted = 1;
    abort_work(t, i);
  }
}

}  // namespace bulkhead::sim
