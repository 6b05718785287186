#include "daemon/pidfd.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/clock.h"

namespace bulkhead::daemon {
namespace {

std::string read_small(const std::string& path) {
  const UniqueFd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  char text[1024];
  const ssize_t got = fd.ok() ? ::read(fd.get(), text, sizeof text) : -1;
  return got > 0 ? std::string(text, static_cast<std::size_t>(got)) : std::string{};
}

}  // namespace

UniqueFd open_pidfd(std::uint32_t pid) {
  return UniqueFd{static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0u))};
}

std::uint64_t start_ticks_of(std::uint32_t pid) {
  const std::string text = read_small("/proc/" + std::to_string(pid) + "/stat");
  std::size_t at = text.rfind(')');  // the name may hold anything
  for (int field = 2; field < 22 && at != std::string::npos; ++field) at = text.find(' ', at + 1);
  return at == std::string::npos || text.empty() ? 0
                                                 : std::strtoull(text.c_str() + at, nullptr, 10);
}

SelfUse self_use() {
  SelfUse out;
  out.cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
  const std::string text = read_small("/proc/self/statm");
  unsigned long long size = 0, resident = 0;
  if (std::sscanf(text.c_str(), "%llu %llu", &size, &resident) == 2) {
    out.rss_bytes = resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  }
  return out;
}

}  // namespace bulkhead::daemon
