// A tenant can write all of its region. Whatever lies there, and whatever is written there meanwhile:
// every call ends, within bounds (invariant I7).
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <random>
#include <thread>

#include "shm/test_region.h"
#include "shm/test_rubbish.h"

namespace bulkhead::shm {
namespace {

constexpr std::size_t kPage = 4096;
constexpr unsigned kDevices = 4;
using Random = std::mt19937_64;

// A region with a page on either side that may not be touched.
class Fenced {
 public:
  Fenced() {
    void* at = ::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) std::abort();
    map_ = Mapping{at, kBytes};
    if (::mprotect(map_.as<char>() + kPage, sizeof(Region), PROT_READ | PROT_WRITE) != 0)
      std::abort();
  }
  Region& region() const { return *reinterpret_cast<Region*>(map_.as<char>() + kPage); }
  std::atomic<std::uint64_t>* words() const {
    return reinterpret_cast<std::atomic<std::uint64_t>*>(map_.as<char>() + kPage);
  }

 private:
  static constexpr std::size_t kBytes = sizeof(Region) + 2 * kPage;
  static_assert(sizeof(Region) % kPage == 0);
  Mapping map_;
};
constexpr std::size_t kWords = sizeof(Region) / 8;
constexpr std::size_t kFirstSlotWord = offsetof(Region, slots) / 8;

// Plausible states and phases lead further than noise does.
std::uint64_t some_word(Random& random) {
  const std::uint64_t noise = random();
  switch (random() % 6) {
    case 0:
      return noise;
    case 1:
      return noise % 8;
    case 2:
      return ~(noise % 8);
    case 3:
      return make_s(static_cast<SlotState>(noise % 5), noise >> 8,
                    static_cast<unsigned>(noise >> 40) & 0xfff, noise >> 52);
    case 4:
      return make_turn(static_cast<unsigned>(noise % 1100), noise >> 32);
    default:
      return make_p(static_cast<Phase>(noise % 4), noise >> 60);
  }
}

void format(Region& r) {
  TenantSpec spec;
  spec.device_count = kDevices;
  for (unsigned d = 0; d < kDevices; ++d) {
    spec.devices[d].limit_bytes = spec.devices[d].total_bytes = 1ull << 30;
  }
  format_region(r, spec, "rubbish", Identity{});
}

TEST(Rubbish, AllOfTheRegionIsNoise) {
  const Fenced fenced;
  for (unsigned seed = 0; seed < 24; ++seed) {
    SCOPED_TRACE(seed);
    Random random{seed};
    for (std::size_t i = 0; i < kWords; ++i) fenced.words()[i].store(some_word(random));
    use_rubbish(fenced.region(), kDevices, static_cast<unsigned>(random() % kMaxSlots));
  }
}

TEST(Rubbish, AFewWordsOfAGoodRegionAreNoise) {
  const Fenced fenced;
  for (unsigned seed = 0; seed < 2000; ++seed) {
    SCOPED_TRACE(seed);
    Random random{seed};
    std::memset(static_cast<void*>(&fenced.region()), 0, sizeof(Region));
    format(fenced.region());
    const std::uint64_t count = random() % 64;
    for (std::uint64_t i = 0; i < count; ++i) {
      // half of them where the protocols look first
      const std::size_t low = random() % 2 == 0 ? kFirstSlotWord + 512 : kWords;
      fenced.words()[random() % low].store(some_word(random));
    }
    use_rubbish(fenced.region(), kDevices, static_cast<unsigned>(random() % kMaxSlots));
  }
}

TEST(Rubbish, SomebodyScribblesAllTheTime) {
  const Fenced fenced;
  format(fenced.region());
  std::atomic<bool> end{false};
  std::atomic<std::uint64_t> written{0};
  std::thread scribbler{[&] {
    Random random{7};
    for (; !end.load(); written.fetch_add(1)) {
      // Not in the constant fields, which no atomic protects: those are the tests' above.
      fenced.words()[kFirstSlotWord + random() % (kWords - kFirstSlotWord)].store(
          some_word(random));
      fenced.region().header.slots_high.store(static_cast<std::uint32_t>(some_word(random)));
      DeviceEntry& d = fenced.region().devices[random() % kDevices];
      d.turn.store(some_word(random));
      d.slack_cap.store(some_word(random));
      d.limit_bytes.store(some_word(random));
      fenced.region().cells[random() % kDevices][random() % 4].p.store(some_word(random));
      fenced.region().cells[random() % kDevices][random() % 4].w.store(some_word(random));
    }
  }};
  for (unsigned round = 0; round < 40 || written.load() < 500'000; ++round) {
    use_rubbish(fenced.region(), kDevices, round % kMaxSlots);
  }
  end.store(true);
  scribbler.join();
}

}  // namespace
}  // namespace bulkhead::shm
