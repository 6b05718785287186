// The socket duty: control.sock (docs/formats/wire.md). Accepts, knows peers by the kernel, bounds what each uid may take, checks every
// message once, and hands it to the ledger. Never waits for a peer. Control loop only.
#pragma once
#include <sys/types.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "daemon/duty.h"
#include "daemon/ledger.h"
#include "daemon/peer.h"
#include "daemon/poller.h"
#include "daemon/queue.h"
#include "wire/messages.h"

namespace bulkhead::daemon {

struct LaneAnswer;

// What other parts know. Unset ones answer with nothing. The server itself leaves out what a peer may not see.
struct ServerProviders {
  std::function<std::vector<wire::TenantView>()> tenants;  // in order of name
  std::function<std::vector<wire::NodeDevice>()> devices;
  std::function<std::vector<wire::StrayView>()> strays;
  // Journal::after() and next_id().
  std::function<std::vector<wire::EventView>(std::uint64_t after, std::size_t most,
                                             std::uint32_t& lost)>
      events;
  std::function<std::uint64_t()> next_event_id;
  std::function<std::vector<wire::UsageRow>(std::int64_t since_unix_s)> usage;
  // Reads the configuration again, and calls `done` with what it came to, now or in a later turn.
  std::function<void(std::function<void(const Answer&)> done)> reload;
  // What of the configuration is not in force, one line, or "".
  std::function<std::string()> condition;
  // A lane for a process that belongs to the tenant it names (audit_lanes.h). Unset: nothing is audited here.
  std::function<LaneAnswer(const Peer&, const wire::LaneRequest&, UniqueFd pidfd)> lane;
  // Whether `lane` may be asked now: what it rests on is known. Else `again` is called once in a later turn when it is, and the
  // connection waits meanwhile. Unset: always.
  std::function<bool(const Peer&, const wire::LaneRequest&, std::function<void()> again)>
      lane_known;
  // The audit and the grants in numbers.
  std::function<void(wire::AuditReply&)> audit_state;
  // Grants (grants.h). Unset: there are none here.
  std::function<Answer(const Peer&, const std::string& tenant, std::string_view token)> grant;
  std::function<Answer(const Peer&, wire::RevokeWhat what, const std::string& which)> revoke;
  std::function<Answer(const Peer&, const std::string& tenant, UniqueFd& out)> grant_table;
  // Rollouts of audit modes (rollout.h): the first only for operators. Unset: there are none here.
  std::function<Answer(const Peer&, const wire::RolloutRequest&)> rollout;
  std::function<void(const std::string& tenant, wire::RolloutReply&)> show_rollout;
};

struct ServerOptions {
  std::uint32_t daemon_uid = 0;
  bool authoritative = false;  // its node page outranks everything
  std::string version = "bulkheadd";
  std::function<Now()> clock;  // read_clocks
  // Only tests set it: SO_PEERCRED and pidfd otherwise.
  std::function<Result<Identified>(int socket)> identify = daemon::identify;
};

struct ServerCounts {
  std::uint64_t requests = 0, refused = 0, malformed = 0;
  std::uint64_t connections = 0, dropped = 0;  // ever; dropped: did not read, idle, over a bound
};

class Server : public Duty {
 public:
  static constexpr unsigned kMostConnections = 256;
  static constexpr unsigned kKeptForOperators = 32;  // of them
  static constexpr unsigned kMostOfOneUid =
      4;  // but operators'; those that wait in the queue apart
  static constexpr unsigned kMostParkedOfOneUid = 32;  // else one uid keeps all others out
  static constexpr unsigned kMostWaitingOfOneUid = 16;
  static constexpr unsigned kRequestsPerSecond = 16;  // of one uid but operators'
  static constexpr std::uint64_t kIdle_ns = 60'000'000'000;
  static constexpr std::uint64_t kParked_ns =
      5'000'000'000;  // beyond kMostOfOneUid: waits this long for its turn
  static constexpr std::uint64_t kUnread_ns =
      2'000'000'000;  // an answer lies this long: the peer does not read

  Server(Poller& poller, Ledger& ledger, ServerOptions options, ServerProviders providers);
  ~Server() override;

  // Binds control.sock below `dir_fd`, 0666 for root else 0600, replacing one that is left over: the caller holds the
  // directory's daemon.lock. kIo.
  [[nodiscard]] Status listen(int dir_fd);
  // No more requests; connections are closed, and the socket's name goes.
  void stop();

  // Deadlines, queue, followers, the ledger's own tick.
  int tick(const Now& now) override;
  const char* name() const override { return "server"; }

  [[nodiscard]] const ServerCounts& counts() const { return counts_; }
  [[nodiscard]] std::size_t waiting() const { return queue_.size(); }
  // A connection made otherwise (tests).
  void take(UniqueFd socket);

 private:
  struct Connection;
  struct Bucket;
  using Key = Queue::Key;

  void accept_one();
  void listen_again(const Now& now);
  void on_ready(Key key, std::uint32_t ready);
  void read_one(Connection& c);
  void dispatch(Connection& c, const void* message, const Now& now);
  void answer(Connection& c, const wire::Header& request, const Answer& answer, const Now& now,
              std::vector<UniqueFd> fds = {});
  void answer_queued(Connection& c, Queue::Place place);
  void enrol(Connection& c, const wire::RegisterRequest& request, const Now& now);
  void hello(Connection& c, const wire::Header& request);
  void list(Connection& c, const wire::NameRequest& request);
  void events(Connection& c, const wire::Header& request, std::uint64_t after);
  void usage(Connection& c, const wire::UsageRequest& request);
  void reload(Connection& c, const wire::Header& request, const Now& now);
  void grant_table(Connection& c, const wire::NameRequest& request, const Now& now);
  void lane(Connection& c, const wire::LaneRequest& request);
  [[nodiscard]] bool lane_known(Connection& c, const wire::LaneRequest& request);
  void rollout(Connection& c, const wire::RolloutRequest& request, const Now& now);
  void show_rollout(Connection& c, const wire::NameRequest& request);
  void audit_state(Connection& c, const wire::Header& request);
  void beacons(Connection& c, const wire::NameRequest& request);
  void put(Connection& c, const void* message, std::size_t bytes, std::vector<UniqueFd> fds = {});
  void flush(Connection& c);
  void let_go();
  void close(Key key);
  void serve_queue(const Now& now);
  void follow(const Now& now);
  void watch_over(const Now& now);
  void update_interest(Connection& c);
  [[nodiscard]] bool spend(std::uint32_t uid, const Now& now);
  [[nodiscard]] unsigned active_of(std::uint32_t uid) const;
  [[nodiscard]] unsigned parked_of(std::uint32_t uid) const;
  [[nodiscard]] unsigned waiting_of(std::uint32_t uid) const;

  Poller& poller_;
  Ledger& ledger_;
  ServerOptions options_;
  ServerProviders providers_;
  ServerCounts counts_;
  UniqueFd listener_;
  std::uint64_t listener_rests_until_ns_ = 0;  // out of descriptors; 0: it does not rest
  UniqueFd dir_;
  Queue queue_;
  std::map<Key, std::unique_ptr<Connection>> connections_;
  std::map<std::uint32_t, Bucket> buckets_;
  std::vector<Key> closing_;  // closed at the end of the turn: handlers may still hold them
  Key next_key_ = 1;
  std::uint64_t seen_freed_ = 0;
};

}  // namespace bulkhead::daemon
