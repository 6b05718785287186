// The listening sockets and the token file: made by the daemon, before the child is there.
#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <netinet/in.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "daemon/sight/sight.h"

namespace bulkhead::daemon {
namespace {

constexpr std::size_t kTokenDigits = 32;  // 128 bits
constexpr gid_t kNoGroup = static_cast<gid_t>(-1);

std::string because(const std::string& what) {
  return fmt::format("{}: {}", what, std::strerror(errno));
}

// Root's files are for group `bulkhead`, if there is one.
bool give_to_group(int fd_or_minus, const char* path) {
  if (::geteuid() != 0) return true;
  // Asked once, at the start: the answer may come over the network, and a reload asks from the control loop.
  static const gid_t gid = [] {
    const group* g = ::getgrnam("bulkhead");
    return g == nullptr ? kNoGroup : g->gr_gid;
  }();
  if (gid == kNoGroup) return true;
  return (path == nullptr ? ::fchown(fd_or_minus, 0, gid) : ::lchown(path, 0, gid)) == 0;
}

std::string old_token(const std::string& path) {
  const UniqueFd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
  struct stat st {};
  if (!fd.ok() || ::fstat(fd.get(), &st) != 0) return "";
  if (!S_ISREG(st.st_mode) || st.st_uid != ::geteuid() || (st.st_mode & 07137) != 0) return "";
  std::array<char, 256> text{};
  const ssize_t n = ::read(fd.get(), text.data(), text.size() - 1);
  const std::string all(text.data(), n > 0 ? static_cast<std::size_t>(n) : 0);
  const std::size_t at = all.find("#token=");
  if (at == std::string::npos) return "";
  const std::string token = all.substr(at + 7, kTokenDigits);
  const bool hex = token.find_first_not_of("0123456789abcdef") == std::string::npos;
  return hex && token.size() == kTokenDigits ? token : "";
}

std::string new_token() {
  std::array<unsigned char, kTokenDigits / 2> bytes{};
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) return "";
  std::string out;
  for (const unsigned char b : bytes) out += fmt::format("{:02x}", b);
  return out;
}

}  // namespace

Outcome<UniqueFd> listen_unix(const std::string& path) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  if (path.size() >= sizeof name.sun_path)
    return Outcome<UniqueFd>::because(path + ": too long for a socket");
  std::memcpy(name.sun_path, path.c_str(), path.size() + 1);
  struct stat st {};
  if (::lstat(path.c_str(), &st) == 0 && S_ISSOCK(st.st_mode)) ::unlink(path.c_str());
  UniqueFd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (!fd.ok()) return Outcome<UniqueFd>::because(because("socket"));
  const mode_t mode = ::geteuid() == 0 ? 0660 : 0600;
  // The mode is that of its first moment: nobody gets in between bind and chmod.
  const mode_t old = ::umask(0777 & ~mode);
  const int bound = ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name);
  ::umask(old);
  if (bound != 0 || !give_to_group(-1, path.c_str()) || ::listen(fd.get(), 64) != 0)
    return Outcome<UniqueFd>::because(because(path));
  return fd;
}

Outcome<UniqueFd> listen_loopback(std::uint16_t port) {
  UniqueFd fd{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (!fd.ok()) return Outcome<UniqueFd>::because(because("socket"));
  const int yes = 1;
  (void)::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_port = htons(port);
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0 ||
      ::listen(fd.get(), 64) != 0)
    return Outcome<UniqueFd>::because(because(fmt::format("127.0.0.1:{}", port)));
  return fd;
}

Outcome<std::string> console_token(const std::string& directory, std::uint16_t port) {
  using Out = Outcome<std::string>;
  const std::string path = directory + "/console.url";
  std::string token = old_token(path);
  if (token.empty()) token = new_token();
  if (token.empty()) return Out::because(because("random bytes"));
  const std::string fresh = path + ".new";
  ::unlink(fresh.c_str());
  const UniqueFd fd{
      ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600)};
  const std::string text = fmt::format("http://127.0.0.1:{}/#token={}\n", port, token);
  if (!fd.ok() || !give_to_group(fd.get(), nullptr) || ::fchmod(fd.get(), 0640) != 0 ||
      ::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
      ::rename(fresh.c_str(), path.c_str()) != 0)
    return Out::because(because(path));
  return token;
}

}  // namespace bulkhead::daemon
