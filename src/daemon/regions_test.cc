// Regions, the node page and the reaper, with real processes.
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <filesystem>

#include "daemon/pidfd.h"
#include "daemon/test_daemon.h"

namespace bulkhead::daemon {
namespace {

using wire::EventKind;
constexpr std::uint64_t kLimit = 64 * kMiB;

TEST_F(RegionsTest, MakesARegionForItsOwnerAndGrantsItInThePage) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  EXPECT_EQ(regions_->make(record_of("a", kLimit)).code(), Errc::kExists);
  EXPECT_EQ(regions_->make(record_of("../x", kLimit)).code(), Errc::kInvalid);
  struct stat st {};
  ASSERT_EQ(::stat(region_path("a").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
  EXPECT_EQ(st.st_uid, ::geteuid());
  ASSERT_EQ(::stat((std::string{d_.path} + "/node").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0444u);
  EXPECT_EQ(*limit_in_page("a"), kLimit);
  EXPECT_EQ(limit_in_file("a"), kLimit);
  EXPECT_EQ(shm::snapshot_tenant(d_, "a")->region().header.adopted.load(), 1u);
  EXPECT_GE(regions_->beacon("a"), 0);
  EXPECT_TRUE(regions_->remove("a", false).ok());
  EXPECT_FALSE(limit_in_page("a").ok());
  EXPECT_TRUE(names(d_).empty());
  EXPECT_EQ(regions_->remove("a", false).code(), Errc::kNotFound);
}

TEST_F(RegionsTest, RootGivesTheRegionToItsOwner) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  wire::TenantRecord r = record_of("a", kLimit);
  r.owner_uid = 4321;
  ASSERT_TRUE(regions_->make(r).ok());
  struct stat st {};
  ASSERT_EQ(::stat(region_path("a").c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 4321u);
  EXPECT_EQ(view("a").owner_uid, 4321u);
}

TEST_F(RegionsTest, ADeathIsReapedByItsPidfd) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", 40 * kMiB}, two{d_, "a", 8 * kMiB};
  until([&] { return regions_->watched() == 2; });
  until([&] { return view("a").devices[0].used_bytes == 48 * kMiB; });
  EXPECT_EQ(view("a").processes, 2u);
  EXPECT_EQ(regions_->held("a", uuid_), 48 * kMiB);
  ASSERT_EQ(regions_->members().size(), 2u);
  EXPECT_EQ(regions_->members()[0].booked_bytes[0], 40 * kMiB);
  one.kill();
  until([&] { return regions_->reaped().processes == 1; });
  EXPECT_EQ(held_in_file("a"), 8 * kMiB);
  EXPECT_EQ(regions_->reaped().bytes, 40 * kMiB);
  EXPECT_EQ(regions_->reaped().by_scan, 0u);  // the pidfd, not the scan
  EXPECT_EQ(heard(EventKind::kProcessReaped), 1u);
  std::uint64_t delays = 0;
  for (const auto n : regions_->reaped().delays) delays += n;
  EXPECT_EQ(delays, 1u);
  until([&] { return view("a").processes == 1; });
  EXPECT_EQ(view("a").reaped_bytes, 40 * kMiB);
  EXPECT_EQ(heard(EventKind::kProcessEnded), 0u);
}

TEST_F(RegionsTest, AJoinIsWatchedAtOnceAndCheckedAgainstTheSlot) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", kMiB}, other{d_, "a", kMiB};
  const auto pid = static_cast<std::uint32_t>(one.pid());
  EXPECT_EQ(regions_->watch("b", 0, 1, open_pidfd(pid), pid).code(), Errc::kNotFound);
  EXPECT_EQ(regions_->watch("a", 0, 2, open_pidfd(pid), pid).code(), Errc::kInvalid);
  EXPECT_EQ(regions_->watch("a", 5000, 1, open_pidfd(pid), pid).code(), Errc::kInvalid);
  const auto wrong = static_cast<std::uint32_t>(other.pid());  // says it has its neighbour's slot
  EXPECT_EQ(regions_->watch("a", 0, 1, open_pidfd(wrong), wrong).code(), Errc::kInvalid);
  ASSERT_TRUE(regions_->watch("a", 0, 1, open_pidfd(pid), pid).ok());
  EXPECT_EQ(regions_->watched(), 1u);
  EXPECT_TRUE(regions_->watch("a", 0, 1, open_pidfd(pid), pid).ok());
  EXPECT_EQ(heard(EventKind::kProcessJoined), 1u);
  EXPECT_EQ(regions_->watched(), 1u);
}

// The pid in a slot may be another process's by now: equal pid, another start time (D2).
TEST_F(RegionsTest, AReusedPidIsNotWatched) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", kMiB}, stranger{d_, "a", kMiB};
  const Mapping map = own_region("a");
  auto& slot = map.as<shm::Region>()->slots[0];
  slot.start_ticks.store(slot.start_ticks.load() - 1);  // as if the pid had been used again
  until([&] { return regions_->watched() == 1; });      // the stranger's alone
  stranger.kill();
  until([&] { return regions_->reaped().processes == 1; });
  EXPECT_EQ(held_in_file("a"), kMiB);  // its lock is held: nobody knows it dead
  EXPECT_EQ(view("a").processes, 1u);
  one.kill();  // found by the rule without a daemon
  until([&] { return regions_->reaped().by_scan == 1; });
  EXPECT_EQ(held_in_file("a"), 0u);
}

// A tenant may write anything into its slot: another's pid and start time do not make that process the slot's, in no
// namespace. The lock says whose it is.
TEST_F(RegionsTest, AForgedPidIsNotWatched) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  ASSERT_TRUE(regions_->make(record_of("b", kLimit)).ok());
  TenantProcess one{d_, "a", kMiB}, victim{d_, "b", kMiB};
  const auto pid = static_cast<std::uint32_t>(victim.pid());
  const Mapping map = own_region("a");
  auto& slot = map.as<shm::Region>()->slots[0];
  slot.pid.store(pid);
  slot.start_ticks.store(start_ticks_of(pid));
  const auto watched_for_a = [&] {
    for (const Regions::Member& m : regions_->members()) {
      if (m.tenant == "a") return m.pid;
    }
    return ~0u;
  };
  until([&] { return regions_->watched() == 1 && watched_for_a() != ~0u; });
  EXPECT_EQ(watched_for_a(), 0u);
  EXPECT_EQ(heard(EventKind::kProcessJoined), 1u);  // the victim, of its own tenant
  // the victim cannot be made to join as the slot's process either, nor the slot's as the victim's
  EXPECT_EQ(regions_->watch("a", 0, 1, open_pidfd(pid), pid).code(), Errc::kInvalid);
  slot.pid_namespace.store(1);  // of another namespace: known by its lock
  EXPECT_EQ(regions_->watch("a", 0, 1, open_pidfd(pid), pid).code(), Errc::kInvalid);
  EXPECT_EQ(watched_for_a(), 0u);
  victim.kill();
  until([&] { return regions_->reaped().processes == 1; });
  EXPECT_EQ(held_in_file("a"), kMiB);
  const auto own = static_cast<std::uint32_t>(one.pid());
  EXPECT_TRUE(regions_->watch("a", 0, 1, open_pidfd(own), own).ok());
  one.kill();
  until([&] { return regions_->reaped().processes == 2; });
  EXPECT_EQ(regions_->reaped().by_scan, 0u);
  EXPECT_EQ(held_in_file("a"), 0u);
}

// What a process of another pid namespace wrote about itself means nothing here; its lock does.
TEST_F(RegionsTest, AProcessOfAnotherNamespaceIsWatchedByItsPidHere) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", kMiB};
  const Mapping map = own_region("a");
  auto& slot = map.as<shm::Region>()->slots[0];
  slot.pid.store(1);
  slot.pid_namespace.store(1);
  until([&] { return regions_->watched() == 1; });
  EXPECT_EQ(regions_->members()[0].pid, static_cast<std::uint32_t>(one.pid()));
  restart();
  until([&] { return regions_->watched() == 1; });
  one.kill();
  until([&] { return regions_->reaped().processes == 1; });
  EXPECT_EQ(regions_->reaped().by_scan, 0u);
  EXPECT_EQ(held_in_file("a"), 0u);
}

// A region made by `run` alone, before and during the daemon's life, and a daemon that was killed.
TEST_F(RegionsTest, RegionsAreFoundAndAdopted) {
  ASSERT_TRUE(create(d_, spec("a", kLimit)).ok());
  until([&] { return found_.size() == 1; });
  EXPECT_STREQ(found_[0].name, "a");
  EXPECT_EQ(found_[0].devices[0].memory_bytes, kLimit);
  EXPECT_EQ(found_[0].owner_uid, ::geteuid());
  EXPECT_EQ(*limit_in_page("a"), kLimit);
  EXPECT_NE(view("a").flags & wire::kViewAdopted, 0u);
  TenantProcess one{d_, "a", 8 * kMiB};
  ASSERT_TRUE(regions_->set_limit("a", uuid_, kLimit / 2).ok());
  restart();
  ASSERT_EQ(found_.size(), 2u);
  EXPECT_EQ(found_[1].devices[0].memory_bytes, kLimit / 2);
  EXPECT_EQ(shm::snapshot_tenant(d_, "a")->region().header.adopted.load(), 2u);
  until([&] { return view("a").devices[0].used_bytes == 8 * kMiB && regions_->watched() == 1; });
  one.kill();
  until([&] { return regions_->reaped().processes == 1; });
}

// What a tenant wrote into its own header while no daemon ran does not become its limit.
TEST_F(RegionsTest, ThePageOutlivesTheDaemonAndOutranksTheHeader) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  regions_.reset();
  EXPECT_EQ(*limit_in_page("a"), kLimit);
  const Mapping map = own_region("a");
  map.as<shm::Region>()->devices[0].limit_bytes.store(kLimit * 1000);
  restart();
  EXPECT_EQ(found_.back().devices[0].memory_bytes, kLimit);
  EXPECT_EQ(limit_in_file("a"), kLimit);
  EXPECT_EQ(heard(EventKind::kLimitTampered), 1u);
}

TEST_F(RegionsTest, ARefusedRegionIsLeftAlone) {
  accept_ = false;
  ASSERT_TRUE(create(d_, spec("a", kLimit)).ok());
  until([&] { return found_.size() == 1; });
  for (int i = 0; i < 3; ++i) loop_->turn(5);
  EXPECT_EQ(found_.size(), 1u);  // asked once
  EXPECT_TRUE(regions_->names().empty());
  EXPECT_FALSE(limit_in_page("a").ok());
  EXPECT_EQ(shm::snapshot_tenant(d_, "a")->region().header.adopted.load(), 0u);
}

TEST_F(RegionsTest, LimitsRiseAndFallWhileProcessesRun) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", 40 * kMiB};
  until([&] { return regions_->watched() == 1; });
  ASSERT_TRUE(regions_->set_limit("a", uuid_, 16 * kMiB).ok());
  EXPECT_EQ(*limit_in_page("a"), 16 * kMiB);
  EXPECT_EQ(limit_in_file("a"), 16 * kMiB);
  until([&] { return (view("a").flags & wire::kViewOverLimit) != 0; });
  EXPECT_EQ(held_in_file("a"), 40 * kMiB);  // nothing was taken back
  ASSERT_TRUE(regions_->set_limit("a", uuid_, 48 * kMiB).ok());
  EXPECT_EQ(limit_in_file("a"), 48 * kMiB);
  EXPECT_EQ(regions_->set_limit("b", uuid_, 1).code(), Errc::kNotFound);
  const std::uint8_t other[16] = {9};
  EXPECT_EQ(regions_->set_limit("a", other, 1).code(), Errc::kNotFound);
  EXPECT_EQ(heard(EventKind::kLimitTampered), 0u);
}

TEST_F(RegionsTest, ATamperedLimitIsSetBackAndTold) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  const Mapping map = own_region("a");
  map.as<shm::Region>()->devices[0].limit_bytes.store(kLimit * 4);
  until([&] { return heard(EventKind::kLimitTampered) == 1; });
  EXPECT_EQ(limit_in_file("a"), kLimit);
  until([&] {  // without an end: then its region is left alone
    map.as<shm::Region>()->devices[0].limit_bytes.store(kLimit * 4);
    return heard(EventKind::kTenantFaulty) == 1;
  });
  EXPECT_NE(view("a").flags & wire::kViewFaulty, 0u);
}

TEST_F(RegionsTest, ATruncatedRegionIsItsTenantsLossAlone) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  ASSERT_TRUE(regions_->make(record_of("b", kLimit)).ok());
  TenantProcess good{d_, "b", kMiB};
  until([&] { return regions_->watched() == 1; });
  ASSERT_EQ(::truncate(region_path("a").c_str(), 0), 0);
  until([&] { return heard(EventKind::kTenantFaulty) == 1; });
  EXPECT_EQ(news_.back().tenant, "a");
  EXPECT_TRUE(regions_->set_limit("a", uuid_, kLimit / 2).ok());  // the promise is the page's
  EXPECT_EQ(regions_->held("a", uuid_), 0u);
  good.kill();
  until([&] { return regions_->reaped().processes == 1; });
  EXPECT_EQ(held_in_file("b"), 0u);
  EXPECT_TRUE(regions_->remove("a", false).ok());
  EXPECT_TRUE(regions_->make(record_of("a", kLimit)).ok());
}

TEST_F(RegionsTest, ARegionMadeLongerIsToldOfAndStaysWatched) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess process{d_, "a", kMiB};
  until([&] { return regions_->watched() == 1; });
  const auto faulty = [&] {
    wire::TenantView view{};
    return regions_->view("a", view) && (view.flags & wire::kViewFaulty) != 0;
  };
  const off_t size = sizeof(shm::Region);
  ASSERT_EQ(::truncate(region_path("a").c_str(), size + 12'345), 0);
  until([&] { return heard(EventKind::kTenantFaulty) == 1; });
  EXPECT_EQ(news_.back().tenant, "a");
  EXPECT_EQ(news_.back().bytes, 12'345u);
  EXPECT_TRUE(faulty());
  EXPECT_EQ(shm::attach_tenant(d_, "a").status().code(), Errc::kBadSize);  // its own loss
  ASSERT_EQ(::truncate(region_path("a").c_str(), size + 99'999), 0);
  process.kill();  // and its processes are reaped as ever
  until([&] { return regions_->reaped().processes == 1; });
  until([&] { return regions_->held("a", uuid_) == 0; });
  EXPECT_EQ(heard(EventKind::kTenantFaulty), 1u);  // once, however it grows
  struct stat st {};
  ASSERT_EQ(::stat(region_path("a").c_str(), &st), 0);
  EXPECT_EQ(st.st_size, size + 99'999);  // left as it is: see held_region.h
  ASSERT_EQ(::truncate(region_path("a").c_str(), size), 0);
  until([&] { return !faulty(); });
  ASSERT_EQ(::truncate(region_path("a").c_str(), size + 1), 0);
  until([&] { return heard(EventKind::kTenantFaulty) == 2; });
}

TEST_F(RegionsTest, AnEphemeralTenantVanishesWithItsLastProcessAndItsCreator) {
  // the creator is named in the tenant's name, as `run` names it
  int fds[2];
  ASSERT_EQ(::pipe(fds), 0);
  const pid_t creator = ::fork();
  if (creator == 0) {
    ::alarm(120);
    char byte = 0;
    ::close(fds[1]);
    (void)!::read(fds[0], &byte, 1);
    ::_exit(0);
  }
  ::close(fds[0]);
  const std::string name = "run-" + std::to_string(creator) + "-" +
                           std::to_string(start_ticks_of(static_cast<std::uint32_t>(creator)));
  ASSERT_TRUE(regions_->make(record_of(name.c_str(), kLimit, wire::kRecordEphemeral)).ok());
  {
    TenantProcess one{d_, name.c_str(), kMiB};
    until([&] { return regions_->watched() == 1; });
  }
  until([&] { return regions_->reaped().processes == 1; });
  for (int i = 0; i < 3; ++i) loop_->turn(1);
  EXPECT_TRUE(gone_.empty());  // its creator may start another
  ::close(fds[1]);
  ASSERT_EQ(::waitpid(creator, nullptr, 0), creator);
  until([&] { return gone_.size() == 1; });
  EXPECT_EQ(gone_[0], name);
  EXPECT_TRUE(names(d_).empty());
  EXPECT_FALSE(limit_in_page(name.c_str()).ok());
}

TEST_F(RegionsTest, ATenantRemovedByOthersIsForgotten) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  ASSERT_TRUE(shm::remove_tenant(d_, "a").ok());
  until([&] { return gone_.size() == 1; });
  EXPECT_TRUE(regions_->names().empty());
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
}

TEST_F(RegionsTest, RemovalWaitsForProcessesUnlessForced) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", kMiB};
  EXPECT_EQ(regions_->remove("a", false).code(), Errc::kNotReady);
  EXPECT_TRUE(regions_->remove("a", true).ok());
  EXPECT_TRUE(names(d_).empty());
}

// A region that nobody took over is neither granted what another asks for under its name, nor in the way for ever.
TEST_F(RegionsTest, ARegionLeftAloneIsNotGrantedAndCanBeRemoved) {
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  accept_ = false;
  restart();
  ASSERT_TRUE(regions_->names().empty());
  EXPECT_EQ(regions_->make(record_of("a", 2 * kLimit)).code(), Errc::kExists);
  EXPECT_FALSE(limit_in_page("a").ok());
  EXPECT_TRUE(regions_->remove("a", false).ok());
  EXPECT_EQ(regions_->remove("a", false).code(), Errc::kNotFound);
  EXPECT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  EXPECT_EQ(*limit_in_page("a"), kLimit);
}

// Wherever it runs out of descriptors, a region that could not be kept is not left behind, and nothing is granted.
TEST_F(RegionsTest, ARegionThatCannotBeHeldIsUndone) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const UniqueFd lowest{::dup(STDERR_FILENO)};
  unsigned refused = 0;
  bool made = false;
  for (rlim_t more = 1; !made && more < 64; ++more) {
    const rlimit few{static_cast<rlim_t>(lowest.get()) + more, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
    made = regions_->make(record_of("a", kLimit)).ok();
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    if (made) break;
    ++refused;
    EXPECT_FALSE(std::filesystem::exists(region_path("a"))) << more;
    EXPECT_TRUE(names(d_).empty()) << more;
    EXPECT_FALSE(limit_in_page("a").ok()) << more;
  }
  EXPECT_TRUE(made);
  EXPECT_GT(refused, 0u);
}

// The same where the region was made for certain: no guard is left to hold it.
TEST_F(RegionsTest, ARegionThatCannotBeGuardedIsUndone) {
  const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  void* const at =
      ::mmap(nullptr, (kMaxGuarded + 1) * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(at, MAP_FAILED);
  const Mapping pages{at, (kMaxGuarded + 1) * page};
  std::vector<GuardedRange> all;
  for (unsigned i = 0; i < kMaxGuarded; ++i) {
    auto guarded = guard(static_cast<char*>(at) + i * page, page);
    if (!guarded.ok()) break;
    all.push_back(std::move(*guarded));
  }
  EXPECT_EQ(regions_->make(record_of("a", kLimit)).code(), Errc::kFull);
  EXPECT_FALSE(std::filesystem::exists(region_path("a")));
  EXPECT_FALSE(limit_in_page("a").ok());
  all.clear();
  EXPECT_TRUE(regions_->make(record_of("a", kLimit)).ok());
}

// The clock goes where it likes; nothing is reaped for it, and the integrals stay bounded.
TEST_F(RegionsTest, ClockJumpsTakeNothing) {
  Now now = read_clocks();
  restart([&] { return now; });
  ASSERT_TRUE(regions_->make(record_of("a", kLimit)).ok());
  TenantProcess one{d_, "a", kMiB};
  for (const std::int64_t jump_s : {5, -3600, 86400, -86400 * 30, 1}) {
    now.unix_ns += jump_s * 1'000'000'000;
    now.mono_ns += 1'000'000'000;
    if (jump_s > 0) now.boot_ns += static_cast<std::uint64_t>(jump_s) * 1'000'000'000;
    for (int i = 0; i < 4; ++i) loop_->turn(0);
  }
  EXPECT_EQ(held_in_file("a"), kMiB);
  EXPECT_EQ(view("a").processes, 1u);
  EXPECT_LE(view("a").devices[0].held_ms, 6000u);
  EXPECT_LE(view("a").devices[0].byte_seconds, 6 * kMiB);
  one.kill();
  until([&] {
    now.mono_ns += 1'000'000'000;
    return regions_->reaped().processes == 1;
  });
}

}  // namespace
}  // namespace bulkhead::daemon
