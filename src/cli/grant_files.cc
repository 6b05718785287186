#include "cli/grant_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/fd.h"

namespace bulkhead::cli {

std::string read_small(const std::string& path, std::size_t most, std::string& text) {
  const UniqueFd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  struct stat st {};
  if (!fd.ok() || ::fstat(fd.get(), &st) != 0) return path + ": " + std::strerror(errno);
  if (!S_ISREG(st.st_mode)) return path + ": not a file";
  text.assign(most + 1, '\0');
  std::size_t has = 0;
  for (ssize_t n = 0; has < text.size();) {
    n = ::read(fd.get(), text.data() + has, text.size() - has);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return path + ": " + std::strerror(errno);
    if (n == 0) break;
    has += static_cast<std::size_t>(n);
  }
  if (has > most) return path + ": over " + std::to_string(most) + " bytes";
  text.resize(has);
  return "";
}

std::string write_small(const std::string& path, const std::string& text, unsigned mode,
                        bool fresh) {
  const std::string made = path + ".new";
  ::unlink(made.c_str());
  {
    const UniqueFd fd{
        ::open(made.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode)};
    if (!fd.ok()) return made + ": " + std::strerror(errno);
    const bool good =
        ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
        ::fsync(fd.get()) == 0;
    if (!good) {
      const std::string why = std::strerror(errno);
      ::unlink(made.c_str());
      return made + ": " + why;
    }
  }
  const int moved =
      fresh ? ::link(made.c_str(), path.c_str()) : ::rename(made.c_str(), path.c_str());
  const int why = errno;
  if (fresh || moved != 0) ::unlink(made.c_str());
  return moved == 0 ? "" : path + ": " + std::strerror(why);
}

}  // namespace bulkhead::cli
