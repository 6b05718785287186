// The client's half of RELP 1 (rsyslog's doc "relp.html"): frames `TXNR SP COMMAND SP DATALEN [SP DATA] LF`. No I/O.
//
// Claim  confirmed() counts messages, from the first, for each of which the receiver answered 200.
// Price  at most kMostOpen messages wait for an answer; what a receiver may send before it is given up is bounded.
#pragma once
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

namespace bulkhead::daemon::siem {

class RelpClient {
 public:
  static constexpr std::size_t kMostOpen = 128;

  [[nodiscard]] std::string open();
  // Ready for messages: the receiver agreed to RELP 0 or 1 with `syslog`.
  [[nodiscard]] bool ready() const { return ready_; }
  [[nodiscard]] bool room() const { return ready_ && waiting_.size() < kMostOpen; }
  [[nodiscard]] std::string syslog(const std::string& message);
  [[nodiscard]] std::string close();
  // What came. False: not RELP, or a refusal (problem()).
  [[nodiscard]] bool feed(std::string_view bytes);
  [[nodiscard]] std::uint64_t confirmed() const { return confirmed_; }
  // An answer is due.
  [[nodiscard]] bool waits() const { return !ready_ || !waiting_.empty(); }
  [[nodiscard]] const std::string& problem() const { return problem_; }

 private:
  struct Answer {
    std::uint32_t number = 0;
    std::string_view command, data;
  };
  // 1: a frame, taken off buffer_; 0: more is needed; -1: not RELP.
  int parse(Answer& out, std::size_t& used);
  bool take(const Answer& answer);
  bool fail(std::string what) {
    problem_ = std::move(what);
    return false;
  }
  std::string frame(const char* command, std::string_view data);

  std::uint32_t next_ = 1;  // 1 .. 999,999,999
  std::uint32_t open_number_ = 0;
  bool ready_ = false;
  struct Waiting {
    std::uint32_t number;
    bool answered;
  };
  std::deque<Waiting> waiting_;
  std::uint64_t confirmed_ = 0;
  std::string buffer_, problem_;
};

}  // namespace bulkhead::daemon::siem
