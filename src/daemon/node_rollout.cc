// What rollouts ask of the other parts.
#include <unistd.h>

#include "daemon/node_whole.h"
#include "wire/parse.h"

namespace bulkhead::daemon {

void WholeNode::wire_rollouts() {
  RolloutsOutside o;
  o.post = [this](wire::EventKind kind, const std::string& text, const EventFields& fields) {
    journal_->post(loop_.read_clock(), kind, text, fields);
  };
  o.record = [this](std::string json) { return audit_.record(std::move(json)); };
  o.recorded = [this] { return audit_.recorded(); };
  o.keep_here = [this](const std::string& json) { keep_here(kRolloutsFile, json); };
  o.keep_state = [this](const std::string& json) { store_->replace(kRolloutsFile, json); };
  o.counts = [this](const std::string& tenant, AuditCounts& out) {
    return regions_->audit_counts(tenant, out);
  };
  o.lanes = [this](const std::string& tenant) {
    return audit_.lanes() != nullptr ? audit_.lanes()->lanes(tenant) : 0u;
  };
  o.broken = [this] {
    const AuditFigures f = audit_.lanes() != nullptr ? audit_.lanes()->figures() : AuditFigures{};
    return f.malformed + f.faulty_lanes;
  };
  o.set_mode = [this](const std::string& tenant, std::uint32_t mode) {
    Peer self;  // as the daemon's own user
    self.uid = ::geteuid();
    wire::TenantRecord record{};
    wire::put_text(record.name, tenant.c_str());
    record.audit_mode = static_cast<wire::AuditMode>(mode);
    const Answer a = ledger_->update(self, record, wire::kSetAudit, loop_.read_clock());
    if (ledger_->unstored()) ledger_->keep();
    return a.ok() ? std::string{} : a.text;
  };
  o.modes = [this] {
    std::map<std::string, std::uint32_t> out;
    for (const auto& [name, entry] : ledger_->entries())
      out[name] = static_cast<std::uint32_t>(entry.record.audit_mode);
    return out;
  };
  o.refusal = AuditPart::refusal(config_);
  rollouts_ = std::make_unique<Rollouts>(std::move(o));
  rollouts_->start(read_state_file(dir_.path, kRolloutsFile, kStateBytes),
                   read_state_file(state_, kRolloutsFile, kStateBytes), loop_.read_clock());
}

}  // namespace bulkhead::daemon
