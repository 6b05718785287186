// The process's map from a pointer or handle to what is charged for it.
//
// Claim  insert, find, take and update are linearizable and lock-free; of two threads that take the same key one
//        wins, with the value that was there. An entry that was emptied and filled again is never mistaken for
//        what it held (no ABA). A full map refuses, it never loses or overwrites an entry.
// Proof  key and word of an entry change only by whoever moved the word from free to busy (one CAS); both
//        are written before the word becomes live. Every change of a live word is a CAS against the word that
//        was read before the key, and each filling has another tag: an unchanged word means an unchanged key.
//        A key that went to a later level was counted in `displaced` of its bucket before it was stored.
// Price  16 B an entry; the tag has 14 bits, so a thread would have to sleep through an exact multiple
//        of 16,384 fillings of one entry, the last with the same value, to be fooled.
//
// Three tables, each larger than the one before: four entries a bucket (one cache line); what does not fit
// goes to the next table. So a program with few allocations touches few pages and a lookup one line.
// Memory comes zeroed from the caller; nothing here allocates. All functions may be called from any thread.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace bulkhead::hook {

enum class Kind : std::uint8_t {
  kLarge = 1,   // units: charged
  kSmall,       // in a slab; units: size
  kArray,       // units: charged
  kSmallArray,  // units: a node
  kVmm,         // units: a node
  kMapping,     // units: a node
  kGraph,       // units: bytes of its allocation nodes; context: epoch
  kExternal,    // units: charged
  kManaged,   // units: asked; charged by batches (memory_managed.cc), NVML shows it for no process
  kExported,  // as kLarge; others may have it open
  kOpened,    // units: a node; an export of another process, by pointer
};
// Handles of different sorts are different keys even if the driver numbers them alike.
enum class Space : std::uint8_t {
  kPointer,
  kArray,
  kVmm,
  kMapping,
  kGraph,
  kExternal,
  kDeferred,
  kOpened
};

[[nodiscard]] constexpr std::uint64_t map_key(std::uint64_t handle, Space space) noexcept {
  return handle ^ static_cast<std::uint64_t>(space) << 61;
}

struct Value {
  std::uint32_t units = 0;  // 512 B each, or the index of a node
  std::uint8_t device = 0;  // number, 0..15
  Kind kind = Kind::kLarge;
  std::uint8_t context = 0;  // tag
  friend bool operator==(const Value&, const Value&) = default;
};

struct MapEntry {
  std::atomic<std::uint64_t> word;  // state:2 kind:4 device:4 context:8 tag:14 units:32
  std::atomic<std::uint64_t> key;
};
struct alignas(64) MapBucket {
  MapEntry entries[4];
};

// kTagged false is the broken variant, kept to show that the test catches it.
template <bool kTagged>
class BasicAllocMap {
 public:
  static constexpr int kLevels = 3;
  struct Shifts {
    unsigned level[kLevels] = {10, 14, 20};  // buckets of each table, log2; 4 M entries in the last
  };
  // What an entry held when it was found; take() and update() succeed only if it still holds that.
  struct Cursor {
    MapEntry* entry = nullptr;
    std::uint64_t word = 0;
    int level = 0;
    explicit operator bool() const noexcept { return entry != nullptr; }
  };

  static std::size_t bytes_needed(const Shifts& s) noexcept;
  void init(void* zeroed, const Shifts& s) noexcept;

  // False: no room (the caller refuses). The key must not be in the map; key 0 is not one.
  [[nodiscard]] bool insert(std::uint64_t key, Value value) noexcept;
  [[nodiscard]] Cursor find(std::uint64_t key) const noexcept;
  bool take(std::uint64_t key, const Cursor& c) noexcept;
  bool update(const Cursor& c, Value value) noexcept;
  // find and take until one of both says no.
  bool remove(std::uint64_t key, Value& out) noexcept;

  static Value value_of(const Cursor& c) noexcept { return unpack(c.word); }

  // Calls fn(key, cursor) for the live entries; those that change meanwhile may be missed or seen twice. Cold.
  template <class Fn>
  void for_each(Fn fn) const noexcept {
    for (int l = 0; l < kLevels; ++l) {
      // a hint; an entry put there by another thread meanwhile may be missed, as said above
      if (l > 0 && !used_[l].load(std::memory_order_relaxed)) continue;
      for (std::size_t b = 0; b <= mask_[l]; ++b) {
        for (MapEntry& e : buckets_[l][b].entries) {
          const std::uint64_t w = e.word.load(std::memory_order_acquire);  // pairs with insert()
          if ((w & kStateMask) == kLive)
            fn(e.key.load(std::memory_order_acquire), Cursor{&e, w, l});
        }
      }
    }
  }

 private:
  static constexpr std::uint64_t kStateMask = 3, kFree = 0, kBusy = 1, kLive = 2;
  static constexpr unsigned kTagShift = 18;
  static constexpr std::uint64_t kTagMask = 0x3FFFull << kTagShift;
  static constexpr std::size_t kProbes = 64;  // buckets looked at in the last table

  static constexpr std::uint64_t pack(Value v, std::uint64_t tag_bits) noexcept {
    return kLive | static_cast<std::uint64_t>(v.kind) << 2 |
           static_cast<std::uint64_t>(v.device) << 6 | static_cast<std::uint64_t>(v.context) << 10 |
           tag_bits | static_cast<std::uint64_t>(v.units) << 32;
  }
  static constexpr Value unpack(std::uint64_t w) noexcept {
    return Value{static_cast<std::uint32_t>(w >> 32), static_cast<std::uint8_t>(w >> 6 & 15),
                 static_cast<Kind>(w >> 2 & 15), static_cast<std::uint8_t>(w >> 10)};
  }
  static constexpr std::uint64_t next_tag(std::uint64_t w) noexcept {
    return kTagged ? (w + (1ull << kTagShift)) & kTagMask : 0;
  }
  // Multiply and fold: pointers differ in few bits, all in the middle. FNV-1a would do the same in eight
  // dependent multiplications.
  static constexpr std::uint64_t hash(std::uint64_t key) noexcept {
    const std::uint64_t h = key * 0x9E37'79B9'7F4A'7C15ull;
    return h ^ h >> 32;
  }
  std::size_t home(int level, std::uint64_t h) const noexcept {
    return (h >> (10 * level)) & mask_[level];
  }
  bool put(MapBucket& bucket, std::uint64_t key, Value value) noexcept;
  static bool match(MapBucket& bucket, std::uint64_t key, int level, Cursor& out) noexcept;
  [[gnu::cold, gnu::noinline]] bool insert_deeper(std::uint64_t key, Value value) noexcept;
  [[gnu::cold, gnu::noinline]] Cursor find_deeper(std::uint64_t key) const noexcept;

  MapBucket* buckets_[kLevels] = {};
  std::atomic<std::uint32_t>* displaced_[kLevels] = {};  // keys of this home that lie further on
  std::size_t mask_[kLevels] = {};
  std::atomic<bool> used_[kLevels] = {};
};

template <bool kTagged>
inline bool BasicAllocMap<kTagged>::put(MapBucket& bucket, std::uint64_t key,
                                        Value value) noexcept {
  for (MapEntry& e : bucket.entries) {
    std::uint64_t w = e.word.load(std::memory_order_relaxed);  // the CAS validates it
    if ((w & kStateMask) != kFree) continue;
    const std::uint64_t tag = next_tag(w);
    // acquire pairs with take(): the entry is ours after its last owner
    if (!e.word.compare_exchange_strong(w, kBusy | tag, std::memory_order_acq_rel,
                                        std::memory_order_relaxed)) {
      continue;
    }
    e.key.store(key, std::memory_order_release);  // pairs with match(): who sees the key sees busy
    e.word.store(pack(value, tag), std::memory_order_release);  // pairs with match(), for_each()
    return true;
  }
  return false;
}

template <bool kTagged>
inline bool BasicAllocMap<kTagged>::match(MapBucket& bucket, std::uint64_t key, int level,
                                          Cursor& out) noexcept {
  for (MapEntry& e : bucket.entries) {
    const std::uint64_t w = e.word.load(std::memory_order_acquire);  // pairs with put()
    if ((w & kStateMask) != kLive) continue;
    if (e.key.load(std::memory_order_acquire) != key) continue;  // pairs with put()
    // relaxed: ordered after the key's acquire load; an older word than put()'s busy is impossible
    if (e.word.load(std::memory_order_relaxed) != w) continue;
    out = Cursor{&e, w, level};
    return true;
  }
  return false;
}

template <bool kTagged>
inline bool BasicAllocMap<kTagged>::insert(std::uint64_t key, Value value) noexcept {
  if (put(buckets_[0][home(0, hash(key))], key, value)) [[likely]]
    return true;
  return insert_deeper(key, value);
}

template <bool kTagged>
inline typename BasicAllocMap<kTagged>::Cursor BasicAllocMap<kTagged>::find(
    std::uint64_t key) const noexcept {
  const std::size_t b = home(0, hash(key));
  Cursor c;
  if (match(buckets_[0][b], key, 0, c)) [[likely]]
    return c;
  // acquire pairs with insert_deeper(): the caller knows of the key, so of the count before it
  if (displaced_[0][b].load(std::memory_order_acquire) == 0) return Cursor{};
  return find_deeper(key);
}

template <bool kTagged>
inline bool BasicAllocMap<kTagged>::take(std::uint64_t key, const Cursor& c) noexcept {
  std::uint64_t w = c.word;
  // release pairs with put(): what we read of the entry was before it is free
  if (!c.entry->word.compare_exchange_strong(w, w & kTagMask, std::memory_order_acq_rel,
                                             std::memory_order_relaxed)) {
    return false;
  }
  if (c.level == 0) [[likely]]
    return true;
  const std::uint64_t h = hash(key);
  for (int l = 0; l < c.level; ++l) {
    displaced_[l][home(l, h)].fetch_sub(1, std::memory_order_relaxed);  // the key is gone already
  }
  return true;
}

template <bool kTagged>
inline bool BasicAllocMap<kTagged>::update(const Cursor& c, Value value) noexcept {
  std::uint64_t w = c.word;
  // release pairs with match(): the new value is read with its word
  return c.entry->word.compare_exchange_strong(
      w, pack(value, next_tag(w)), std::memory_order_acq_rel, std::memory_order_relaxed);
}

template <bool kTagged>
inline bool BasicAllocMap<kTagged>::remove(std::uint64_t key, Value& out) noexcept {
  // Bounded: each failed take() is another thread's successful one on the same key.
  for (int i = 0; i < 1024; ++i) {
    const Cursor c = find(key);
    if (!c) return false;
    if (take(key, c)) {
      out = value_of(c);
      return true;
    }
  }
  return false;
}

extern template class BasicAllocMap<true>;
extern template class BasicAllocMap<false>;
using AllocMap = BasicAllocMap<true>;

}  // namespace bulkhead::hook
