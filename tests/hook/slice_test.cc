// Time slices of a process's own channel groups, with a control node and a kernel of the test's own: what is noted, what is set, when,
// and through which descriptor. What a real kernel makes of it is the self-test's to say.
#include "hook/slice.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <vector>

namespace bulkhead::hook {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

struct Alloc48 {
  std::uint32_t client, parent, object, cls;
  std::uint64_t parameters, rights;
  std::uint32_t bytes, flags, status, padding;
};
struct Alloc32 {
  std::uint32_t client, parent, object, cls;
  std::uint64_t parameters;
  std::uint32_t bytes, status;
};
struct Free16 {
  std::uint32_t client, parent, object, status;
};
struct Wrapped {
  std::uint32_t command, bytes;
  std::uint64_t pointer;
};

// What reached the kernel.
struct Seen {
  int fd;
  unsigned long request;
  std::uint32_t client, object, command;
  std::uint64_t us;
};
std::vector<Seen> seen;
std::uint32_t answer = 0;  // RM status
int fake_ioctl(int fd, unsigned long request, void* argument) {
  auto* const words = static_cast<std::uint32_t*>(argument);
  std::uint64_t at = 0, us = 0;
  std::memcpy(&at, words + 4, sizeof at);
  std::memcpy(&us, reinterpret_cast<const void*>(at), sizeof us);
  EXPECT_EQ(words[6], 8u) << "bytes of the parameters";
  seen.push_back({fd, request, words[0], words[1], words[2], us});
  words[7] = answer;
  return 0;
}

class Slices : public testing::Test {
 protected:
  void SetUp() override {
    forget_slices();
    want_slices(100);
    seen.clear();
    answer = 0;
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds_), 0);
  }
  void TearDown() override {
    want_slices(0);
    for (const int fd : fds_) ::close(fd);
  }
  bool make(std::uint32_t client, std::uint32_t object, std::uint32_t cls = 0xa06c,
            std::uint32_t status = 0) {
    const Alloc48 a{client, 1, object, cls, 0, 0, 0, 0, status, 0};
    return note_ioctl(fds_[0], 0xc030462b, &a, kSecond);
  }
  static unsigned set(std::uint64_t now_ns) {
    unsigned done = 0;
    waiting = set_slices(fake_ioctl, now_ns, &done);
    return done;
  }
  static inline unsigned waiting = 0;
  int fds_[2] = {-1, -1};
};

TEST_F(Slices, AGroupsSliceIsSetThreeTimesAsItSettlesThroughItsOwnDescriptor) {
  EXPECT_TRUE(make(0xc1d00001, 0x5c000012));
  EXPECT_EQ(set(kSecond + kSettled_ns - 1), 0u);
  EXPECT_EQ(waiting, 1u);
  EXPECT_EQ(set(kSecond + kSettled_ns), 1u);
  EXPECT_EQ(waiting, 1u);
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].fd, fds_[0]);
  EXPECT_EQ(seen[0].request, 0xc020462aul);
  EXPECT_EQ(seen[0].client, 0xc1d00001u);
  EXPECT_EQ(seen[0].object, 0x5c000012u);
  EXPECT_EQ(seen[0].command, 0xa06c0103u);
  EXPECT_EQ(seen[0].us, 100u);
  EXPECT_EQ(set(kSecond + 3 * kSettled_ns - 1), 0u);
  EXPECT_EQ(set(kSecond + 3 * kSettled_ns), 1u);
  EXPECT_EQ(set(kSecond + 9 * kSettled_ns), 1u);
  EXPECT_EQ(waiting, 0u);
  EXPECT_EQ(set(100 * kSecond), 0u);
  EXPECT_EQ(seen.size(), 3u);
}

TEST_F(Slices, OnlyGroupsThatWereMadeAreNoted) {
  EXPECT_FALSE(make(1, 2, 0xc86f));        // a channel
  EXPECT_FALSE(make(1, 2, 0xa06c, 0x1f));  // refused
  const Alloc32 old{1, 1, 7, 0xa06c, 0, 0, 0};
  EXPECT_TRUE(note_ioctl(fds_[0], 0xc020462b, &old, kSecond));
  EXPECT_FALSE(note_ioctl(fds_[0], 0xc0104600 | 0x2b, &old, kSecond)) << "of another size";
  EXPECT_FALSE(note_ioctl(fds_[0], 0xc030472b, &old, kSecond)) << "of another type";
  EXPECT_FALSE(note_ioctl(fds_[0], TCGETS, &old, kSecond));
  EXPECT_FALSE(note_ioctl(fds_[0], 0xc030462b, nullptr, kSecond));
  EXPECT_EQ(set(9 * kSecond), 1u);
  EXPECT_EQ(seen[0].object, 7u);
}

TEST_F(Slices, AWrappedCallIsSeenToo) {
  const Alloc48 a{3, 1, 4, 0xa06c, 0, 0, 0, 0, 0, 0};
  const Wrapped w{0x2b, sizeof a, reinterpret_cast<std::uintptr_t>(&a)};
  EXPECT_TRUE(note_ioctl(fds_[0], 0xc01046d3, &w, kSecond));
  EXPECT_EQ(set(9 * kSecond), 1u);
}

TEST_F(Slices, WhatIsFreedIsForgottenAloneOrWithItsClient) {
  EXPECT_TRUE(make(1, 10) && make(1, 11) && make(2, 20));
  const Free16 one{1, 5, 10, 0};
  EXPECT_FALSE(note_ioctl(fds_[0], 0xc0104629, &one, kSecond));
  const Free16 refused{2, 5, 20, 3};
  EXPECT_FALSE(note_ioctl(fds_[0], 0xc0104629, &refused, kSecond));
  EXPECT_EQ(set(9 * kSecond), 2u);
  EXPECT_TRUE(make(1, 12) && make(1, 13) && make(2, 21));
  const Free16 client{1, 1, 1, 0};
  EXPECT_FALSE(note_ioctl(fds_[0], 0xc0104629, &client, kSecond));
  seen.clear();
  EXPECT_EQ(set(9 * kSecond), 2u);
  for (const Seen& call : seen) EXPECT_EQ(call.client, 2u);
}

TEST_F(Slices, ADescriptorThatIsAnotherFileByNowIsLeftAlone) {
  EXPECT_TRUE(make(1, 10));
  const int null = ::open("/dev/null", O_RDWR);
  ASSERT_EQ(::dup2(null, fds_[0]), fds_[0]);
  ::close(null);
  EXPECT_EQ(set(9 * kSecond), 0u);
  EXPECT_TRUE(seen.empty());
}

TEST_F(Slices, ARefusalIsNotAskedForAgain) {
  answer = 0x1b;  // insufficient permissions
  EXPECT_TRUE(make(1, 10));
  EXPECT_EQ(set(9 * kSecond), 0u);
  EXPECT_EQ(set(19 * kSecond), 0u);
  EXPECT_EQ(seen.size(), 1u);
}

TEST_F(Slices, AreOffUntilAskedForAndWithinBounds) {
  EXPECT_TRUE(make(1, 10));
  want_slices(0);
  EXPECT_EQ(set(9 * kSecond), 0u);
  EXPECT_TRUE(seen.empty());
  want_slices(1);
  EXPECT_EQ(slices_wanted(), kLeastSlice_us);
  want_slices(20'000);
  EXPECT_EQ(slices_wanted(), kMostSlice_us);
}

TEST_F(Slices, MoreGroupsThanThereIsRoomForKeepTheDriversSlice) {
  unsigned noted = 0;
  for (std::uint32_t i = 0; i < 100; ++i) noted += make(1, 100 + i) ? 1u : 0u;
  EXPECT_EQ(noted, 64u);
  EXPECT_EQ(set(9 * kSecond), 64u);
}

}  // namespace
}  // namespace bulkhead::hook
