// What each request means: the ledger's answers as messages, lists cut into messages, followers, the queue.
#include <unistd.h>

#include <cstring>

#include "daemon/audit_lanes.h"
#include "daemon/server.h"
#include "daemon/server_connection.h"
#include "wire/parse.h"

namespace bulkhead::daemon {
namespace {

template <class T>
const T& as(const void* message) {
  return *static_cast<const T*>(message);
}

wire::Header reply_to(const wire::Header& q, std::size_t bytes, Errc result) {
  wire::Header h{};
  h.magic = wire::kMagic;
  h.protocol = wire::kProtocol;
  h.kind = static_cast<std::uint16_t>(q.kind | wire::kReplyBit);
  h.bytes = static_cast<std::uint32_t>(bytes);
  h.sequence = q.sequence;
  h.result = static_cast<std::uint32_t>(result);
  return h;
}

template <class T>
void append(std::vector<char>& to, const T& item) {
  const auto* at = reinterpret_cast<const char*>(&item);
  to.insert(to.end(), at, at + sizeof item);
}

constexpr std::size_t kEventsAtOnce =
    (wire::kMaxMessage - sizeof(wire::EventsReply)) / sizeof(wire::EventView);
constexpr std::size_t kRowsAtOnce =
    (wire::kMaxMessage - sizeof(wire::UsageReply)) / sizeof(wire::UsageRow);

// Peers' texts may hold anything; what goes into ours is one line.
std::string one_line(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return text;
}

Answer no_grants() {
  Answer a;
  a.result = Errc::kNotFound;
  a.text = "this daemon knows no grants";
  return a;
}

}  // namespace

void Server::dispatch(Connection& c, const void* message, const Now& now) {
  const auto& h = as<wire::Header>(message);
  switch (static_cast<wire::Kind>(h.kind)) {
    case wire::Kind::kHello:
      return hello(c, h);
    case wire::Kind::kRegister:
      return enrol(c, as<wire::RegisterRequest>(message), now);
    case wire::Kind::kUnregister: {
      const auto& q = as<wire::NameRequest>(message);
      return answer(c, h, ledger_.unregister(c.peer, q.name, (q.flags & wire::kForce) != 0, now),
                    now);
    }
    case wire::Kind::kUpdate: {
      const auto& q = as<wire::UpdateRequest>(message);
      return answer(c, h, ledger_.update(c.peer, q.record, q.mask, now), now);
    }
    case wire::Kind::kJoin: {
      UniqueFd pidfd{c.pidfd.ok() ? ::dup(c.pidfd.get()) : -1};
      return answer(
          c, h, ledger_.join(c.peer, as<wire::JoinRequest>(message), std::move(pidfd), now), now);
    }
    case wire::Kind::kWhoAmI:
      return answer(c, h, ledger_.who(c.peer), now);
    case wire::Kind::kList:
      return list(c, as<wire::NameRequest>(message));
    case wire::Kind::kEvents: {
      const auto& q = as<wire::EventsRequest>(message);
      const std::uint64_t next = providers_.next_event_id ? providers_.next_event_id() : 1;
      c.next_event = q.after_id == ~0ull || q.after_id >= next ? next : q.after_id + 1;
      c.following = q.follow != 0;
      c.follow_sequence = h.sequence;
      return events(c, h, c.next_event - 1);
    }
    case wire::Kind::kBeacons:
      return beacons(c, as<wire::NameRequest>(message));
    case wire::Kind::kUsage:
      return usage(c, as<wire::UsageRequest>(message));
    case wire::Kind::kReload:
      return reload(c, h, now);
    case wire::Kind::kGrant: {
      const auto& q = as<wire::GrantRequest>(message);
      const std::string_view token{q.token, q.token_bytes};
      return answer(c, h, providers_.grant ? providers_.grant(c.peer, q.name, token) : no_grants(),
                    now);
    }
    case wire::Kind::kRevoke: {
      const auto& q = as<wire::RevokeRequest>(message);
      return answer(
          c, h, providers_.revoke ? providers_.revoke(c.peer, q.what, q.which) : no_grants(), now);
    }
    case wire::Kind::kGrantTable:
      return grant_table(c, as<wire::NameRequest>(message), now);
    case wire::Kind::kRollout:
      return rollout(c, as<wire::RolloutRequest>(message), now);
    case wire::Kind::kRolloutShow:
      return show_rollout(c, as<wire::NameRequest>(message));
    case wire::Kind::kLane:
      return lane(c, as<wire::LaneRequest>(message));
    case wire::Kind::kAuditState:
      return audit_state(c, h);
    case wire::Kind::kCondition: {
      Answer a;
      if (ledger_.is_operator(c.peer) && providers_.condition) a.text = providers_.condition();
      return answer(c, h, a, now);
    }
  }
}

// The file is read elsewhere (config_reader.h): the answer comes when that is done, if the connection is still there.
void Server::reload(Connection& c, const wire::Header& request, const Now& now) {
  Answer no;
  no.result = Errc::kUntrusted;
  no.text = "only root and the daemon's own user reload the configuration";
  if (!ledger_.is_operator(c.peer)) return answer(c, request, no, now);
  if (!providers_.reload) return answer(c, request, {}, now);
  c.awaits_answer = true;
  providers_.reload([this, key = c.key, request](const Answer& a) {
    const auto at = connections_.find(key);
    if (at == connections_.end() || at->second->closing) return;
    at->second->awaits_answer = false;
    answer(*at->second, request, a, options_.clock());
    update_interest(*at->second);
  });
}

// The descriptor goes with the answer; the process maps it and closes it.
void Server::grant_table(Connection& c, const wire::NameRequest& q, const Now& now) {
  UniqueFd fd;
  const Answer a =
      providers_.grant_table ? providers_.grant_table(c.peer, q.name, fd) : no_grants();
  std::vector<UniqueFd> fds;
  if (a.ok()) fds.push_back(std::move(fd));
  answer(c, q.header, a, now, std::move(fds));
}

// False: the request is looked at again when it is, if the connection is still there.
bool Server::lane_known(Connection& c, const wire::LaneRequest& q) {
  if (!providers_.lane_known) return true;
  c.awaits_answer = !providers_.lane_known(c.peer, q, [this, key = c.key, q] {
    const auto at = connections_.find(key);
    if (at == connections_.end() || at->second->closing) return;
    at->second->awaits_answer = false;
    lane(*at->second, q);
    update_interest(*at->second);
  });
  return !c.awaits_answer;
}

// What is granted does not count as one of the uid's requests: a program's threads ask within one second, and what they
// may get is bounded by the tenant's lane_budget.
void Server::lane(Connection& c, const wire::LaneRequest& q) {
  LaneAnswer a;
  const Answer belongs = ledger_.belongs_to(c.peer, q.name);
  a.result = belongs.ok() ? Errc::kNotReady : belongs.result;
  a.text =
      belongs.ok() ? "nothing is audited here: see [audit] of the configuration" : belongs.text;
  if (belongs.ok() && providers_.lane) {
    if (!lane_known(c, q)) return;
    a = providers_.lane(c.peer, q, UniqueFd{c.pidfd.ok() ? ::dup(c.pidfd.get()) : -1});
  }
  wire::LaneReply r{};
  r.header = reply_to(q.header, sizeof r, a.result);
  r.session = a.session;
  r.lane = a.lane;
  r.given = a.given;
  wire::put_text(r.text, one_line(a.text).c_str());
  if (a.result == Errc::kOk) {
    if (a.fds.size() == 1) buckets_[c.peer.uid].give_back();
  } else {
    a.fds.clear();
    ++counts_.refused;
  }
  put(c, &r, sizeof r, std::move(a.fds));
}

void Server::audit_state(Connection& c, const wire::Header& q) {
  wire::AuditReply r{};
  const bool may = ledger_.is_operator(c.peer);
  if (may && providers_.audit_state) providers_.audit_state(r);
  r.header = reply_to(q, may ? sizeof r : sizeof r.header, may ? Errc::kOk : Errc::kUntrusted);
  if (!may) ++counts_.refused;
  put(c, &r, r.header.bytes);
}

void Server::answer(Connection& c, const wire::Header& request, const Answer& a, const Now& now,
                    std::vector<UniqueFd> fds) {
  wire::Verdict v{};
  v.header = reply_to(request, sizeof v, a.result);
  wire::put_text(v.name, a.tenant.c_str());
  wire::put_text(v.text, one_line(a.text).c_str());
  v.sums = a.sums;
  if (!a.ok()) ++counts_.refused;
  put(c, &v, sizeof v, std::move(fds));
  serve_queue(now);  // what it freed
}

void Server::answer_queued(Connection& c, Queue::Place place) {
  wire::Verdict v{};
  v.header = reply_to(c.waits_for.header, sizeof v, Errc::kOk);
  v.header.flags = wire::kMore;
  wire::put_text(v.name, c.waits_for.record.name);
  v.queued = 1;
  v.place = place.place;
  v.waiting = place.waiting;
  put(c, &v, sizeof v);
}

void Server::enrol(Connection& c, const wire::RegisterRequest& q, const Now& now) {
  const auto ahead = [this](const wire::TenantRecord& r) { return queue_.somebody_ahead(r); };
  Answer a = ledger_.enrol(c.peer, q, now, ahead);
  if (a.result != Errc::kFull || !a.may_wait || q.wait_ms == 0) return answer(c, q.header, a, now);
  if (!c.is_operator && waiting_of(c.peer.uid) >= kMostWaitingOfOneUid) {
    a.text = "16 of this user wait already: try again when one of them has been served";
    return answer(c, q.header, a, now);
  }
  const std::uint64_t most = (Queue::kForEver - now.mono_ns) / 1'000'000;
  c.waits_for = q;
  queue_.add(c.key, q.record,
             q.wait_ms >= most ? Queue::kForEver : now.mono_ns + q.wait_ms * 1'000'000);
  for (const auto& [key, place] : queue_.moved()) {
    if (const auto at = connections_.find(key); at != connections_.end())
      answer_queued(*at->second, place);
  }
}

void Server::serve_queue(const Now& now) {
  const auto verdict = [&](Key key, const Answer& a) {
    const auto at = connections_.find(key);
    if (at == connections_.end() || at->second->closing) return;
    wire::Verdict v{};
    v.header = reply_to(at->second->waits_for.header, sizeof v, a.result);
    wire::put_text(v.name, a.tenant.c_str());
    wire::put_text(v.text, one_line(a.text).c_str());
    v.sums = a.sums;
    if (!a.ok()) ++counts_.refused;
    at->second->since_ns = now.mono_ns;
    put(*at->second, &v, sizeof v);
  };
  if (queue_.size() == 0) {
    seen_freed_ = ledger_.freed();
    return;
  }
  for (const Key key : queue_.expire(now.mono_ns)) {
    Answer a;
    a.result = Errc::kFull;
    a.text = "the time to wait is over, and there is still no room: wait longer, or ask for less";
    verdict(key, a);
  }
  std::vector<std::pair<Key, Answer>> done;
  const bool somebody_left = queue_.moved_out();
  if (seen_freed_ != ledger_.freed() || somebody_left) {
    seen_freed_ = ledger_.freed();
    queue_.offer([&](Key key) {
      const Connection& c = *connections_.at(key);
      Answer a = ledger_.enrol(c.peer, c.waits_for, now, nullptr);
      if (a.result == Errc::kFull && a.may_wait) return false;
      done.emplace_back(key, std::move(a));
      return true;
    });
  }
  for (const auto& [key, a] : done) verdict(key, a);
  for (const auto& [key, place] : queue_.moved()) {
    if (const auto at = connections_.find(key); at != connections_.end())
      answer_queued(*at->second, place);
  }
}

void Server::hello(Connection& c, const wire::Header& q) {
  wire::HelloReply r{};
  r.header = reply_to(q, sizeof r, Errc::kOk);
  r.pid = static_cast<std::uint32_t>(::getpid());
  r.uid = options_.daemon_uid;
  r.tenants = static_cast<std::uint32_t>(ledger_.entries().size());
  r.flags = options_.authoritative ? 1 : 0;
  r.next_event_id = providers_.next_event_id ? providers_.next_event_id() : 1;
  wire::put_text(r.version, options_.version.c_str());
  put(c, &r, sizeof r);
}

void Server::beacons(Connection& c, const wire::NameRequest& q) {
  std::vector<Regions::Beacon> all;
  wire::BeaconsReply r{};
  const Errc result = ledger_.beacons(c.peer, q.name, all);
  r.header = reply_to(q.header, result == Errc::kOk ? sizeof r : sizeof r.header, result);
  std::vector<UniqueFd> fds;
  for (Regions::Beacon& b : all) {
    r.beacons[r.count++] = b.entry;
    fds.push_back(std::move(b.fd));
  }
  if (result != Errc::kOk) ++counts_.refused;
  put(c, &r, r.header.bytes, std::move(fds));
}

void Server::list(Connection& c, const wire::NameRequest& q) {
  std::vector<wire::TenantView> tenants;
  for (wire::TenantView& t :
       providers_.tenants ? providers_.tenants() : std::vector<wire::TenantView>{}) {
    if (std::strcmp(t.name, q.name) > 0 && ledger_.may_see(c.peer, t.name)) tenants.push_back(t);
  }
  const bool first = q.name[0] == '\0';
  const auto devices =
      first && providers_.devices ? providers_.devices() : std::vector<wire::NodeDevice>{};
  const auto strays = first && c.is_operator && providers_.strays ? providers_.strays()
                                                                  : std::vector<wire::StrayView>{};
  std::size_t sent = 0;
  for (bool head = true; head || sent < tenants.size(); head = false) {
    wire::ListReply r{};
    std::vector<char> body(sizeof r);
    if (head) {
      r.devices =
          static_cast<std::uint32_t>(std::min<std::size_t>(devices.size(), wire::kMaxDevices));
      r.strays = static_cast<std::uint32_t>(std::min<std::size_t>(strays.size(), 64));
      for (unsigned i = 0; i < r.devices; ++i) append(body, devices[i]);
      for (unsigned i = 0; i < r.strays; ++i) append(body, strays[i]);
    }
    while (sent < tenants.size() && body.size() + sizeof tenants[0] <= wire::kMaxMessage) {
      append(body, tenants[sent++]);
      ++r.tenants;
    }
    r.header = reply_to(q.header, body.size(), Errc::kOk);
    if (sent < tenants.size()) r.header.flags = wire::kMore;
    std::memcpy(body.data(), &r, sizeof r);
    put(c, body.data(), body.size());
  }
}

void Server::events(Connection& c, const wire::Header& q, std::uint64_t after) {
  std::uint32_t lost = 0;
  bool more = true;
  for (bool first = true; more; first = false) {
    const auto all = providers_.events ? providers_.events(after, kEventsAtOnce, lost)
                                       : std::vector<wire::EventView>{};
    more = all.size() == kEventsAtOnce;
    wire::EventsReply r{};
    std::vector<char> body(sizeof r);
    for (const wire::EventView& e : all) {
      after = e.id;
      // Without a tenant it is the operators'.
      if (!c.is_operator && (e.tenant[0] == '\0' || !ledger_.may_see(c.peer, e.tenant))) continue;
      append(body, e);
      ++r.events;
    }
    r.lost = c.is_operator ? lost : 0;
    if (!all.empty()) c.next_event = after + 1;
    if (r.events == 0 && !first && more) continue;
    r.header = reply_to(q, body.size(), Errc::kOk);
    if (more || c.following) r.header.flags = wire::kMore;
    std::memcpy(body.data(), &r, sizeof r);
    put(c, body.data(), body.size());
    if (c.closing) return;
  }
}

void Server::follow(const Now&) {
  if (!providers_.next_event_id || !providers_.events) return;
  const std::uint64_t next = providers_.next_event_id();
  for (auto& [key, c] : connections_) {
    // Who has not read the last ones gets the next when it has, or is dropped.
    if (c->closing || !c->following || c->next_event >= next || !c->out.empty()) continue;
    std::uint32_t lost = 0;
    const auto all = providers_.events(c->next_event - 1, kEventsAtOnce, lost);
    wire::EventsReply r{};
    std::vector<char> body(sizeof r);
    for (const wire::EventView& e : all) {
      c->next_event = e.id + 1;
      if (!c->is_operator && (e.tenant[0] == '\0' || !ledger_.may_see(c->peer, e.tenant))) continue;
      append(body, e);
      ++r.events;
    }
    if (all.empty()) c->next_event = next;
    if (r.events == 0 && lost == 0) continue;
    r.lost = c->is_operator ? lost : 0;
    wire::Header q{};
    q.kind = static_cast<std::uint16_t>(wire::Kind::kEvents);
    q.sequence = c->follow_sequence;
    r.header = reply_to(q, body.size(), Errc::kOk);
    r.header.flags = wire::kMore;
    std::memcpy(body.data(), &r, sizeof r);
    put(*c, body.data(), body.size());
  }
}

void Server::usage(Connection& c, const wire::UsageRequest& q) {
  std::vector<wire::UsageRow> rows;
  if (providers_.usage) {
    for (const wire::UsageRow& row : providers_.usage(q.since_unix_s)) {
      if (std::strcmp(row.tenant, q.after) > 0 && ledger_.may_see(c.peer, row.tenant))
        rows.push_back(row);
    }
  }
  std::size_t sent = 0;
  for (bool first = true; first || sent < rows.size(); first = false) {
    wire::UsageReply r{};
    std::vector<char> body(sizeof r);
    for (; sent < rows.size() && r.rows < kRowsAtOnce; ++r.rows) append(body, rows[sent++]);
    r.header = reply_to(q.header, body.size(), Errc::kOk);
    if (sent < rows.size()) r.header.flags = wire::kMore;
    std::memcpy(body.data(), &r, sizeof r);
    put(c, body.data(), body.size());
  }
}

}  // namespace bulkhead::daemon
