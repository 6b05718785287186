// Hands lanes out and takes them back (docs/formats/lane.md, "Life"). Control loop only.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "audit/sink.h"
#include "base/outcome.h"
#include "daemon/audit_keep.h"
#include "daemon/audit_news.h"
#include "daemon/audit_writer.h"
#include "daemon/duty.h"
#include "daemon/ledger.h"
#include "daemon/poller.h"
#include "wire/messages.h"

namespace bulkhead::daemon {

struct AuditRules {
  shm::OnFull full = shm::OnFull::kBlock;
  std::uint32_t deadline_ms = 50;
  std::uint64_t lane_budget = 512ull << 20;  // bytes a tenant
};

// What a request for a lane came to.
struct LaneAnswer {
  Errc result = Errc::kOk;
  std::string text;
  std::uint32_t session = 0, lane = 0, given = 0;
  std::vector<UniqueFd> fds;
};

class AuditLanes : public Duty {
 public:
  struct Outside {
    Poller* poller = nullptr;
    // Serial numbers that no session of this log has had; called again when half of what it gave is used.
    std::function<std::uint32_t(std::uint32_t at_least)> reserve_serials;
    // One line for the journal.
    std::function<void(const std::string& text)> alarm;
    // The same for what is over.
    std::function<void(const std::string& text)> relief;
    std::shared_ptr<AuditNews> news;  // of other threads; may be null
    AuditWriter::Check check;
    // AuditSession::shim of a process; unset: nothing is signed here.
    std::function<std::string(std::uint32_t pid)> shim;
    // Whether the ledger has the tenant under enforce, whatever the process says of itself; unset: nobody is.
    std::function<bool(const std::string& tenant)> enforced;
  };
  static constexpr std::uint32_t kSerialsAtOnce = 65'536;

  AuditLanes(Outside outside, AuditRules rules);
  ~AuditLanes() override;

  // Takes back what a daemon before us had, and starts the writer. The problem, or "".
  [[nodiscard]] std::string open(std::unique_ptr<Keep> keep, std::unique_ptr<audit::Sink> sink,
                                 std::uint64_t found);
  void set_rules(const AuditRules& rules);
  // `tenant`: the peer belongs to it, says the ledger.
  [[nodiscard]] LaneAnswer request(const Peer& peer, const wire::LaneRequest& request,
                                   UniqueFd pidfd);
  // Drains what is committed and ends the writer; lanes stay with the keeper.
  void stop();

  int tick(const Now& now) override;
  const char* name() const override { return "audit"; }

  [[nodiscard]] AuditFigures figures() const;
  [[nodiscard]] audit::SinkFigures sink_figures() const;
  // What the producers say, of all sessions since the start: entries that waited for room, transfers refused because there was
  // none, entries that were not recorded. Tenants' words.
  struct Waits {
    std::uint64_t waited = 0, refused = 0, unrecorded = 0;
  };
  [[nodiscard]] Waits waits() const;
  [[nodiscard]] unsigned lanes(const std::string& tenant) const;  // "": all
  [[nodiscard]] unsigned sessions() const { return static_cast<unsigned>(sessions_.size()); }
  [[nodiscard]] AuditWriter* writer() { return writer_.get(); }

 private:
  using Shared = std::shared_ptr<AuditSession>;
  std::string take_back();
  void take_session(Kept kept);
  void take_lane(Kept kept, std::uint32_t serial, unsigned lane);
  std::string own_memory(const char* name, std::size_t bytes, Sealed& out);
  [[nodiscard]] Shared begin(const Peer& peer, const wire::LaneRequest& request, UniqueFd pidfd,
                             LaneAnswer& answer);
  [[nodiscard]] bool make_lane(AuditSession& session, unsigned lane);
  [[nodiscard]] bool affords(const std::string& tenant) const;
  void watch(const Shared& session);
  void let_end(const Shared& session, const char* why);
  void forget(std::uint32_t serial);
  [[nodiscard]] std::uint32_t next_serial();

  Outside outside_;
  AuditRules rules_;
  std::unique_ptr<Keep> keep_;
  std::unique_ptr<audit::Sink> sink_;
  Sealed bell_, intent_;
  UniqueFd done_;
  std::map<std::uint32_t, Shared> sessions_;
  std::unique_ptr<AuditWriter> writer_;
  std::uint32_t serial_ = 0, serial_end_ = 0;
  bool failure_told_ = false, full_told_ = false;
  Waits of_the_ended_;
};

}  // namespace bulkhead::daemon
