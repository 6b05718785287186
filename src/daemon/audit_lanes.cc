#include "daemon/audit_lanes.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "daemon/config.h"
#include "daemon/peer.h"

namespace bulkhead::daemon {
namespace {

std::string page_name(std::uint32_t serial) { return "p." + std::to_string(serial); }
std::string lane_name(std::uint32_t serial, unsigned lane) {
  return "l." + std::to_string(serial) + "." + std::to_string(lane);
}

// "" if the process has gone or may not be looked at.
std::string exe_of(std::uint32_t pid) {
  char path[4096];
  const std::string link = "/proc/" + std::to_string(pid) + "/exe";
  const ssize_t n = ::readlink(link.c_str(), path, sizeof path);
  return n <= 0 ? std::string{} : std::string(path, static_cast<std::size_t>(n));
}

// Of exactly this size, ours, sealed by make_sealed().
bool map_again(Kept& kept, std::size_t bytes, Sealed& out) {
  struct stat st {};
  if (::fstat(kept.fd.get(), &st) != 0 || st.st_size != static_cast<off_t>(bytes)) return false;
  const int seals = ::fcntl(kept.fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) return false;
  void* const at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, kept.fd.get(), 0);
  if (at == MAP_FAILED) return false;
  out.map = Mapping{at, bytes};
  out.fd = std::move(kept.fd);
  return true;
}

void add_waits(const AuditSession& s, AuditLanes::Waits& to) {
  for (const Sealed& lane : s.lanes) {
    if (!lane.map.ok()) continue;
    const shm::LaneHeader& h = lane.map.as<const shm::Lane>()->header;
    // relaxed: statistics
    to.waited += h.stalls.load(std::memory_order_relaxed);
    to.refused += h.refused.load(std::memory_order_relaxed);
    to.unrecorded += h.unrecorded.load(std::memory_order_relaxed);
  }
}

UniqueFd pidfd_of(const AuditSession& s) {
  UniqueFd fd{static_cast<int>(::syscall(SYS_pidfd_open, s.pid, 0))};
  if (!fd.ok()) return fd;
  char text[1024];
  const std::string path = "/proc/" + std::to_string(s.pid) + "/stat";
  const UniqueFd stat{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  const ssize_t n = stat.ok() ? ::read(stat.get(), text, sizeof text) : -1;
  // another process may have its number by now
  if (n <= 0 || start_ticks_of({text, static_cast<std::size_t>(n)}) != s.start_ticks) fd.reset();
  return fd;
}

}  // namespace

AuditLanes::AuditLanes(Outside outside, AuditRules rules)
    : outside_(std::move(outside)), rules_(rules) {}

AuditLanes::~AuditLanes() {
  stop();
  for (const auto& [serial, s] : sessions_) outside_.poller->remove(s->pidfd.get());
  outside_.poller->remove(done_.get());
  if (outside_.news) outside_.poller->remove(outside_.news->fd());
}

// A piece of memory of our own: the one a daemon before us had, else a new one.
std::string AuditLanes::own_memory(const char* name, std::size_t bytes, Sealed& out) {
  if (out.map.ok()) return "";
  Result<Sealed> made = make_sealed(name, bytes);
  if (!made.ok()) return made.status().text();
  out = std::move(*made);
  const Status kept = keep_->put(name, out.fd.get());
  return kept.ok() ? "" : std::string{keep_->who()} + ": " + kept.text();
}

std::string AuditLanes::open(std::unique_ptr<Keep> keep, std::unique_ptr<audit::Sink> sink,
                             std::uint64_t found) {
  keep_ = std::move(keep);
  sink_ = std::move(sink);
  done_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!done_.ok()) return "cannot make an eventfd";
  if (std::string problem = take_back(); !problem.empty()) return problem;
  if (std::string problem = own_memory("bell", sizeof(shm::Bell), bell_); !problem.empty())
    return problem;
  if (std::string problem = own_memory("intent", sizeof(shm::Intent), intent_); !problem.empty())
    return problem;
  shm::format_bell(*bell_.map.as<shm::Bell>(), rules_.full, rules_.deadline_ms);
  writer_ =
      std::make_unique<AuditWriter>(*sink_, *bell_.map.as<shm::Bell>(),
                                    *intent_.map.as<shm::Intent>(), done_.get(), outside_.check);
  for (const auto& [serial, s] : sessions_) {
    writer_->add(s);
    for (unsigned i = 0; i < shm::kLanes; ++i) {
      if (s->lanes[i].map.ok()) writer_->add_lane(s, i);
    }
  }
  writer_->recover(found);
  for (const auto& [serial, s] : sessions_) watch(s);
  (void)outside_.poller->add(done_.get(), EPOLLIN, [](std::uint32_t) {});  // tick() looks
  if (outside_.news) (void)outside_.poller->add(outside_.news->fd(), EPOLLIN, [](std::uint32_t) {});
  writer_->start();
  return "";
}

// Pages first: a lane is of a page.
std::string AuditLanes::take_back() {
  std::vector<Kept> all = keep_->take();
  for (Kept& kept : all) {
    if (kept.name == "bell") {
      (void)map_again(kept, sizeof(shm::Bell), bell_);
    } else if (kept.name == "intent") {
      (void)map_again(kept, sizeof(shm::Intent), intent_);
    } else if (kept.name.starts_with("p.")) {
      take_session(std::move(kept));
    }
  }
  std::uint32_t highest = 0;
  for (Kept& kept : all) {
    unsigned serial = 0, lane = 0;
    if (std::sscanf(kept.name.c_str(), "l.%u.%u", &serial, &lane) == 2)
      take_lane(std::move(kept), serial, lane);
  }
  for (const auto& [serial, s] : sessions_) highest = std::max(highest, serial);
  serial_ = outside_.reserve_serials(highest + 1);
  serial_end_ = serial_ + kSerialsAtOnce;
  return serial_ == 0 ? "cannot reserve numbers for sessions" : "";
}

void AuditLanes::take_session(Kept kept) {
  auto s = std::make_shared<AuditSession>();
  const std::string name = kept.name;
  if (!map_again(kept, sizeof(shm::LanePage), s->page)) return keep_->drop(name);
  const shm::LanePage& page = s->words();
  // acquire pairs with publish_page() in the daemon before us
  if (page.magic.load(std::memory_order_acquire) != shm::kLanePageMagic ||
      name != page_name(page.session)) {
    return keep_->drop(name);
  }
  s->serial = page.session;
  s->pid = page.pid;
  s->uid = page.uid;
  s->start_ticks = page.start_ticks;
  s->tenant = page.tenant;
  s->enforce = page.mode == 2;
  for (unsigned i = 0; i < std::min(page.device_count, shm::kMaxDevices); ++i) {
    s->devices.push_back(uuid_text(page.devices[i]));
  }
  s->exe = exe_of(s->pid);
  // relaxed: its record is in the log already, by the daemon before us: what it has loaded is not asked again
  if (outside_.shim && (page.flags.load(std::memory_order_relaxed) & shm::kSessionRecorded) == 0)
    s->shim = outside_.shim(s->pid);
  sessions_.emplace(s->serial, std::move(s));
}

void AuditLanes::take_lane(Kept kept, std::uint32_t serial, unsigned lane) {
  const std::string name = kept.name;
  const auto at = sessions_.find(serial);
  if (at == sessions_.end() || lane >= shm::kLanes ||
      !map_again(kept, sizeof(shm::Lane), at->second->lanes[lane])) {
    keep_->drop(name);
  }
}

void AuditLanes::set_rules(const AuditRules& rules) {
  rules_ = rules;
  if (bell_.map.ok()) shm::format_bell(*bell_.map.as<shm::Bell>(), rules.full, rules.deadline_ms);
}

std::uint32_t AuditLanes::next_serial() {
  const std::uint32_t serial = serial_++;
  if (serial_end_ - serial_ < kSerialsAtOnce / 2) {
    (void)outside_.reserve_serials(serial_end_);
    serial_end_ += kSerialsAtOnce;
  }
  return serial;
}

unsigned AuditLanes::lanes(const std::string& tenant) const {
  unsigned n = 0;
  for (const auto& [serial, s] : sessions_) {
    if (!tenant.empty() && s->tenant != tenant) continue;
    for (const Sealed& lane : s->lanes) n += lane.map.ok() ? 1u : 0u;
  }
  return n;
}

bool AuditLanes::affords(const std::string& tenant) const {
  return (lanes(tenant) + 1ull) * sizeof(shm::Lane) <= rules_.lane_budget;
}

// The keeper has it before anybody writes into it.
bool AuditLanes::make_lane(AuditSession& session, unsigned lane) {
  const std::string name = lane_name(session.serial, lane);
  Result<Sealed> made = make_sealed("bulkhead-lane", sizeof(shm::Lane));
  if (!made.ok() || !keep_->put(name, made->fd.get()).ok()) return false;
  shm::format_lane(*made->map.as<shm::Lane>(), session.serial, lane);
  shm::set_lane_state(session.words().cells[lane], shm::kLaneOpen);
  session.lanes[lane] = std::move(*made);
  return true;
}

AuditLanes::Shared AuditLanes::begin(const Peer& peer, const wire::LaneRequest& q, UniqueFd pidfd,
                                     LaneAnswer& answer) {
  auto s = std::make_shared<AuditSession>();
  s->serial = next_serial();
  s->pid = peer.pid;
  s->uid = peer.uid;
  s->start_ticks = peer.start_ticks;
  s->tenant = q.name;
  s->exe = exe_of(peer.pid);
  if (outside_.shim) s->shim = outside_.shim(peer.pid);
  s->pidfd = std::move(pidfd);
  s->enforce = (q.flags & wire::kLaneEnforce) != 0;
  if ((s->enforce || (outside_.enforced && outside_.enforced(s->tenant))) &&
      (s->shim == kOtherShim || s->shim == kUnknownShim)) {
    answer.result = Errc::kUntrusted;
    answer.text = "the process has not loaded the signed library: start it with 'bulkhead run'";
    return nullptr;
  }
  Result<Sealed> page = make_sealed("bulkhead-lanes", sizeof(shm::LanePage));
  answer.result = Errc::kIo;
  answer.text = "no memory for lanes";
  if (!page.ok()) return nullptr;
  s->page = std::move(*page);
  shm::LanePage& words = s->words();
  words.session = s->serial;
  words.pid = s->pid;
  words.uid = s->uid;
  words.start_ticks = s->start_ticks;
  words.mode = s->enforce ? 2 : 1;
  std::memcpy(words.tenant, q.name, sizeof words.tenant);
  words.device_count = q.device_count;
  std::memcpy(words.devices, q.devices, sizeof words.devices);
  for (unsigned i = 0; i < q.device_count; ++i) s->devices.push_back(uuid_text(q.devices[i]));
  shm::publish_page(words);
  if (!keep_->put(page_name(s->serial), s->page.fd.get()).ok()) {
    answer.text = std::string{keep_->who()} + " takes no more";
    return nullptr;
  }
  if (!make_lane(*s, shm::kSharedLane)) {
    keep_->drop(page_name(s->serial));
    return nullptr;
  }
  sessions_.emplace(s->serial, s);
  writer_->add(s);
  writer_->add_lane(s, shm::kSharedLane);
  watch(s);
  answer.result = Errc::kOk;
  answer.text.clear();
  return s;
}

LaneAnswer AuditLanes::request(const Peer& peer, const wire::LaneRequest& q, UniqueFd pidfd) {
  LaneAnswer a;
  const auto no = [&a](Errc why, const char* text) {
    a.result = why;
    a.text = text;
    return std::move(a);
  };
  if (writer_ == nullptr || writer_->figures().failed)
    return no(Errc::kNotReady, "the log is not written");
  if (!pidfd.ok() || peer.pid == 0)
    return no(Errc::kNotReady, "the process cannot be watched from here");
  if ((q.flags & wire::kLaneProbe) != 0) return a;
  Shared s;
  for (const auto& [serial, each] : sessions_) {
    if (each->pid != peer.pid || each->start_ticks != peer.start_ticks || each->ending) continue;
    s = each;
  }
  const bool first = (q.flags & wire::kLaneFirst) != 0;
  if (first) {  // exec: what it had is forgotten
    if (s != nullptr) let_end(s, "its process started another program");
    if (!affords(q.name)) return no(Errc::kFull, "the tenant's lane_budget is used up");
    s = begin(peer, q, std::move(pidfd), a);
    if (s == nullptr) return a;
  }
  if (s == nullptr || s->tenant != q.name)
    return no(Errc::kNotFound, "no session of this process: it asks for its first lane");
  a.session = s->serial;
  const auto give = [&a](int fd, bool read_only, std::uint32_t bit) {
    Result<UniqueFd> to = read_only ? reopen_read_only(fd)
                                    : Result<UniqueFd>{UniqueFd{::fcntl(fd, F_DUPFD_CLOEXEC, 3)}};
    if (!to.ok() || !to->ok()) return;
    a.fds.push_back(std::move(*to));
    a.given |= bit;
  };
  if (first) {
    give(bell_.fd.get(), true, wire::kGivenBell);
    give(s->page.fd.get(), true, wire::kGivenPage);
    give(s->lanes[shm::kSharedLane].fd.get(), false, wire::kGivenShared);
    if (a.fds.size() != 3) return no(Errc::kIo, "out of descriptors");
  }
  unsigned lane = 0;
  while (lane < shm::kOwnLanes && s->lanes[lane].map.ok()) ++lane;
  if (lane < shm::kOwnLanes && affords(s->tenant) && make_lane(*s, lane)) {
    writer_->add_lane(s, lane);
    a.lane = lane;
    give(s->lanes[lane].fd.get(), false, wire::kGivenOwn);
  }
  if (!first && a.given == 0)
    return no(Errc::kFull, "no further lane: the shared one serves all other threads");
  return a;
}

void AuditLanes::watch(const Shared& s) {
  if (!s->pidfd.ok()) s->pidfd = pidfd_of(*s);
  if (!s->pidfd.ok()) return let_end(s, "its process has ended");
  const std::weak_ptr<AuditSession> weak = s;
  (void)outside_.poller->add(s->pidfd.get(), EPOLLIN, [this, weak](std::uint32_t) {
    if (const Shared ended = weak.lock()) let_end(ended, "its process has ended");
  });
}

void AuditLanes::let_end(const Shared& s, const char* why) {
  if (s->ending) return;
  s->ending = true;
  s->why = why;
  if (s->pidfd.ok()) outside_.poller->remove(s->pidfd.get());
  shm::set_page_flag(s->words(), shm::kSessionDead);
  writer_->end(s);
}

void AuditLanes::forget(std::uint32_t serial) {
  const auto at = sessions_.find(serial);
  if (at == sessions_.end()) return;
  add_waits(*at->second, of_the_ended_);
  for (unsigned i = 0; i < shm::kLanes; ++i) {
    if (at->second->lanes[i].map.ok()) keep_->drop(lane_name(serial, i));
  }
  keep_->drop(page_name(serial));  // last: without it the lanes would be nobody's
  sessions_.erase(at);
}

int AuditLanes::tick(const Now&) {
  if (writer_ == nullptr) return -1;
  std::uint64_t count = 0;
  (void)!::read(done_.get(), &count, sizeof count);
  for (const std::uint32_t serial : writer_->take_ended()) forget(serial);
  const AuditFigures f = writer_->figures();
  if (f.failed && !failure_told_) {
    failure_told_ = true;
    outside_.alarm("the audit log is not written any more: " + f.failure);
  }
  if (f.full != full_told_) {
    full_told_ = f.full;
    if (f.full) outside_.alarm("the audit log has no room: entries wait in their lanes");
    if (!f.full && outside_.relief) outside_.relief("the audit log has room again");
  }
  if (outside_.news == nullptr) return -1;
  for (const AuditNews::One& one : outside_.news->take()) {
    if (!one.good) outside_.alarm(one.text);
    if (one.good && outside_.relief) outside_.relief(one.text);
  }
  return -1;
}

AuditFigures AuditLanes::figures() const {
  return writer_ != nullptr ? writer_->figures() : AuditFigures{};
}

audit::SinkFigures AuditLanes::sink_figures() const {
  return sink_ != nullptr ? sink_->figures() : audit::SinkFigures{};
}

AuditLanes::Waits AuditLanes::waits() const {
  Waits out = of_the_ended_;
  for (const auto& [serial, s] : sessions_) add_waits(*s, out);
  return out;
}

// With nothing left to drain nothing is left to keep.
void AuditLanes::stop() {
  if (writer_ == nullptr) return;
  writer_->stop();
  for (const std::uint32_t serial : writer_->take_ended()) forget(serial);
  if (sessions_.empty() && keep_ != nullptr) {
    keep_->drop("bell");
    keep_->drop("intent");
  }
  keep_.reset();
  writer_.reset();
}

}  // namespace bulkhead::daemon
