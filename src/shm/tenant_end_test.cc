// How tenants and their processes end: vanishing, removal against joining, deaths, lost descriptors.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "shm/quota.h"
#include "shm/test_directory.h"

namespace bulkhead::shm {
namespace {

TEST_F(TenantTest, AnEphemeralTenantVanishesWithItsLastProcess) {
  const Dir d = dir();
  TenantSpec s = spec(nullptr, kGiB);
  s.ephemeral = true;
  const pid_t child = ::fork();
  if (child == 0) {
    Arithmetic sums;
    char name[kNameBytes];
    if (!create_tenant(d, s, sums, &name).ok()) ::_exit(1);
    ::_exit(std::string{name}.starts_with("run-" + std::to_string(::getpid()) + "-") ? 0 : 2);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(WEXITSTATUS(status), 0);
  ASSERT_EQ(names(d).size(), 1u) << "its creator died without a word";
  ASSERT_TRUE(create(d, spec("named", 80 * kGiB)).ok()) << "the next creator swept it";
  EXPECT_EQ(names(d), std::vector<std::string>{"named"});
  ASSERT_TRUE(remove_tenant(d, "named").ok());

  // A process of it lives on: it stays. The last one ends: the next sweep takes it.
  int hold[2], ready[2];
  ASSERT_EQ(::pipe(hold), 0);
  ASSERT_EQ(::pipe(ready), 0);
  char name[kNameBytes] = {};
  const pid_t maker = ::fork();
  if (maker == 0) {
    Arithmetic sums;
    char made[kNameBytes];
    if (!create_tenant(d, s, sums, &made).ok()) ::_exit(1);
    ::_exit(::write(ready[1], made, sizeof made) == sizeof made ? 0 : 1);
  }
  ASSERT_EQ(::read(ready[0], name, sizeof name), static_cast<ssize_t>(sizeof name));
  const pid_t user = ::fork();
  if (user == 0) {
    ::close(hold[1]);
    Result<Tenant> t = attach_tenant(d, name);
    Member m;
    if (!t.ok() || !join(*t, m).ok()) ::_exit(1);
    char go = 'j';
    if (::write(ready[1], &go, 1) != 1) ::_exit(1);
    static_cast<void>(::read(hold[0], &go, 1));
    ::_exit(0);  // as most processes end
  }
  char joined = 0;
  ASSERT_EQ(::read(ready[0], &joined, 1), 1);
  ASSERT_EQ(::waitpid(maker, &status, 0), maker);
  ASSERT_TRUE(sweep_tenants(d).ok());
  EXPECT_EQ(names(d), std::vector<std::string>{name});
  ::close(hold[1]);
  ::close(hold[0]);
  ASSERT_EQ(::waitpid(user, &status, 0), user);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  Result<Snapshot> left = snapshot_tenant(d, name);
  ASSERT_TRUE(left.ok()) << "nobody removes it before the next sweep";
  EXPECT_TRUE(left->left_over());
  ASSERT_TRUE(sweep_tenants(d).ok());
  EXPECT_TRUE(names(d).empty());
}

// Ephemeral under a name somebody chose: it vanishes all the same.
TEST_F(TenantTest, AnEphemeralTenantMayHaveAName) {
  const Dir d = dir();
  TenantSpec s = spec("chosen", kGiB);
  s.ephemeral = true;
  const pid_t child = ::fork();
  if (child == 0) ::_exit(create(d, s).ok() ? 0 : 1);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(WEXITSTATUS(status), 0);
  EXPECT_TRUE(create(d, s).ok()) << "the left-over of the same name is swept first";
  EXPECT_TRUE(attach_tenant(d, "chosen").ok());
}

// Attached, then removed with its last process: who joins then must not count alone in a file that
// nobody else finds.
TEST_F(TenantTest, JoiningATenantThatWasRemovedMeanwhileIsRefused) {
  const Dir d = dir();
  ASSERT_TRUE(create(d, spec("a", 10 * kGiB)).ok());
  Result<Tenant> t = attach_tenant(d, "a");
  ASSERT_TRUE(t.ok());
  ASSERT_TRUE(remove_tenant(d, "a").ok());
  Member m;
  EXPECT_EQ(join(*t, m).code(), Errc::kNotFound);
  EXPECT_EQ(count_live(t->region(), t->world()), 0u) << "and no slot was taken";
  ASSERT_TRUE(create(d, spec("a", 5 * kGiB)).ok());
  EXPECT_EQ(join(*t, m).code(), Errc::kNotFound) << "another file of the same name";
  // One that lost its slot goes on in the file it has.
  EXPECT_TRUE(join(*t, m, Joining::kAgain).ok());
  Result<Tenant> again = attach_tenant(d, "a");
  ASSERT_TRUE(again.ok());
  Member n;
  EXPECT_TRUE(join(*again, n).ok());
}

// The two sides of the door, each held open by a process that stands still in the middle.
TEST_F(TenantTest, WhoRemovesAndWhoJoinsExcludeEachOther) {
  const Dir d = dir();
  TenantSpec s = spec("chosen", kGiB);
  s.ephemeral = true;
  const pid_t child = ::fork();
  if (child == 0) ::_exit(create(d, s).ok() ? 0 : 1);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(WEXITSTATUS(status), 0);
  {
    const UniqueFd joining{::open(region_path("chosen").c_str(), O_RDWR | O_CLOEXEC)};
    ASSERT_EQ(::flock(joining.get(), LOCK_SH), 0);  // as join() does
    EXPECT_TRUE(sweep_tenants(d).ok());
    EXPECT_EQ(names(d).size(), 1u) << "somebody is joining";
    EXPECT_EQ(remove_tenant(d, "chosen").code(), Errc::kNotReady);
  }
  Result<Tenant> t = attach_tenant(d, "chosen");
  ASSERT_TRUE(t.ok());
  {
    Result<Snapshot> removing = snapshot_tenant(d, "chosen");
    ASSERT_TRUE(removing.ok());
    ASSERT_TRUE(removing->keep_others_out());
    Member m;
    EXPECT_EQ(join(*t, m).code(), Errc::kNotReady) << "waited for, but not for ever";
    ASSERT_TRUE(sweep_tenants(d).ok());
  }
  Member m;
  EXPECT_TRUE(join(*t, m).ok()) << "the remover died before it removed";
  EXPECT_TRUE(sweep_tenants(d).ok());
  EXPECT_EQ(names(d).size(), 1u);
}

// Real processes, real locks: a child dies holding everything, the next charge gets all of it.
TEST_F(TenantTest, ASigkilledProcessGivesEverythingBack) {
  const Dir d = dir();
  ASSERT_TRUE(create(d, spec("a", 10 * kGiB)).ok());
  Result<Tenant> t = attach_tenant(d, "a");
  ASSERT_TRUE(t.ok());
  Member m;
  ASSERT_TRUE(join(*t, m).ok());
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    Member own;
    char ok = join(*t, own).ok() && charge_or_reap(own, 0, 10 * kGiB) ? 1 : 0;
    if (::write(ready[1], &ok, 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char ok = 0;
  ASSERT_EQ(::read(ready[0], &ok, 1), 1);
  ASSERT_EQ(ok, 1);
  EXPECT_FALSE(charge_or_reap(m, 0, 1));
  ::kill(child, SIGSTOP);
  EXPECT_EQ(reap_dead(*m.region, m.world, m.seat), 0u) << "stopped is alive";
  ::kill(child, SIGKILL);
  // a zombie without threads is dead: no need to be its parent and wait
  siginfo_t info;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  m.asked[0].tick.store(0);
  EXPECT_TRUE(charge_or_reap(m, 0, 10 * kGiB));
  ::waitpid(child, nullptr, 0);
}

// The application closes every descriptor it does not know (closefrom), ours too, and opens others
// in their place.
TEST_F(TenantTest, ACloseFromIsSurvived) {
  const Dir d = dir();
  ASSERT_TRUE(create(d, spec("a", kGiB)).ok());
  Result<Tenant> t = attach_tenant(d, "a");
  ASSERT_TRUE(t.ok());
  Member m;
  ASSERT_TRUE(join(*t, m).ok());
  const int fd = t->descriptor();
  const auto locked = [&] {  // asked by another process: one's own lock never conflicts
    const pid_t child = ::fork();
    if (child == 0) {
      const int own = ::open(region_path("a").c_str(), O_RDWR | O_CLOEXEC);
      ::_exit(lock_state_of(own, m.seat.slot) == Lock::kHeld ? 1 : 0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WEXITSTATUS(status) == 1;
  };
  EXPECT_TRUE(locked());
  const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  const int other = ::dup2(null, fd);  // closes ours; the number now names something else
  ASSERT_EQ(other, fd);
  EXPECT_FALSE(locked());
  beat(*m.region, m.world, m.seat);
  EXPECT_TRUE(locked());
  EXPECT_NE(t->descriptor(), fd);
  // All of them: what the program then prints must not land in the region.
  const pid_t daemon = ::fork();
  if (daemon == 0) {
    for (int i = 0; i < 256; ++i) ::close(i);
    beat(*m.region, m.world, m.seat);
    ::_exit(t->descriptor());
  }
  int status = 0;
  ::waitpid(daemon, &status, 0);
  EXPECT_GE(WEXITSTATUS(status), kFarFd);
  EXPECT_LT(WEXITSTATUS(status), 255);
  *t = Tenant{};
  EXPECT_NE(::fcntl(other, F_GETFD), -1) << "a descriptor that is not ours is left alone";
  ::close(other);
  ::close(null);
}

}  // namespace
}  // namespace bulkhead::shm
