// One MPS control daemon, of one group and one user: found, started, asked how it is, stopped. docs/spatial.md has the states. Control
// loop only; never waits.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "daemon/duty.h"
#include "daemon/journal.h"
#include "daemon/mps/command.h"

namespace bulkhead::daemon {

class MpsControl {
 public:
  enum class State : std::uint8_t { kAbsent, kLooking, kStarting, kServing, kStopping };
  static constexpr std::uint64_t kAskEvery_ns = 5'000'000'000;
  static constexpr unsigned kMissesToSilent = 3;
  using Post = std::function<void(wire::EventKind, wire::Severity, const std::string& text)>;

  // `post` may be called in any of the calls below.
  MpsControl(Poller& poller, MpsPlace place, Post post);

  // What the configuration wants: serving, or gone once `busy` is false (no tenant of it has processes).
  void want(bool wanted, bool busy) { wanted_ = wanted, busy_ = busy; }
  // The program may have been installed since, or be another.
  void set_program(std::string program) { place_.program = std::move(program); }
  // When it is to be called again, ms; -1: at an event only.
  int tick(const Now& now);

  // A process of the group ended: what that did to the servers is looked at now.
  void noted_end(const std::string& who);
  // Takes a process out of the servers it is a client of; `done(true)` if it was in one. At once with false if nothing serves.
  void evict(std::uint32_t pid, std::function<void(bool found)> done);

  // One command for its standard input, after those that wait; `done` as MpsCommand::start() has it.
  void command(const std::string& input, MpsCommand::Done done);

  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] bool serving() const { return state_ == State::kServing && misses_ == 0; }
  [[nodiscard]] bool silent() const { return misses_ >= kMissesToSilent; }
  // Nothing is there, nothing is wanted, nothing runs: it may be forgotten.
  [[nodiscard]] bool idle() const {
    return state_ == State::kAbsent && !wanted_ && looked_ && !command_.running() && queue_.empty();
  }
  void add_servers(std::vector<std::uint32_t>& out) const {
    for (const auto& [pid, status] : servers_) out.push_back(pid);
  }
  [[nodiscard]] bool running() const { return command_.running() || !queue_.empty(); }
  [[nodiscard]] const MpsPlace& place() const { return place_; }

 private:
  struct Order {
    std::string argument, input;
    MpsCommand::Done done;
  };
  void order(std::string argument, std::string input, MpsCommand::Done done);
  void next_order();
  void look();
  void looked(const MpsReply& reply);
  void came(bool by_us);
  void launch();
  void ask();
  void asked(const MpsReply& reply);
  void missed(const std::string& what);
  void is_gone();
  void take_servers(const std::vector<std::uint32_t>& servers);
  void ask_status(std::size_t index);
  void stop();
  void pause();
  void hit(std::uint32_t server, const std::string& what);
  void evict_from(std::uint32_t pid, std::vector<std::uint32_t> servers, std::size_t index,
                  std::function<void(bool)> done);
  [[nodiscard]] std::string name() const;

  MpsPlace place_;
  Post post_;
  MpsCommand command_;
  std::deque<Order> queue_;
  State state_ = State::kAbsent;
  bool wanted_ = false, busy_ = false;
  bool looked_ = false;   // at least once
  bool started_ = false;  // the look that comes is after a start of ours
  bool told_failed_ = false;
  unsigned looks_ = 0;  // since the start
  unsigned misses_ = 0;
  std::uint64_t now_ns_ = 0;
  std::uint64_t due_ns_ = 0;
  std::uint64_t pause_ns_ = 0;
  std::map<std::uint32_t, std::string> servers_;  // pid -> its last status
  std::string last_end_;
  std::uint64_t last_end_ns_ = 0;
};

}  // namespace bulkhead::daemon
