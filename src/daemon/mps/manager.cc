#include "daemon/mps/manager.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
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
constexpr const char* kWithPartitions = "+S";  // MpsPlace::home()

}  // namespace

MpsManager::MpsManager(Outside outside)
    : outside_(std::move(outside)), books_(outside_.directory) {}

std::string MpsManager::root_of(std::uint32_t uid) const {
  return outside_.directory + "/mps/" + std::to_string(uid);
}

void MpsManager::configure(bool enabled, const std::string& program) {
  enabled_ = enabled;
  asked_program_ = program;
  program_ = find_program(program);
  refused_.clear();
  for (auto& [key, pair] : controls_) pair.control->set_program(program_);
}

std::string MpsManager::problem(const MpsKey& key) const {
  const std::string pipe =
      root_of(key.uid) + "/" + key.group + (key.partitions ? kWithPartitions : "") + "/pipe";
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
  Pair& at = controls_[key];
  if (at.control) return *at.control;
  MpsPlace place{program_,      root_of(key.uid), key.group, key.uid, key.uid != outside_.own_uid,
                 key.partitions};
  const auto post = [this, key](wire::EventKind kind, wire::Severity severity,
                                const std::string& text) {
    outside_.post(key, kind, severity, text);
  };
  at.control = std::make_unique<MpsControl>(*outside_.poller, std::move(place), post);
  if (key.partitions)
    at.partitions = std::make_unique<Partitions>(
        key.group, key.uid, books_,
        [control = at.control.get()](const std::string& input, MpsCommand::Done done) {
          control->command(input, std::move(done));
        },
        post);
  return *at.control;
}

void MpsManager::find_left() {
  books_.load();
  std::error_code none;
  for (const auto& user : fs::directory_iterator{outside_.directory + "/mps", none}) {
    const std::string name = user.path().filename();
    std::uint32_t uid = 0;
    const auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), uid);
    if (bad != std::errc{} || end != name.data() + name.size()) continue;
    std::error_code unreadable;
    for (const auto& group : fs::directory_iterator{user.path(), unreadable}) {
      MpsKey key{group.path().filename(), uid};
      key.partitions = key.group.ends_with(kWithPartitions);
      if (key.partitions) key.group.resize(key.group.size() - std::strlen(kWithPartitions));
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
  divided_.clear();
  for (const auto& [tenant, book] : books_.all()) {  // who has one goes before who has none
    const std::string value = static_cast<const char*>(book.value);
    const MpsKey key{static_cast<const char*>(book.group), book.uid, true};
    if (!value.empty() && controls_.contains(key))
      divided_.try_emplace(value.substr(0, value.find('/')), key);
  }
  for (const auto& [key, pair] : controls_) {
    if (pair.partitions != nullptr && !pair.partitions->adding().empty())
      divided_.try_emplace(pair.partitions->adding(), key);
  }
  for (auto at = controls_.begin(); at != controls_.end();) {
    const auto wants = in_force.find(at->first);
    MpsControl& control = *at->second.control;
    // what was handed out is taken back before it is ended
    const bool holds =
        at->second.partitions != nullptr && control.serving() && !at->second.partitions->clear();
    control.want((enabled_ && wants != in_force.end()) || holds,
                 wants != in_force.end() && wants->second);
    for (const int ms : {control.tick(now), divide(at->first, at->second, now)})
      if (ms >= 0) due_ms = std::min(due_ms, ms);
    const bool idle = control.idle();
    if (idle && at->first.partitions) forget_books(at->first);
    at = idle ? controls_.erase(at) : std::next(at);
  }
  return due_ms;
}

// The partitions of a pair, while its control daemon serves. One pair a GPU: that two divide it side by side is not documented.
int MpsManager::divide(const MpsKey& key, Pair& pair, const Now& now) {
  if (pair.partitions == nullptr) return -1;
  if (!pair.control->serving()) {
    if (pair.control->state() != MpsControl::State::kServing) pair.partitions->away();
    return -1;
  }
  std::vector<PartitionWant> wants =
      outside_.wants ? outside_.wants(key, books_) : std::vector<PartitionWant>{};
  for (PartitionWant& w : wants) {
    const MpsKey& has = divided_.try_emplace(w.gpu, key).first->second;
    if (has != key)
      w.blocked = "the partitions of this GPU are those of group " + has.group + " of uid " +
                  std::to_string(has.uid) + ", and MPS is not known to divide it in two places";
  }
  return pair.partitions->tick(now, wants);
}

// Its control daemon is gone, and everything that it had.
void MpsManager::forget_books(const MpsKey& key) {
  std::vector<std::string> tenants;
  for (const auto& [tenant, book] : books_.all()) {
    if (book.uid == key.uid && key.group == static_cast<const char*>(book.group))
      tenants.push_back(tenant);
  }
  for (const std::string& tenant : tenants) books_.forget(tenant);
}

Partitions::State MpsManager::partition(const MpsKey& key, const std::string& tenant) const {
  const auto at = controls_.find(key);
  if (at == controls_.end() || at->second.partitions == nullptr) return Partitions::State::kPending;
  return at->second.partitions->state(tenant);
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
  for (auto& [key, pair] : controls_) {
    ++mine.left;
    pair.control->evict(pid, [this, pid, start_ticks](bool) {
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
  for (const std::uint32_t pid : pids) at->second.control->evict(pid, [](bool) {});
}

void MpsManager::noted_end(const MpsKey& key, const std::string& who) {
  const auto at = controls_.find(key);
  if (at == controls_.end()) return;
  at->second.control->noted_end(who);
  if (at->second.partitions) at->second.partitions->look();
}

bool MpsManager::serving(const MpsKey& key) const {
  const auto at = controls_.find(key);
  return at != controls_.end() && at->second.control->serving();
}

bool MpsManager::silent(const MpsKey& key) const {
  const auto at = controls_.find(key);
  return at != controls_.end() && at->second.control->silent();
}

bool MpsManager::running() const {
  for (const auto& [key, pair] : controls_) {
    if (pair.control->running()) return true;
  }
  return false;
}

std::vector<std::uint32_t> MpsManager::servers() const {
  std::vector<std::uint32_t> out;
  for (const auto& [key, pair] : controls_) pair.control->add_servers(out);
  return out;
}

}  // namespace bulkhead::daemon
