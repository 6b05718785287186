// What NVML showed, told to processes without a `run` above them; and processes whose region or slot went bad.
#include <algorithm>

#include "daemon/pidfd.h"
#include "daemon/test_daemon.h"
#include "gpu/sampler.h"
#include "shm/supervise.h"

namespace bulkhead::daemon {
namespace {

using wire::EventKind;
constexpr std::uint64_t kLimit = 64 * kMiB;

class SampleTest : public RegionsTest {
 protected:
  // One round of NVML that begins now, in which this process is seen with these bytes.
  Regions::Sample seen(const TenantProcess& p, std::uint64_t bytes) {
    Regions::Sample sample;
    sample.began_ns = loop_->read_clock().mono_ns;
    auto& use = sample.uses.emplace_back();
    use.pid = static_cast<std::uint32_t>(p.pid());
    use.start_ticks = start_ticks_of(use.pid);
    std::copy(std::begin(uuid_), std::end(uuid_), use.uuid.begin());
    use.bytes = bytes;
    return sample;
  }
  std::uint64_t told() {
    const UniqueFd fd{::open(region_path("a").c_str(), O_RDONLY | O_CLOEXEC)};
    std::uint64_t word = 0;
    EXPECT_EQ(::pread(fd.get(), &word, sizeof word, offsetof(shm::Region, observed)), 8);
    return word;
  }
  std::uint64_t beat() {
    return shm::snapshot_tenant(d_, "a")->region().header.sampler_beat_s.load();
  }
  static std::uint64_t word(std::uint64_t beyond, std::uint64_t other = 0) {
    return shm::observed_word({beyond, other});
  }
  // The place as a parent of `run` takes it, if it is free.
  UniqueFd supervisor() {
    UniqueFd fd{::open(region_path("a").c_str(), O_RDWR | O_CLOEXEC)};
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    lock.l_start = shm::kSupervisorByte;
    lock.l_len = 1;
    return ::fcntl(fd.get(), F_OFD_SETLK, &lock) == 0 ? std::move(fd) : UniqueFd{};
  }
  void make_and_watch(unsigned processes = 1) {
    until([&] { return regions_->watched() == processes; });
  }
};

TEST_F(SampleTest, WhatIsBeyondTheBooksIsTold) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", 40 * kMiB};
  make_and_watch();
  const Mapping map = own_region("a");
  shm::Region& r = *map.as<shm::Region>();
  r.header.sampler_beat_s.store(7);  // of a `run` that was killed
  const std::uint32_t poke = r.slots[0].poke.load();
  regions_->tell_samples(seen(one, 40 * kMiB));
  EXPECT_EQ(r.slots[0].poke.load(), poke);  // nothing to tell
  regions_->tell_samples(seen(one, 50 * kMiB));
  EXPECT_EQ(told(), word(10 * kMiB));
  EXPECT_EQ(r.slots[0].poke.load(), poke + 1);
  EXPECT_EQ(beat(), 0u);           // nobody waits for an answer of ours
  EXPECT_TRUE(supervisor().ok());  // the place is free for a `run` that comes
  regions_->tell_samples(seen(one, 50 * kMiB));
  EXPECT_EQ(r.slots[0].poke.load(), poke + 2);  // the process has not booked it yet
}

TEST_F(SampleTest, BooksThatMovedWhileNvmlWasAskedAreNotCompared) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", 40 * kMiB};
  make_and_watch();
  const Mapping map = own_region("a");
  // An allocation and its free: every word of the books is as before, and NVML may have seen it.
  map.as<shm::Region>()->slots[0].allocs.fetch_add(1);
  map.as<shm::Region>()->slots[0].frees.fetch_add(1);
  regions_->tell_samples(seen(one, 50 * kMiB));
  EXPECT_EQ(told(), 0u);
  until([&] {  // with the next reading of the books
    regions_->tell_samples(seen(one, 50 * kMiB));
    return told() == word(10 * kMiB);
  });
}

TEST_F(SampleTest, BooksThatWereReadAfterwardsAreNotCompared) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", 40 * kMiB};
  const std::uint64_t early_ns = loop_->read_clock().mono_ns;
  make_and_watch();
  Regions::Sample sample = seen(one, 50 * kMiB);
  sample.began_ns = early_ns;
  regions_->tell_samples(sample);
  EXPECT_EQ(told(), 0u);
}

TEST_F(SampleTest, AnotherProcessOfThatPidIsNotTold) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", 40 * kMiB};
  make_and_watch();
  Regions::Sample sample = seen(one, 50 * kMiB);
  sample.uses[0].start_ticks += 1;
  regions_->tell_samples(sample);
  sample = seen(one, 50 * kMiB);
  sample.uses[0].uuid[0] ^= 1;  // nor a device that the tenant does not have
  regions_->tell_samples(sample);
  EXPECT_EQ(told(), 0u);
}

TEST_F(SampleTest, AFigureFallsOnlyAfterTheBooksStoodStill) {
  Now now = read_clocks();
  restart([&] { return now; });
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", 40 * kMiB};
  make_and_watch();
  regions_->tell_samples(seen(one, 50 * kMiB));
  ASSERT_EQ(told(), word(10 * kMiB));
  now.mono_ns += gpu::kSettle_ns / 2;
  regions_->tell_samples(seen(one, 45 * kMiB));
  EXPECT_EQ(told(), word(10 * kMiB));
  now.mono_ns += gpu::kSettle_ns;
  regions_->tell_samples(seen(one, 45 * kMiB));
  EXPECT_EQ(told(), word(5 * kMiB));
}

TEST_F(SampleTest, ALivingRunIsLeftAloneAndADeadOnesPlaceIsTaken) {
  Now now = read_clocks();
  restart([&] { return now; });
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", 40 * kMiB};
  make_and_watch();
  const Mapping map = own_region("a");
  UniqueFd run = supervisor();
  ASSERT_TRUE(run.ok());
  for (std::uint64_t s = 1; s < 20; ++s) {
    now.mono_ns += 1'000'000'000;
    map.as<shm::Region>()->header.sampler_beat_s.store(s);
    regions_->tell_samples(seen(one, 50 * kMiB));
  }
  EXPECT_EQ(told(), 0u);
  EXPECT_EQ(beat(), 19u);
  run.reset();  // as the kernel does with the lock of a `run` that was killed
  regions_->tell_samples(seen(one, 50 * kMiB));
  EXPECT_EQ(told(), word(10 * kMiB));
  EXPECT_EQ(beat(), 0u);
}

TEST_F(SampleTest, ARunThatStandsStillIsHelped) {
  Now now = read_clocks();
  restart([&] { return now; });
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", 40 * kMiB};
  make_and_watch();
  const Mapping map = own_region("a");
  map.as<shm::Region>()->header.sampler_beat_s.store(7);
  const UniqueFd run = supervisor();
  ASSERT_TRUE(run.ok());
  for (int s = 0; s <= 5; ++s, now.mono_ns += 1'000'000'000) {
    regions_->tell_samples(seen(one, 50 * kMiB));
    EXPECT_EQ(told(), 0u);
  }
  regions_->tell_samples(seen(one, 50 * kMiB));
  EXPECT_EQ(told(), word(10 * kMiB));
  EXPECT_EQ(beat(), 7u);  // its own
}

TEST_F(SampleTest, ARegionCutShortMeanwhileIsItsTenantsLossAlone) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", 40 * kMiB};
  make_and_watch();
  const Regions::Sample sample = seen(one, 50 * kMiB);
  ASSERT_EQ(::truncate(region_path("a").c_str(), 0), 0);
  regions_->tell_samples(sample);
  EXPECT_EQ(heard(EventKind::kTenantFaulty), 1u);
}

TEST_F(SampleTest, ARoundIsAskedForWhenAllBooksWereRead) {
  unsigned rounds = 0;
  regions_->on_read = [&] { ++rounds; };
  until([&] { return rounds == 1; });  // without tenants too
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  until([&] { return rounds == 3; });
}

// The processes of a tenant whose region became rubbish are its processes, until they end.
TEST_F(SampleTest, AFaultyTenantKeepsItsMembers) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", 40 * kMiB};
  make_and_watch();
  own_region("a").as<shm::Region>()->header.major = 99;
  until([&] { return heard(EventKind::kTenantFaulty) == 1; });
  ASSERT_EQ(regions_->members().size(), 1u);
  EXPECT_EQ(regions_->members()[0].pid, static_cast<std::uint32_t>(one.pid()));
  EXPECT_EQ(regions_->members()[0].start_ticks, start_ticks_of(regions_->members()[0].pid));
  EXPECT_EQ(regions_->members()[0].booked_bytes[0], 40 * kMiB);
  one.kill();
  until([&] { return regions_->members().empty(); });
}

TEST_F(SampleTest, AProcessWhoseSlotWasWipedStaysAMember) {
  Now now = read_clocks();
  restart([&] { return now; });
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", 40 * kMiB};
  make_and_watch();
  own_region("a").as<shm::Region>()->slots[0].state.store(0);
  until([&] {
    now.mono_ns += 1'000'000'000;
    EXPECT_EQ(regions_->members().size(), 1u);  // at no moment a stranger
    return heard(EventKind::kTenantFaulty) == 1;
  });
  EXPECT_EQ(regions_->members()[0].pid, static_cast<std::uint32_t>(one.pid()));
  EXPECT_EQ(regions_->members()[0].booked_bytes[0], 40 * kMiB);
  EXPECT_NE(view("a").flags & wire::kViewFaulty, 0u);
  EXPECT_EQ(regions_->watched(), 0u);
  one.kill();
  until([&] {
    now.mono_ns += 1'000'000'000;
    return regions_->members().empty();
  });
  EXPECT_EQ(view("a").flags & wire::kViewFaulty, 0u);
  EXPECT_EQ(heard(EventKind::kTenantFaulty), 1u);
}

// It is a member by its new slot then, and its tenant is whole.
TEST_F(SampleTest, AWipedProcessMayRegisterAgain) {
  Now now = read_clocks();
  restart([&] { return now; });
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", 40 * kMiB};
  make_and_watch();
  const Mapping map = own_region("a");
  auto& state = map.as<shm::Region>()->slots[0].state;
  const std::uint64_t before = state.load();
  state.store(0);
  until([&] {
    now.mono_ns += 1'000'000'000;
    return heard(EventKind::kTenantFaulty) == 1;
  });
  state.store(before);
  until([&] {
    now.mono_ns += 1'000'000'000;
    return regions_->watched() == 1 && (view("a").flags & wire::kViewFaulty) == 0;
  });
  EXPECT_EQ(regions_->members().size(), 1u);
}

// Whose members a new daemon cannot read: only who is older than it may be one of them.
TEST_F(SampleTest, AfterARestartTheOldProcessesOfAFaultyTenantsOwnerMayBeItsOwn) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  ASSERT_TRUE(regions_->make(record_of("b", kLimit)).ok());
  own_region("a").as<shm::Region>()->header.major = 99;
  EXPECT_EQ(regions_->may_be_of_faulty(::geteuid(), 1), "");
  restart();
  const auto own_start = start_ticks_of(static_cast<std::uint32_t>(::getpid()));
  EXPECT_EQ(regions_->may_be_of_faulty(::geteuid(), own_start - 1), "a");
  EXPECT_EQ(regions_->may_be_of_faulty(::geteuid(), own_start), "");
  EXPECT_EQ(regions_->may_be_of_faulty(::geteuid() + 1, own_start - 1), "");
  EXPECT_EQ(regions_->may_be_of_faulty(::geteuid(), 0), "");
  EXPECT_TRUE(regions_->remove("a", true).ok());
  EXPECT_EQ(regions_->may_be_of_faulty(::geteuid(), own_start - 1), "");
}

}  // namespace
}  // namespace bulkhead::daemon
