// The thread that drains the lanes into the sink (docs/formats/lane.md). It alone touches the sink, the tails and the intent.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "audit/sink.h"
#include "daemon/audit_session.h"
#include "shm/lane_writer.h"

namespace bulkhead::daemon {

struct AuditFigures {
  std::uint64_t entries = 0;  // taken over by the sink
  std::uint64_t malformed =
      0;  // of them, written as violations because the library cannot have written them
  std::uint64_t violations = 0;  // of them, by the check against the grant
  std::uint64_t faulty_lanes = 0;
  std::uint64_t high_water = 0;   // most entries that were found waiting in one lane
  std::uint64_t gaps = 0;         // entries that are known to be missing
  std::uint64_t sink_stalls = 0;  // times the sink had no room
  std::uint64_t own_records = 0;  // of record(), in their order
  bool full = false;              // the sink has no room now
  bool failed = false;            // the sink gave up: nothing is drained any more
  std::string failure;
};

class AuditWriter {
 public:
  // The daemon's own check of an entry that the library let through: kNone, or why it is a violation.
  using Check = std::function<abi::DenyReason(const AuditSession&, const abi::AuditEntry&)>;
  static constexpr unsigned kMostAVisit = 256;

  // `done_fd`: an eventfd that is written when a session has ended or the sink has failed. All outlive the writer.
  AuditWriter(audit::Sink& sink, shm::Bell& bell, shm::Intent& intent, int done_fd, Check check);
  ~AuditWriter();

  // Before start(): what a daemon before us had begun. Sessions were added already. `found`: the leaves that were in the sink before
  // this start wrote any.
  void recover(std::uint64_t found);
  void start();
  // Drains what is committed now, then ends the thread. Sessions stay.
  void stop();

  // Any thread.
  void add(std::shared_ptr<AuditSession> session);
  void add_lane(std::shared_ptr<AuditSession> session, unsigned lane);
  // Its process has ended: drained to the last commit, then session_end.
  void end(std::shared_ptr<AuditSession> session);
  // Serials of sessions that are over since the last call: their memory may go.
  [[nodiscard]] std::vector<std::uint32_t> take_ended();
  [[nodiscard]] AuditFigures figures() const;
  // One record of the daemon's own (start, policy, ...): canonical JSON. Its number; figures().own_records says how many are in the log.
  std::uint64_t record(std::string json);

 private:
  struct Order {
    enum Kind : std::uint8_t { kAdd, kLane, kEnd, kRecord } kind;
    std::shared_ptr<AuditSession> session;
    unsigned lane = 0;
    std::string json;
  };
  void push(Order order);
  void run();
  void show();
  [[nodiscard]] bool obey();
  [[nodiscard]] bool obey(Order& order);
  void put_waiting_records();
  // Entries taken in one visit to each lane.
  [[nodiscard]] unsigned round(bool& more);
  [[nodiscard]] unsigned visit(AuditSession& session, unsigned lane);
  [[nodiscard]] bool anything() const;
  void look_harder(AuditSession& session, unsigned lane, std::uint64_t expected);
  void finish(AuditSession& session);
  [[nodiscard]] bool name_gaps(AuditSession& session);
  bool put_entries(AuditSession& session, unsigned lane, std::uint32_t count);
  bool put_record(shm::IntentKind kind, std::uint32_t session, unsigned lane,
                  const std::string& json);
  [[nodiscard]] Status put_until_room(const std::function<Status()>& put);
  void ring(bool full);
  bool settled(const Status& status);
  void recover_entries(AuditSession& session, std::uint64_t arrived);
  [[nodiscard]] bool stopping() const;

  audit::Sink& sink_;
  shm::Bell& bell_;
  shm::Intent& intent_;
  const int done_fd_;
  const Check check_;
  std::vector<std::shared_ptr<AuditSession>> sessions_;  // the thread's
  abi::AuditEntry batch_[kMostAVisit];
  AuditFigures own_;
  bool failed_ = false;

  mutable std::mutex mutex_;  // for what follows
  std::vector<Order> orders_;
  std::vector<std::uint32_t> ended_;
  AuditFigures shown_;
  std::uint64_t asked_records_ = 0;
  bool stop_ = false;
  std::thread thread_;
};

// The records of a session, canonical JSON (RFC 8785).
[[nodiscard]] std::string session_record(const AuditSession& session, std::int64_t unix_ns);
[[nodiscard]] std::string session_end_record(const AuditSession& session, std::int64_t unix_ns);
[[nodiscard]] std::string lane_gap_record(const AuditSession& session, unsigned lane,
                                          std::uint64_t entries, std::int64_t unix_ns);
[[nodiscard]] std::string lane_finding_record(const AuditSession& session, unsigned lane,
                                              std::uint64_t sequence, std::int64_t unix_ns);

}  // namespace bulkhead::daemon
