#include "hook/slab.h"

#include <bit>
#include <cstring>

namespace bulkhead::hook {

void SlabBook::init(void* zeroed) noexcept {
  arena_ = static_cast<std::atomic<std::uint64_t>*>(zeroed);
  // relaxed: nobody else knows the book yet, or a fork left us alone with it
  if (leaves_.load(std::memory_order_relaxed) == 0) return;  // nothing to clear, no page to touch
  leaves_.store(0, std::memory_order_relaxed);
  for (auto& t : top_) t.store(nullptr, std::memory_order_relaxed);  // same
}

std::atomic<std::uint64_t>* SlabBook::leaf(std::size_t top) noexcept {
  const unsigned n = leaves_.fetch_add(1, std::memory_order_acq_rel);  // pairs with drop_context()
  if (n >= kMaxLeaves) {
    leaves_.fetch_sub(1, std::memory_order_relaxed);  // nothing was made of it
    return nullptr;
  }
  std::atomic<std::uint64_t>* made = arena_ + (static_cast<std::size_t>(n) << kLeafBits);
  std::atomic<std::uint64_t>* seen = nullptr;
  // acquire/release pair with word(); the loser's leaf stays unused, it costs address space only
  if (top_[top].compare_exchange_strong(seen, made, std::memory_order_acq_rel,
                                        std::memory_order_acquire)) {
    return made;
  }
  return seen;
}

std::atomic<std::uint64_t>* SlabBook::word(std::uint64_t at, bool make) noexcept {
  const std::uint64_t block = at >> kSlabShift;
  const std::uint64_t top = block >> kLeafBits;
  if (top >= std::uint64_t{1} << kTopBits) return nullptr;
  std::atomic<std::uint64_t>* words =
      top_[top].load(std::memory_order_acquire);  // pairs with leaf()
  if (words == nullptr) {
    if (!make) return nullptr;
    words = leaf(top);
    if (words == nullptr) return nullptr;
  }
  return words + (block & ((std::uint64_t{1} << kLeafBits) - 1));
}

SlabBook::Joined SlabBook::join(std::uint64_t at, std::uint8_t context,
                                std::uint8_t device) noexcept {
  std::atomic<std::uint64_t>* const w = word(at, true);
  if (w == nullptr) return Joined::kUntracked;
  std::uint64_t seen = w->load(std::memory_order_relaxed);  // the CAS validates it
  for (;;) {  // lock-free: a failed CAS is another thread's success
    const bool opens = live_of(seen) == 0;
    const std::uint64_t want =
        opens ? emptied(seen) | 1 | std::uint64_t{context} << 32 | std::uint64_t{device} << 40
              : seen + kChange + 1;
    // seq_cst: before slab_back()'s look (memory_plain.h); pairs with find_holes()
    if (w->compare_exchange_weak(seen, want, std::memory_order_seq_cst)) {
      return opens ? Joined::kOpened : Joined::kKnown;
    }
  }
}

bool SlabBook::leave(std::uint64_t at) noexcept {
  std::atomic<std::uint64_t>* const w = word(at, false);
  if (w == nullptr) return false;
  std::uint64_t seen = w->load(std::memory_order_relaxed);  // the CAS validates it
  for (;;) {                                                // as in join()
    if (live_of(seen) == 0) return false;                   // its context is gone
    const std::uint64_t want = live_of(seen) == 1 ? emptied(seen) : seen + kChange - 1;
    // seq_cst: as in join()
    if (w->compare_exchange_weak(seen, want, std::memory_order_seq_cst)) return live_of(want) == 0;
  }
}

std::uint64_t SlabBook::look(std::uint64_t at) const noexcept {
  std::atomic<std::uint64_t>* const w = const_cast<SlabBook*>(this)->word(at, false);
  // seq_cst: after small_hole()'s announcement, and before slab_back()'s look of who joins later
  return w == nullptr ? 0 : w->load(std::memory_order_seq_cst);
}

bool SlabBook::holds(std::uint64_t at) const noexcept {
  std::atomic<std::uint64_t>* const w = const_cast<SlabBook*>(this)->word(at, false);
  return w != nullptr && live_of(w->load(std::memory_order_relaxed)) != 0;  // a look, no more
}

namespace {

constexpr std::size_t kSlots = 4096;  // slabs looked at; a context with more may be refused falsely
constexpr std::size_t kWords = kSlabUnits / 64;

bool is_marked(const std::uint64_t* bits, std::uint32_t at) noexcept {
  return (bits[at / 64] >> at % 64 & 1) != 0;
}

void mark(std::uint64_t* bits, std::uint32_t from, std::uint32_t count) noexcept {
  for (std::uint32_t i = from; i < from + count && i < kSlabUnits;) {
    const std::uint32_t bit = i % 64;
    const std::uint32_t left = from + count - i;
    const std::uint32_t take = left < 64 - bit ? left : 64 - bit;
    const std::uint64_t mask =
        take == 64 ? ~std::uint64_t{0} : ((std::uint64_t{1} << take) - 1) << bit;
    bits[i / 64] |= mask;
    i += take;
  }
}

std::uint32_t longest_run(const std::uint64_t* bits) noexcept {
  std::uint32_t best = 0;
  std::uint32_t run = 0;
  for (std::size_t i = 0; i < kWords; ++i) {
    std::uint64_t used = bits[i];
    for (std::uint32_t at = 0; at < 64;) {
      const auto zeros = static_cast<std::uint32_t>(std::countr_zero(used >> at));
      const std::uint32_t free = zeros < 64 - at ? zeros : 64 - at;
      run += free;
      best = run > best ? run : best;
      at += free;
      if (at >= 64) break;
      run = 0;
      at += static_cast<std::uint32_t>(std::countr_one(used >> at));
    }
  }
  return best;
}

}  // namespace

struct HoleScratch {
  std::uint64_t block[2 * kSlots];  // open addressing: block + 1, 0 = free
  std::uint32_t index[2 * kSlots];
  std::uint64_t at[kSlots], word[kSlots];  // the slab and its word before it was counted
  std::uint32_t found[kSlots];             // its entries in the map; kDoubt: they changed meanwhile
  std::uint64_t bits[kSlots][kWords];
};
std::size_t hole_scratch_bytes() noexcept { return sizeof(HoleScratch); }

Holes find_holes(const AllocMap& map, const SlabBook& book, std::uint8_t context,
                 HoleScratch* s) noexcept {
  constexpr std::uint32_t kDoubt = ~std::uint32_t{0};
  std::memset(s->block, 0, sizeof s->block);
  std::uint32_t slabs = 0;
  map.for_each([&](std::uint64_t key, const AllocMap::Cursor& c) {
    const Value v = AllocMap::value_of(c);
    if (v.kind != Kind::kSmall || v.context != context) return;
    const std::uint64_t at = key & ((std::uint64_t{1} << 61) - 1), block = at >> kSlabShift;
    std::size_t slot = (block * 0x9E37'79B9'7F4A'7C15ull >> 40) % (2 * kSlots);
    while (s->block[slot] != 0 && s->block[slot] != block + 1) slot = (slot + 1) % (2 * kSlots);
    if (s->block[slot] == 0) {
      if (slabs == kSlots) return;
      s->block[slot] = block + 1;
      s->index[slot] = slabs;
      s->at[slabs] = at;
      s->word[slabs] = book.look(at);
      s->found[slabs] = 0;
      std::memset(s->bits[slabs++], 0, sizeof s->bits[0]);
    }
    const std::uint32_t i = s->index[slot];
    const auto unit = static_cast<std::uint32_t>(key >> kUnitShift & (kSlabUnits - 1));
    // It has to be there still: the first one was seen before the slab's word, and a key that was read beside another entry's word
    // is not this one's. And none counts twice. acquire: as in for_each()
    const bool gone = c.entry->word.load(std::memory_order_acquire) != c.word;
    if (s->found[i] == kDoubt) return;
    s->found[i] = gone || is_marked(s->bits[i], unit) ? kDoubt : s->found[i] + 1;
    mark(s->bits[i], unit, v.units);
  });
  Holes out;
  for (std::uint32_t i = 0; i < slabs; ++i) {
    const std::uint64_t w = book.look(s->at[i]);
    if (w != s->word[i] || SlabBook::live_of(w) != s->found[i]) {
      out.sure = false;
      continue;
    }
    const std::uint32_t run = longest_run(s->bits[i]);
    out.largest = run > out.largest ? run : out.largest;
  }
  return out;
}

}  // namespace bulkhead::hook
