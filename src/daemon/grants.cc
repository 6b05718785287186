#include "daemon/grants.h"

#include <openssl/rand.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "daemon/config.h"
#include "daemon/grants_json.h"

namespace bulkhead::daemon {
namespace {

using abi::DenyReason;
using grant::Refusal;
using wire::EventKind;
using wire::Severity;
constexpr std::int64_t kSecond_ns = 1'000'000'000;

std::int64_t unix_s(const Now& now) { return now.unix_ns / kSecond_ns; }

// A time of the wall as CLOCK_MONOTONIC has it.
std::uint64_t mono_of(std::int64_t at_s, const Now& now) {
  const std::int64_t ahead_ns = at_s * kSecond_ns - now.unix_ns;
  const auto mono = static_cast<std::int64_t>(now.mono_ns);
  return ahead_ns < 0 && -ahead_ns >= mono ? 1 : static_cast<std::uint64_t>(mono + ahead_ns);
}

std::vector<std::string> uuids_of(const wire::TenantRecord& r) {
  std::vector<std::string> out;
  for (unsigned i = 0; i < r.device_count; ++i) out.push_back(uuid_text(r.devices[i].uuid));
  return out;
}
// The part behind "GPU-" or "MIG-": the driver names an instance by the same 16 bytes.
bool same_device(const std::string& a, const std::string& b) {
  return a.size() == b.size() && a.size() > 4 && a.compare(4, std::string::npos, b, 4) == 0;
}
}  // namespace

Grants::Grants(const Ledger& ledger, GrantsOutside outside)
    : ledger_(ledger), outside_(std::move(outside)) {}

void Grants::post(EventKind kind, const std::string& text, Severity severity,
                  const std::string& tenant, const Peer* peer) const {
  if (!outside_.post) return;
  EventFields fields;
  fields.severity = severity;
  fields.tenant = tenant;
  if (peer != nullptr) {
    fields.pid = peer->pid;
    fields.uid = peer->uid;
  }
  outside_.post(kind, text, fields);
}

std::string Grants::problem_of(const Trust& trust, const std::string& jwks) {
  if (trust.file.empty()) return "";
  const auto read = grant::KeySet::parse(jwks);
  return read.ok() ? "" : trust.file + ": " + read.problem;
}

std::string Grants::set_keys(const Trust& trust, const std::string& jwks, const Now& now) {
  grant::KeySet keys;
  if (!trust.file.empty()) {
    auto read = grant::KeySet::parse(jwks);
    if (!read.ok()) {
      std::string problem = trust.file + ": " + read.problem;
      post(EventKind::kTrustRefused, problem, Severity::kWarning, "");
      return problem;
    }
    keys = std::move(*read);
  }
  const bool other = jwks != jwks_ || trust.file != trust_.file ||
                     trust.audience != trust_.audience || trust.issuer != trust_.issuer;
  trust_ = trust;
  keys_ = std::move(keys);
  trusts_ = !trust.file.empty();
  jwks_ = jwks;
  if (!other) return "";
  if (outside_.record) outside_.record(jwks_record(jwks_, now));
  post(EventKind::kTrustLoaded,
       std::to_string(keys_.size()) + " keys of " + trust.file + ": " + keys_.kids(),
       Severity::kInfo, "");
  // By the keys of now, not by name alone: a key that was replaced under its old kid is gone too.
  const auto stale = [this, &now](const Living& one) {
    const grant::Expected e{trust_.audience, trust_.issuer, one.grant.subject, unix_s(now)};
    return !grant::verify(one.token, keys_, e).ok();
  };
  for (auto& [name, table] : tables_) {  // of a tenant that keeps none: its epoch
    const auto of_it = [&n = name](const Living& one) { return one.tenant == n; };
    const auto has = std::count_if(living_.begin(), living_.end(), of_it);
    const auto goes = std::count_if(living_.begin(), living_.end(),
                                    [&](const Living& o) { return of_it(o) && stale(o); });
    if (has != 0 && has == goes) shm::raise_epoch(table.words());
  }
  (void)end_all(stale, DenyReason::kRevoked, "its key is not trusted any more", now);
  return "";
}

Grants::Table* Grants::table_of(const wire::TenantRecord& record) {
  const auto at = tables_.find(record.name);
  if (at != tables_.end()) return &at->second;
  auto made = make_sealed("bulkhead-grants", sizeof(shm::GrantTable), true);
  if (!made.ok()) {
    post(EventKind::kGrantRefused, std::string{"no grant table: "} + made.status().text(),
         Severity::kWarning, record.name);
    return nullptr;
  }
  Table t;
  t.memory = std::move(*made);
  t.subject = record.grant_subject;
  t.uuids = uuids_of(record);
  std::uint8_t uuids[shm::kGrantDevices][16] = {};
  for (unsigned i = 0; i < record.device_count && i < shm::kGrantDevices; ++i)
    std::memcpy(uuids[i], record.devices[i].uuid, sizeof uuids[i]);
  shm::format_grants(t.words(), record.name, uuids, record.device_count);
  return &tables_.emplace(record.name, std::move(t)).first->second;
}

grant::Verified Grants::check(const wire::TenantRecord& record, std::string_view token,
                              const Now& now) const {
  grant::Verified v;
  if (!trusts_) {
    v.why = Refusal::kNoTrust;
    return v;
  }
  v = grant::verify(token, keys_,
                    {trust_.audience, trust_.issuer, record.grant_subject, unix_s(now)});
  if (!v.ok()) return v;
  if (record.grant_subject[0] == '\0') {
    v.why = Refusal::kNoSubject;
  } else if (denied_.contains(v.grant.id)) {
    v.why = Refusal::kDenied;
  } else {
    const std::vector<std::string> has = uuids_of(record);
    const auto ours = [&has](const std::string& u) {
      return std::any_of(has.begin(), has.end(),
                         [&u](const std::string& h) { return same_device(u, h); });
    };
    if (std::none_of(v.grant.locations.begin(), v.grant.locations.end(), ours))
      v.why = Refusal::kLocation;
  }
  return v;
}

Answer Grants::refuse_token(const Peer& peer, const std::string& tenant,
                            const grant::Verified& why) {
  if (const auto at = tables_.find(tenant); at != tables_.end()) ++at->second.counts.refused;
  ++refusals_[static_cast<unsigned>(why.why)];
  Answer a;
  a.result = why.why == Refusal::kNotYours ? Errc::kUntrusted : Errc::kInvalid;
  a.tenant = tenant;
  a.text = "grant refused: " + why.text();
  post(EventKind::kGrantRefused, a.text, Severity::kWarning, tenant, &peer);
  return a;
}

Answer Grants::present(const Peer& peer, const std::string& tenant, std::string_view token,
                       const Now& now) {
  grant::Verified v;
  const auto at = ledger_.entries().find(tenant);
  if (!ledger_.may_see(peer, tenant)) {  // whether there is such a tenant is not told either
    v.why = Refusal::kNotYours;
    return refuse_token(peer, "", v);
  }
  if (at == ledger_.entries().end()) {
    v.why = Refusal::kNoTenant;
    return refuse_token(peer, tenant, v);
  }
  const wire::TenantRecord& record = at->second.record;
  (void)table_of(record);
  v = check(record, token, now);
  if (!v.ok()) return refuse_token(peer, tenant, v);
  for (const Living& one : living_) {
    if (one.grant.id != v.grant.id) continue;
    if (one.tenant == tenant && one.token == token) {
      Answer a;
      a.tenant = tenant;
      a.text = accepted_text(one.serial, one.grant);
      return a;
    }
    v.why = Refusal::kDenied;
    v.detail = "its id is another grant's";
    return refuse_token(peer, tenant, v);
  }
  Answer a = accept(peer, record, v, token, next_serial_, now);
  if (!a.ok()) return a;
  ++next_serial_;
  keep();
  return a;
}

Answer Grants::accept(const Peer& peer, const wire::TenantRecord& record, const grant::Verified& v,
                      std::string_view token, std::uint32_t serial, const Now& now) {
  Table* table = table_of(record);
  grant::Verified full = v;
  full.why = Refusal::kTableFull;
  std::uint64_t secret = 0;
  if (table == nullptr || RAND_bytes(reinterpret_cast<unsigned char*>(&secret), sizeof secret) != 1)
    return refuse_token(peer, record.name, full);
  Living one;
  one.serial = serial;
  one.tenant = record.name;
  one.token = token;
  one.grant = v.grant;
  one.not_after_ns = mono_of(v.grant.expires_s, now);
  shm::GrantValues values;
  values.not_before_ns = mono_of(v.grant.not_before_s, now);
  values.not_after_ns = one.not_after_ns;
  values.address = v.grant.address;
  values.length = v.grant.length;
  values.bytes = v.grant.bytes;
  values.serial = serial;
  values.directions = v.grant.actions;
  std::vector<std::string> devices;
  for (std::size_t i = 0; i < table->uuids.size(); ++i) {
    const auto named = [&u = table->uuids[i]](const std::string& l) { return same_device(l, u); };
    if (std::none_of(v.grant.locations.begin(), v.grant.locations.end(), named)) continue;
    values.devices = static_cast<std::uint16_t>(values.devices | 1u << i);
    devices.push_back(table->uuids[i]);
  }
  // the log and the book first: no entry may name a grant that neither knows
  GrantBook::Rule rule{one.tenant,
                       v.grant.not_before_s * kSecond_ns,
                       v.grant.expires_s * kSecond_ns,
                       0,
                       v.grant.actions,
                       devices,
                       v.grant.address,
                       v.grant.length,
                       v.grant.bytes};
  if (table->words().header.live.load(std::memory_order_relaxed) >= shm::kMostLivingGrants)
    return refuse_token(peer, record.name, full);
  book_.add(serial, std::move(rule));
  if (outside_.record) outside_.record(record_of(one, devices, now));
  const auto handle = shm::put_grant(table->words(), values, secret);
  if (!handle.ok()) return refuse_token(peer, record.name, full);
  one.handle = *handle;
  ++table->counts.accepted;
  ++accepted_;
  Answer a;
  a.tenant = one.tenant;
  a.text = accepted_text(serial, one.grant);
  post(EventKind::kGrantAccepted, a.text, Severity::kInfo, one.tenant, &peer);
  living_.push_back(std::move(one));
  return a;
}

void Grants::end(const Living& one, DenyReason why, const std::string& text, const Now& now) {
  if (const auto at = tables_.find(one.tenant); at != tables_.end())
    (void)shm::end_grant(at->second.words(), one.handle, why);
  const bool expired = why == DenyReason::kExpired;
  ++(expired ? expired_ : revoked_);
  if (!expired) {
    book_.end(one.serial, now.unix_ns);
    if (outside_.record) outside_.record(revoked_record(one.serial, one.grant.id, text, now));
  }
  const bool another = std::any_of(living_.begin(), living_.end(), [&one](const Living& o) {
    return o.tenant == one.tenant && o.grant.expires_s > one.grant.expires_s;
  });
  post(expired ? EventKind::kGrantExpired : EventKind::kGrantRevoked,
       "grant " + std::to_string(one.serial) + " has ended: " + text,
       expired && another ? Severity::kInfo : Severity::kWarning, one.tenant);
}

template <class Which>
unsigned Grants::end_all(Which which, DenyReason why, const std::string& text, const Now& now) {
  unsigned ended = 0;
  for (std::size_t i = 0; i < living_.size();) {
    if (!which(living_[i])) {
      ++i;
      continue;
    }
    const Living one = std::move(living_[i]);
    living_.erase(living_.begin() + static_cast<std::ptrdiff_t>(i));
    end(one, why, text, now);
    ++ended;
  }
  if (ended != 0) keep();
  return ended;
}

void Grants::deny(const std::string& id, std::int64_t until_s) {
  std::int64_t& until = denied_[id];
  until = std::max(until, until_s);
}

Answer Grants::revoke(const Peer& peer, wire::RevokeWhat what, const std::string& which,
                      const Now& now) {
  Answer a;
  const auto wanted = [&](const Living& one) {
    if (what == wire::RevokeWhat::kId) return one.grant.id == which;
    if (what == wire::RevokeWhat::kKey) return one.grant.kid == which;
    return one.tenant == which;
  };
  bool may = ledger_.is_operator(peer);
  if (!may && what == wire::RevokeWhat::kTenant) may = ledger_.may_see(peer, which);
  if (!may && what == wire::RevokeWhat::kId) {
    const auto at = std::find_if(living_.begin(), living_.end(), wanted);
    may = at != living_.end() && ledger_.may_see(peer, at->tenant);
  }
  if (!may) {
    a.result = Errc::kUntrusted;
    a.text = "only root, the daemon's user and the tenant's owner revoke grants";
    return a;
  }
  // not seen here yet, perhaps: refused as long as it could still be valid
  if (what == wire::RevokeWhat::kId) deny(which, unix_s(now) + grant::kMostLife_s);
  for (const Living& one : living_) {
    if (wanted(one)) deny(one.grant.id, one.grant.expires_s);
  }
  if (what == wire::RevokeWhat::kTenant) {
    if (const auto at = tables_.find(which); at != tables_.end())
      shm::raise_epoch(at->second.words());
  }
  const unsigned ended =
      end_all(wanted, DenyReason::kRevoked, "revoked by uid " + std::to_string(peer.uid), now);
  keep();
  a.text = ended == 0 ? "no living grant was named; its id is refused from now on"
                      : std::to_string(ended) + " grant(s) ended";
  if (ended == 0 && what != wire::RevokeWhat::kId) a.text = "no living grant was named";
  return a;
}

Answer Grants::table(const Peer& peer, const std::string& tenant, UniqueFd& out) {
  Answer a;
  a.tenant = tenant;
  const auto at = ledger_.entries().find(tenant);
  if (at == ledger_.entries().end() || !ledger_.belongs_to(peer, tenant).ok()) {
    a.result = Errc::kUntrusted;
    a.text = "this process does not belong to tenant " + tenant;
    return a;
  }
  const Table* table = table_of(at->second.record);
  auto fd = table == nullptr ? Result<UniqueFd>{Status{Errc::kIo, 0, "no grant table"}}
                             : reopen_read_only(table->memory.fd.get());
  if (fd.ok()) {
    out = std::move(*fd);
  } else {
    a.result = fd.status().code();
    a.text = fd.status().text();
  }
  return a;
}

// A tenant that went, or whose subject or devices are others now: its grants were given to something else.
void Grants::look_at_tenants(const Now& now) {
  for (auto at = tables_.begin(); at != tables_.end();) {
    const std::string name = at->first;
    const auto e = ledger_.entries().find(name);
    const bool gone = e == ledger_.entries().end();
    const bool other = !gone && (at->second.uuids != uuids_of(e->second.record) ||
                                 at->second.subject != e->second.record.grant_subject);
    if (!gone && !other) {
      ++at;
      continue;
    }
    (void)end_all([&name](const Living& one) { return one.tenant == name; }, DenyReason::kForeign,
                  gone ? "its tenant is gone" : "its tenant was changed", now);
    const bool same_devices = !gone && at->second.uuids == uuids_of(e->second.record);
    if (same_devices) {  // processes have it mapped: it stays
      at->second.subject = e->second.record.grant_subject;
      ++at;
    } else {
      at = tables_.erase(at);
    }
  }
}

void Grants::look_at(Living& one, const Now& now) {
  const std::int64_t begin_s = std::min(one.grant.not_before_s, one.grant.issued_s);
  const std::int64_t tell_ns = begin_s * kSecond_ns + (one.grant.expires_s - begin_s) * kSecond_ns /
                                                          100 *
                                                          static_cast<std::int64_t>(kTellAt_x100);
  if (one.told || now.unix_ns < tell_ns) return;
  one.told = true;
  for (const Living& other : living_) {
    if (other.tenant == one.tenant && other.grant.expires_s > one.grant.expires_s) return;
  }
  post(EventKind::kGrantExpiring,
       "grant " + std::to_string(one.serial) + " ends at " + grant::time_text(one.grant.expires_s) +
           " and no later one is here: renew it",
       Severity::kWarning, one.tenant);
}

int Grants::tick(const Now& now) {
  look_at_tenants(now);
  (void)end_all(
      [&now](const Living& one) {
        return unix_s(now) >= one.grant.expires_s || now.mono_ns >= one.not_after_ns;
      },
      DenyReason::kExpired, "expired", now);
  (void)end_all(
      [this](const Living& one) {
        return one.grant.bytes != 0 && book_.used(one.serial) >= one.grant.bytes;
      },
      DenyReason::kBytes, "its bytes are used up", now);
  for (Living& one : living_) look_at(one, now);
  std::erase_if(denied_, [&now](const auto& d) { return d.second < unix_s(now); });
  return living_.empty() ? 1000 : 250;
}

GrantView Grants::view(const std::string& tenant) const {
  GrantView out;
  if (const auto at = tables_.find(tenant); at != tables_.end()) out = at->second.counts;
  for (const Living& one : living_) {
    if (one.tenant != tenant) continue;
    ++out.living;
    out.ends_unix_s = std::max(out.ends_unix_s, one.grant.expires_s);
  }
  return out;
}

std::string Grants::record_of(const Living& one, const std::vector<std::string>& devices,
                              const Now& now) const {
  return grant_record(one.serial, one.tenant, one.token, one.grant, devices, now);
}

void Grants::keep() {
  KeptGrants kept;
  kept.next_serial = next_serial_;
  kept.denied = denied_;
  for (const Living& one : living_)
    kept.grants.push_back({one.serial, one.tenant, one.token, book_.used(one.serial)});
  if (outside_.keep_here) outside_.keep_here(to_json(kept));
  kept.grants.clear();
  if (next_serial_ + kSerialsAhead / 2 > stored_serial_)
    stored_serial_ = next_serial_ + kSerialsAhead;
  kept.next_serial = stored_serial_;
  if (outside_.keep_state) outside_.keep_state(to_json(kept));
}

void Grants::restore(const std::string& here, const std::string& state, const Now& now) {
  KeptGrants kept;
  const bool ours = from_json(here, kept);
  KeptGrants stored;
  if (from_json(state, stored)) {
    denied_.insert(stored.denied.begin(), stored.denied.end());
    if (!ours) next_serial_ = std::max(next_serial_, stored.next_serial);
    stored_serial_ = stored.next_serial;
  }
  if (!ours) return;
  next_serial_ = std::max(next_serial_, kept.next_serial);
  denied_.insert(kept.denied.begin(), kept.denied.end());
  const Peer us{static_cast<std::uint32_t>(::getpid()), ::geteuid(), ::getegid(), 0, ""};
  for (const KeptGrants::One& one : kept.grants) {
    const auto at = ledger_.entries().find(one.tenant);
    if (at == ledger_.entries().end()) continue;
    const grant::Verified v = check(at->second.record, one.token, now);
    if (v.why == Refusal::kExpired) continue;
    if (!v.ok()) {
      (void)refuse_token(us, one.tenant, v);
      continue;
    }
    (void)accept(us, at->second.record, v, one.token, one.serial, now);
  }
  keep();
}

}  // namespace bulkhead::daemon
