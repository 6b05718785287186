// atomics: one fence for the compiler; what the processes share is under the lock.
#include "sim/timed.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/clock.h"
#include "base/fd.h"
#include "base/kill_point.h"
#include "sim/state.h"

namespace bulkhead::sim {
namespace {

constexpr std::uint64_t kTimedMagic = 0x3145'4d49'5448'42;  // "BHTIME1"
constexpr unsigned kSteps = 256;                            // events that one look ahead follows

// rings come last and are sparse: a page of them exists once something was queued there.
struct TimedState {
  std::uint64_t magic;  // stored last
  pthread_mutex_t mutex;
  std::uint32_t current;     // which of the first two is the timeline
  std::uint32_t next_stamp;  // where to look for a free one
  std::uint64_t swept_ns;
  Timeline lines[3];  // the third is for looking ahead
  Stamp stamps[kMaxStamps];
  Entry rings[kMaxTimedQueues][kRing];
};

constinit TimedState* state = nullptr;
pthread_mutex_t open_mutex = PTHREAD_MUTEX_INITIALIZER;

TimeWorld world(bool stores) noexcept {
  const Profile& p = machine.profile;
  return {{p.slice_ns, p.switch_ns, static_cast<unsigned>(p.unit_sms()), p.units()},
          state->rings,
          stores ? state->stamps : nullptr};
}

// One look, brought up to date: changes go to a copy that commit() makes current. A holder that dies leaves
// what was current; a stamp it had stored already is stored again, with the same time.
class Look {
 public:
  Look() noexcept {
    if (pthread_mutex_lock(&state->mutex) == EOWNERDEAD) pthread_mutex_consistent(&state->mutex);
    if (written() != state->current) {
      copy_timeline(state->lines[written()], state->lines[state->current]);
    }
    now = std::max(monotonic_ns(), line().clock_ns);
    advance(line(), world(true), now);
  }
  ~Look() {
    advance(line(), world(true), now);
    BH_KILL_POINT("sim.time.advanced");
    // seq_cst: the copy is whole before it is current, for whoever takes over a dead holder's lock.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    state->current = written();
    BH_KILL_POINT("sim.time.current");
    pthread_mutex_unlock(&state->mutex);
  }
  Look(const Look&) = delete;
  Look& operator=(const Look&) = delete;
  [[nodiscard]] Timeline& line() const noexcept { return state->lines[written()]; }
  std::uint64_t now;

 private:
  static unsigned written() noexcept {
#ifdef BH_KILL_POINTS
    if (looks_in_place) return state->current;
#endif
    return 1 - state->current;
  }
};

bool mine(const TimedContext& c) noexcept {
  return c.pid == static_cast<std::uint32_t>(::getpid());
}

void bury(Look& l, unsigned context) noexcept {
  Timeline& t = l.line();
  if (t.contexts[context].mps != 0 && in_kernel(t, world(false), context)) fault_others(t, context);
  end_context(t, context);
}

// all: contexts without work too.
void sweep(Look& l, bool all) noexcept {
  if (!all && l.now - state->swept_ns < kSweepNs) return;
  state->swept_ns = l.now;
  Timeline& t = l.line();
  for (unsigned i = 0; i < t.contexts_high; ++i) {
    const TimedContext& c = t.contexts[i];
    if (c.pid == 0 || mine(c) || (!all && !has_work(t, i))) continue;
    if (start_ticks_of(c.pid) != c.start_ticks) bury(l, i);
  }
  advance(t, world(true), l.now);
}

bool valid(const Timeline& t, QueueRef q) noexcept {
  return q.index >= 0 && t.queues[q.index].context != 0 &&
         t.queues[q.index].generation == q.generation;
}
bool valid(const Timeline& t, ContextRef c) noexcept {
  return c.index >= 0 && t.contexts[c.index].pid != 0 &&
         t.contexts[c.index].generation == c.generation;
}

// When an entry will be done, as things are; a time before that if it takes too many events to tell.
std::uint64_t wake_time(const Look& l, const Ticket& at) noexcept {
  const Timeline& t = l.line();
  Timeline& ahead = state->lines[2];
  const auto queue = static_cast<std::uint32_t>(at.queue.index);
  const TimedQueue& q = t.queues[queue];
  // What may end it before its time: another's death, or a fault of another client of the MPS server.
  bool others = t.contexts[q.context - 1].mps != 0;
  for (unsigned i = 0; i < t.contexts_high && !others; ++i) {
    others = t.contexts[i].pid != 0 && !mine(t.contexts[i]) && has_work(t, i);
  }
  std::uint64_t wake = l.now + (others ? kSweepNs : kLookAheadNs);
  copy_timeline(ahead, t);
  if (look_ahead(ahead, world(false), queue, at.queue.generation, at.sequence, wake, kSteps)) {
    wake = ahead.clock_ns;
  } else {
    std::uint64_t alone = 0;  // nothing of this queue is done sooner than if it were alone
    for (std::uint64_t s = q.head; s < at.sequence && alone < kLookAheadNs; ++s) {
      const Entry& e = state->rings[queue][s % kRing];
      const bool takes = e.kind != EntryKind::kStamp && e.kind != EntryKind::kWait;
      if (takes) alone += s == q.head && q.begun != 0 ? q.left_ns : e.a;
    }
    wake = std::min(wake, std::max(ahead.clock_ns, l.now + alone));
  }
  return std::max(wake, l.now + 1);
}

void format(TimedState& s) noexcept {
  pthread_mutexattr_t attr;
  pthread_mutexattr_init(&attr);
  pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&s.mutex, &attr);
  pthread_mutexattr_destroy(&attr);
  s.current = 0;
  s.lines[0].clock_ns = monotonic_ns();
  s.magic = kTimedMagic;
}

// Under flock, as the machine's state. What is there at first is zero: the file is new, or was never formatted.
const char* map(bool create) noexcept {
  char path[330];
  std::snprintf(path, sizeof path, "%s/%s-time", machine.directory, machine.profile.key);
  const UniqueFd fd{::open(path, O_RDWR | O_CLOEXEC | (create ? O_CREAT : 0), 0600)};
  if (!fd.ok() || ::flock(fd.get(), LOCK_EX) != 0) return "timeline cannot be opened";
  struct stat st {};
  ::fstat(fd.get(), &st);
  const bool sized = st.st_size == static_cast<off_t>(sizeof(TimedState));
  if (!sized && st.st_size != 0) return "timeline of another version: remove it";
  if (!sized && !create) return "no timeline";
  if (!sized && ::ftruncate(fd.get(), sizeof(TimedState)) != 0) return "timeline cannot be sized";
  const int error = ::posix_fallocate(fd.get(), 0, offsetof(TimedState, rings));
  if (error == ENOSPC || error == EDQUOT) return "no room for the timeline in sim/";
  void* at = ::mmap(nullptr, sizeof(TimedState), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return "timeline cannot be mapped";
  auto* s = static_cast<TimedState*>(at);
  if (s->magic != kTimedMagic) format(*s);
  ::flock(fd.get(), LOCK_UN);
  state = s;
  return nullptr;
}

}  // namespace

const char* open_timed(bool create) noexcept {
  pthread_mutex_lock(&open_mutex);
  const char* wrong = state == nullptr ? map(create) : nullptr;
  pthread_mutex_unlock(&open_mutex);
  return wrong;
}

bool begin_timed_context(unsigned unit, std::uint64_t mps, unsigned sm_limit,
                         ContextRef& out) noexcept {
  static bool first = true;  // under the caller's lock
  Look l;
  sweep(l, true);
  Timeline& t = l.line();
  TimedContext c{};
  c.pid = static_cast<std::uint32_t>(::getpid());
  c.start_ticks = start_ticks_of(c.pid);
  c.unit = unit;
  c.mps = mps;
  c.sm_limit = sm_limit;
  for (unsigned i = 0; first && i < t.contexts_high; ++i) {  // left by what ran here before an exec
    if (t.contexts[i].pid != 0 && mine(t.contexts[i])) bury(l, i);
  }
  first = false;
  out.index = add_context(t, c);
  if (out.index >= 0) out.generation = t.contexts[out.index].generation;
  return out.index >= 0;
}

void end_timed_context(ContextRef c) noexcept {
  Look l;
  if (valid(l.line(), c)) end_context(l.line(), static_cast<unsigned>(c.index));
}

void end_timed_process() noexcept {
  if (state == nullptr) return;
  Look l;
  for (unsigned i = 0; i < l.line().contexts_high; ++i) {
    if (l.line().contexts[i].pid != 0 && mine(l.line().contexts[i])) end_context(l.line(), i);
  }
}

bool begin_queue(ContextRef c, int priority, unsigned sm_limit, QueueRef& out) noexcept {
  Look l;
  if (!valid(l.line(), c)) return false;
  out.index = add_queue(l.line(), static_cast<unsigned>(c.index), priority, sm_limit);
  if (out.index < 0) return false;
  out.generation = l.line().queues[out.index].generation;
  return true;
}

void close_queue(QueueRef q) noexcept {
  Look l;
  if (valid(l.line(), q)) l.line().queues[q.index].closing = 1;
}

Push push(QueueRef ref, Entry e, std::uint64_t depth, Ticket& out,
          std::uint64_t& wake_ns) noexcept {
  Look l;
  sweep(l, false);
  if (!valid(l.line(), ref)) return Push::kGone;
  TimedQueue& q = l.line().queues[ref.index];
  const std::uint64_t queued = q.tail - q.head;
  out = {ref, q.tail + 1};
  if (queued >= std::min<std::uint64_t>(depth, kRing)) {
    wake_ns = wake_time(l, {ref, q.tail - depth + 1});
    return Push::kFull;
  }
  if (e.kind <= EntryKind::kWithin) {  // a kernel or a copy
    e.a = e.a != 0 ? e.a : 1;
  } else if (e.kind == EntryKind::kStamp) {
    const EntryKind last = state->rings[ref.index][(q.tail - 1) % kRing].kind;
    const bool behind_copy =
        q.tail != 0 &&
        (last == EntryKind::kFromHost || last == EntryKind::kToHost || last == EntryKind::kWithin);
    e.on_device = behind_copy ? 0 : 1;
  }
  state->rings[ref.index][q.tail % kRing] = e;
  BH_KILL_POINT("sim.time.entry_written");
  ++q.tail;
  return Push::kDone;
}

Ticket end_of(QueueRef q) noexcept {
  if (q.index < 0) return {};
  const Look l;
  return valid(l.line(), q) ? Ticket{q, l.line().queues[q.index].tail} : Ticket{};
}

bool passed(const Ticket& at, std::uint64_t* wake_ns) noexcept {
  if (at.queue.index < 0) return true;
  Look l;
  sweep(l, false);
  const auto queue = static_cast<std::uint32_t>(at.queue.index);
  if (passed(l.line(), queue, at.queue.generation, at.sequence)) return true;
  if (wake_ns != nullptr) *wake_ns = wake_time(l, at);
  return false;
}

void finish(const Ticket& at) noexcept {
  const Look l;
  if (!valid(l.line(), at.queue)) return;
  TimedQueue& q = l.line().queues[at.queue.index];
  if (q.head >= at.sequence) return;
  state->rings[at.queue.index][(at.sequence - 1) % kRing].a = 1;
  if (q.head + 1 == at.sequence && q.begun != 0) q.left_ns = 0;
}

bool faulted(ContextRef c) noexcept {
  const Look l;
  return valid(l.line(), c) && l.line().contexts[c.index].faulted != 0;
}

void fault(ContextRef c) noexcept {
  const Look l;
  if (!valid(l.line(), c)) return;
  if (l.line().contexts[c.index].mps != 0) fault_others(l.line(), static_cast<unsigned>(c.index));
  abort_work(l.line(), static_cast<unsigned>(c.index));
}

int begin_stamp(ContextRef c) noexcept {
  const Look l;
  const Timeline& t = l.line();
  if (!valid(t, c)) return -1;
  for (unsigned k = 0; k < kMaxStamps; ++k) {
    const unsigned i = (state->next_stamp + k) % kMaxStamps;
    Stamp& s = state->stamps[i];
    if (s.owner != 0 && valid(t, ContextRef{static_cast<int>(s.owner) - 1, s.owner_generation}))
      continue;
    s = {0, s.version, static_cast<std::uint32_t>(c.index) + 1, c.generation};
    state->next_stamp = i + 1;
    return static_cast<int>(i);
  }
  return -1;
}

void end_stamp(int slot) noexcept {
  const Look l;
  Stamp& s = state->stamps[slot];
  s.owner = 0;
  ++s.version;
}

std::uint64_t renew_stamp(int slot) noexcept {
  const Look l;
  Stamp& s = state->stamps[slot];
  s.at_ns = 0;
  return ++s.version;
}

std::uint64_t stamp_ns(int slot) noexcept {
  const Look l;
  return state->stamps[slot].at_ns;
}

bool read_timeline(Timeline& out) noexcept {
  if (state == nullptr) return false;
  Look l;
  sweep(l, false);
  copy_timeline(out, l.line());
  return true;
}

std::uint64_t timed_busy_ns(unsigned unit, std::uint32_t pid, std::uint64_t start_ticks) noexcept {
  if (state == nullptr) return 0;
  const Look l;
  std::uint64_t sum = 0;
  for (unsigned i = 0; i < l.line().contexts_high; ++i) {
    const TimedContext& c = l.line().contexts[i];
    if (c.pid == pid && c.start_ticks == start_ticks && c.unit == unit) sum += c.busy_ns;
  }
  return sum;
}

std::uint64_t timed_unit_busy_ns(unsigned unit) noexcept {
  if (state == nullptr) return 0;
  const Look l;
  return l.line().units[unit].busy_ns;
}

}  // namespace bulkhead::sim
