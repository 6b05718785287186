#include "daemon/mps/manager.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <filesystem>

#include "base/fd.h"
#include "shm/files.h"

namespace bulkhead::daemon {
namespace {

namespace fs = std::filesystem;
// "/control_privileged" and a zero must follow in sockaddr_un's 108 bytes.
constexpr std::size_t kMostPath = 88;
constexpr std::uint64_t kEvictionPatience_ns = 30'000'000'000;
constexpr std::size_t kMostEvictions = 1024;

}  // namespace

MpsManager::MpsManager(Outside outside) : outside_(std::move(outside)) {}

std::string MpsManager::root_of(std::uint32_t uid) const {
  return outside_.directory + "/mps/" + std::to_string(uid);
}

void MpsManager::configure(bool enabled, const std::string& program) {
  enabled_ = enabled;
  asked_program_ = program;
  program_ = find_program(program);
  refused_.clear();
  for (auto& [key, control] : controls_) control->set_program(program_);
}

std::string MpsManager::problem(const MpsKey& key) const {
  const std::string pipe = root_of(key.uid) + "/" + key.group + "/pipe";
  if (pipe.size() > kMostPath)
    return pipe + " is longer than the " + std::to_string(kMostPath) +
           " bytes that leave room for MPS's sockets: use a shorter directory or group";
  if (program_.empty())
    return asked_program_ + " is not there: install it, or set [mps] control to its path";
  return {};
}

// DIR/mps is ours, DIR/mps/UID that user's: below it the program's process makes what it needs, as that user.
bool MpsManager::make_root(std::uint32_t uid) const {
  const std::string base = outside_.directory + "/mps";
  if (::mkdir(base.c_str(), 0755) != 0 && errno != EEXIST) return false;
  const UniqueFd dir{::open(base.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
  struct stat st {};
  if (!dir.ok() || ::fstat(dir.get(), &st) != 0 || st.st_uid != outside_.own_uid) return false;
  const std::string name = std::to_string(uid);
  if (::mkdirat(dir.get(), name.c_str(), 0700) != 0 && errno != EEXIST) return false;
  const UniqueFd own{
      ::openat(dir.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
  return own.ok() && (uid == outside_.own_uid || ::fchown(own.get(), uid, ~gid_t{0}) == 0);
}

MpsControl& MpsManager::control(const MpsKey& key) {
  std::unique_ptr<MpsControl>& at = controls_[key];
  if (at) return *at;
  MpsPlace place{program_, root_of(key.uid), key.group, key.uid, key.uid != outside_.own_uid};
  at = std::make_unique<MpsControl>(
      *outside_.poller, std::move(place),
      [this, key](wire::EventKind kind, wire::Severity severity, const std::string& text) {
        outside_.post(key, kind, severity, text);
      });
  return *at;
}

void MpsManager::find_left() {
  std::error_code none;
  for (const auto& user : fs::directory_iterator{outside_.directory + "/mps", none}) {
    const std::string name = user.path().filename();
    std::uint32_t uid = 0;
    const auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), uid);
    if (bad != std::errc{} || end != name.data() + name.size()) continue;
    std::error_code unreadable;
    for (const auto& group : fs::directory_iterator{user.path(), unreadable}) {
      const MpsKey key{group.path().filename(), uid};
      if (shm::valid_name(key.group.c_str()) && problem(key).empty()) (void)control(key);
    }
  }
}

int MpsManager::tick(const Now& now) {
  now_ns_ = now.mono_ns;
  const std::map<MpsKey, bool> in_force = outside_.in_force();
  for (const auto& [key, busy] : in_force) {
    if (!enabled_) continue;
    if (const std::string p = problem(key); !p.empty()) {
      if (refused_.insert(key).second)
        outside_.post(key, wire::EventKind::kMpsFailed, wire::Severity::kWarning,
                      "MPS group " + key.group + ": " + p);
      continue;
    }
    if (!controls_.contains(key) && !make_root(key.uid)) {
      if (refused_.insert(key).second)
        outside_.post(key, wire::EventKind::kMpsFailed, wire::Severity::kWarning,
                      root_of(key.uid) + " cannot be made, or is another user's");
      continue;
    }
    (void)control(key);
  }
  int due_ms = 1000;
  for (auto at = controls_.begin(); at != controls_.end();) {
    const auto wants = in_force.find(at->first);
    at->second->want(enabled_ && wants != in_force.end(), wants != in_force.end() && wants->second);
    const int ms = at->second->tick(now);
    if (ms >= 0) due_ms = std::min(due_ms, ms);
    at = at->second->idle() ? controls_.erase(at) : std::next(at);
  }
  return due_ms;
}

bool MpsManager::evicted(std::uint32_t pid, std::uint64_t start_ticks) {
  const auto at = evictions_.find(pid);
  if (at != evictions_.end() && at->second.start_ticks == start_ticks) {
    if (at->second.left != 0 && now_ns_ - at->second.began_ns < kEvictionPatience_ns) return false;
    return true;
  }
  if (evictions_.size() >= kMostEvictions) evictions_.clear();
  Eviction& mine = evictions_[pid];
  mine = {start_ticks, now_ns_, 1};  // one for ourselves, while answers may come at once
  for (auto& [key, control] : controls_) {
    ++mine.left;
    control->evict(pid, [this, pid, start_ticks](bool) {
      const auto done = evictions_.find(pid);
      if (done != evictions_.end() && done->second.start_ticks == start_ticks &&
          done->second.left > 0)
        --done->second.left;
    });
  }
  return --mine.left == 0;
}

void MpsManager::evict_all(const MpsKey& key, const std::vector<std::uint32_t>& pids) {
  const auto at = controls_.find(key);
  if (at == controls_.end()) return;
  for (const std::uint32_t pid : pids) at->second->evict(pid, [](bool) {});
}

void MpsManager::noted_end(const MpsKey& key, const std::string& who) {
  if (const auto at = controls_.find(key); at != controls_.end()) at->second->noted_end(who);
}

bool MpsManager::serving(const MpsKey& key) const {
  const auto at = controls_.find(key);
  return at != controls_.end() && at->second->serving();
}

bool MpsManager::silent(const MpsKey& key) const {
  const auto at = controls_.find(key);
  return at != controls_.end() && at->second->silent();
}

bool MpsManager::running() const {
  for (const auto& [key, control] : controls_) {
    if (control->running()) return true;
  }
  return false;
}

std::vector<std::uint32_t> MpsManager::servers() const {
  std::vector<std::uint32_t> out;
  for (const auto& [key, control] : controls_) control->add_servers(out);
  return out;
}

}  // namespace bulkhead::daemon
