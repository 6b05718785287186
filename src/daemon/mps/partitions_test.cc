// Partitions of one control daemon: a table of the test's own answers at once, and is what a killed daemon finds again.
#include "daemon/mps/partitions.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <sstream>
#include <utility>

namespace bulkhead::daemon {
namespace {

namespace fs = std::filesystem;
constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr const char* kGpu = "GPU-74d43ed3-cdf7-e667-3644-bf5b4f46ed65";

// 16 chunks of 8 multiprocessors. `silent_after` commands it answers nothing more: whoever speaks to it was killed there.
struct Table {
  struct Part {
    std::string id;
    unsigned chunks;
    bool in_use = false;
  };
  std::vector<Part> parts;
  std::vector<std::string> said;
  std::string lspart, add;  // what is answered instead
  unsigned next_id = 0, silent_after = ~0u;
  bool slow = false;
  MpsCommand::Done unheard;
  std::vector<std::function<void()>> later;  // the answers, if it is slow

  unsigned used() const {
    unsigned n = 0;
    for (const Part& p : parts) n += p.chunks;
    return n;
  }
  std::string list() const {
    std::string out = "GPU Partition free used free used clients\n chunks chunks SM SM\nGPU-74 " +
                      std::to_string(16 - used()) + " " + std::to_string(used()) + " " +
                      std::to_string(132 - 8 * used()) + " " + std::to_string(8 * used()) + "\n";
    for (const Part& p : parts)
      out += "GPU-74 " + p.id + " " + std::to_string(p.chunks) + " " +
             std::to_string(8 * p.chunks) + (p.in_use ? " Yes\n" : " No\n");
    return out;
  }
  std::string answer(const std::string& line) {
    std::istringstream in{line};
    std::string word, verb, gpu, last;
    in >> word >> verb >> gpu >> last;
    if (word == "lspart") return lspart.empty() ? list() : lspart;
    if (verb == "rm") {
      std::erase_if(parts, [&](const Part& p) { return p.id == last && !p.in_use; });
      return "";
    }
    if (verb != "add") return "";
    const auto chunks = static_cast<unsigned>(std::atoi(last.c_str()));
    if (!add.empty()) return add;
    if (chunks + used() > 16) return "Failed to fulfill the requested SM partition\n";
    parts.push_back({"AA/" + std::to_string(next_id++) + "=", chunks});
    return "Partition " + gpu + "/" + parts.back().id + " created\n";
  }
  void order(const std::string& input, const MpsCommand::Done& done) {
    if (said.size() >= silent_after) return;
    said.push_back(input.substr(0, input.size() - 1));
    const std::string text =
        answer(said.back());  // it is done, whether the one who asked hears of it or not
    if (said.size() >= silent_after) return;
    unheard = done;
    if (slow) return later.push_back([done, text] { done({MpsReply::How::kEnded, 0, 0, text}); });
    done({MpsReply::How::kEnded, 0, 0, text});
  }
  // What becomes of the last command instead of its answer.
  void lost(const MpsReply& reply) { std::exchange(unheard, nullptr)(reply); }
  unsigned count(const std::string& begin) const {
    unsigned n = 0;
    for (const std::string& s : said) n += s.starts_with(begin) ? 1 : 0;
    return n;
  }
};

class Dividing : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/bulkhead-partitions-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
    start();
  }
  void TearDown() override { fs::remove_all(dir_); }
  // As a daemon that comes back: what is in memory is gone.
  void start() {
    partitions_.reset();
    books_ = std::make_unique<PartitionBooks>(dir_);
    books_->load();
    partitions_ = std::make_unique<Partitions>(
        "g", 7, *books_,
        [this](const std::string& input, const MpsCommand::Done& done) {
          table_.order(input, done);
        },
        [this](wire::EventKind, wire::Severity, const std::string& text) {
          told_.push_back(text);
        });
  }
  static PartitionWant want(const char* tenant, std::uint32_t chunks, bool busy = false) {
    return {tenant, kGpu, chunks, 8, busy, {}};
  }
  void turns(unsigned n = 1, std::uint64_t step_ns = 0) {
    for (unsigned i = 0; i < n; ++i) {
      now_.mono_ns += step_ns;
      (void)partitions_->tick(now_, wants_);
    }
  }
  std::string value(const char* tenant) const {
    const shm::PartitionBook* b = books_->of(tenant);
    return b == nullptr ? "" : static_cast<const char*>(b->value);
  }
  std::string refused(const char* tenant) const {
    const shm::PartitionBook* b = books_->of(tenant);
    return b == nullptr ? "" : static_cast<const char*>(b->refused);
  }
  bool told(const std::string& part) const {
    for (const std::string& t : told_)
      if (t.find(part) != std::string::npos) return true;
    return false;
  }
  Partitions::State state(const char* tenant) const { return partitions_->state(tenant); }

  std::string dir_;
  Table table_;
  std::vector<std::string> told_;
  std::vector<PartitionWant> wants_;
  std::unique_ptr<PartitionBooks> books_;
  std::unique_ptr<Partitions> partitions_;
  Now now_{100 * kSecond, 100 * kSecond, 0};
};

TEST_F(Dividing, OneEachAndNoneWhenNobodyWantsIt) {
  wants_ = {want("a", 4), want("b", 12)};
  turns();
  EXPECT_EQ(state("a"), Partitions::State::kReady);
  EXPECT_EQ(state("b"), Partitions::State::kReady);
  EXPECT_EQ(value("a"), std::string{kGpu} + "/AA/0=");
  EXPECT_EQ(table_.used(), 16u);
  const std::size_t asked = table_.said.size();
  turns(50, kSecond);
  EXPECT_EQ(table_.said.size(), asked) << "nothing is asked while nothing changes";
  wants_ = {want("b", 12)};
  turns();
  EXPECT_EQ(table_.used(), 12u);
  EXPECT_EQ(value("a"), "");
  EXPECT_TRUE(told("which was tenant a's, is taken away"));
  wants_ = {want("b", 12), want("c", 4)};
  turns();
  EXPECT_EQ(state("c"), Partitions::State::kReady);
}

TEST_F(Dividing, WhatIsInUseStaysUntilItIsNot) {
  wants_ = {want("a", 4)};
  turns();
  table_.parts[0].in_use = true;
  wants_.clear();
  turns(5, kSecond);
  EXPECT_EQ(table_.used(), 4u);
  EXPECT_EQ(table_.count("sm_partition rm"), 0u);
  EXPECT_FALSE(partitions_->clear());
  table_.parts[0].in_use = false;
  turns(2, kSecond);
  EXPECT_EQ(table_.used(), 0u);
  EXPECT_TRUE(partitions_->clear());
}

TEST_F(Dividing, ASlowAnswerIsWaitedForAndNoneIsARefusal) {
  table_.slow = true;
  wants_ = {want("a", 4)};
  for (int i = 0; i < 3; ++i) {  // lspart, sm_partition add, lspart
    turns(5, kSecond);
    EXPECT_EQ(state("a"), Partitions::State::kPending);
    ASSERT_EQ(table_.later.size(), 1u) << "one at a time";
    std::exchange(table_.later, {})[0]();
  }
  EXPECT_EQ(state("a"), Partitions::State::kReady);
  wants_.push_back(want("b", 4));
  turns();
  ASSERT_EQ(table_.later.size(), 1u);
  table_.later.clear();
  table_.slow = false;
  table_.lost({MpsReply::How::kTimedOut, 0, 0, {}});
  EXPECT_EQ(state("b"), Partitions::State::kRefused);
  EXPECT_NE(refused("b").find("lspart: it did not answer within 10 s"), std::string::npos)
      << refused("b");
  EXPECT_EQ(state("a"), Partitions::State::kReady);
  turns(3, kSecond);
  turns(6, kSecond);
  EXPECT_EQ(state("b"), Partitions::State::kReady);
}

TEST_F(Dividing, NobodyIsSentToAPartitionThatGoes) {
  wants_ = {want("a", 4)};
  turns();
  wants_.clear();
  table_.silent_after = static_cast<unsigned>(table_.said.size()) + 2;  // killed in the removal
  turns();
  EXPECT_EQ(table_.used(), 0u);
  EXPECT_EQ(value("a"), "") << "it was out of the books before";
}

TEST_F(Dividing, AnotherSizeComesWhenNobodyRuns) {
  wants_ = {want("a", 4, true)};
  turns();
  wants_ = {want("a", 8, true)};
  turns(5, kSecond);
  EXPECT_EQ(table_.used(), 4u);
  EXPECT_EQ(state("a"), Partitions::State::kReady);
  wants_ = {want("a", 8, false)};
  turns();
  EXPECT_EQ(table_.used(), 8u);
  EXPECT_EQ(state("a"), Partitions::State::kReady);
}

// S8. Killed after each command, once while making and once while taking away: the next daemon ends with what is wanted.
TEST_F(Dividing, KilledAfterAnyCommandTheNextOneMakesNoSecond) {
  for (unsigned at = 1; at < 12; ++at) {
    SCOPED_TRACE(at);
    table_ = {};
    table_.silent_after = at;
    fs::remove_all(dir_ + "/partitions");
    start();
    wants_ = {want("a", 4), want("b", 4)};
    turns(3, kSecond);
    wants_ = {want("a", 4), want("c", 8)};
    turns(3, kSecond);
    table_.silent_after = ~0u;
    start();
    turns(3, kSecond);
    EXPECT_EQ(state("a"), Partitions::State::kReady);
    EXPECT_EQ(state("c"), Partitions::State::kReady);
    EXPECT_EQ(table_.parts.size(), 2u) << table_.list();
    EXPECT_EQ(table_.used(), 12u);
    EXPECT_EQ(value("b"), "");
  }
}

// As if a daemon had written an id down before lspart showed it, or MPS had been started again: S7.
TEST_F(Dividing, BooksThatTheTableDoesNotBearOutAreNotBelieved) {
  shm::PartitionBook book;
  std::snprintf(book.value, sizeof book.value, "%s/AA/9=", kGpu);
  std::snprintf(book.group, sizeof book.group, "g");
  book.uid = 7, book.chunks = 4, book.sms = 32;
  ASSERT_TRUE(books_->keep("a", book));
  start();
  EXPECT_EQ(state("a"), Partitions::State::kPending) << "until the table has been seen";
  wants_ = {want("a", 4)};
  turns();
  EXPECT_EQ(value("a"), std::string{kGpu} + "/AA/0=");
  ASSERT_TRUE(books_->keep("a", [&] {
    shm::PartitionBook other = *books_->of("a");
    other.chunks = 5;
    return other;
  }()));
  start();
  turns(2, kSecond);
  EXPECT_EQ(books_->of("a")->chunks, 4u) << "of another size than it says";
  EXPECT_EQ(table_.parts.size(), 1u);
}

TEST_F(Dividing, ARefusalSaysWhatIsFreeAndIsTriedAgain) {
  wants_ = {want("a", 4), want("b", 16)};
  turns();
  EXPECT_EQ(state("b"), Partitions::State::kRefused);
  EXPECT_EQ(refused("b"),
            "MPS made no partition of 16 chunks of " + std::string{kGpu} +
                ": Failed to fulfill the requested SM partition; 12 of its 16 chunks are free: "
                "ask for at most 75%; or use temporal");
  const unsigned asked = table_.count("sm_partition add");
  turns(4, kSecond);
  EXPECT_EQ(table_.count("sm_partition add"), asked) << "not each second";
  EXPECT_EQ(told_.size(), 2u) << "and told once";
  wants_ = {want("b", 16)};
  turns(6, kSecond);
  EXPECT_EQ(state("b"), Partitions::State::kReady);
}

TEST_F(Dividing, WhatIsNotUnderstoodIsNoPartition) {
  wants_ = {want("a", 4)};
  table_.add = "Created AA/0= on " + std::string{kGpu} + "\n";
  turns();
  EXPECT_EQ(state("a"), Partitions::State::kRefused);
  EXPECT_NE(refused("a").find("Created AA/0="), std::string::npos);
  table_.add = "Partition " + std::string{kGpu} + "/AA/77= created\n";  // and it is not there
  turns(6, kSecond);
  EXPECT_NE(refused("a").find("does not list"), std::string::npos) << refused("a");
  table_.add.clear();
  turns(6, kSecond);
  EXPECT_EQ(state("a"), Partitions::State::kReady);
  table_.lspart = table_.list() + "GPU-74 AA/1= 4 32 Draining\n";
  wants_ = {want("a", 4), want("b", 4)};
  const unsigned asked = table_.count("sm_partition");
  turns(10, kSecond);
  EXPECT_EQ(state("b"), Partitions::State::kRefused);
  EXPECT_NE(refused("b").find("Draining"), std::string::npos);
  EXPECT_EQ(state("a"), Partitions::State::kReady) << "what stood stands";
  EXPECT_EQ(table_.count("sm_partition"), asked) << "nothing is made, nothing taken away";
  EXPECT_LT(table_.count("lspart"), 16u) << "asked more and more seldom";
  table_.lspart.clear();
  turns(20, 4 * kSecond);
  EXPECT_EQ(state("b"), Partitions::State::kReady);
}

TEST_F(Dividing, APartitionOfAnotherSizeThanAskedIsNotHandedOut) {
  wants_ = {want("a", 4)};
  wants_[0].chunk_sms = 4;  // as if the self-test was of another driver
  turns();
  EXPECT_EQ(state("a"), Partitions::State::kRefused);
  EXPECT_NE(refused("a").find("4 chunks, 32 multiprocessors, not 4 and 16"), std::string::npos);
  EXPECT_EQ(table_.used(), 0u) << "and it is taken away";
}

TEST_F(Dividing, AGpuOfAnotherPairIsNotAsked) {
  wants_ = {want("a", 4)};
  wants_[0].blocked = "of group h";
  turns();
  EXPECT_EQ(state("a"), Partitions::State::kRefused);
  EXPECT_EQ(table_.count("sm_partition"), 0u);
}

TEST_F(Dividing, NoOutputMeansThatNoServerRuns) {
  wants_ = {want("a", 4)};
  table_.lspart = "\n";
  turns();
  EXPECT_EQ(table_.said, (std::vector<std::string>{"lspart", "start_server -uid 7", "lspart"}));
  EXPECT_EQ(state("a"), Partitions::State::kRefused);
  EXPECT_NE(refused("a").find("lspart shows no GPU"), std::string::npos);
}

}  // namespace
}  // namespace bulkhead::daemon
