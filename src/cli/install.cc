#include "cli/install.h"

#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace bulkhead::cli {
namespace {

constexpr const char* kInstalled = "/usr/lib/bulkhead";

std::string own_directory() {
  const std::string path = own_path();
  const auto slash = path.rfind('/');
  return slash == std::string::npos ? std::string{"."} : path.substr(0, slash);
}

// Without ".." in it, because it ends up in the environment of programs.
std::string real(const std::string& path) {
  char out[PATH_MAX];
  return ::realpath(path.c_str(), out) != nullptr ? std::string{out} : std::string{};
}

}  // namespace

std::string own_path() {
  char path[PATH_MAX];
  const ssize_t n = ::readlink("/proc/self/exe", path, sizeof path - 1);
  return n > 0 ? std::string(path, static_cast<std::size_t>(n)) : std::string{};
}

std::string find_library() {
  // Not resolved further than its directory: an upgrade replaces the file behind the name.
  for (const std::string& dir : {own_directory() + "/../lib", own_directory() + "/../lib/bulkhead",
                                 std::string{kInstalled}}) {
    const std::string found = real(dir);
    if (!found.empty() && ::access((found + "/libbulkhead.so").c_str(), R_OK) == 0) {
      return found + "/libbulkhead.so";
    }
  }
  return {};
}

std::string find_simulator() {
  for (const std::string& dir :
       {own_directory() + "/../sim", own_directory() + "/../lib/bulkhead/sim",
        std::string{kInstalled} + "/sim"}) {
    std::string found = real(dir);
    if (!found.empty() && ::access((found + "/libcuda.so.1").c_str(), R_OK) == 0) return found;
  }
  return {};
}

std::string find_bench() {
  for (const std::string& dir :
       {own_directory(), own_directory() + "/../lib/bulkhead", std::string{kInstalled}}) {
    std::string found = real(dir + "/bulkhead-bench");
    if (!found.empty() && ::access(found.c_str(), X_OK) == 0) return found;
  }
  return {};
}

bool make_directories(const std::string& path) {
  const mode_t mode = ::geteuid() == 0 ? 0755 : 0700;
  for (std::size_t at = 1; at != std::string::npos;) {
    at = path.find('/', at + 1);
    if (::mkdir(path.substr(0, at).c_str(), mode) != 0 && errno != EEXIST) return false;
  }
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0) return false;
  errno = ENOTDIR;
  return S_ISDIR(st.st_mode);
}

std::string with_entry(const char* value, const std::string& entry, const char* separators) {
  if (value == nullptr || *value == '\0') return entry;
  std::string all = value;
  for (std::size_t from = 0; from <= all.size();) {
    const std::size_t to = std::min(all.find_first_of(separators, from), all.size());
    if (all.compare(from, to - from, entry) == 0) return all;
    from = to + 1;
  }
  return entry + separators[0] + all;
}

std::string env_or_empty(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? std::string{value} : std::string{};
}

}  // namespace bulkhead::cli
