// The picture's version protocol: no reader ever has half of one picture and half of another, whenever it comes, and whoever
// writes dies. The real writer and reader against each other; the order of their steps, all interleavings, with
// variants that must be caught.
#include "daemon/picture_writer.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <string>
#include <thread>

#include "daemon/sight/picture_reader.h"

namespace bulkhead::daemon {
namespace {

constexpr std::uint64_t kSecond_ns = 1'000'000'000;

Now second(std::uint64_t n) {
  Now now{};
  now.mono_ns = n * kSecond_ns;
  now.unix_ns = static_cast<std::int64_t>(n);
  return now;
}

// Picture n says n everywhere, and has a number of things that depends on it.
std::size_t count_of(std::uint64_t n) { return 1 + n % 7; }

class PictureTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(writer_.open().ok());
    ASSERT_TRUE(reader_.open(writer_.fd()).ok());
    writer_.providers.devices = [this] {
      std::vector<wire::NodeDevice> out(count_of(n_));
      for (auto& d : out) d.total_bytes = n_;
      return out;
    };
    writer_.providers.strays = [this] {
      std::vector<wire::StrayView> out(count_of(n_));
      for (auto& s : out) s.bytes = n_;
      return out;
    };
    writer_.providers.tenants = [this] {
      std::vector<wire::TenantView> out(count_of(n_));
      for (auto& t : out) t.allocs = n_;
      if (between) between();
      return out;
    };
    writer_.providers.next_event_id = [this] { return n_; };
    writer_.providers.daemon = [this](wire::DaemonView& d) { d.events_total = n_; };
  }
  void write(std::uint64_t n) {
    n_ = n;
    static_cast<void>(writer_.tick(second(n)));
  }
  // Whether all of a copy is of one picture.
  static bool whole(const wire::Picture& p) {
    const std::uint64_t n = p.next_event_id;
    const std::size_t count = count_of(n);
    bool same = p.unix_ns == static_cast<std::int64_t>(n) && p.daemon.events_total == n &&
                p.devices == count && p.strays == count && p.tenants == count;
    for (std::size_t i = 0; same && i < count; ++i) {
      same = p.device[i].total_bytes == n && p.stray[i].bytes == n && p.tenant[i].allocs == n;
    }
    return same;
  }

  std::function<void()> between;  // called in the middle of a change, devices and strays written
  std::uint64_t n_ = 0;
  PictureWriter writer_;
  PictureReader reader_;
};

TEST_F(PictureTest, EachIsWholeAndNew) {
  EXPECT_FALSE(reader_.refresh(0));  // zeroes are no picture
  EXPECT_EQ(reader_.copy(), nullptr);
  for (std::uint64_t n = 1; n < 20; ++n) {
    write(n);
    ASSERT_TRUE(reader_.refresh(n * kSecond_ns));
    EXPECT_EQ(reader_.copy()->next_event_id, n);
    EXPECT_TRUE(whole(*reader_.copy())) << n;
    EXPECT_FALSE(reader_.refresh(n * kSecond_ns));  // not twice
  }
  EXPECT_EQ(reader_.torn_reads(), 0u);
}

TEST_F(PictureTest, OnceASecond) {
  write(1);
  ASSERT_TRUE(reader_.refresh(0));
  Now soon = second(1);
  soon.mono_ns += kSecond_ns - 1;
  EXPECT_EQ(writer_.tick(soon), 1);
  EXPECT_FALSE(reader_.refresh(0));
  EXPECT_EQ(writer_.tick(second(2)), 1000);
  EXPECT_TRUE(reader_.refresh(0));
}

TEST_F(PictureTest, WhileItIsWrittenAReaderKeepsWhatItHad) {
  unsigned asked = 0;
  between = [&] {
    EXPECT_FALSE(reader_.refresh(0));
    PictureReader late;  // one that has none yet
    ASSERT_TRUE(late.open(writer_.fd()).ok());
    EXPECT_FALSE(late.refresh(0));
    EXPECT_EQ(late.copy(), nullptr);
    ++asked;
  };
  write(1);  // the first one too
  between = nullptr;
  write(2);
  ASSERT_TRUE(reader_.refresh(0));
  between = [&] {
    EXPECT_FALSE(reader_.refresh(0));
    ASSERT_NE(reader_.copy(), nullptr);
    EXPECT_EQ(reader_.copy()->next_event_id, 2u);
    EXPECT_TRUE(whole(*reader_.copy()));
    ++asked;
  };
  write(3);
  EXPECT_EQ(asked, 2u);
  EXPECT_EQ(reader_.torn_reads(), 2u);
  EXPECT_TRUE(reader_.refresh(0));
  EXPECT_TRUE(whole(*reader_.copy()));
}

TEST_F(PictureTest, AWriterThatDiesInTheMiddleLeavesNothingHalf) {
  write(1);
  ASSERT_TRUE(reader_.refresh(kSecond_ns));
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    between = [] { ::raise(SIGKILL); };
    write(2);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_FALSE(reader_.refresh(2 * kSecond_ns));  // comes back: the word stays odd for ever
  EXPECT_EQ(reader_.copy()->next_event_id, 1u);
  EXPECT_TRUE(reader_.fresh(2 * kSecond_ns));
  EXPECT_FALSE(reader_.fresh(kSecond_ns + PictureReader::kStale_ns));
  write(3);  // who goes on from there repairs it
  ASSERT_TRUE(reader_.refresh(7 * kSecond_ns));
  EXPECT_TRUE(whole(*reader_.copy()));
}

TEST_F(PictureTest, AReaderBesideABusyWriterNeverHasATornOne) {
  std::atomic<bool> over{false};
  std::uint64_t copies = 0, half = 0, back = 0, last = 0;
  std::thread beside{[&] {
    // acquire pairs with the release below; one more look after that sees the last one
    for (bool end = false; !end;) {
      end = over.load(std::memory_order_acquire);
      if (!reader_.refresh(0)) continue;
      ++copies;
      half += whole(*reader_.copy()) ? 0 : 1;
      back += reader_.copy()->next_event_id < last ? 1 : 0;
      last = reader_.copy()->next_event_id;
    }
  }};
  constexpr std::uint64_t kWrites = 2000;
  for (std::uint64_t n = 1; n <= kWrites; ++n) write(n);
  over.store(true, std::memory_order_release);  // pairs with the acquire above
  beside.join();
  EXPECT_EQ(half, 0u);
  EXPECT_EQ(back, 0u);
  EXPECT_EQ(last, kWrites);
  EXPECT_GT(copies, 0u);
}

// ---- the order of the steps -----------------------------------------------------------------------------------------
// Two changes of two words by the writer's four steps each, one reading by the reader's four, in every order of the
// twelve steps (495). The fences are SequenceWord's own affair: here each step is seen at once.
enum class Break {
  kNothing,
  kOddAfterTheData,    // the word moves only when all is written
  kEvenBeforeTheData,  // the word moves before anything is written
  kNoSecondLook,       // the reader believes what it copied
};

struct Shared {
  SequenceWord word{};
  std::uint64_t data[2] = {0, 0};
};
struct Reading {
  std::uint64_t began = 0, copy[2] = {0, 0};
  bool taken = false;
};

void writer_step(Shared& b, unsigned step, Break how) {
  static constexpr std::array<std::array<int, 4>, 3> kOrders = {{
      {0, 1, 2, 3},  // begin, first word, second word, end
      {1, 2, 0, 3},
      {0, 3, 1, 2},
  }};
  const std::size_t order = how == Break::kOddAfterTheData     ? 1
                            : how == Break::kEvenBeforeTheData ? 2
                                                               : 0;
  const std::uint64_t change = 1 + step / 4;
  switch (kOrders[order][step % 4]) {
    case 0:
      return b.word.begin_write();
    case 1:
      b.data[0] = change;
      return;
    case 2:
      b.data[1] = change;
      return;
    default:
      return b.word.end_write();
  }
}

void reader_step(const Shared& b, Reading& r, unsigned step, Break how) {
  if (step == 0) r.began = b.word.begin_read();
  if (step == 1) r.copy[0] = b.data[0];
  if (step == 2) r.copy[1] = b.data[1];
  if (step == 3) r.taken = how == Break::kNoSecondLook ? (r.began & 1) == 0 : !b.word.torn(r.began);
}

struct Tally {
  unsigned orders = 0, taken = 0, torn = 0;
};

// All that can follow after `written` of the writer's eight steps and `read` of the reader's four.
void all_orders(const Reading& so_far, unsigned written, unsigned read, Break how, Tally& tally) {
  if (read == 4) {
    ++tally.orders;
    tally.taken += so_far.taken ? 1 : 0;
    tally.torn += so_far.taken && so_far.copy[0] != so_far.copy[1] ? 1 : 0;
    return;
  }
  if (written < 8) all_orders(so_far, written + 1, read, how, tally);
  Shared shared;
  for (unsigned i = 0; i < written; ++i) writer_step(shared, i, how);
  Reading next = so_far;
  reader_step(shared, next, read, how);
  all_orders(next, written, read + 1, how, tally);
}

Tally tried(Break how) {
  Tally tally;
  all_orders({}, 0, 0, how, tally);
  return tally;
}

TEST(PictureProtocol, NoOrderOfStepsGivesATornCopy) {
  const Tally t = tried(Break::kNothing);
  EXPECT_EQ(t.orders, 495u);
  EXPECT_GT(t.taken, 0u);
  EXPECT_EQ(t.torn, 0u);
}

TEST(PictureProtocol, BrokenVariantsAreCaught) {
  EXPECT_GT(tried(Break::kOddAfterTheData).torn, 0u);
  EXPECT_GT(tried(Break::kEvenBeforeTheData).torn, 0u);
  EXPECT_GT(tried(Break::kNoSecondLook).torn, 0u);
}

}  // namespace
}  // namespace bulkhead::daemon
