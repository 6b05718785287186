#include "daemon/shim_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "base/fd.h"
#include "grant/shim.h"

namespace bulkhead::daemon {
namespace {

constexpr std::size_t kMostLibrary = 64u << 20;

std::string read_whole(const std::string& path, std::size_t most, std::string& out) {
  const UniqueFd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  struct stat st {};
  if (!fd.ok() || ::fstat(fd.get(), &st) != 0) return path + ": " + std::strerror(errno);
  if (!S_ISREG(st.st_mode) || st.st_size < 0 || static_cast<std::size_t>(st.st_size) > most)
    return path + ": not a file of ours";
  out.resize(static_cast<std::size_t>(st.st_size));
  for (std::size_t has = 0; has < out.size();) {
    const ssize_t n = ::read(fd.get(), out.data() + has, out.size() - has);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return path + ": cut short while it was read";
    has += static_cast<std::size_t>(n);
  }
  return "";
}

bool make_dir(const std::string& path) {
  return ::mkdir(path.c_str(), 0755) == 0 || errno == EEXIST;
}

// Anew at each start: what lies there may have been changed by who could.
std::string write_copy(const std::string& folder, const std::string& bytes, ShimCopy& out) {
  const std::string made = folder + "/libbulkhead.so.new";
  out.path = folder + "/libbulkhead.so";
  ::unlink(made.c_str());
  const UniqueFd fd{
      ::open(made.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0555)};
  if (!fd.ok()) return made + ": " + std::strerror(errno);
  for (std::size_t has = 0; has < bytes.size();) {
    const ssize_t n = ::write(fd.get(), bytes.data() + has, bytes.size() - has);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return made + ": " + std::strerror(errno);
    has += static_cast<std::size_t>(n);
  }
  struct stat st {};
  if (::fchmod(fd.get(), 0555) != 0 || ::fsync(fd.get()) != 0 || ::fstat(fd.get(), &st) != 0 ||
      ::rename(made.c_str(), out.path.c_str()) != 0)
    return out.path + ": " + std::strerror(errno);
  out.device = st.st_dev;
  out.inode = st.st_ino;
  return "";
}

std::string not_signed(const std::string& path, const std::string& what) {
  return path + " is not the " + what +
         " that was signed: install the signed one, or sign this one ('bulkhead shim sign')";
}

}  // namespace

Outcome<ShimCopy> prepare_shim(const std::string& root_file, const std::string& manifest_file,
                               const std::string& state) {
  using Out = Outcome<ShimCopy>;
  std::string root, manifest, signature, library;
  for (const auto& [path, most, to] :
       {std::tuple{root_file, grant::kMostManifest, &root},
        std::tuple{manifest_file, grant::kMostManifest, &manifest},
        std::tuple{manifest_file + ".p7s", grant::kMostManifest, &signature}}) {
    if (std::string p = read_whole(path, most, *to); !p.empty()) return Out::because(p);
  }
  auto read = grant::verify_manifest(manifest, signature, root);
  if (!read.ok()) return Out::because(manifest_file + ": " + read.problem);
  const std::string folder = manifest_file.substr(0, manifest_file.rfind('/') + 1);
  const std::string from = folder + grant::kShimLibrary;
  const auto wanted = read->files.find(grant::kShimLibrary);
  if (wanted == read->files.end()) return Out::because(manifest_file + " names no libbulkhead.so");
  if (std::string p = read_whole(from, kMostLibrary, library); !p.empty()) return Out::because(p);
  ShimCopy out;
  out.sha256 =
      grant::sha256_hex(library);  // of the bytes that are copied, not of the file a second time
  out.version = read->version;
  if (out.sha256 != wanted->second) return Out::because(not_signed(from, "library"));
  if (const auto self = read->files.find(grant::kShimDaemon); self != read->files.end()) {
    std::string own;
    if (std::string p = read_whole("/proc/self/exe", kMostLibrary, own); !p.empty())
      return Out::because(p);
    if (grant::sha256_hex(own) != self->second)
      return Out::because(not_signed("bulkheadd", "daemon"));
  }
  const std::string copies = state + "/shim", own_folder = copies + "/" + out.sha256;
  if (!make_dir(copies) || !make_dir(own_folder))
    return Out::because(own_folder + ": " + std::strerror(errno));
  if (std::string p = write_copy(own_folder, library, out); !p.empty()) return Out::because(p);
  return Out{std::move(out)};
}

std::string publish_shim(int dir_fd, const std::string& path) {
  if (path.empty()) {
    ::unlinkat(dir_fd, kShimFile, 0);
    return "";
  }
  const std::string made = std::string{kShimFile} + ".new", line = path + "\n";
  ::unlinkat(dir_fd, made.c_str(), 0);
  const UniqueFd fd{
      ::openat(dir_fd, made.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0444)};
  const bool good =
      fd.ok() && ::write(fd.get(), line.data(), line.size()) == static_cast<ssize_t>(line.size()) &&
      ::fchmod(fd.get(), 0444) == 0 && ::renameat(dir_fd, made.c_str(), dir_fd, kShimFile) == 0;
  return good ? "" : std::string{"cannot say which library is signed: "} + std::strerror(errno);
}

bool has_shim(std::uint32_t pid, const ShimCopy& shim) {
  std::ifstream maps{"/proc/" + std::to_string(pid) + "/maps"};
  std::string line;
  while (std::getline(maps, line)) {
    unsigned major_number = 0, minor_number = 0;
    unsigned long long inode = 0;
    char may[8] = "";
    if (std::sscanf(line.c_str(), "%*s %7s %*s %x:%x %llu", may, &major_number, &minor_number,
                    &inode) != 4)
      continue;
    // Its code, not its bytes: a program that only maps the file to read it has not loaded it.
    if (std::strchr(may, 'x') != nullptr && inode == shim.inode &&
        major_number == major(shim.device) && minor_number == minor(shim.device))
      return true;
  }
  return false;
}

}  // namespace bulkhead::daemon
