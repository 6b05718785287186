#include <fcntl.h>
#include <gtest/gtest.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mapping.h"
#include "base/status.h"

namespace bulkhead {
namespace {

TEST(Base, ResultCarriesAValueOrAStatus) {
  Result<UniqueFd> good{UniqueFd{::open("/dev/null", O_RDONLY | O_CLOEXEC)}};
  ASSERT_TRUE(good.ok());
  EXPECT_TRUE(good->ok());
  const Result<UniqueFd> bad{Status{Errc::kNotFound, 2, "no such thing"}};
  EXPECT_FALSE(bad.ok());
  EXPECT_EQ(bad.status().code(), Errc::kNotFound);
  EXPECT_STREQ(bad.status().text(), "no such thing");
}

TEST(Base, UniqueFdClosesWhatItOwned) {
  int raw = -1;
  {
    UniqueFd fd{::open("/dev/null", O_RDONLY | O_CLOEXEC)};
    raw = fd.get();
    UniqueFd moved{std::move(fd)};
    EXPECT_FALSE(fd.ok());  // NOLINT: looking at the moved-from owner is the point
    EXPECT_EQ(moved.get(), raw);
  }
  EXPECT_EQ(::fcntl(raw, F_GETFD), -1);
}

TEST(Base, MappingUnmaps) {
  void* at = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(at, MAP_FAILED);
  { const Mapping map{at, 4096}; }
  EXPECT_EQ(::msync(at, 4096, MS_ASYNC), -1);
}

TEST(Base, MonotonicNeverGoesBack) {
  const auto a = monotonic_ns();
  EXPECT_LE(a, monotonic_ns());
}

}  // namespace
}  // namespace bulkhead
