#include "daemon/audit_writer.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <span>

#include "base/clock.h"

namespace bulkhead::daemon {
namespace {

using abi::AuditEntry;
using shm::IntentKind;

constexpr std::uint64_t kAwake_ns = 10'000'000;  // after the last entry
constexpr long kLook_ns = 100'000;
constexpr timespec kNoRoom{0, 100'000'000};

std::int64_t utc_ns() { return static_cast<std::int64_t>(clock_ns(CLOCK_REALTIME)); }

bool may_come(const AuditSession::Drain& d, std::uint64_t at) {
  // acquire pairs with lane_publish()
  const auto& slot = d.lane->slots[at % shm::kLaneSlots];
  const std::uint64_t before = at < shm::kLaneSlots ? 0 : at + 1 - shm::kLaneSlots;
  return slot.commit.load(std::memory_order_acquire) != before;
}

}  // namespace

AuditWriter::AuditWriter(audit::Sink& sink, shm::Bell& bell, shm::Intent& intent, int done_fd,
                         Check check)
    : sink_(sink), bell_(bell), intent_(intent), done_fd_(done_fd), check_(std::move(check)) {}

AuditWriter::~AuditWriter() { stop(); }

void AuditWriter::start() {
  thread_ = std::thread([this] { run(); });
}

void AuditWriter::stop() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard held{mutex_};
    stop_ = true;
  }
  shm::ring_bell(bell_);
  thread_.join();
}

void AuditWriter::push(Order order) {
  {
    const std::lock_guard held{mutex_};
    orders_.push_back(std::move(order));
  }
  shm::ring_bell(bell_);
}

void AuditWriter::add(std::shared_ptr<AuditSession> session) {
  push({Order::kAdd, std::move(session), 0, {}});
}
void AuditWriter::add_lane(std::shared_ptr<AuditSession> session, unsigned lane) {
  push({Order::kLane, std::move(session), lane, {}});
}
void AuditWriter::end(std::shared_ptr<AuditSession> session) {
  push({Order::kEnd, std::move(session), 0, {}});
}
std::uint64_t AuditWriter::record(std::string json) {
  std::uint64_t number = 0;
  {
    const std::lock_guard held{mutex_};
    orders_.push_back({Order::kRecord, nullptr, 0, std::move(json)});
    number = ++asked_records_;
  }
  shm::ring_bell(bell_);
  return number;
}

std::vector<std::uint32_t> AuditWriter::take_ended() {
  const std::lock_guard held{mutex_};
  return std::exchange(ended_, {});
}

AuditFigures AuditWriter::figures() const {
  const std::lock_guard held{mutex_};
  return shown_;
}

bool AuditWriter::stopping() const {
  const std::lock_guard held{mutex_};
  return stop_;
}

// ---- the thread

void AuditWriter::show() {
  const std::lock_guard held{mutex_};
  shown_ = own_;
}

bool AuditWriter::obey() {
  std::vector<Order> orders;
  {
    const std::lock_guard held{mutex_};
    orders.swap(orders_);
    shown_ = own_;
  }
  bool all = true;
  for (Order& order : orders) all = obey(order) && all;
  return all;
}

// A grant's record is handed over before its table says so: it waits here by the time an entry that names it was read, and goes first.
void AuditWriter::put_waiting_records() {
  std::vector<Order> records;
  {
    const std::lock_guard held{mutex_};
    for (Order& order : orders_) {
      if (order.kind == Order::kRecord) records.push_back(std::move(order));
    }
    if (!records.empty())
      std::erase_if(orders_, [](const Order& o) { return o.kind == Order::kRecord; });
  }
  for (Order& order : records) (void)obey(order);
}

bool AuditWriter::obey(Order& order) {
  switch (order.kind) {
    case Order::kAdd:
      sessions_.push_back(order.session);
      return true;
    case Order::kLane: {
      AuditSession::Drain& d = order.session->drains[order.lane];
      d.lane = order.session->lanes[order.lane].map.as<shm::Lane>();
      // relaxed: the tail is ours
      const shm::LaneCell& cell = order.session->words().cells[order.lane];
      d.expected = cell.tail.load(std::memory_order_relaxed);
      d.faulty = cell.state.load(std::memory_order_relaxed) == shm::kLaneFaulty;
      return true;
    }
    case Order::kEnd:
      order.session->dead = true;
      return true;
    case Order::kRecord:
      if (!put_record(IntentKind::kNone, 0, 0, order.json)) return false;
      ++own_.own_records;
      return true;
  }
  return true;
}

void AuditWriter::run() {
  ::prctl(PR_SET_NAME, "bulkheadd-audit");
  ::prctl(PR_SET_TIMERSLACK, 1000);
  std::uint64_t last_ns = 0;
  for (;;) {
    const bool last_round = stopping();
    (void)obey();
    bool more = false;
    const unsigned taken = round(more);
    if (last_round && !more) break;
    if (taken != 0) last_ns = monotonic_ns();
    if (more) continue;
    if (taken != 0 || monotonic_ns() - last_ns < kAwake_ns) {
      const timespec look{0, kLook_ns};
      ::nanosleep(&look, nullptr);
      continue;
    }
    shm::fall_asleep(bell_);
    if (!anything()) {
      const bool watched = !sessions_.empty() && !failed_;
      shm::sleep_on(bell_, watched ? shm::kWriterNap_ms : 0);
    }
    shm::awake(bell_);
  }
  (void)obey();  // the last figures
}

bool AuditWriter::anything() const {
  {
    const std::lock_guard held{mutex_};
    if (stop_ || !orders_.empty()) return true;
  }
  if (failed_) return false;
  for (const auto& s : sessions_) {
    for (const AuditSession::Drain& d : s->drains) {
      if (d.lane != nullptr && !d.faulty && may_come(d, d.expected)) return true;
    }
  }
  return false;
}

// A session's record stands in the log before its first entry.
unsigned AuditWriter::round(bool& more) {
  unsigned taken = 0;
  for (const auto& s : sessions_) {
    if (failed_) break;
    // relaxed: our own word
    if ((s->words().flags.load(std::memory_order_relaxed) & shm::kSessionRecorded) == 0 &&
        !put_record(IntentKind::kSession, s->serial, 0, session_record(*s, utc_ns()))) {
      break;
    }
    unsigned of_it = 0;
    for (unsigned lane = 0; lane < shm::kLanes; ++lane) {
      const unsigned n = visit(*s, lane);
      more |= n == kMostAVisit;
      of_it += n;
    }
    taken += of_it;
    if (s->dead && of_it == 0 && !failed_) finish(*s);
  }
  std::erase_if(sessions_, [](const auto& s) { return s->ended; });
  return taken;
}

unsigned AuditWriter::visit(AuditSession& session, unsigned lane) {
  AuditSession::Drain& d = session.drains[lane];
  if (d.lane == nullptr || d.faulty || failed_) return 0;
  unsigned n = 0;
  bool faulty = false;
  for (; n < kMostAVisit; ++n) {
    const std::uint64_t at = d.expected + n;
    AuditEntry& e = batch_[n];
    const shm::LaneRead seen = shm::read_slot(d.lane->slots[at % shm::kLaneSlots], at, e);
    faulty = seen == shm::LaneRead::kFaulty;
    if (seen != shm::LaneRead::kEntry) break;
    if (!shm::well_formed(e, at)) {
      e = shm::malformed_entry(at, static_cast<std::uint64_t>(utc_ns()));
      ++own_.malformed;
    }
    e.session = session.serial;
    e.lane = static_cast<std::uint16_t>(lane);
    if (!check_ || abi::decision_of(e) != abi::Decision::kAllowed) continue;
    if (abi::kind_of(e) != abi::EntryKind::kTransfer && abi::kind_of(e) != abi::EntryKind::kMap)
      continue;
    const abi::DenyReason why = check_(session, e);
    if (why == abi::DenyReason::kNone) continue;
    e.direction_decision_flags =
        abi::pack_verdict(abi::direction_of(e), abi::Decision::kViolation, abi::flags_of(e));
    e.reason = static_cast<std::uint8_t>(why);
    ++own_.violations;
  }
  if (n == kMostAVisit) look_harder(session, lane, d.expected);
  own_.high_water = std::max<std::uint64_t>(own_.high_water, n);
  if (n != 0) put_waiting_records();
  if (n != 0 && !put_entries(session, lane, n)) return 0;
  if (faulty && put_record(IntentKind::kFinding, session.serial, lane,
                           lane_finding_record(session, lane, d.expected, utc_ns()))) {
    ++own_.faulty_lanes;
  }
  return n;
}

// A full visit: how much waits behind it, by halves. The head is the tenant's word, so the commits are asked.
void AuditWriter::look_harder(AuditSession& session, unsigned lane, std::uint64_t expected) {
  const AuditSession::Drain& d = session.drains[lane];
  std::uint64_t low = kMostAVisit, high = shm::kLaneSlots;
  while (low < high) {
    const std::uint64_t middle = (low + high) / 2;
    if (may_come(d, expected + middle)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  own_.high_water = std::max(own_.high_water, low);
}

// What a sink answered. False: it is not to be asked again for this.
bool AuditWriter::settled(const Status& status) {
  if (status.ok()) return true;
  own_.failed = failed_ = true;
  own_.failure = status.text();
  show();
  const std::uint64_t one = 1;
  (void)!::write(done_fd_, &one, sizeof one);
  return false;
}

// The control loop is told when it begins and when it is over.
void AuditWriter::ring(bool full) {
  own_.full = full;
  show();
  const std::uint64_t one = 1;
  (void)!::write(done_fd_, &one, sizeof one);
}

// No room is no failure: what is handed over stays in its lane until there is some.
Status AuditWriter::put_until_room(const std::function<Status()>& put) {
  Status status = put();
  while (status.code() == Errc::kFull && !stopping()) {
    ++own_.sink_stalls;
    own_.full ? show() : ring(true);
    ::nanosleep(&kNoRoom, nullptr);
    status = put();
  }
  if (own_.full && status.ok()) ring(false);
  return status;
}

bool AuditWriter::put_entries(AuditSession& session, unsigned lane, std::uint32_t count) {
  AuditSession::Drain& d = session.drains[lane];
  shm::intend(intent_, IntentKind::kEntries, session.serial, lane, d.expected, count, sink_.size());
  const Status status = put_until_room([&] { return sink_.entries(std::span{batch_, count}); });
  if (status.code() == Errc::kFull) return false;  // we end: the next daemon asks the sink
  if (!settled(status)) return false;
  d.expected += count;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (abi::kind_of(batch_[i]) != abi::EntryKind::kGap) continue;
    own_.gaps += abi::bytes_of(batch_[i]);
    shm::add_gaps(session.words().cells[lane], abi::bytes_of(batch_[i]));
  }
  own_.entries += count;
  shm::set_tail(session.words().cells[lane], d.expected);
  shm::intent_done(intent_);
  return true;
}

bool AuditWriter::put_record(IntentKind kind, std::uint32_t serial, unsigned lane,
                             const std::string& json) {
  shm::intend(intent_, kind, serial, lane, 0, 1, sink_.size());
  const Status status = put_until_room([&] { return sink_.record(json); });
  if (status.code() == Errc::kFull || !settled(status)) return false;
  for (const auto& s : sessions_) {
    if (s->serial != serial) continue;
    if (kind == IntentKind::kSession) shm::set_page_flag(s->words(), shm::kSessionRecorded);
    if (kind == IntentKind::kSessionEnd) shm::set_page_flag(s->words(), shm::kSessionEnded);
    if (kind == IntentKind::kFinding) {
      s->drains[lane].faulty = true;
      shm::set_lane_state(s->words().cells[lane], shm::kLaneFaulty);
    }
  }
  shm::intent_done(intent_);
  return true;
}

// Entries that found no room and that no gap entry names: the producer's own count, which only adds to what is missing.
bool AuditWriter::name_gaps(AuditSession& session) {
  for (unsigned lane = 0; lane < shm::kLanes; ++lane) {
    const AuditSession::Drain& d = session.drains[lane];
    if (d.lane == nullptr) continue;
    // relaxed: its producer is dead; the cell is ours
    const std::uint64_t missing = d.lane->header.unrecorded.load(std::memory_order_relaxed);
    shm::LaneCell& cell = session.words().cells[lane];
    const std::uint64_t named = cell.gaps.load(std::memory_order_relaxed);
    if (missing <= named) continue;
    if (!put_record(IntentKind::kNone, session.serial, lane,
                    lane_gap_record(session, lane, missing - named, utc_ns()))) {
      return false;
    }
    own_.gaps += missing - named;
    shm::add_gaps(cell, missing - named);
  }
  return true;
}

void AuditWriter::finish(AuditSession& session) {
  // relaxed: our own word
  const bool told =
      (session.words().flags.load(std::memory_order_relaxed) & shm::kSessionEnded) != 0;
  if (!told && !name_gaps(session)) return;
  if (!told && !put_record(IntentKind::kSessionEnd, session.serial, 0,
                           session_end_record(session, utc_ns()))) {
    return;
  }
  session.ended = true;
  {
    const std::lock_guard held{mutex_};
    ended_.push_back(session.serial);
  }
  const std::uint64_t one = 1;
  (void)!::write(done_fd_, &one, sizeof one);
}

void AuditWriter::recover_entries(AuditSession& session, std::uint64_t arrived) {
  const unsigned lane = intent_.lane;
  if (lane >= shm::kLanes) return;
  AuditSession::Drain& d = session.drains[lane];
  d.expected = intent_.from + std::min<std::uint64_t>(arrived, intent_.count);
  shm::set_tail(session.words().cells[lane], d.expected);
}

void AuditWriter::recover(std::uint64_t found) {
  (void)obey();
  // acquire pairs with intend() in the daemon before us
  const auto kind = static_cast<IntentKind>(intent_.kind.load(std::memory_order_acquire));
  const std::uint64_t arrived =
      kind == IntentKind::kNone ? 0 : sink_.arrived(intent_.size_before, found);
  for (const auto& s : sessions_) {
    if (kind == IntentKind::kNone || s->serial != intent_.session) continue;
    if (kind == IntentKind::kEntries) recover_entries(*s, arrived);
    if (arrived == 0) continue;
    if (kind == IntentKind::kSession) shm::set_page_flag(s->words(), shm::kSessionRecorded);
    if (kind == IntentKind::kSessionEnd) shm::set_page_flag(s->words(), shm::kSessionEnded);
    if (kind == IntentKind::kFinding && intent_.lane < shm::kLanes) {
      s->drains[intent_.lane].faulty = true;
      shm::set_lane_state(s->words().cells[intent_.lane], shm::kLaneFaulty);
    }
  }
  shm::intent_done(intent_);
}

}  // namespace bulkhead::daemon
