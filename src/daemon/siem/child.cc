// The child finds its orders at 3 (a sealed memfd) and the page it reports in at 4. Everything else is closed.
#include "daemon/siem/child.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/clock.h"

namespace bulkhead::daemon {
namespace {

using siem::LinkState;
constexpr std::uint64_t kSecond_ns = 1'000'000'000, kMostPause_ns = 60 * kSecond_ns;

UniqueFd orders_fd(const std::string& text) {
  UniqueFd fd{::memfd_create("bulkhead-siem", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  if (!fd.ok() || ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return UniqueFd{};
  (void)::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
  return fd;
}

// Of a size that the child cannot change.
UniqueFd status_fd() {
  UniqueFd fd{::memfd_create("bulkhead-siem-status", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  if (!fd.ok() || ::ftruncate(fd.get(), sizeof(siem::Status)) != 0) return UniqueFd{};
  (void)::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  return fd;
}

pid_t spawn(const std::string& program, int orders, int status) {
  // Above the places they go to, so that none overwrites another.
  const UniqueFd high_orders{::fcntl(orders, F_DUPFD_CLOEXEC, 100)};
  const UniqueFd high_status{::fcntl(status, F_DUPFD_CLOEXEC, 100)};
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t how;
  if (::posix_spawn_file_actions_init(&actions) != 0) return -1;
  if (::posix_spawnattr_init(&how) != 0) {
    ::posix_spawn_file_actions_destroy(&actions);
    return -1;
  }
  sigset_t none;
  ::sigemptyset(&none);
  pid_t pid = -1;
  char name[] = "bulkheadd";
  std::string flag = siem::kSiemFlag;
  char* const words[] = {name, flag.data(), nullptr};
  char* const environment[] = {nullptr};
  const bool good =
      high_orders.ok() && high_status.ok() &&
      ::posix_spawn_file_actions_adddup2(&actions, high_orders.get(), siem::kOrdersFd) == 0 &&
      ::posix_spawn_file_actions_adddup2(&actions, high_status.get(), siem::kStatusFd) == 0 &&
      ::posix_spawn_file_actions_addclosefrom_np(&actions, siem::kStatusFd + 1) == 0 &&
      ::posix_spawnattr_setsigmask(&how, &none) == 0 &&
      ::posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSIGMASK) == 0 &&
      ::posix_spawn(&pid, program.c_str(), &actions, &how, words, environment) == 0;
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&how);
  return good ? pid : -1;
}

}  // namespace

SiemChild::~SiemChild() { stop(); }

void SiemChild::end() {
  if (pid_ == 0) return;
  ::kill(pid_, SIGKILL);  // what it has not kept it sends again
  leaving_.push_back(pid_);
  pid_ = 0;
}

std::string SiemChild::take(const siem::Orders& orders, Tell tell) {
  tell_ = std::move(tell);
  end();
  orders_ = orders;
  orders_.parent_pid = ::getpid();
  stopped_ = orders.settings.url.empty();
  pause_ns_ = due_ns_ = 0;
  if (stopped_) return {};
  if (::mkdir(orders_.state.c_str(), 0700) != 0 && errno != EEXIST)
    return orders_.state + ": " + std::strerror(errno);
  status_ = status_fd();
  if (!status_.ok()) return "no memory for the exporter's page";
  if (!launch()) due_ns_ = monotonic_ns() + kSecond_ns;  // tick() tries again
  return {};
}

bool SiemChild::launch() {
  before_.events_sent += now_.events_sent;
  before_.events_confirmed += now_.events_confirmed;
  before_.bytes_sent += now_.bytes_sent;
  before_.connections += now_.connections;
  before_.missed_leaves += now_.missed_leaves;
  now_ = {};
  told_missed_ = 0;
  (void)!::pwrite(status_.get(), &now_, sizeof now_, 0);
  const UniqueFd orders = orders_fd(siem::orders_text(orders_));
  const pid_t pid = orders.ok() ? spawn(program, orders.get(), status_.get()) : -1;
  if (pid < 0) return false;
  pid_ = pid;
  started_ns_ = monotonic_ns();
  return true;
}

void SiemChild::read_status() {
  siem::Status s{};
  if (::pread(status_.get(), &s, sizeof s, 0) != sizeof s || s.magic != siem::kStatusMagic) return;
  s.text[sizeof s.text - 1] = '\0';
  for (char& c : s.text)
    if (c != '\0' && (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)) c = '?';
  now_ = s;
  say();
}

void SiemChild::say() {
  using wire::EventKind;
  using wire::Severity;
  if (!tell_) return;
  if (now_.state == LinkState::kStarting)
    return;  // a new child: what was told of the last one stands
  const std::string text = now_.text;
  const LinkState state = now_.state;
  if (state != told_ || (state == LinkState::kStuck && text != told_text_)) {
    if (state == LinkState::kAway && told_ != LinkState::kAway)
      tell_(EventKind::kSiemAway, Severity::kWarning, text);
    if (state == LinkState::kConnected && told_ != LinkState::kStarting)
      tell_(EventKind::kSiemBack, Severity::kInfo, "events are taken again");
    if (state == LinkState::kStuck) tell_(EventKind::kSiemFailed, Severity::kAlarm, text);
    told_ = state;
    told_text_ = text;
  }
  if (now_.missed_leaves > told_missed_) {
    tell_(EventKind::kSiemMissed, Severity::kAlarm,
          std::to_string(now_.missed_leaves - told_missed_) +
              " entries of the log were gone before they were sent");
    told_missed_ = now_.missed_leaves;
  }
}

int SiemChild::tick(const Now& now) {
  std::erase_if(leaving_, [](pid_t pid) { return ::waitpid(pid, nullptr, WNOHANG) != 0; });
  if (stopped_) return leaving_.empty() ? -1 : 1000;
  read_status();
  if (pid_ != 0) {
    int how = 0;
    if (::waitpid(pid_, &how, WNOHANG) != pid_) return 1000;
    pid_ = 0;
    const bool lived = now.mono_ns - started_ns_ >= kMostPause_ns;
    pause_ns_ = lived || pause_ns_ == 0 ? kSecond_ns : std::min(pause_ns_ * 2, kMostPause_ns);
    due_ns_ = now.mono_ns + pause_ns_;
  }
  if (now.mono_ns < due_ns_) return static_cast<int>((due_ns_ - now.mono_ns) / 1'000'000 + 1);
  if (!launch()) due_ns_ = now.mono_ns + kMostPause_ns;
  return 1000;
}

void SiemChild::stop() {
  stopped_ = true;
  end();
  for (const pid_t pid : leaving_) (void)::waitpid(pid, nullptr, WNOHANG);
  leaving_.clear();
}

std::string SiemChild::text() const {
  if (stopped_ || now_.state == LinkState::kConnected || now_.state == LinkState::kStarting)
    return {};
  return "siem: " + std::string{now_.state == LinkState::kAway ? "receiver away" : "stuck"} + ", " +
         std::to_string(now_.signed_leaves - std::min(now_.signed_leaves, now_.sent_leaves)) +
         " entries behind: " + now_.text;
}

void SiemChild::fill(wire::DaemonView& d) const {
  if (stopped_) return;
  d.siem_state = 1 + static_cast<std::uint64_t>(now_.state);
  d.siem_sent = before_.events_sent + now_.events_sent;
  d.siem_confirmed = before_.events_confirmed + now_.events_confirmed;
  d.siem_bytes = before_.bytes_sent + now_.bytes_sent;
  d.siem_connections = before_.connections + now_.connections;
  d.siem_missed = before_.missed_leaves + now_.missed_leaves;
  d.siem_behind = now_.signed_leaves - std::min(now_.signed_leaves, now_.sent_leaves);
  d.siem_unconfirmed = now_.sent_leaves - std::min(now_.sent_leaves, now_.confirmed_leaves);
}

}  // namespace bulkhead::daemon
