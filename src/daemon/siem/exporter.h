// The exporter: reads windows of events, sends them, and keeps what was confirmed. One thread, never in the daemon's own process.
//
// Claim  every event below the kept position was confirmed by a receiver, so that a kill anywhere, at either end, loses none; and of
//        what is repeated each has the uid it had.
// Proof  a position is a window's end; it is saved only after Link::confirmed() covers the window's last event. A new connection begins
//        at the kept position and drops what was in flight.
// Price  after a cut, what was in flight is sent again: at most kMostOpen messages with RELP, the overlap without.
#pragma once
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/siem/link.h"
#include "daemon/siem/position.h"
#include "daemon/siem/reader.h"
#include "daemon/siem/status.h"

namespace bulkhead::daemon::siem {

struct ExporterOptions {
  Target target;
  const TlsContext* tls = nullptr;  // null: plain
  std::uint32_t enterprise = 32473;
  Link::Options link;
  std::string host, version;
  int connect_timeout_ms = 10'000;
  int most_pause_ms = 30'000;  // between tries
  // The variant that is wrong, for the test that must catch it: keeps a position when it is sent, not when it is confirmed.
  bool keep_before_confirmation = false;
};

class Exporter {
 public:
  Exporter(audit::Files& log, PositionStore& store, ExporterOptions options);
  // One turn; waits at most timeout_ms if there is nothing to do.
  void turn(int timeout_ms);
  [[nodiscard]] Status status() const;
  // Everything signed was sent and confirmed.
  [[nodiscard]] bool settled() const;

 private:
  struct Pending {
    Position behind;
    std::uint64_t last;  // of the link's messages
  };
  bool connect();
  void lose(std::string why);  // by value: it ends the link that said so
  void fill();
  void keep();
  void pause(int timeout_ms);

  PositionStore& store_;
  ExporterOptions options_;
  Reader reader_;
  std::optional<Position> kept_;
  std::unique_ptr<Link> link_;
  std::vector<Event> ready_;  // of the window that is being sent
  std::size_t ready_at_ = 0;
  Position ready_behind_;
  std::deque<Pending> pending_;
  std::uint64_t retry_ns_ = 0, next_look_ns_ = 0;
  int pause_ms_ = 0;
  bool began_ = false;  // the reader has a log
  std::uint64_t sent_ = 0, confirmed_ = 0, bytes_ = 0, connections_ = 0;
  std::uint64_t counted_ = 0,
                connected_ns_ = 0;  // of this connection: confirmed messages; since when
  LinkState state_ = LinkState::kStarting;
  std::string why_;
};

}  // namespace bulkhead::daemon::siem
