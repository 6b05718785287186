#include "daemon/proc_scan.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "daemon/proc.h"

namespace bulkhead::daemon {
namespace {

constexpr std::uint64_t kRest = 3;                    // rounds between two looks for a mark
constexpr std::size_t kMostMaps = 4u << 20;           // of /proc/PID/maps
constexpr std::uint64_t kKernelThread = 0x0020'0000;  // PF_KTHREAD, proc(5) "flags"

bool number(const char* text, std::uint32_t& out) {
  const char* const end = text + std::strlen(text);
  const auto r = std::from_chars(text, end, out);
  return r.ec == std::errc{} && r.ptr == end;
}

// "PID/rest", or "PID/fd/N".
struct Path {
  char text[48];
  Path(std::uint32_t pid, const char* rest) {
    std::snprintf(text, sizeof text, "%u/%s", pid, rest);
  }
  Path(std::uint32_t pid, std::uint32_t fd) {
    std::snprintf(text, sizeof text, "%u/fd/%u", pid, fd);
  }
};

// Field 9 of /proc/PID/stat.
bool is_kernel_thread(const std::string& stat) {
  const std::size_t close = stat.rfind(')');
  if (close == std::string::npos) return false;
  const char* at = stat.c_str() + close + 1;
  for (int field = 3; at != nullptr && field < 9; ++field) at = std::strchr(at + 1, ' ');
  return at != nullptr && (std::strtoull(at, nullptr, 10) & kKernelThread) != 0;
}

}  // namespace

// Whether an open file, named by its link below /proc/PID/fd, is a GPU's node. The link's text is asked first: most are
// no files. The open file itself is asked, not the path, and without talking to a file server.
bool ProcScan::is_device(const char* link) const {
  const int at = ::dirfd(proc_.get());
  char to[32];
  const ssize_t n = ::readlinkat(at, link, to, sizeof to - 1);
  if (n <= 0) return false;
  to[n] = '\0';
  for (const char* no : {"socket:", "pipe:", "anon_inode:", "/memfd:"}) {
    if (std::strncmp(to, no, std::strlen(no)) == 0) return false;
  }
  struct statx st {};
  if (::statx(at, link, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &st) != 0) return false;
  if (!S_ISCHR(st.stx_mode)) return false;
  return std::find(options_.majors.begin(), options_.majors.end(), st.stx_rdev_major) !=
         options_.majors.end();
}

bool ProcScan::maps_state(std::uint32_t pid) const {
  if (state_files_.empty()) return false;
  const std::string maps = slurp_at(::dirfd(proc_.get()), Path{pid, "maps"}.text, kMostMaps);
  return std::any_of(state_files_.begin(), state_files_.end(),
                     [&](const std::string& file) { return maps.find(file) != std::string::npos; });
}

// What is cheap to read and is another when the process opened or closed something. nullopt: it is gone.
std::optional<std::uint64_t> ProcScan::mark_of(std::uint32_t pid) const {
  const int at = ::dirfd(proc_.get());
  if (!options_.simulator.empty()) {
    const std::string sizes = slurp_at(at, Path{pid, "statm"}.text);
    if (sizes.empty()) return std::nullopt;
    return std::strtoull(sizes.c_str(), nullptr, 10);
  }
  struct statx st {};
  if (::statx(at, Path{pid, "fd"}.text, AT_STATX_DONT_SYNC, STATX_SIZE, &st) != 0)
    return std::nullopt;
  return st.stx_size;
}

// Goes on where it stopped the last time.
ProcScan::Verdict ProcScan::search(Known& process) {
  if (!options_.simulator.empty()) return maps_state(process.pid) ? Verdict::kHolds : Verdict::kNo;
  const int fd = ::openat(::dirfd(proc_.get()), Path{process.pid, "fd"}.text,
                          O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return Verdict::kNo;
  const std::unique_ptr<DIR, CloseDir> list{::fdopendir(fd)};
  if (list == nullptr) return ::close(fd), Verdict::kNo;
  const std::uint32_t from = std::exchange(process.next_fd, 0);
  unsigned left = std::min(options_.fds_a_look, fds_left_);
  while (const dirent* entry = ::readdir(list.get())) {
    std::uint32_t n = 0;
    if (!number(entry->d_name, n) || n < from) continue;
    if (left == 0) {  // the kernel lists them in ascending order
      process.next_fd = n;
      return Verdict::kUnfinished;
    }
    --left, --fds_left_;
    if (!is_device(Path{process.pid, n}.text)) continue;
    process.device_fd = n;
    return Verdict::kHolds;
  }
  return Verdict::kNo;
}

void ProcScan::set_holder(Known& process, bool holds) {
  process.holder = false;
  holders_.erase(process.pid);
  if (!holds) return;
  if (const auto p = read_process(options_.root, process.pid)) {
    process.holder = true;
    holders_[process.pid] = p->start_ticks;
  }
}

void ProcScan::look(Known& process) {
  ++looks_;
  process.looked = rounds_;
  process.queued = false;
  // before: what is opened while we look makes another mark
  const auto mark = marks_ ? mark_of(process.pid) : std::optional<std::uint64_t>{0};
  if (!mark) return set_holder(process, false);
  process.mark = *mark;
  process.kernel = *mark == 0 && marks_ &&
                   is_kernel_thread(slurp_at(::dirfd(proc_.get()), Path{process.pid, "stat"}.text));
  const Verdict verdict = process.kernel ? Verdict::kNo : search(process);
  if (verdict == Verdict::kUnfinished) return queue(process);
  set_holder(process, verdict == Verdict::kHolds);
}

void ProcScan::queue(Known& process) {
  if (std::exchange(process.queued, true)) return;
  queue_.push_back(process.pid);
}

ProcScan::Known* ProcScan::find(std::uint32_t pid) {
  const auto at = std::lower_bound(known_.begin(), known_.end(), pid,
                                   [](const Known& k, std::uint32_t p) { return k.pid < p; });
  return at != known_.end() && at->pid == pid ? &*at : nullptr;
}

void ProcScan::list_state_files() {
  state_files_.clear();
  if (options_.simulator.empty()) return;
  const std::unique_ptr<DIR, CloseDir> dir{::opendir(options_.simulator.c_str())};
  if (dir == nullptr) return;
  while (const dirent* entry = ::readdir(dir.get())) {
    struct stat st {};
    if (::fstatat(::dirfd(dir.get()), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(st.st_mode)) {
      continue;
    }
    char text[64];  // as maps has it
    std::snprintf(text, sizeof text, " %02x:%02x %llu ", major(st.st_dev), minor(st.st_dev),
                  static_cast<unsigned long long>(st.st_ino));
    state_files_.emplace_back(text);
  }
}

// Keeps what is known of those that are still there; the others and the new ones wait to be looked at.
bool ProcScan::list_processes(const std::vector<std::uint32_t>& listed) {
  if (proc_ == nullptr) {
    proc_.reset(::opendir(options_.root.c_str()));
    if (proc_ == nullptr) return false;
    const std::uint32_t self = static_cast<std::uint32_t>(::getpid());
    marks_ = options_.marks && mark_of(self).value_or(0) != 0;  // Linux before 6.2 says 0
  }
  ::rewinddir(proc_.get());
  std::vector<Known> now;
  now.reserve(known_.size() + 16);
  while (const dirent* entry = ::readdir(proc_.get())) {
    std::uint32_t pid = 0;
    if (number(entry->d_name, pid)) now.emplace_back().pid = pid, now.back().inode = entry->d_ino;
  }
  std::sort(now.begin(), now.end(), [](const Known& a, const Known& b) { return a.pid < b.pid; });
  keep_known(now, listed);
  known_ = std::move(now);
  return true;
}

// Both ascending by pid.
void ProcScan::keep_known(std::vector<Known>& now, const std::vector<std::uint32_t>& listed) {
  const auto is_listed = [&listed](std::uint32_t pid) {
    return std::binary_search(listed.begin(), listed.end(), pid);
  };
  auto old = known_.begin();
  for (Known& k : now) {
    for (; old != known_.end() && old->pid < k.pid; ++old) holders_.erase(old->pid);
    if (old == known_.end() || old->pid != k.pid) {
      k.listed = is_listed(k.pid);
      if (!k.listed) queue(k);
      continue;
    }
    const Known before = *old++;
    const bool same = before.inode == k.inode;
    if (same) k = before;
    if (!same) holders_.erase(k.pid);
    k.queued = before.queued;  // by pid
    k.listed = is_listed(k.pid);
    if (k.listed) {
      set_holder(k, false);
    } else if (!same || before.listed) {
      queue(k);
    }
  }
  for (; old != known_.end(); ++old) holders_.erase(old->pid);
}

void ProcScan::check_holders() {
  for (Known& k : known_) {
    if (!k.holder) continue;
    if (!options_.simulator.empty()) {
      if (!marks_ || mark_of(k.pid) != k.mark) look(k);
    } else if (!is_device(Path{k.pid, k.device_fd}.text)) {
      k.next_fd = 0;
      look(k);  // it may have others
    }
  }
}

void ProcScan::compare_marks() {
  const std::size_t count = std::min<std::size_t>(known_.size(), options_.marks_a_round);
  for (std::size_t i = 0; marks_ && i < count; ++i, ++mark_at_) {
    if (mark_at_ >= known_.size()) mark_at_ = 0;
    Known& k = known_[mark_at_];
    if (k.listed || k.queued || k.holder || k.kernel) continue;
    if (count == known_.size() && rounds_ - k.looked < kRest)
      continue;  // else we come rarely enough
    if (const auto mark = mark_of(k.pid); mark && *mark != k.mark) queue(k);
  }
}

// The sweep over all. Holders too: their start is read again.
void ProcScan::go_on() {
  const std::size_t waiting = queue_.size();
  const unsigned most = marks_ ? options_.again_a_round : options_.pids_a_round;
  if (waiting >= options_.pids_a_round) return;
  const std::size_t count =
      std::min<std::size_t>({known_.size(), most, options_.pids_a_round - waiting});
  for (std::size_t i = 0; i < count; ++i, ++again_at_) {
    if (again_at_ >= known_.size()) again_at_ = 0, ++sweeps_;
    if (!known_[again_at_].listed) queue(known_[again_at_]);
  }
}

void ProcScan::look_at_queue() {
  std::size_t count = std::min<std::size_t>(queue_.size(), options_.pids_a_round);
  for (; count > 0 && fds_left_ > 0; --count) {
    Known* const k = find(queue_.front());
    queue_.pop_front();
    if (k == nullptr || !k->queued) continue;
    if (k->listed) {
      k->queued = false;
    } else {
      look(*k);
    }
  }
}

const std::map<std::uint32_t, std::uint64_t>& ProcScan::round(
    const std::vector<std::uint32_t>& listed) {
  ++rounds_;
  fds_left_ = options_.fds_a_round;
  list_state_files();
  if (!list_processes(listed)) return holders_;
  check_holders();
  compare_marks();
  go_on();
  look_at_queue();
  return holders_;
}

}  // namespace bulkhead::daemon
