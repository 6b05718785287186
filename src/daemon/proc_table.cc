#include "daemon/proc_table.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "daemon/proc.h"

namespace bulkhead::daemon {

ProcTable::ProcTable(std::string root) : root_path_(std::move(root)) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0)
    most_ = std::min<std::size_t>(kMost, limit.rlim_cur / 8);
}

ProcTable::Face ProcTable::face_of(int directory) {
  Face out;
  constexpr int kHow = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT;
  struct statx st {};
  if (::statx(directory, "exe", kHow, STATX_INO, &st) == 0) {
    out.exe = {makedev(st.stx_dev_major, st.stx_dev_minor), st.stx_ino};
  } else {
    out.error = errno;  // EACCES: another user's; ESRCH, ENOENT: gone
  }
  if (::statx(directory, "", AT_EMPTY_PATH, STATX_UID, &st) == 0) out.uid = st.stx_uid;
  return out;
}

const policy::SeenProcess* ProcTable::get(std::uint32_t pid) {
  if (!root_.ok()) root_.reset(::open(root_path_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  const auto at = kept_.find(pid);
  if (at != kept_.end()) {
    Kept& k = at->second;
    const bool due = (pid + round_) % kEvery == 0;
    // ESRCH and ENOENT may also be a process without a file: the kernel's, or one that ends
    const Face face = face_of(k.directory.get());
    if (!due && face == k.face && face.error != ESRCH && face.error != ENOENT) {
      k.asked = round_;
      return &k.process;
    }
    kept_.erase(at);
  }
  ++reads_;
  UniqueFd directory = open_process_directory(root_.get(), pid);
  if (!directory.ok()) return nullptr;
  const Face face =
      face_of(directory.get());  // before: what changes while we read is seen the next time
  auto process = read_process_at(directory.get(), pid);
  if (!process) return nullptr;
  if (kept_.size() >= most_) {
    other_ = std::move(*process);
    return &other_;
  }
  Kept& k = kept_[pid];
  k = {std::move(directory), face, std::move(*process), round_};
  return &k.process;
}

void ProcTable::end_round() {
  std::erase_if(kept_, [this](const auto& one) { return one.second.asked != round_; });
}

}  // namespace bulkhead::daemon
