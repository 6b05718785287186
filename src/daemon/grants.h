// The grants duty: tokens are verified here, once, and what they allow is written into their tenant's table (docs/formats/grant.md). Control
// loop only, but for book().
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/duty.h"
#include "daemon/grant_book.h"
#include "daemon/ledger.h"
#include "daemon/sealed.h"
#include "grant/token.h"
#include "shm/grant_table.h"
#include "wire/messages.h"

namespace bulkhead::daemon {

// [trust] of the configuration.
struct Trust {
  std::string file;      // of the JWK set; "": none
  std::string audience;  // this node's name
  std::string issuer;    // "": any
};

struct GrantsOutside {
  // Each may be empty. The journal; the audit log (canonical JSON); the two files.
  std::function<void(wire::EventKind, const std::string& text, const EventFields&)> post;
  std::function<void(const std::string& json)> record;
  std::function<void(const std::string& json)> keep_here;   // DIR/grants.json, at once
  std::function<void(const std::string& json)> keep_state;  // STATE/grants.json, by the store
};

// What metrics and `grant list` show of a tenant.
struct GrantView {
  unsigned living = 0;
  std::int64_t ends_unix_s = 0;  // the last of them; 0 = none
  std::uint64_t accepted = 0, refused = 0;
};

class Grants final : public Duty {
 public:
  static constexpr std::uint32_t kSerialsAhead =
      1000;  // what STATE is ahead, so that a reboot repeats none
  static constexpr std::uint64_t kTellAt_x100 = 80;  // of the life of a tenant's last grant

  Grants(const Ledger& ledger, GrantsOutside outside);

  // Puts the trust file's text into force: grants whose key is gone or another end. The problem (the old keys stay), or "". Without a
  // file nobody is trusted.
  [[nodiscard]] std::string set_keys(const Trust& trust, const std::string& jwks, const Now& now);
  // What would be wrong with it.
  [[nodiscard]] static std::string problem_of(const Trust& trust, const std::string& jwks);
  // What an earlier daemon wrote: DIR's, else STATE's. Verifies each grant again.
  void restore(const std::string& here, const std::string& state, const Now& now);

  [[nodiscard]] Answer present(const Peer& peer, const std::string& tenant, std::string_view token,
                               const Now& now);
  [[nodiscard]] Answer revoke(const Peer& peer, wire::RevokeWhat what, const std::string& which,
                              const Now& now);
  // The tenant's table, for a process of it: a descriptor that only reads.
  [[nodiscard]] Answer table(const Peer& peer, const std::string& tenant, UniqueFd& out);

  int tick(const Now& now) override;
  const char* name() const override { return "grants"; }

  [[nodiscard]] GrantView view(const std::string& tenant) const;
  [[nodiscard]] std::size_t living() const { return living_.size(); }
  // The grants' part of what is shown; since this daemon's start.
  void fill(wire::AuditView& view) const;
  [[nodiscard]] bool trusts() const { return trusts_; }  // there is a trust file
  // Whether a living grant of the tenant names this classification.
  [[nodiscard]] bool has_class(const std::string& tenant, const std::string& word) const;
  // Any thread.
  [[nodiscard]] GrantBook& book() { return book_; }

 private:
  struct Living {
    std::uint32_t serial = 0;
    std::string tenant, token;
    grant::Grant grant;
    shm::GrantHandle handle;
    std::uint64_t not_after_ns = 0;  // CLOCK_MONOTONIC
    bool told = false;               // that it ends soon
  };
  struct Table {
    Sealed memory;
    std::string subject;
    std::vector<std::string> uuids;
    GrantView counts;
    [[nodiscard]] shm::GrantTable& words() const { return *memory.map.as<shm::GrantTable>(); }
  };
  [[nodiscard]] Table* table_of(const wire::TenantRecord& record);
  [[nodiscard]] grant::Verified check(const wire::TenantRecord& record, std::string_view token,
                                      const Now& now) const;
  [[nodiscard]] Answer refuse_token(const Peer& peer, const std::string& tenant,
                                    const grant::Verified& why);
  [[nodiscard]] Answer accept(const Peer& peer, const wire::TenantRecord& record,
                              const grant::Verified& verified, std::string_view token,
                              std::uint32_t serial, const Now& now);
  // Ends it in its table, its book and the log; the caller takes it out of living_.
  void end(const Living& one, abi::DenyReason why, const std::string& text, const Now& now);
  template <class Which>
  unsigned end_all(Which which, abi::DenyReason why, const std::string& text, const Now& now);
  void look_at_tenants(const Now& now);
  void look_at(Living& one, const Now& now);
  void deny(const std::string& id, std::int64_t until_s);
  void post(wire::EventKind kind, const std::string& text, wire::Severity severity,
            const std::string& tenant, const Peer* peer = nullptr) const;
  void keep();
  [[nodiscard]] std::string record_of(const Living& one, const std::vector<std::string>& devices,
                                      const Now& now) const;

  const Ledger& ledger_;
  GrantsOutside outside_;
  Trust trust_;
  grant::KeySet keys_;
  bool trusts_ = false;
  std::string jwks_;  // in force
  std::map<std::string, Table> tables_;
  std::vector<Living> living_;
  std::map<std::string, std::int64_t> denied_;  // jti -> exp
  std::uint32_t next_serial_ = 1, stored_serial_ = 0;
  GrantBook book_;
  std::uint64_t accepted_ = 0, expired_ = 0, revoked_ = 0, refusals_[grant::kRefusals] = {};
};

}  // namespace bulkhead::daemon
