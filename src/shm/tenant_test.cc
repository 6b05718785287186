#include "shm/tenant.h"

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "shm/node.h"
#include "shm/quota.h"
#include "shm/test_directory.h"

namespace bulkhead::shm {
namespace {

TEST_F(TenantTest, CreateAttachJoinChargeAndGiveUpTheSlot) {
  const Dir d = dir();
  ASSERT_TRUE(create(d, spec("a", 10 * kGiB)).ok());
  EXPECT_EQ(create(d, spec("a", 1 * kGiB)).code(), Errc::kExists);
  Result<Tenant> t = attach_tenant(d, "a");
  ASSERT_TRUE(t.ok()) << t.status().text();
  Member m;
  ASSERT_TRUE(join(*t, m).ok());
  EXPECT_TRUE(charge_or_reap(m, 0, 10 * kGiB));
  EXPECT_FALSE(charge_or_reap(m, 0, 1));
  Result<Snapshot> shot = snapshot_tenant(d, "a");
  ASSERT_TRUE(shot.ok()) << shot.status().text();
  EXPECT_EQ(held_bytes(shot->region(), 0), 10 * kGiB);
  EXPECT_EQ(limit_bytes(shot->region(), 0), 10 * kGiB);
  EXPECT_EQ(remove_tenant(d, "a").code(), Errc::kNotReady);
  leave_slot(*m.region, m.world, m.seat);
  EXPECT_EQ(held_bytes(t->region(), 0), 0u);
  EXPECT_EQ(names(d), std::vector<std::string>{"a"}) << "a named tenant stays";
  EXPECT_TRUE(remove_tenant(d, "a").ok());
  EXPECT_EQ(attach_tenant(d, "a").status().code(), Errc::kNotFound);
  EXPECT_EQ(remove_tenant(d, "a").code(), Errc::kNotFound);
}

TEST_F(TenantTest, NamesThatWouldBePathsAreRefused) {
  const Dir d = dir();
  for (const char* name : {"../x", "..", ".", "", "a/b", "A", "-a", "a b", "\xc3\xa9"}) {
    EXPECT_EQ(create(d, spec(name, kGiB)).code(), Errc::kInvalid) << name;
    EXPECT_EQ(attach_tenant(d, name).status().code(), Errc::kInvalid) << name;
    EXPECT_EQ(remove_tenant(d, name).code(), Errc::kInvalid) << name;
    EXPECT_EQ(snapshot_tenant(d, name).status().code(), Errc::kInvalid) << name;
  }
  const std::string longest(63, 'a'), longer(64, 'a');
  EXPECT_TRUE(valid_name(longest.c_str()));
  EXPECT_FALSE(valid_name(longer.c_str()));
  EXPECT_TRUE(create(d, spec(longest.c_str(), kGiB)).ok());
  EXPECT_TRUE(attach_tenant(d, longest.c_str()).ok());
}

TEST_F(TenantTest, TheSumOfLimitsHoldsPerDevice) {
  const Dir d = dir();
  ASSERT_TRUE(create(d, spec("a", 50 * kGiB)).ok());
  Arithmetic sums;
  EXPECT_EQ(create_tenant(d, spec("b", 31 * kGiB), sums).code(), Errc::kTooLarge);
  EXPECT_EQ(sums.committed_bytes, 50 * kGiB);
  EXPECT_EQ(sums.total_bytes, 80 * kGiB);
  EXPECT_EQ(sums.asked_bytes, 31 * kGiB);
  EXPECT_EQ(names(d), std::vector<std::string>{"a"}) << "a refused tenant leaves nothing";
  EXPECT_TRUE(create(d, spec("b", 30 * kGiB)).ok());
  EXPECT_TRUE(create(d, spec("c", 80 * kGiB, 2)).ok()) << "another device";
  EXPECT_EQ(create(d, spec("e", 1)).code(), Errc::kTooLarge);
  TenantSpec over = spec("d", 80 * kGiB);
  over.overcommit = true;
  EXPECT_TRUE(create(d, over).ok());
}

// Two creators at once, both of whom fit alone: exactly one succeeds, each time.
TEST_F(TenantTest, RacingCreatorsNeverPassTheDevice) {
  const Dir d = dir();
  for (int round = 0; round < 20; ++round) {
    int pipe_fd[2];
    ASSERT_EQ(::pipe(pipe_fd), 0);
    pid_t children[2];
    for (int k = 0; k < 2; ++k) {
      children[k] = ::fork();
      if (children[k] == 0) {
        char go = 0;
        ::close(pipe_fd[1]);
        static_cast<void>(::read(pipe_fd[0], &go, 1));  // both start when the parent closes its end
        ::_exit(create(d, spec(k == 0 ? "a" : "b", 60 * kGiB)).ok() ? 0 : 1);
      }
    }
    ::close(pipe_fd[0]);
    ::close(pipe_fd[1]);
    int made = 0;
    for (const pid_t child : children) {
      int status = 0;
      ASSERT_EQ(::waitpid(child, &status, 0), child);
      ASSERT_TRUE(WIFEXITED(status));
      made += WEXITSTATUS(status) == 0 ? 1 : 0;
    }
    EXPECT_EQ(made, 1);
    for (const std::string& name : names(d)) EXPECT_TRUE(remove_tenant(d, name.c_str()).ok());
  }
}

TEST_F(TenantTest, FilesThatAreNotWhatTheyShouldBe) {
  const Dir d = dir();
  for (const char* name : {"linked", "symbolic", "short", "open", "shut", "magic", "major", "name",
                           "count", "unit", "fifo"}) {
    ASSERT_TRUE(create(d, spec(name, kGiB)).ok());
  }
  const auto code = [&](const char* name) { return attach_tenant(d, name).status().code(); };
  const auto poke = [&](const char* name, std::streamoff at, char value) {
    std::fstream file{region_path(name), std::ios::in | std::ios::out | std::ios::binary};
    file.seekp(at);
    file.put(value);
  };
  ASSERT_EQ(::link(region_path("linked").c_str(), (root_ + "/second").c_str()), 0);
  EXPECT_EQ(code("linked"), Errc::kUntrusted);
  fs::rename(region_path("symbolic"), root_ + "/elsewhere");
  fs::create_symlink(root_ + "/elsewhere", region_path("symbolic"));
  EXPECT_EQ(code("symbolic"), Errc::kUntrusted);
  fs::resize_file(region_path("short"), sizeof(Region) - 1);
  EXPECT_EQ(code("short"), Errc::kBadSize);
  EXPECT_EQ(snapshot_tenant(d, "short").status().code(), Errc::kBadSize);
  fs::permissions(region_path("open"), fs::perms{0666});
  EXPECT_EQ(code("open"), Errc::kUntrusted);
  poke("shut", 0, 0);
  for (int i = 1; i < 8; ++i) poke("shut", i, 0);
  EXPECT_EQ(code("shut"), Errc::kNotReady);
  poke("magic", 1, 'x');
  EXPECT_EQ(code("magic"), Errc::kBadMagic);
  poke("major", 8, 2);
  EXPECT_EQ(code("major"), Errc::kBadVersion);
  poke("name", 64, 'x');
  EXPECT_EQ(code("name"), Errc::kCorrupt);
  poke("count", 24, 17);
  EXPECT_EQ(code("count"), Errc::kCorrupt);
  poke("unit", 4096 + 24, 63);
  EXPECT_EQ(code("unit"), Errc::kCorrupt);
  fs::remove(region_path("fifo"));
  ASSERT_EQ(::mkfifo(region_path("fifo").c_str(), 0600), 0);
  EXPECT_EQ(code("fifo"), Errc::kUntrusted) << "and it did not wait for a writer";
}

TEST_F(TenantTest, DirectoriesThatAreNotTrusted) {
  fs::create_directory(root_ + "/real");
  fs::permissions(root_ + "/real", fs::perms{0700});
  fs::create_directory_symlink(root_ + "/real", root_ + "/link");
  EXPECT_EQ(open_dir(options(root_ + "/link")).status().code(), Errc::kUntrusted);
  fs::permissions(root_ + "/real", fs::perms{0777});
  EXPECT_EQ(open_dir(options(root_ + "/real")).status().code(), Errc::kUntrusted);
  EXPECT_EQ(open_dir(options("relative")).status().code(), Errc::kInvalid);
  EXPECT_EQ(open_dir(options(std::string(600, '/'))).status().code(), Errc::kInvalid);
  EXPECT_EQ(open_dir(options(root_ + "/no/such")).status().code(), Errc::kIo);
  DirOptions look = options(root_ + "/missing");
  look.create = false;
  EXPECT_EQ(open_dir(look).status().code(), Errc::kNotFound);
  std::ofstream{root_ + "/file"} << "x";
  EXPECT_EQ(open_dir(options(root_ + "/file")).status().code(), Errc::kUntrusted);
  const Dir d = dir();
  fs::permissions(root_ + "/own", fs::perms{0700});
  ASSERT_TRUE(create(d, spec("a", kGiB)).ok());
  fs::permissions(root_ + "/own/tenants/a", fs::perms{0777});
  EXPECT_EQ(attach_tenant(d, "a").status().code(), Errc::kUntrusted);
  fs::permissions(root_ + "/own/tenants", fs::perms{0777});
  EXPECT_EQ(attach_tenant(d, "a").status().code(), Errc::kUntrusted);
}

// Another user's directory, as another user: needs root to set up.
TEST_F(TenantTest, ADirectoryOfAnotherUserIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  fs::create_directory(root_ + "/theirs");
  ASSERT_EQ(::chown((root_ + "/theirs").c_str(), 12345, 0), 0);
  EXPECT_EQ(open_dir(options(root_ + "/theirs")).status().code(), Errc::kUntrusted);
}

// root makes it, its owner attaches, a third user does not.
TEST_F(TenantTest, RootMakesRegionsForOthers) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  fs::permissions(root_, fs::perms{0755});
  const Dir d = dir();
  TenantSpec s = spec("a", kGiB);
  s.owner_uid = 12345;
  ASSERT_TRUE(create(d, s).ok());
  const auto attach_as = [&](uid_t uid) {
    const pid_t child = ::fork();
    if (child == 0) {
      if (::setuid(uid) != 0) ::_exit(99);
      Result<Dir> own = open_dir(options(root_ + "/own"));
      ::_exit(own.ok() ? static_cast<int>(attach_tenant(*own, "a").status().code()) : 98);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return static_cast<Errc>(WEXITSTATUS(status));
  };
  EXPECT_EQ(attach_as(12345), Errc::kOk);
  EXPECT_NE(attach_as(54321), Errc::kOk);
  EXPECT_TRUE(attach_tenant(d, "a").ok()) << "root may (the daemon)";
}

// A forged BULKHEAD_DIR does not outrank the operator's node page.
TEST_F(TenantTest, TheNodePageOutranksTheEnvironment) {
  const std::string forged = root_ + "/forged";
  EXPECT_EQ(open_dir(options(forged))->path, forged) << "without a node page it is honoured";
  write_node(0);
  Result<Dir> ruled = open_dir(options(forged));
  ASSERT_TRUE(ruled.ok()) << ruled.status().text();
  EXPECT_EQ(ruled->path, root_ + "/run");
  EXPECT_TRUE(ruled->authoritative);
  EXPECT_TRUE(map_node(*ruled).ok());
  EXPECT_EQ(open_dir(options(""))->path, root_ + "/run") << "env -i changes nothing";
  DirOptions simulated = options(forged);
  simulated.simulated = true;
  EXPECT_EQ(open_dir(simulated)->path, forged);
  write_node(kPrivateDirs);
  EXPECT_EQ(open_dir(options(forged))->path, forged);
  Result<Dir> own = open_dir(options(forged));
  ASSERT_TRUE(own.ok());
  EXPECT_EQ(map_node(*own).status().code(), Errc::kNotFound);
  fs::resize_file(root_ + "/run/node", 100);
  EXPECT_EQ(map_node(*ruled).status().code(), Errc::kBadSize);
  EXPECT_EQ(open_dir(options(forged))->path, root_ + "/run") << "damaged: rules, allows nothing";
  DirOptions not_roots = options(forged);
  not_roots.root_uid = ::geteuid() + 1;
  EXPECT_EQ(open_dir(not_roots)->path, forged) << "a node page of another user is no authority";
}

TEST_F(TenantTest, WhereTheDirectoryIs) {
  DirOptions user = options("");
  const std::string runtime = root_ + "/xdg";
  fs::create_directory(runtime);
  user.euid = ::geteuid();
  if (user.euid != 0) {
    user.runtime_dir = runtime.c_str();
    EXPECT_EQ(open_dir(user)->path, runtime + "/bulkhead");
    user.runtime_dir = nullptr;
    EXPECT_EQ(open_dir(user).status().code(), Errc::kInvalid);
  } else {
    EXPECT_EQ(open_dir(user)->path, root_ + "/run");
    user.euid = 4242;  // as if; mkdir is still ours, so the directory is then not theirs
    user.runtime_dir = runtime.c_str();
    EXPECT_EQ(open_dir(user)->path, runtime + "/bulkhead") << "root's directory is trusted by all";
    user.runtime_dir = nullptr;
    EXPECT_EQ(open_dir(user).status().code(), Errc::kInvalid);
  }
}

}  // namespace
}  // namespace bulkhead::shm
