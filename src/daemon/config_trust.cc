// The trust file is read with the configuration: on the reader's thread, and both are of one moment.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/fd.h"
#include "daemon/config.h"

namespace bulkhead::daemon {

std::string read_trust_file(Config& config) {
  constexpr std::size_t kMost = (64u << 10) + 1;  // one more than a trust file may have
  if (config.trust_jwks.empty() && ::geteuid() == 0 && ::access(kTrustFile, F_OK) == 0)
    config.trust_jwks = kTrustFile;
  if (config.trust_jwks.empty()) return "";
  const std::string& path = config.trust_jwks;
  const UniqueFd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  struct stat st {};
  if (!fd.ok() || ::fstat(fd.get(), &st) != 0)
    return path + ": " + std::strerror(errno) + "; 'bulkhead grant jwks' makes one";
  const bool foreign = st.st_uid != 0 && st.st_uid != ::geteuid();
  if (!S_ISREG(st.st_mode) || (st.st_mode & (S_IWOTH | S_IWGRP)) != 0 || foreign)
    return path + ": others may write it; it must be root's or the daemon user's, mode 0644";
  config.trust_text.assign(kMost, '\0');
  std::size_t has = 0;
  while (has < kMost) {
    const ssize_t got = ::read(fd.get(), config.trust_text.data() + has, kMost - has);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return path + ": " + std::strerror(errno);
    if (got == 0) break;
    has += static_cast<std::size_t>(got);
  }
  config.trust_text.resize(has);
  return "";
}

}  // namespace bulkhead::daemon
