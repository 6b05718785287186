#include "sim/timeline.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/kill_point.h"

namespace bulkhead::sim {
namespace {

constexpr std::uint64_t kEndless =
    1ull << 52;  // longer ends do not count as events (and cannot overflow)

// One run of advance() or look_ahead(): the queues that hold anything, and what each step derives.
struct Run {
  Timeline& t;
  const TimeWorld& w;
  std::uint16_t active[kMaxTimedQueues];
  unsigned n = 0;
  bool work[kMaxTimedContexts];  // by group: a kernel, or an event that waits for the device

  [[nodiscard]] const Entry& head(const TimedQueue& q) const noexcept {
    return w.rings[&q - t.queues][q.head % kRing];
  }
  [[nodiscard]] TimedContext& context(const TimedQueue& q) const noexcept {
    return t.contexts[q.context - 1];
  }
  [[nodiscard]] bool on_device(const TimedQueue& q) const noexcept {
    const TimedContext& c = context(q);
    const TimedUnit& u = t.units[c.unit];
    return u.switching == 0 && u.resident == c.group + 1;
  }
};

bool is_copy(EntryKind k) noexcept {
  return k == EntryKind::kFromHost || k == EntryKind::kToHost || k == EntryKind::kWithin;
}
unsigned engine_of(EntryKind k) noexcept {
  return static_cast<unsigned>(k) - static_cast<unsigned>(EntryKind::kFromHost);
}

void pop(Run& r, TimedQueue& q) noexcept {
  const Entry& e = r.head(q);
  if (e.kind == EntryKind::kKernel) ++r.context(q).kernels;
  if (is_copy(e.kind)) r.t.units[r.context(q).unit].engine[engine_of(e.kind)] = 0;
  ++q.head;
  q.begun = 0;
  q.order = q.left_ns = 0;
  q.granted = 0;
}

// Does what takes no time. True: something happened that others may have waited for.
bool drain(Run& r, TimedQueue& q) noexcept {
  bool changed = false;
  while (q.context != 0 && q.head < q.tail) {
    const Entry& e = r.head(q);
    if (e.kind == EntryKind::kWait) {
      if (!passed(r.t, e.c, static_cast<std::uint32_t>(e.b), e.a)) break;
    } else if (e.kind == EntryKind::kStamp) {
      if (e.on_device != 0 && !r.on_device(q)) break;
      if (r.w.stamps != nullptr && r.w.stamps[e.c].version == e.a) {
        r.w.stamps[e.c].at_ns = r.t.clock_ns;
      }
    } else if (q.begun == 0 || q.left_ns != 0) {
      if (q.order == 0) q.order = ++r.t.next_order;
      break;
    }
    pop(r, q);
    changed = true;
  }
  if (q.context != 0 && q.closing != 0 && q.head == q.tail) {
    free_queue(r.t, static_cast<unsigned>(&q - r.t.queues));
    changed = true;
  }
  return changed;
}

void find_work(Run& r) noexcept {
  std::fill_n(r.work, r.t.contexts_high, false);
  for (unsigned i = 0; i < r.n; ++i) {
    const TimedQueue& q = r.t.queues[r.active[i]];
    if (q.context == 0 || q.head == q.tail) continue;
    const Entry& e = r.head(q);
    if (e.kind == EntryKind::kKernel || (e.kind == EntryKind::kStamp && e.on_device != 0)) {
      r.work[r.context(q).group] = true;
    }
  }
}

// The group + 1 of the unit that has work and comes next after the one on the device; 0: none.
std::uint32_t next_group(const Run& r, unsigned unit) noexcept {
  const TimedUnit& u = r.t.units[unit];
  const unsigned high = r.t.contexts_high;
  for (unsigned k = 0; k < high; ++k) {
    const unsigned i = (u.from + k) % high;
    const TimedContext& c = r.t.contexts[i];
    if (c.pid == 0 || c.unit != unit || c.group != i || u.resident == i + 1) continue;
    if (r.work[i]) return i + 1;
  }
  return 0;
}

void enter(Run& r, TimedUnit& u, std::uint32_t group) noexcept {
  u.resident = group;
  u.from = group;
  u.slice_end_ns = r.t.clock_ns + r.w.rules.slice_ns;
}

// Who is on the device from now on. True: it changed.
bool choose(Run& r, unsigned unit) noexcept {
  TimedUnit& u = r.t.units[unit];
  if (u.switching != 0) {
    u.waiting = 0;
    if (r.t.clock_ns < u.switch_end_ns) return false;
    u.switching = 0;
    if (u.next == 0) {
      u.resident = 0;
    } else {
      enter(r, u, u.next);
    }
    return true;
  }
  const std::uint32_t other = next_group(r, unit);
  u.waiting = other != 0 ? 1 : 0;
  if (u.resident == 0) {
    if (other == 0) return false;
    enter(r, u, other);
    return true;
  }
  const bool mine = r.work[u.resident - 1];
  if (mine && u.slice_end_ns == 0) u.slice_end_ns = r.t.clock_ns + r.w.rules.slice_ns;
  if (!mine && other == 0) u.slice_end_ns = 0;
  if (other == 0 || (mine && r.t.clock_ns < u.slice_end_ns)) return false;
  u.switching = 1;
  u.next = other;
  u.switch_end_ns = r.t.clock_ns + r.w.rules.switch_ns;
  ++u.switches;
  return true;
}

void settle(Run& r) noexcept {
  for (bool again = true; again;) {
    again = false;
    for (unsigned i = 0; i < r.n; ++i) again |= drain(r, r.t.queues[r.active[i]]);
    find_work(r);
    for (unsigned u = 0; u < r.w.rules.units; ++u) again |= choose(r, u);
  }
}

bool before(const TimedQueue& a, const TimedQueue& b) noexcept {
  if (a.begun != b.begun) return a.begun > b.begun;
  if (a.begun == 0 && a.priority != b.priority) return a.priority < b.priority;
  return a.order < b.order;
}

// Gives the SMs of every unit to the kernels of the group on it.
void grant(Run& r) noexcept {
  std::uint16_t ready[kMaxTimedQueues];
  unsigned n = 0;
  for (unsigned i = 0; i < r.n; ++i) {
    TimedQueue& q = r.t.queues[r.active[i]];
    q.granted = 0;
    if (q.context == 0 || q.head == q.tail || !r.on_device(q)) continue;
    if (r.head(q).kind == EntryKind::kKernel) ready[n++] = r.active[i];
  }
  std::sort(ready, ready + n,
            [&](std::uint16_t a, std::uint16_t b) { return before(r.t.queues[a], r.t.queues[b]); });
  unsigned used[kMaxUnits] = {};
  unsigned by_context[kMaxTimedContexts];
  std::fill_n(by_context, r.t.contexts_high, 0u);
  for (unsigned i = 0; i < n; ++i) {
    TimedQueue& q = r.t.queues[ready[i]];
    const TimedContext& c = r.context(q);
    unsigned& mine = by_context[q.context - 1];
    const unsigned most = std::min<unsigned>(c.sm_limit, r.w.rules.sms);
    unsigned g = std::min<unsigned>(r.head(q).sms, r.w.rules.sms - used[c.unit]);
    g = std::min(g, mine < most ? most - mine : 0);
    if (q.sm_limit != 0) g = std::min<unsigned>(g, q.sm_limit);
    if (g == 0) continue;
    q.granted = static_cast<std::uint16_t>(g);
    mine += g;
    used[c.unit] += g;
    if (q.begun == 0) q.left_ns = r.head(q).a;
    q.begun = 1;
  }
}

// Idle engines take the copy that has waited longest.
void feed_engines(Run& r) noexcept {
  for (unsigned i = 0; i < r.n; ++i) {
    TimedQueue& q = r.t.queues[r.active[i]];
    if (q.context == 0 || q.head == q.tail || q.begun != 0 || !is_copy(r.head(q).kind)) continue;
    std::uint32_t& engine = r.t.units[r.context(q).unit].engine[engine_of(r.head(q).kind)];
    if (engine != 0) {
      const TimedQueue& now = r.t.queues[engine - 1];
      if (now.begun != 0 || now.order < q.order) continue;
    }
    engine = static_cast<std::uint32_t>(&q - r.t.queues) + 1;
  }
  for (unsigned u = 0; u < r.w.rules.units; ++u) {
    for (const std::uint32_t engine : r.t.units[u].engine) {
      if (engine == 0) continue;
      TimedQueue& q = r.t.queues[engine - 1];
      if (q.begun == 0) q.left_ns = r.head(q).a;
      q.begun = 1;
    }
  }
}

// When the next thing happens, at most `to_ns`.
std::uint64_t next_event(const Run& r, std::uint64_t to_ns) noexcept {
  for (unsigned i = 0; i < r.n; ++i) {
    const TimedQueue& q = r.t.queues[r.active[i]];
    if (q.context == 0 || q.head == q.tail || q.begun == 0 || q.left_ns > kEndless) continue;
    const Entry& e = r.head(q);
    if (e.kind != EntryKind::kKernel) {
      to_ns = std::min(to_ns, r.t.clock_ns + q.left_ns);
    } else if (q.granted != 0) {
      const std::uint64_t ns = (q.left_ns * e.sms + q.granted - 1) / q.granted;
      to_ns = std::min(to_ns, r.t.clock_ns + ns);
    }
  }
  for (unsigned i = 0; i < r.w.rules.units; ++i) {
    const TimedUnit& u = r.t.units[i];
    if (u.switching != 0) {
      to_ns = std::min(to_ns, u.switch_end_ns);
    } else if (u.waiting != 0 && u.resident != 0) {
      to_ns = std::min(to_ns, u.slice_end_ns);
    }
  }
  return to_ns;
}

void progress(Run& r, std::uint64_t to_ns) noexcept {
  const std::uint64_t dt = to_ns - r.t.clock_ns;
  bool ran[kMaxTimedContexts];
  bool unit_ran[kMaxUnits] = {};
  std::fill_n(ran, r.t.contexts_high, false);
  for (unsigned i = 0; i < r.n; ++i) {
    TimedQueue& q = r.t.queues[r.active[i]];
    if (q.context == 0 || q.head == q.tail || q.begun == 0) continue;
    const Entry& e = r.head(q);
    TimedContext& c = r.context(q);
    if (e.kind != EntryKind::kKernel) {
      const std::uint64_t done = std::min(dt, q.left_ns);
      q.left_ns -= done;
      c.copy_ns += done;
      r.t.units[c.unit].copy_ns[engine_of(e.kind)] += done;
    } else if (q.granted != 0) {
      const std::uint64_t done = std::min(dt * q.granted / e.sms, q.left_ns);
      q.left_ns -= done;
      c.work_ns += done;
      c.sm_ns += dt * q.granted;
      ran[q.context - 1] = unit_ran[c.unit] = true;
    }
  }
  BH_KILL_POINT("sim.time.queues_moved");
  for (unsigned i = 0; i < r.t.contexts_high; ++i) r.t.contexts[i].busy_ns += ran[i] ? dt : 0;
  BH_KILL_POINT("sim.time.contexts_moved");
  for (unsigned i = 0; i < r.w.rules.units; ++i) {
    TimedUnit& u = r.t.units[i];
    u.busy_ns += unit_ran[i] ? dt : 0;
    u.switch_ns += u.switching != 0 ? dt : 0;
    // Alone, a group has slice after slice; who comes later waits for the end of the one that runs then.
    if (u.waiting == 0 && u.switching == 0 && u.slice_end_ns != 0 && u.slice_end_ns <= to_ns) {
      const std::uint64_t slice = r.w.rules.slice_ns;
      u.slice_end_ns += ((to_ns - u.slice_end_ns) / slice + 1) * slice;
    }
  }
  BH_KILL_POINT("sim.time.units_moved");
  r.t.clock_ns = to_ns;
}

// To the next event, after settle().
void step(Run& r, std::uint64_t to_ns) noexcept {
  grant(r);
  feed_engines(r);
  progress(r, next_event(r, to_ns));
  settle(r);
}

void find_active(Run& r) noexcept {
  for (unsigned i = 0; i < r.t.queues_high; ++i) {
    const TimedQueue& q = r.t.queues[i];
    if (q.context != 0 && (q.head < q.tail || q.closing != 0)) {
      r.active[r.n++] = static_cast<std::uint16_t>(i);
    }
  }
}

}  // namespace

void copy_timeline(Timeline& to, const Timeline& from) noexcept {
  std::memcpy(&to, &from, offsetof(Timeline, contexts));
  std::memcpy(to.contexts, from.contexts, from.contexts_high * sizeof(TimedContext));
  std::memcpy(to.queues, from.queues, from.queues_high * sizeof(TimedQueue));
}

void advance(Timeline& t, const TimeWorld& w, std::uint64_t to_ns) noexcept {
  Run r{t, w, {}, 0, {}};
  find_active(r);
  settle(r);
  while (t.clock_ns < to_ns) step(r, to_ns);
}

bool look_ahead(Timeline& t, const TimeWorld& w, std::uint32_t queue, std::uint32_t generation,
                std::uint64_t sequence, std::uint64_t to_ns, unsigned steps) noexcept {
  Run r{t, w, {}, 0, {}};
  find_active(r);
  settle(r);
  for (unsigned i = 0; i < steps && t.clock_ns < to_ns; ++i) {
    if (passed(t, queue, generation, sequence)) return true;
    step(r, to_ns);
  }
  return passed(t, queue, generation, sequence);
}

}  // namespace bulkhead::sim
