#include "daemon/proc.h"

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

namespace bulkhead::daemon {
namespace {

std::string read_link_at(int directory, const char* path) {
  char text[4096];
  const ssize_t n = ::readlinkat(directory, path, text, sizeof text);
  return n > 0 ? std::string{text, static_cast<std::size_t>(n)} : std::string{};
}

policy::FileId file_id_at(int directory, const char* path) {
  struct statx st {};
  const int how = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT;
  if (::statx(directory, path, how, STATX_INO, &st) != 0) return {};
  return {makedev(st.stx_dev_major, st.stx_dev_minor), st.stx_ino};
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

}  // namespace

std::string slurp_at(int directory, const char* path, std::size_t most) {
  std::string out;
  const UniqueFd fd{::openat(directory, path, O_RDONLY | O_CLOEXEC)};
  char part[16384];
  for (ssize_t n; fd.ok() && out.size() < most && (n = ::read(fd.get(), part, sizeof part)) > 0;) {
    out.append(part, static_cast<std::size_t>(n));
  }
  return out;
}

policy::FileId file_id(const std::string& path) { return file_id_at(AT_FDCWD, path.c_str()); }

UniqueFd open_process_directory(int root, std::uint32_t pid) {
  char name[16] = "";
  std::to_chars(name, name + sizeof name - 1, pid);
  return UniqueFd{::openat(root, name, O_PATH | O_DIRECTORY | O_CLOEXEC)};
}

std::optional<policy::SeenProcess> read_process_at(int directory, std::uint32_t pid) {
  policy::SeenProcess p, after;
  p.pid = pid;
  if (!read_stat(slurp_at(directory, "stat"), p)) return std::nullopt;
  read_status(slurp_at(directory, "status"), p);
  p.exe = read_link_at(directory, "exe");
  p.exe_id = file_id_at(directory, "exe");
  p.at_secure = read_secure(slurp_at(directory, "auxv"));
  // The same process at both ends, so all of it was read of one.
  if (!read_stat(slurp_at(directory, "stat"), after) || after.start_ticks != p.start_ticks)
    return std::nullopt;
  return p;
}

std::optional<policy::SeenProcess> read_process(const std::string& root, std::uint32_t pid) {
  const UniqueFd at{
      ::open((root + "/" + std::to_string(pid)).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)};
  return at.ok() ? read_process_at(at.get(), pid) : std::nullopt;
}

std::vector<unsigned> gpu_majors(const std::string& root) {
  std::vector<unsigned> out{195};
  const std::string devices = slurp_at(AT_FDCWD, (root + "/devices").c_str());
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

}  // namespace bulkhead::daemon
