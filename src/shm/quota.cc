// The cold half of memory admission: growth, sweeps, limits. Claim and proof: quota.h.
#include "shm/quota.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace bulkhead::shm {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAcquire = std::memory_order_acquire;
constexpr auto kRelease = std::memory_order_release;
constexpr auto kSeqCst = std::memory_order_seq_cst;

// Serialises the growth of one process's threads, a word for each (slot, device). It lives in the
// process's own memory: it dies with the process and blocks no other.
constinit AtomicU32 private_locks[256]{};  // 0 free, 1 held, 2 held and waited for

class PrivateLock {
 public:
  PrivateLock(unsigned slot, unsigned dev) noexcept
      : word_(private_locks[(slot * kMaxDevices + dev) % 256]) {
    std::uint32_t was = 0;
    if (word_.compare_exchange_strong(was, 1, kAcquire, kRelaxed))
      return;  // pairs with the release
    wait();    // below, in ~PrivateLock
  }
  ~PrivateLock() {
    if (word_.exchange(0, kRelease) == 2) wake();  // pairs with the acquires
  }
  PrivateLock(const PrivateLock&) = delete;
  PrivateLock& operator=(const PrivateLock&) = delete;

 private:
  // errno stays as the caller of a driver function left it
  [[gnu::cold, gnu::noinline]] void wait() noexcept {
    const int saved = errno;
    while (word_.exchange(2, kAcquire) != 0) {  // pairs with the release in ~PrivateLock
      ::syscall(SYS_futex, &word_, FUTEX_WAIT_PRIVATE, 2, nullptr, nullptr, 0);
    }
    errno = saved;
  }
  [[gnu::cold, gnu::noinline]] void wake() noexcept {
    const int saved = errno;
    ::syscall(SYS_futex, &word_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
    errno = saved;
  }
  AtomicU32& word_;
};

struct Budget {
  std::uint32_t left = kBudget;
  bool take(std::uint32_t steps = 1) noexcept {
    left = left > steps ? left - steps : 0;
    return left != 0;
  }
};

struct Reading {
  std::uint64_t p = 0, n = 0, w = 0;
  std::uint64_t unmoved_units() const noexcept { return unmoved(p, w) ? (n & kUsedMask) : 0; }
};

// One cell at one moment: P, W, P again. False if the budget ran out; the first try is the caller's.
inline bool read_cell(const MemCell& cell, Reading& out, Budget& budget) noexcept {
  do {
    out.p = cell.p.load(kSeqCst);   // pairs with the owner's stores and the decision in help()
    out.n = cell.n.load(kRelaxed);  // constant while P is in wish or granted
    out.w = cell.w.load(kSeqCst);   // pairs with every CAS on W
    if (cell.p.load(kSeqCst) == out.p) [[likely]]
      return true;
  } while (budget.take());
  return false;
}

unsigned scan_end(const Region& r) noexcept {
  // acquire pairs with the raise in slots.cc: who sees a wish sees its slot below the end (R7)
  const std::uint32_t high = r.header.slots_high.load(kAcquire);
  return high < kMaxSlots ? high : kMaxSlots;
}

std::uint64_t limit_units(const DeviceEntry& d) noexcept {
  // seq_cst: the moment of a refusal is this load (proof 4); pairs with set_limit()
  return d.limit_bytes.load(kSeqCst) >> (d.unit_shift & 31);
}

struct Sums {
  std::uint64_t claimed = 0, held = 0;  // C and H
  bool same = true;                     // every version as in the collect before
  std::uint64_t next_turn = 0;          // the next wish in slot order, to hand the turn to
};

// One helper's work on the wish that has the turn.
class Helper {
 public:
  Helper(Region& r, unsigned dev, unsigned slot, Budget& budget) noexcept
      : cells_(r.cells[dev]),
        device_(r.devices[dev]),
        slot_(slot),
        budget_(budget),
        end_(scan_end(r)) {}

  // kGranted or kRefused; kIdle when somebody else decided, kWish when the budget ran out.
  Phase decide(std::uint64_t wish) noexcept {
    const std::uint64_t n =
        cells_[slot_].n.load(kRelaxed);  // stale only if P moved on: the CAS fails
    for (int round = 0; cells_[slot_].p.load(kAcquire) == wish;
         ++round) {  // pairs with the decision
      const std::uint64_t limit = limit_units(device_);
      Sums sum;
      if (!(round == 0 ? collect<false>(sum) : collect<true>(sum))) return kWish;
      next_turn_ = sum.next_turn;
      if (sum.claimed + n <= limit) return kGranted;
      const bool full = sum.held + n > limit;
      if (round > 0 && sum.same && full) return kRefused;
      if (full && round < kGentleRounds) continue;  // taking slack could not suffice
      if (sweep(sum.claimed + n - limit)) return kGranted;
      if (budget_.left == 0) return kWish;
    }
    return kIdle;
  }
  std::uint64_t next_turn() const noexcept { return next_turn_; }

 private:
  // All cells, each at one moment. The loop is the price of growth and refusals: the rare is moved out. The first
  // collect of a decision compares nothing.
  template <bool kCompare>
  [[gnu::noinline]] bool collect(Sums& sum) noexcept {
    if (!budget_.take(end_)) return false;
    std::uint64_t claimed = 0, held = 0, first = 0, after = 0, changed = 0;
    const MemCell* cell = cells_;
    for (unsigned j = 0; j < end_; ++j, ++cell) {
      std::uint64_t p = cell->p.load(kSeqCst);  // as read_cell(), without N, which counts only
      std::uint64_t w = cell->w.load(kSeqCst);  // for a grant that was not moved
      if (cell->p.load(kSeqCst) != p || (p & kGranted) != 0) [[unlikely]] {
        Reading at;
        if (!read_cell(*cell, at, budget_)) return false;
        p = at.p;
        w = at.w;
        held += at.unmoved_units();
        claimed += at.unmoved_units();
      }
      if (phase_of(p) == kWish && j != slot_) {
        std::uint64_t& place = j < slot_ ? first : after;
        if (place == 0) place = make_turn(j, seq_of(p));
      }
      held += used_of(w);
      claimed += used_of(w) + slack_of(w);
      const auto high = static_cast<std::uint32_t>(w >> 32);  // the version is in it
      if constexpr (kCompare) changed |= high ^ highs_[j];
      highs_[j] = high;
    }
    sum.claimed = claimed;
    sum.held = held;
    sum.same = version_of(changed << 32) == 0;
    sum.next_turn = after != 0 ? after : first;
    return true;
  }

  // Takes slack, no more than is wanted. True if it took all of it.
  bool sweep(std::uint64_t want) noexcept {
    for (unsigned j = 0; j < end_; ++j) {
      std::uint64_t w = cells_[j].w.load(kSeqCst);  // pairs with charge and give_back
      while (budget_.take()) {
        const std::uint64_t taken = std::min(slack_of(w), want);
        if (taken == 0) break;
        // pairs with charge, give_back and read_cell()
        if (cells_[j].w.compare_exchange_weak(w, w - taken * kSlackOne, kSeqCst, kSeqCst)) {
          BH_KILL_POINT("quota.swept");
          want -= taken;
          break;
        }
      }
      if (want == 0) return true;
    }
    return false;
  }

  MemCell* cells_;
  DeviceEntry& device_;
  unsigned slot_;
  Budget& budget_;
  unsigned end_;
  std::uint64_t next_turn_ = 0;
  std::uint32_t
      highs_[kMaxSlots];  // upper halves of W; filled by the first collect, which compares nothing
};

// Finishes the wish that has the turn, then passes the turn on. Any process, any number at once.
[[gnu::noinline]] void help(Region& r, unsigned dev, std::uint64_t g, Budget& budget) noexcept {
  const unsigned slot = turn_slot(g);
  std::uint64_t next = 0;
  if (slot < kMaxSlots) {
    AtomicU64& p = r.cells[dev][slot].p;
    std::uint64_t wish = make_p(kWish, turn_seq(g));
    if (p.load(kAcquire) == wish) {  // pairs with the publication in grow(): N is there
      Helper helper{r, dev, slot, budget};
      const Phase decision = helper.decide(wish);
      if (decision == kWish) return;  // gave up: the turn stays, for P is still in wish
      BH_KILL_POINT("quota.decided");
      if (decision != kIdle) {
        p.compare_exchange_strong(wish, make_p(decision, turn_seq(g)), kSeqCst, kRelaxed);
        BH_KILL_POINT("quota.told");  // the decision: pairs with grow() and with read_cell()
      }
      next = helper.next_turn();
    }
  }
  // release of the turn: pairs with the acquire of G in grow(); a stale next is cleared by whoever
  // sees it
  r.devices[dev].turn.compare_exchange_strong(g, next, kSeqCst, kRelaxed);
  BH_KILL_POINT("quota.turn_passed");
}

void count_fault(Region& r, unsigned slot) noexcept { count(r.slots[slot].faults); }

// The wish was not decided within the budget: its owner takes it back. Returns the phase it ended
// in.
std::uint64_t withdraw(Region& r, unsigned slot, AtomicU64& p, std::uint64_t wish) noexcept {
  count_fault(r, slot);
  if (p.compare_exchange_strong(wish, make_p(kRefused, seq_of(wish)), kSeqCst, kAcquire)) {
    return kRefused;  // pairs with the decision in help(): one of the two wins
  }
  return phase_of(wish);
}

// Under the private lock. The wish, the turn, the decision, the move.
bool grow_locked(Region& r, unsigned slot, unsigned dev, std::uint64_t n) noexcept {
  MemCell& mine = r.cells[dev][slot];
  AtomicU64& turn = r.devices[dev].turn;
  std::uint64_t seq = (seq_of(mine.p.load(kRelaxed)) + 1) & kSeqMask;        // own word
  if ((seq & 1) == mine.w.load(kRelaxed) >> 63) seq = (seq + 1) & kSeqMask;  // starts unmoved
  mine.n.store(n, kRelaxed);  // ordered by the publication
  BH_KILL_POINT("quota.numbered");
  const std::uint64_t wish = make_p(kWish, seq);
  mine.p.store(wish, kRelease);  // publication: pairs with help()'s acquire
  BH_KILL_POINT("quota.wished");
  Budget budget;
  std::uint64_t phase = kWish;
  while ((phase = phase_of(mine.p.load(kAcquire))) == kWish) {  // pairs with the decision in help()
    if (!budget.take()) {
      phase = withdraw(r, slot, mine.p, wish);
      break;
    }
    std::uint64_t g = turn.load(kAcquire);  // pairs with the release of the turn
    if (g == 0) {
      const std::uint64_t my_turn = make_turn(slot, seq);
      if (!turn.compare_exchange_strong(g, my_turn, kSeqCst, kAcquire)) continue;
      // the CAS sees all earlier decisions: pairs with the release of the turn
      BH_KILL_POINT("quota.turn_taken");
      g = my_turn;
    }
    help(r, dev, g, budget);
  }
  if (phase == kGranted) {
    // One operation: used and t change together, so no thief comes between and no reader counts
    // twice. Adding the top bit flips it. used + n < 2^28: at the decision used + slack + n <=
    // limit.
    mine.w.fetch_add(n + kTBit, kSeqCst);  // pairs with read_cell()
    BH_KILL_POINT("quota.moved");
  }
  mine.p.store(make_p(kIdle, seq), kRelease);  // pairs with read_cell(): who sees idle sees W moved
  BH_KILL_POINT("quota.idle");
  // relaxed: a hint; a grant is the sign that the books fit again
  if (phase == kGranted && (r.devices[dev].slack_cap.load(kRelaxed) & kSlackMax) == 0)
    settle(r, dev);
  return phase == kGranted;
}

void force_units(Region& r, unsigned slot, unsigned dev, std::uint64_t n) noexcept {
  AtomicU64& word = r.cells[dev][slot].w;
  std::uint64_t w = word.load(kRelaxed);  // own slot; the CAS validates it
  Budget budget;
  while (budget.take()) {
    const std::uint64_t room = kUsedMask - used_of(w);
    const std::uint64_t added = std::min(n, room);
    // version + 1: a refusal whose window holds this rise must look again (proof 4)
    if (word.compare_exchange_weak(w, next_version(w) + added, kSeqCst, kRelaxed)) {
      if (added != n) count_fault(r, slot);
      BH_KILL_POINT("quota.forced");
      return;
    }
  }
  count_fault(r, slot);
}

// The books may pass the limit (it was lowered, or a charge was forced): from the end of this on no
// grant comes from slack, old or new, until settle() sees them fit. The change itself comes first,
// then the epoch: a settle() that read the epoch before it fails, one that read it after saw the
// change.
void restrict_slack(Region& r, unsigned dev) noexcept {
  DeviceEntry& d = r.devices[dev];
  Budget budget;
  std::uint64_t cap = d.slack_cap.load(kRelaxed);  // the CAS validates it
  while (budget.take() &&
         !d.slack_cap.compare_exchange_weak(cap, (cap | kSlackMax) + 1, kSeqCst, kRelaxed)) {
  }  // pairs with give_back() and settle()
  BH_KILL_POINT("quota.cap_dropped");
  for (unsigned j = 0, end = scan_end(r); j < end; ++j) {
    AtomicU64& word = r.cells[dev][j].w;
    std::uint64_t w = word.load(kSeqCst);  // pairs with charge and give_back
    // version + 1 fails every fast charge and give_back that looked before
    while (budget.take() &&
           !word.compare_exchange_weak(w, next_version(w) & ~(kSlackMax << 28), kSeqCst, kSeqCst)) {
    }
  }
  BH_KILL_POINT("quota.slack_dropped");
  const std::uint64_t g = d.turn.load(kSeqCst);  // a decision in flight may have looked before
  if (g != 0) help(r, dev, g, budget);
  settle(r, dev);
}

constinit AtomicU32 refused_lately{0};  // a bit a device of this process's; a hint

void note_outcome(unsigned dev, bool granted) noexcept {
  const std::uint32_t bit = 1u << dev;
  const std::uint32_t bits = refused_lately.load(kRelaxed);  // a hint: lost updates cost nothing
  if (((bits & bit) == 0) == granted) return;
  refused_lately.store(granted ? bits & ~bit : bits | bit, kRelaxed);  // as above
}

}  // namespace

bool lately_refused(unsigned dev) noexcept {
  return (refused_lately.load(kRelaxed) >> dev & 1) != 0;  // a hint
}

bool above_limit(const Region& r, unsigned dev, std::uint64_t units) noexcept {
  return units > limit_units(r.devices[dev]);
}

bool surely_full(const Region& r, unsigned dev, std::uint64_t units, Holders& holders) noexcept {
  std::uint64_t seen[kMaxSlots];  // of each holder: P's phase and 46 bits of seq, W's version and t
  const MemCell* const cells = r.cells[dev];
  std::uint64_t held = 0;
  unsigned count = 0;
  for (unsigned j = 0, end = scan_end(r); j < end; ++j) {
    // P before W, and after it below: both readings of W lie within those of P. Each pairs with every CAS on its word
    if (used_of(cells[j].w.load(kRelaxed)) == 0)
      continue;  // relaxed: leaving one out is always right
    const std::uint64_t p = cells[j].p.load(kSeqCst);
    const std::uint64_t w = cells[j].w.load(kSeqCst);
    seen[count] = p << 16 | w >> 48;
    holders.slot[count++] = static_cast<std::uint16_t>(j);
    held += used_of(w);
  }
  holders.count = count;
  const std::uint64_t limit = limit_units(r.devices[dev]);  // the moment
  if (held + units <= limit) return false;
  std::uint64_t changed = 0;
  held = 0;
  for (unsigned i = 0; i < count; ++i) {
    const MemCell& cell = cells[holders.slot[i]];
    const std::uint64_t w = cell.w.load(kSeqCst);  // pairs with every CAS on it, as above
    const std::uint64_t p = cell.p.load(kSeqCst);  // and after W: it spans both readings
    changed |= seen[i] ^ (p << 16 | w >> 48);
    held += used_of(w);
  }
  return changed == 0 && held + units > limit;
}

bool grow(Region& r, unsigned slot, unsigned dev, std::uint64_t units) noexcept {
  if (units == 0) return true;
  if (units > limit_units(r.devices[dev])) return false;  // exact: held + n was over at this load
  Holders holders;
  if (lately_refused(dev) && surely_full(r, dev, units, holders)) return false;
  const PrivateLock lock{slot, dev};
  const bool granted = grow_locked(r, slot, dev, units);
  note_outcome(dev, granted);
  return granted;
}

void give_back_slow(Region& r, unsigned slot, unsigned dev, std::uint64_t units) noexcept {
  AtomicU64& word = r.cells[dev][slot].w;
  const std::uint64_t used = used_of(word.load(kRelaxed));  // own slot
  if (used < units) count_fault(r, slot);  // wiped or scribbled over: never borrow from slack
  word.fetch_sub(std::min(used, units),
                 kSeqCst);  // wait-free; keeps no slack. Pairs with read_cell()
}

void charge_forced(Region& r, unsigned slot, unsigned dev, std::uint64_t bytes) noexcept {
  if (charge(r, slot, dev, bytes)) return;
  {
    const PrivateLock lock{slot, dev};  // never between a sibling's grant and its move
    force_units(r, slot, dev, units_up(bytes, r.devices[dev].unit_shift));
  }
  restrict_slack(r, dev);
}

void set_limit(Region& r, unsigned dev, std::uint64_t limit) noexcept {
  DeviceEntry& d = r.devices[dev];
  const std::uint64_t unit = 1ull << (d.unit_shift & 31);
  const std::uint64_t bytes = std::min(limit & ~(unit - 1), (kUsedMask >> 1) * unit);
  const bool lower = bytes < d.limit_bytes.load(kRelaxed);  // the governor is its only writer
  d.limit_bytes.store(bytes, kSeqCst);                      // pairs with limit_units()
  BH_KILL_POINT("quota.limit_stored");
  if (lower) {
    restrict_slack(r, dev);
  } else {
    settle(r, dev);
  }
}

// Under any turn or none: if a grant falls within the collect, C <= limit held at it; if none does,
// no cell rises but by a forced charge, and whoever forces or lowers changes the epoch after its
// change.
bool settle(Region& r, unsigned dev) noexcept {
  DeviceEntry& d = r.devices[dev];
  std::uint64_t cap = d.slack_cap.load(kSeqCst);  // before the collect: pairs with restrict_slack()
  if ((cap & kSlackMax) != 0) return true;
  const std::uint64_t limit = limit_units(d);
  Budget budget;
  std::uint64_t claimed = 0;
  for (unsigned j = 0, end = scan_end(r); j < end; ++j) {
    Reading at;
    if (!read_cell(r.cells[dev][j], at, budget)) return false;
    claimed += used_of(at.w) + slack_of(at.w) + at.unmoved_units();
  }
  if (claimed > limit) return false;
  return d.slack_cap.compare_exchange_strong(cap, cap | kSlackMax, kSeqCst, kRelaxed);  // as above
}

std::uint64_t slot_held_bytes(const Region& r, unsigned slot, unsigned dev) noexcept {
  Budget budget;
  Reading at;
  if (!read_cell(r.cells[dev][slot], at, budget)) return 0;
  return (used_of(at.w) + at.unmoved_units()) << (r.devices[dev].unit_shift & 31);
}

std::uint64_t held_bytes(const Region& r, unsigned dev) noexcept {
  Budget budget;
  std::uint64_t held = 0;
  const MemCell* cell = r.cells[dev];
  for (const MemCell* const end = cell + scan_end(r); cell != end; ++cell) {
    const std::uint64_t p = cell->p.load(kSeqCst);  // as in collect()
    const std::uint64_t w = cell->w.load(kSeqCst);
    held += used_of(w);
    if (cell->p.load(kSeqCst) == p && (p & kGranted) == 0) [[likely]]
      continue;
    held -= used_of(w);
    Reading at;
    if (!read_cell(*cell, at, budget)) break;
    held += used_of(at.w) + at.unmoved_units();
  }
  return held << (r.devices[dev].unit_shift & 31);
}

QuotaView view(const Region& r, unsigned dev) noexcept {
  QuotaView v;
  v.limit_bytes = limit_bytes(r, dev);
  v.held_bytes = held_bytes(r, dev);
  v.free_bytes = v.limit_bytes > v.held_bytes ? v.limit_bytes - v.held_bytes : 0;
  return v;
}

void wipe_cell(Region& r, unsigned slot, unsigned dev) noexcept { lower_cell(r, slot, dev, 0); }

void lower_cell(Region& r, unsigned slot, unsigned dev, std::uint64_t bytes) noexcept {
  MemCell& cell = r.cells[dev][slot];
  // seq_cst: after every move of its owner, which is dead or ourselves; pairs with grow_locked()
  const std::uint64_t keep =
      std::min(units_up(bytes, r.devices[dev].unit_shift), used_of(cell.w.load(kSeqCst)));
  // P first: an unmoved grant ends here; seq goes on, so a late helper's CAS fails for ever
  cell.p.store(make_p(kIdle, (seq_of(cell.p.load(kSeqCst)) + 1) & kSeqMask), kSeqCst);
  BH_KILL_POINT("reap.wish_cleared");        // pairs with read_cell()
  cell.w.store(keep, kSeqCst);               // pairs with read_cell()
  cell.other_bytes.store(0, kRelaxed);       // a statistic
  cell.unseen_bytes.store(0, kRelaxed);      // as above
  cell.work.store(0, kRelaxed);              // as above: nobody has work
  r.observed[dev][slot].store(0, kRelaxed);  // advice
}

void forget_private_locks() noexcept {
  for (AtomicU32& lock : private_locks) lock.store(0, kRelaxed);  // the child has one thread
}

}  // namespace bulkhead::shm
