#include "shm/shares.h"

#include "base/kill_point.h"

namespace bulkhead::shm {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAcquire = std::memory_order_acquire;
constexpr auto kRelease = std::memory_order_release;
constexpr auto kSeqCst = std::memory_order_seq_cst;
constexpr std::uint64_t kSerialOne = std::uint64_t{1} << 48;

constexpr std::uint64_t with(std::uint64_t id, ShareState state) { return id | state; }
constexpr std::uint64_t id_of(std::uint64_t word) { return word & ~std::uint64_t{15}; }
// payer: slot 12 | gen 24, and a bit that tells it from none.
constexpr std::uint64_t kSomebody = std::uint64_t{1} << 63;
constexpr std::uint64_t payer_of(Seat s) { return share_seat(s) | kSomebody; }

unsigned shares_end(const Region& r) noexcept {
  const std::uint32_t high = r.header.shares_high.load(kAcquire);  // pairs with raise_high()
  return high < kMaxShares ? high : kMaxShares;
}

void raise_high(Region& r, unsigned index) noexcept {
  std::uint32_t high = r.header.shares_high.load(kRelaxed);  // the CAS validates it
  // ends: the word only rises, and only to 2,048. release pairs with shares_end()
  while (high <= index &&
         !r.header.shares_high.compare_exchange_weak(high, index + 1, kRelease, kRelaxed)) {
  }
}

bool openable(std::uint64_t word) noexcept {
  return share_state(word) == kShareLive || share_state(word) == kShareReleased;
}
// Of kinds with a mark the descriptor alone keeps the memory.
bool has_mark(std::uint64_t word) noexcept {
  return share_kind(word) == ShareKind::kDescriptor || share_kind(word) == ShareKind::kPool;
}

bool any_bit(const ShareEntry& e) noexcept {
  for (const AtomicU64& bits : e.holders) {
    if (bits.load(kSeqCst) != 0) return true;  // after the word: pairs with hold_share()
  }
  return false;
}

// The mark first, then the bits: sharing.md, The table.
bool is_held(const ShareEntry& e, const World& world, std::uint64_t word) noexcept {
  if (has_mark(word) && world.mark_exists != nullptr) {
    const std::uint64_t a = e.key[0].load(kRelaxed), b = e.key[1].load(kRelaxed);  // constant
    if (world.mark_exists(world.self, a, b)) return true;
  }
  return any_bit(e);
}

// One entry of the dead seat or of a payer that wants to be rid of it. True: closed by us.
bool try_close(ShareEntry& e, const World& world, std::uint64_t word) noexcept {
  const std::uint64_t id = id_of(word);
  std::uint64_t seen = word;
  if (is_held(e, world, word)) {
    // who was closing it died within: open to takers again. release: nothing but the state changed
    if (share_state(word) == kShareClosing) {
      e.word.compare_exchange_strong(seen, with(id, kShareReleased), kRelease, kRelaxed);
    }
    return false;
  }
  // seq_cst: before the bits are read again; pairs with hold_share()
  if (share_state(word) != kShareClosing &&
      !e.word.compare_exchange_strong(seen, with(id, kShareClosing), kSeqCst, kRelaxed)) {
    return false;
  }
  BH_KILL_POINT("share.closing");
  seen = with(id, kShareClosing);
  if (any_bit(e)) {
    // release: nothing but the state changed. The bit may be one that is about to be withdrawn
    static_cast<void>(
        e.word.compare_exchange_strong(seen, with(id, kShareReleased), kRelease, kRelaxed));
    return false;
  }
  // release pairs with publish_share(): the entry is the next exporter's
  const bool freed = e.word.compare_exchange_strong(seen, with(id, kShareFree), kRelease, kRelaxed);
  BH_KILL_POINT("share.closed");
  return freed;
}

}  // namespace

ShareRef publish_share(Region& r, Seat owner, ShareKind kind, unsigned dev, std::uint64_t bytes,
                       std::uint64_t block, ShareKey key) noexcept {
  for (unsigned i = 0; i < kMaxShares; ++i) {
    ShareEntry& e = r.shares[i];
    std::uint64_t word = e.word.load(kRelaxed);  // the CAS validates it
    if (share_state(word) != kShareFree) continue;
    const std::uint64_t id = ((word & ~(kSerialOne - 1)) + kSerialOne) | share_seat(owner) << 12 |
                             static_cast<std::uint64_t>(dev & 15) << 8 |
                             static_cast<std::uint64_t>(kind) << 4;
    raise_high(r, i);  // before: a reaper of ours must find it
    // acquire pairs with try_close()
    if (!e.word.compare_exchange_strong(word, with(id, kShareFilling), kAcquire, kRelaxed))
      continue;
    BH_KILL_POINT("share.filling");
    e.payer.store(payer_of(owner), kRelaxed);  // published by the word, with what follows
    e.key[0].store(key.a, kRelaxed);
    e.key[1].store(key.b, kRelaxed);
    e.bytes.store(bytes, kRelaxed);
    e.block.store(block, kRelaxed);
    std::uint64_t filling = with(id, kShareFilling);
    // release pairs with find_share(). Lost: a reaper took our slot for a dead one's
    if (!e.word.compare_exchange_strong(filling, with(id, kShareLive), kRelease, kRelaxed)) break;
    BH_KILL_POINT("share.published");
    return {i, id};
  }
  count(r.header.exports_lost);
  return {};
}

ShareRef find_share(const Region& r, ShareKind kind, ShareKey key) noexcept {
  for (unsigned i = 0, end = shares_end(r); i < end; ++i) {
    const ShareEntry& e = r.shares[i];
    const std::uint64_t word = e.word.load(kAcquire);  // pairs with publish_share()
    if (!openable(word) || share_kind(word) != kind) continue;
    // relaxed: constant while the word names this entry; the reader's hold_share() looks again
    if (e.key[0].load(kRelaxed) == key.a && e.key[1].load(kRelaxed) == key.b) {
      return {i, id_of(word)};
    }
  }
  return {};
}

bool read_share(const Region& r, ShareRef ref, ShareFacts& out) noexcept {
  if (!ref) return false;
  const ShareEntry& e = r.shares[ref.index];
  const std::uint64_t payer = e.payer.load(kAcquire);  // pairs with take_share()
  const std::uint64_t bytes = e.bytes.load(kAcquire);  // pairs with publish_share()
  const std::uint64_t block = e.block.load(kAcquire);  // before the word is read again, as above
  const std::uint64_t word = e.word.load(kAcquire);    // pairs with publish_share()
  if (id_of(word) != ref.id || share_state(word) == kShareFree) return false;
  out = {share_kind(word),        share_device(word), bytes, block, share_state(word) != kShareLive,
         payer & (kSomebody - 1), share_maker(word)};
  return true;
}

bool hold_share(Region& r, unsigned slot, ShareRef ref) noexcept {
  if (!ref || slot >= kMaxSlots) return false;
  ShareEntry& e = r.shares[ref.index];
  const std::uint64_t bit = std::uint64_t{1} << (slot & 63);
  // seq_cst: the bit, then the word; pairs with try_close()
  const std::uint64_t before = e.holders[slot / 64].fetch_or(bit, kSeqCst);
  BH_KILL_POINT("share.bit_set");
  const std::uint64_t word = e.word.load(kSeqCst);
  if (id_of(word) == ref.id && openable(word)) return true;
  // relaxed: nothing was done under it
  if ((before & bit) == 0) e.holders[slot / 64].fetch_and(~bit, kRelaxed);
  return false;
}

void unhold_share(Region& r, unsigned slot, ShareRef ref) noexcept {
  if (!ref || slot >= kMaxSlots) return;
  const std::uint64_t bit = std::uint64_t{1} << (slot & 63);
  // release pairs with any_bit(): the driver has closed it before
  r.shares[ref.index].holders[slot / 64].fetch_and(~bit, kRelease);
  BH_KILL_POINT("share.bit_cleared");
}

Closed close_share(Region& r, const World& world, Seat payer, ShareRef ref) noexcept {
  if (!ref) return Closed::kGone;
  ShareEntry& e = r.shares[ref.index];
  std::uint64_t word = e.word.load(kAcquire);  // pairs with publish_share()
  if (id_of(word) != ref.id || share_state(word) == kShareFree) return Closed::kGone;
  if (e.payer.load(kAcquire) != payer_of(payer)) return Closed::kGone;  // pairs with take_share()
  if (share_state(word) == kShareLive) {
    // release: pairs with takeable()
    if (!e.word.compare_exchange_strong(word, with(ref.id, kShareReleased), kRelease, kRelaxed)) {
      return Closed::kHeld;
    }
    word = with(ref.id, kShareReleased);
    BH_KILL_POINT("share.released");
  }
  return try_close(e, world, word) ? Closed::kClosed : Closed::kHeld;
}

bool takeable(const Region& r, ShareRef ref, Seat me) noexcept {
  if (!ref || me.slot >= kMaxSlots) return false;
  const ShareEntry& e = r.shares[ref.index];
  const std::uint64_t payer = e.payer.load(kAcquire);  // pairs with take_share()
  const std::uint64_t word = e.word.load(kAcquire);    // pairs with close_share()
  if (id_of(word) != ref.id || !openable(word) || payer == payer_of(me)) return false;
  // relaxed: our own bit, set by this process
  if ((e.holders[me.slot / 64].load(kRelaxed) >> (me.slot & 63) & 1) == 0) return false;
  if (share_state(word) == kShareReleased) return true;
  const unsigned slot = payer & 0xfff;
  if (slot >= kMaxSlots) return true;                          // scribbled over: nobody pays
  const std::uint64_t s = r.slots[slot].state.load(kAcquire);  // pairs with a reaper's marks
  return s != make_s(kLive, (payer >> 12) & kGenMask);
}

bool take_share(Region& r, ShareRef ref, Seat me) noexcept {
  ShareEntry& e = r.shares[ref.index];
  std::uint64_t payer = e.payer.load(kAcquire);  // pairs with the CAS of another taker
  if (!takeable(r, ref, me)) return false;
  BH_KILL_POINT("share.take_charged");
  // acq_rel: the charge is before it; pairs with owed_by(), which then counts it for the former payer no more
  const bool won = e.payer.compare_exchange_strong(payer, payer_of(me), kSeqCst, kRelaxed);
  BH_KILL_POINT("share.taken");
  if (won) use_share(r, ref, me);
  return won;
}

void use_share(Region& r, ShareRef ref, Seat me) noexcept {
  ShareEntry& e = r.shares[ref.index];
  if (e.payer.load(kAcquire) != payer_of(me)) return;  // pairs with take_share()
  std::uint64_t released = with(ref.id, kShareReleased);
  // release pairs with close_share() of the payer before us: who reads live here reads us as the payer
  e.word.compare_exchange_strong(released, with(ref.id, kShareLive), kRelease, kRelaxed);
  BH_KILL_POINT("share.used");
}

namespace {

// Adds an entry to what is owed, each block of a maker once. `done` are the entries before `index`.
void owe(const Region& r, unsigned index, std::uint64_t payer, std::uint64_t word,
         Owed& out) noexcept {
  const ShareEntry& e = r.shares[index];
  const std::uint64_t bytes = e.bytes.load(kRelaxed), block = e.block.load(kRelaxed);  // constant
  out.any = out.any || bytes != 0;
  if (block != 0) {
    for (unsigned i = 0; i < index; ++i) {
      const ShareEntry& other = r.shares[i];
      const std::uint64_t w = other.word.load(kAcquire);  // pairs with publish_share()
      if (share_state(w) == kShareFree || share_maker(w) != share_maker(word)) continue;
      // relaxed: constants, and a payer that moves meanwhile has charged itself
      if (other.block.load(kRelaxed) == block && other.payer.load(kRelaxed) == payer &&
          any_bit(other)) {
        return;
      }
    }
  }
  std::uint64_t& sum = out.bytes[share_device(word)];
  sum = sum + bytes < sum ? ~std::uint64_t{0} : sum + bytes;
}

}  // namespace

void owed_by(const Region& r, const World& world, Seat dead, Owed& out) noexcept {
  out = {};
  const std::uint64_t payer = payer_of(dead);
  for (unsigned i = 0, end = shares_end(r); i < end; ++i) {
    const ShareEntry& e = r.shares[i];
    const std::uint64_t word = e.word.load(kAcquire);  // pairs with publish_share()
    if (share_state(word) <= kShareFilling) continue;
    if (e.payer.load(kSeqCst) != payer) continue;  // pairs with take_share()
    if (is_held(e, world, word)) owe(r, i, payer, word, out);
  }
}

void settle_shares(Region& r, const World& world, Seat dead, Owed& out) noexcept {
  const std::uint64_t payer = payer_of(dead);
  const unsigned end = shares_end(r);
  const std::uint64_t bit = std::uint64_t{1} << (dead.slot & 63);
  for (unsigned i = 0; i < end; ++i) {
    AtomicU64& bits = r.shares[i].holders[dead.slot / 64];
    // relaxed: its owner is gone; a word that needs no change is not written
    if ((bits.load(kRelaxed) & bit) != 0) bits.fetch_and(~bit, kSeqCst);  // pairs with any_bit()
  }
  BH_KILL_POINT("share.dead_bits_cleared");
  for (unsigned i = 0; i < end; ++i) {
    ShareEntry& e = r.shares[i];
    std::uint64_t word = e.word.load(kAcquire);  // pairs with publish_share()
    if (share_state(word) == kShareFilling && share_maker(word) == share_seat(dead)) {
      e.word.compare_exchange_strong(word, with(id_of(word), kShareFree), kRelease, kRelaxed);
      continue;  // release: as in try_close()
    }
    if (share_state(word) <= kShareFilling) continue;
    if (e.payer.load(kSeqCst) != payer) continue;  // pairs with take_share()
    if (share_state(word) == kShareLive) {
      // release: pairs with takeable()
      e.word.compare_exchange_strong(word, with(id_of(word), kShareReleased), kRelease, kRelaxed);
      word = with(id_of(word), kShareReleased);
    }
    static_cast<void>(try_close(e, world, word));
  }
  BH_KILL_POINT("share.dead_settled");
  owed_by(r, world, dead, out);
}

bool holds_shares(const Region& r, unsigned slot) noexcept {
  for (unsigned i = 0, end = shares_end(r); i < end; ++i) {
    // relaxed: a hint; who asks looks again
    if ((r.shares[i].holders[slot / 64].load(kRelaxed) >> (slot & 63) & 1) != 0) return true;
  }
  return false;
}

}  // namespace bulkhead::shm
