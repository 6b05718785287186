#include "hook/alloc_map.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <unordered_map>
#include <vector>

#include "hook/nodes.h"
#include "hook/slab.h"

namespace bulkhead::hook {
namespace {

template <class Map>
struct Made {
  explicit Made(typename Map::Shifts s = {})
      : memory(std::calloc(1, Map::bytes_needed(s)), std::free) {
    map.init(memory.get(), s);
  }
  std::unique_ptr<void, void (*)(void*)> memory;
  Map map;
};

template <class Map>
std::size_t live(const Map& map) {
  std::size_t n = 0;
  map.for_each([&](std::uint64_t, const typename Map::Cursor&) { ++n; });
  return n;
}

TEST(AllocMap, KeepsWhatWasPutIn) {
  Made<AllocMap> m;
  const Value v{0xFFFF'FFFF, 15, Kind::kExternal, 255};
  ASSERT_TRUE(m.map.insert(0x7f00'1234'5600, v));
  const auto c = m.map.find(0x7f00'1234'5600);
  ASSERT_TRUE(c);
  EXPECT_EQ(AllocMap::value_of(c), v);
  EXPECT_FALSE(m.map.find(0x7f00'1234'5800));
  Value out;
  EXPECT_TRUE(m.map.remove(0x7f00'1234'5600, out));
  EXPECT_EQ(out, v);
  EXPECT_FALSE(m.map.remove(0x7f00'1234'5600, out));
}

TEST(AllocMap, ServesMillionsAndRefusesWhenFull) {
  Made<AllocMap> small{{{2, 3, 4}}};
  std::vector<std::uint64_t> in;
  std::uint64_t refused = 0;
  for (std::uint64_t k = 1; k < 400; ++k) {
    if (small.map.insert(k << 21, Value{static_cast<std::uint32_t>(k)})) {
      in.push_back(k);
    } else {
      ++refused;
    }
  }
  EXPECT_GT(refused, 0u);
  EXPECT_EQ(in.size(), live(small.map));
  EXPECT_GE(in.size(), 64u + 4u);  // the last table is filled to the end
  for (const std::uint64_t k : in) {
    Value out;
    ASSERT_TRUE(small.map.remove(k << 21, out)) << k;
    EXPECT_EQ(out.units, k);
  }
  EXPECT_EQ(live(small.map), 0u);

  Made<AllocMap> big;
  for (std::uint64_t k = 1; k <= 2'000'000; ++k) ASSERT_TRUE(big.map.insert(k << 9, Value{7})) << k;
  for (std::uint64_t k = 1; k <= 2'000'000; ++k) ASSERT_TRUE(big.map.find(k << 9)) << k;
}

TEST(AllocMap, AgreesWithAModel) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 rng{seed};
  Made<AllocMap> m{{{3, 4, 6}}};
  std::unordered_map<std::uint64_t, std::uint32_t> model;
  for (int i = 0; i < 100'000; ++i) {
    const std::uint64_t key = (rng() % 300 + 1) << 21;
    const auto it = model.find(key);
    if (it == model.end()) {
      const auto units = static_cast<std::uint32_t>(rng());
      if (model.size() < 120) {
        ASSERT_TRUE(m.map.insert(key, Value{units}));
        model[key] = units;
      } else {
        ASSERT_FALSE(m.map.find(key));
      }
    } else if (rng() % 3 == 0) {
      Value out;
      ASSERT_TRUE(m.map.remove(key, out));
      ASSERT_EQ(out.units, it->second);
      model.erase(it);
    } else {
      const auto c = m.map.find(key);
      ASSERT_TRUE(c);
      ASSERT_EQ(AllocMap::value_of(c).units, it->second);
      ASSERT_TRUE(m.map.update(c, Value{it->second + 1}));
      ++it->second;
    }
  }
  EXPECT_EQ(live(m.map), model.size());
}

// A thread that frees P finds its entry and is delayed. Meanwhile P is freed by another, and the same entry is filled
// for Q with the same value. True: the delayed thread then took Q's entry.
template <class Map>
bool takes_anothers_entry() {
  Made<Map> m{{{0, 0, 0}}};  // one bucket: Q gets P's entry
  const std::uint64_t p = 1 << 21;
  const std::uint64_t q = 2 << 21;
  const Value v{4096};
  EXPECT_TRUE(m.map.insert(p, v));
  const auto delayed = m.map.find(p);
  Value out;
  EXPECT_TRUE(m.map.remove(p, out));
  EXPECT_TRUE(m.map.insert(q, v));
  const bool taken = m.map.take(p, delayed);
  EXPECT_NE(taken, static_cast<bool>(m.map.find(q)));
  return taken;
}

TEST(AllocMap, AnEntryFilledAgainIsNotMistaken) {
  EXPECT_FALSE(takes_anothers_entry<AllocMap>());
  EXPECT_TRUE(
      takes_anothers_entry<BasicAllocMap<false>>());  // the broken variant: the test sees it
}

TEST(AllocMap, OneOfTwoFreeingThreadsWins) {
  Made<AllocMap> m{{{2, 3, 5}}};
  constexpr int kThreads = 4, kRounds = 20'000;
  std::atomic<std::uint64_t> in{0};
  std::atomic<std::uint64_t> out_sum{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 rng{static_cast<unsigned>(t + 1)};
      for (int i = 0; i < kRounds; ++i) {
        const std::uint64_t mine =
            (std::uint64_t{1} << 21) * (static_cast<unsigned>(t) * 16 + rng() % 16 + 1);
        const std::uint64_t any = (std::uint64_t{1} << 21) * (rng() % (kThreads * 16) + 1);
        const auto units = static_cast<std::uint32_t>(rng() % 1000);
        if (!m.map.find(mine) && m.map.insert(mine, Value{units})) {
          in.fetch_add(units, std::memory_order_relaxed);
        }
        Value out;
        if (m.map.remove(any, out)) out_sum.fetch_add(out.units, std::memory_order_relaxed);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  m.map.for_each([&](std::uint64_t key, const AllocMap::Cursor& c) {
    out_sum += AllocMap::value_of(c).units;
    EXPECT_TRUE(m.map.take(key, c));
  });
  EXPECT_EQ(in.load(), out_sum.load());
  EXPECT_EQ(live(m.map), 0u);
}

TEST(NodeStore, HandsEachNodeToOne) {
  std::unique_ptr<void, void (*)(void*)> memory{std::aligned_alloc(64, NodeStore::bytes_needed()),
                                                std::free};
  NodeStore store;
  store.init(memory.get());
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20'000; ++i) {
        const std::uint32_t a = store.get();
        const std::uint32_t b = store.get();
        store[a].a = store[b].a = static_cast<std::uint64_t>(t);
        if (a == 0 || b == 0 || a == b || store[a].a != static_cast<std::uint64_t>(t)) ++wrong;
        store.put(a);
        store.put(b);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(wrong.load(), 0);
}

struct MadeSlabs {
  MadeSlabs() : memory(std::calloc(1, SlabBook::bytes_needed()), std::free), book(new SlabBook) {
    book->init(memory.get());
  }
  std::unique_ptr<void, void (*)(void*)> memory;
  std::unique_ptr<SlabBook> book;
};

TEST(SlabBook, TheFirstOpensTheLastCloses) {
  MadeSlabs m;
  const std::uint64_t at = 0x7f12'3440'0000;
  EXPECT_EQ(m.book->join(at, 1, 0), SlabBook::Joined::kOpened);
  EXPECT_EQ(m.book->join(at + 512, 1, 0), SlabBook::Joined::kKnown);
  EXPECT_EQ(m.book->join(at + kSlabBytes, 1, 0), SlabBook::Joined::kOpened);
  EXPECT_FALSE(m.book->leave(at + 512));
  EXPECT_TRUE(m.book->leave(at));
  EXPECT_FALSE(m.book->holds(at));
  EXPECT_TRUE(m.book->holds(at + kSlabBytes + 4096));
  EXPECT_EQ(m.book->join(~std::uint64_t{0} >> 1, 1, 0), SlabBook::Joined::kUntracked);
  int dropped = 0;
  m.book->drop_context(2, [&](std::uint8_t) { ++dropped; });
  EXPECT_EQ(dropped, 0);
  m.book->drop_context(1, [&](std::uint8_t) { ++dropped; });
  EXPECT_EQ(dropped, 1);
  EXPECT_FALSE(m.book->leave(at + kSlabBytes));  // its context is gone
}

TEST(SlabBook, OpensAndClosesBalanceAcrossThreads) {
  MadeSlabs m;
  std::atomic<int> open{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50'000; ++i) {
        if (m.book->join(0x1000'0000, 3, 0) == SlabBook::Joined::kOpened) ++open;
        if (m.book->leave(0x1000'0000)) --open;
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(open.load(), 0);
  EXPECT_FALSE(m.book->holds(0x1000'0000));
}

struct Holed {
  Made<AllocMap> m;
  MadeSlabs slabs;
  std::unique_ptr<void, void (*)(void*)> scratch{std::aligned_alloc(64, hole_scratch_bytes() + 64),
                                                 std::free};
  Holes find(std::uint8_t context) {
    return find_holes(m.map, *slabs.book, context, static_cast<HoleScratch*>(scratch.get()));
  }
  void join(std::uint64_t at, std::uint8_t context) {
    static_cast<void>(slabs.book->join(at, context, 0));
  }
  void keep(std::uint64_t at, std::uint32_t units, std::uint8_t context) {
    ASSERT_TRUE(m.map.insert(map_key(at, Space::kPointer), Value{units, 0, Kind::kSmall, context}));
  }
  void put(std::uint64_t at, std::uint32_t units, std::uint8_t context) {
    join(at, context);
    keep(at, units, context);
  }
  void take_out(std::uint64_t at) {
    Value v;
    ASSERT_TRUE(m.map.remove(map_key(at, Space::kPointer), v));
  }
};

TEST(SlabBook, KnowsTheLargestHole) {
  Holed h;
  EXPECT_EQ(h.find(1).largest, 0u);
  h.put(0x4000'0000, 1, 1);
  EXPECT_EQ(h.find(1).largest, kSlabUnits - 1);
  h.put(0x4000'0000 + 512 * 2000, 1000, 1);
  EXPECT_EQ(h.find(1).largest, 1999u);    // between unit 1 and unit 2000
  h.put(0x4020'0000, kSlabUnits - 1, 2);  // another context's slab
  EXPECT_EQ(h.find(1).largest, 1999u);
  EXPECT_EQ(h.find(2).largest, 1u);
  h.put(0x4000'0000 + 512, 1999, 1);
  EXPECT_EQ(h.find(1).largest, kSlabUnits - 3000);
  EXPECT_TRUE(h.find(1).sure);
}

// What is between the map and the driver is no hole: a free that has not left the slab yet, an allocation that is not in the map yet.
TEST(SlabBook, AHoleInDoubtIsNone) {
  constexpr std::uint64_t kAt = 0x4000'0000, kOther = 0x4020'0000;
  Holed h;
  h.put(kAt, 1, 1);
  h.put(kAt + 512, kSlabUnits - 1, 1);
  h.put(kOther, kSlabUnits - 7, 1);
  h.take_out(kAt + 512);
  EXPECT_EQ(h.find(1).largest, 7u);
  EXPECT_FALSE(h.find(1).sure);
  EXPECT_FALSE(h.slabs.book->leave(kAt + 512));
  EXPECT_EQ(h.find(1).largest, kSlabUnits - 1);
  EXPECT_TRUE(h.find(1).sure);
  h.join(kAt + 512, 1);
  EXPECT_EQ(h.find(1).largest, 7u);
  EXPECT_FALSE(h.find(1).sure);
  h.keep(kAt + 512, 1, 1);
  EXPECT_EQ(h.find(1).largest, kSlabUnits - 2);
}

TEST(SlabBook, EveryChangeShows) {
  MadeSlabs m;
  const std::uint64_t at = 0x7f12'3440'0000;
  std::set<std::uint64_t> seen{m.book->look(at)};
  for (int i = 0; i < 3; ++i) {
    static_cast<void>(m.book->join(at, 1, 2));
    EXPECT_TRUE(seen.insert(m.book->look(at)).second);
    static_cast<void>(m.book->join(at, 1, 2));
    EXPECT_EQ(SlabBook::live_of(m.book->look(at)), 2u);
    EXPECT_FALSE(m.book->leave(at));
    EXPECT_TRUE(seen.insert(m.book->look(at)).second);
    EXPECT_TRUE(m.book->leave(at));
    EXPECT_TRUE(seen.insert(m.book->look(at)).second);
    EXPECT_FALSE(m.book->leave(at));  // holds nothing
  }
  EXPECT_EQ(m.book->look(0), 0u);
}

}  // namespace
}  // namespace bulkhead::hook
