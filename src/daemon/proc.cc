#include "daemon/proc.h"

#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/fd.h"

namespace bulkhead::daemon {
namespace {

constexpr std::size_t kMostMaps = 4u << 20;  // of /proc/PID/maps

std::string slurp(const std::string& path, std::size_t most = 1u << 16) {
  std::string out;
  const UniqueFd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  char part[16384];
  for (ssize_t n; fd.ok() && out.size() < most && (n = ::read(fd.get(), part, sizeof part)) > 0;) {
    out.append(part, static_cast<std::size_t>(n));
  }
  return out;
}

std::string read_link(const std::string& path) {
  char text[4096];
  const ssize_t n = ::readlink(path.c_str(), text, sizeof text);
  return n > 0 ? std::string{text, static_cast<std::size_t>(n)} : std::string{};
}

// Fields of /proc/PID/stat; the command may hold anything, parentheses too.
bool read_stat(const std::string& text, policy::SeenProcess& p) {
  const std::size_t open = text.find('('), close = text.rfind(')');
  if (open == std::string::npos || close == std::string::npos || close < open) return false;
  p.command = text.substr(open + 1, close - open - 1);
  const char* at = text.c_str() + close + 1;
  char state = 0;
  int used = 0;
  if (std::sscanf(at, " %c %u%n", &state, &p.parent_pid, &used) != 2) return false;
  at += used;
  for (int field = 5; field < 22; ++field) {
    at = std::strchr(at + 1, ' ');
    if (at == nullptr) return false;
  }
  char* end = nullptr;
  p.start_ticks = std::strtoull(at, &end, 10);
  return end != at;
}

void read_status(const std::string& text, policy::SeenProcess& p) {
  if (const std::size_t at = text.find("\nUid:"); at != std::string::npos) {
    unsigned real = 0, effective = 0;
    if (std::sscanf(text.c_str() + at + 5, "%u %u", &real, &effective) == 2) p.uid = effective;
  }
  if (const std::size_t at = text.find("\nNSpid:"); at != std::string::npos) {
    const std::size_t end = text.find('\n', at + 1);
    const std::string pids = text.substr(at + 7, end - at - 7);
    p.nested = std::count(pids.begin(), pids.end(), '\t') > 1;
  }
}

bool read_secure(const std::string& auxv) {
  for (std::size_t at = 0; at + sizeof(Elf64_auxv_t) <= auxv.size(); at += sizeof(Elf64_auxv_t)) {
    Elf64_auxv_t entry;
    std::memcpy(&entry, auxv.data() + at, sizeof entry);
    if (entry.a_type == AT_SECURE) return entry.a_un.a_val != 0;
  }
  return false;
}

std::vector<std::uint32_t> numbers_in(const std::string& directory) {
  std::vector<std::uint32_t> out;
  DIR* dir = ::opendir(directory.c_str());
  if (dir == nullptr) return out;
  while (const dirent* entry = ::readdir(dir)) {
    std::uint32_t n = 0;
    const char* end = entry->d_name + std::strlen(entry->d_name);
    const auto r = std::from_chars(entry->d_name, end, n);
    if (r.ec == std::errc{} && r.ptr == end) out.push_back(n);
  }
  ::closedir(dir);
  return out;
}

}  // namespace

policy::FileId file_id(const std::string& path) {
  struct statx st {};
  const int how = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT;
  if (::statx(AT_FDCWD, path.c_str(), how, STATX_INO, &st) != 0) return {};
  return {makedev(st.stx_dev_major, st.stx_dev_minor), st.stx_ino};
}

std::optional<policy::SeenProcess> read_process(const std::string& root, std::uint32_t pid) {
  const std::string at = root + "/" + std::to_string(pid);
  policy::SeenProcess p, after;
  p.pid = pid;
  if (!read_stat(slurp(at + "/stat"), p)) return std::nullopt;
  read_status(slurp(at + "/status"), p);
  p.exe = read_link(at + "/exe");
  p.exe_id = file_id(at + "/exe");
  p.at_secure = read_secure(slurp(at + "/auxv"));
  // The same process at both ends, so all of it was read of one.
  if (!read_stat(slurp(at + "/stat"), after) || after.start_ticks != p.start_ticks)
    return std::nullopt;
  return p;
}

std::vector<unsigned> gpu_majors(const std::string& root) {
  std::vector<unsigned> out{195};
  const std::string devices = slurp(root + "/devices");
  for (std::size_t at = 0; at < devices.size();) {
    const std::size_t end = std::min(devices.find('\n', at), devices.size());
    unsigned major = 0;
    char name[32] = "";
    if (std::sscanf(devices.substr(at, end - at).c_str(), "%u %31s", &major, name) == 2 &&
        std::strcmp(name, "nvidia-uvm") == 0) {
      out.push_back(major);
    }
    at = end + 1;
  }
  return out;
}

// Whether an open file, named by its link below /proc/PID/fd, is a GPU's node. The link's text is asked first: most are
// no files. The open file itself is asked, not the path, and without talking to a file server.
bool ProcScan::is_device(const std::string& link) const {
  const std::string to = read_link(link);
  for (const char* no : {"socket:", "pipe:", "anon_inode:", "/memfd:"}) {
    if (to.starts_with(no)) return false;
  }
  struct statx st {};
  if (to.empty() ||
      ::statx(AT_FDCWD, link.c_str(), AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &st) != 0) {
    return false;
  }
  if (!S_ISCHR(st.stx_mode)) return false;
  return std::find(options_.majors.begin(), options_.majors.end(), st.stx_rdev_major) !=
         options_.majors.end();
}

bool ProcScan::maps_state(std::uint32_t pid) const {
  if (state_files_.empty()) return false;
  const std::string maps = slurp(options_.root + "/" + std::to_string(pid) + "/maps", kMostMaps);
  return std::any_of(state_files_.begin(), state_files_.end(),
                     [&](const std::string& file) { return maps.find(file) != std::string::npos; });
}

bool ProcScan::holds(std::uint32_t pid, unsigned& fds_left) const {
  if (!options_.simulator.empty()) return maps_state(pid);
  const std::string directory = options_.root + "/" + std::to_string(pid) + "/fd";
  for (const std::uint32_t fd : numbers_in(directory)) {
    if (fds_left == 0) return false;  // seen in a later sweep
    --fds_left;
    if (is_device(directory + "/" + std::to_string(fd))) return true;
  }
  return false;
}

void ProcScan::list_state_files() {
  state_files_.clear();
  if (options_.simulator.empty()) return;
  DIR* dir = ::opendir(options_.simulator.c_str());
  if (dir == nullptr) return;
  while (const dirent* entry = ::readdir(dir)) {
    struct stat st {};
    if (::fstatat(::dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(st.st_mode)) {
      continue;
    }
    char text[64];  // as maps has it
    std::snprintf(text, sizeof text, " %02x:%02x %llu ", major(st.st_dev), minor(st.st_dev),
                  static_cast<unsigned long long>(st.st_ino));
    state_files_.emplace_back(text);
  }
  ::closedir(dir);
}

void ProcScan::list_processes() {
  if (at_ < pids_.size()) return;
  sweeps_ += pids_.empty() ? 0 : 1;
  pids_ = numbers_in(options_.root);
  at_ = 0;
}

const std::map<std::uint32_t, std::uint64_t>& ProcScan::round() {
  unsigned fds_left = options_.fds_a_round;
  list_state_files();
  for (auto it = holders_.begin(); it != holders_.end();) {
    if (fds_left == 0) break;  // the rest stays as it is for this round
    const auto now = read_process(options_.root, it->first);
    const bool same = now && now->start_ticks == it->second && holds(it->first, fds_left);
    it = same ? std::next(it) : holders_.erase(it);
  }
  list_processes();
  const std::size_t end = std::min(pids_.size(), at_ + options_.pids_a_round);
  for (; at_ < end && fds_left != 0; ++at_) {
    const std::uint32_t pid = pids_[at_];
    if (holders_.contains(pid) || !holds(pid, fds_left)) continue;
    if (const auto p = read_process(options_.root, pid)) holders_[pid] = p->start_ticks;
  }
  return holders_;
}

}  // namespace bulkhead::daemon
