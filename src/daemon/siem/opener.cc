// One request a message: 'o' and a name, or 'l'. Answers: an errno (4 bytes) and with it, if it is 0, the descriptor; or names, one
// message of many "NAME\n" after another, and an empty line for the end.
#include "daemon/siem/opener.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "audit/segment.h"

namespace bulkhead::daemon::siem {
namespace {

constexpr std::size_t kMostRequest = 64, kMostNames = 32u << 10;

bool send_fd(int socket, int error, int fd) {
  iovec part{&error, sizeof error};
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof fd)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = room;
    message.msg_controllen = sizeof room;
    cmsghdr* const head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(head), &fd, sizeof fd);
  }
  return ::sendmsg(socket, &message, MSG_NOSIGNAL) >= 0;
}

UniqueFd receive_fd(int socket, int& error) {
  error = EIO;
  int told = EIO;
  iovec part{&told, sizeof told};
  alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = room;
  message.msg_controllen = sizeof room;
  if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != sizeof told) return UniqueFd{};
  error = told;
  const cmsghdr* const head = CMSG_FIRSTHDR(&message);
  if (head == nullptr || head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(sizeof(int)))
    return UniqueFd{};
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(head), sizeof fd);
  return UniqueFd{fd};
}

bool answer_open(int socket, int directory, std::string_view name) {
  if (!may_open(name)) return send_fd(socket, EACCES, -1);
  const UniqueFd fd{::openat(directory, std::string{name}.c_str(),
                             O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY)};
  const int error = errno;
  struct stat st {};
  if (!fd.ok()) return send_fd(socket, error, -1);
  if (::fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode)) return send_fd(socket, EACCES, -1);
  return send_fd(socket, 0, fd.get());
}

bool answer_list(int socket, int directory) {
  std::string names;
  const auto out = [&] {
    const bool sent = ::send(socket, names.data(), names.size(), MSG_NOSIGNAL) ==
                      static_cast<ssize_t>(names.size());
    names.clear();
    return sent;
  };
  const int fd = ::openat(directory, "segment", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  DIR* const dir = fd < 0 ? nullptr : ::fdopendir(fd);
  bool good = true;
  while (const dirent* const one = dir == nullptr ? nullptr : ::readdir(dir)) {
    if (!may_open(std::string{"segment/"} + one->d_name)) continue;
    names += one->d_name;
    names += '\n';
    if (names.size() > kMostNames) good = good && out();
  }
  if (dir != nullptr) ::closedir(dir);
  if (!names.empty()) good = good && out();
  names = "\n";
  return good && out();
}

class FdFile final : public audit::File {
 public:
  explicit FdFile(UniqueFd fd) : fd_(std::move(fd)) {}
  long write_at(const void*, std::size_t, std::uint64_t) noexcept override { return -EROFS; }
  long read_at(void* data, std::size_t n, std::uint64_t at) noexcept override {
    for (;;) {
      const ssize_t got = ::pread(fd_.get(), data, n, static_cast<off_t>(at));
      if (got >= 0) return got;
      if (errno != EINTR) return -errno;
    }
  }
  int sync() noexcept override { return EROFS; }
  int truncate(std::uint64_t) noexcept override { return EROFS; }
  std::uint64_t size() noexcept override {
    struct stat st {};
    return ::fstat(fd_.get(), &st) == 0 ? static_cast<std::uint64_t>(st.st_size) : 0;
  }

 private:
  UniqueFd fd_;
};

class RemoteFiles final : public audit::Files {
 public:
  explicit RemoteFiles(UniqueFd socket) : socket_(std::move(socket)) {}
  std::unique_ptr<audit::File> open(const std::string& name, audit::OpenMode mode,
                                    int& error) noexcept override {
    error = EROFS;
    if (mode != audit::OpenMode::kRead || name.size() + 1 > kMostRequest) return nullptr;
    const std::string request = "o" + name;
    error = EIO;
    if (::send(socket_.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return nullptr;
    UniqueFd fd = receive_fd(socket_.get(), error);
    if (!fd.ok()) return nullptr;
    return std::make_unique<FdFile>(std::move(fd));
  }
  std::vector<std::string> list(const std::string& directory) noexcept override {
    std::vector<std::string> out;
    if (directory != "segment" || ::send(socket_.get(), "l", 1, MSG_NOSIGNAL) < 0) return out;
    std::vector<char> room(kMostNames + 512);
    for (;;) {
      const ssize_t n = ::recv(socket_.get(), room.data(), room.size(), 0);
      if (n <= 0 || (n == 1 && room[0] == '\n')) break;
      std::string_view rest{room.data(), static_cast<std::size_t>(n)};
      for (std::size_t end = rest.find('\n'); end != rest.npos; end = rest.find('\n')) {
        out.emplace_back(rest.substr(0, end));
        rest.remove_prefix(end + 1);
      }
    }
    std::sort(out.begin(), out.end());
    return out;
  }
  int rename(const std::string&, const std::string&) noexcept override { return EROFS; }
  int remove(const std::string&) noexcept override { return EROFS; }
  int make_directory(const std::string&) noexcept override { return EROFS; }
  int sync_directory(const std::string&) noexcept override { return EROFS; }
  int lock() noexcept override { return EROFS; }

 private:
  UniqueFd socket_;
};

}  // namespace

bool may_open(std::string_view name) {
  if (name == "checkpoints" || name == "host.pub") return true;
  constexpr std::string_view kFolder = "segment/";
  if (!name.starts_with(kFolder)) return false;
  name.remove_prefix(kFolder.size());
  for (const char* ending : {".data", ".journal", ".zst"})
    if (audit::segment_first(name, ending)) return true;
  return false;
}

int serve_opener(int socket, int directory) {
  char request[kMostRequest];
  for (;;) {
    const ssize_t n = ::recv(socket, request, sizeof request, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return 0;
    const std::string_view text{request, static_cast<std::size_t>(n)};
    const bool good = text.front() == 'o'   ? answer_open(socket, directory, text.substr(1))
                      : text.front() == 'l' ? answer_list(socket, directory)
                                            : false;
    if (!good) return 1;
  }
}

Outcome<UniqueFd> start_opener(const std::string& log_directory) {
  using Out = Outcome<UniqueFd>;
  const UniqueFd directory{
      ::open(log_directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)};
  if (!directory.ok())
    return Out::because("the audit log's directory " + log_directory + ": " + std::strerror(errno));
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return Out::because(std::string{"socketpair: "} + std::strerror(errno));
  UniqueFd ours{ends[0]}, its{ends[1]};
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return Out::because(std::string{"fork: "} + std::strerror(errno));
  if (pid == 0) {
    // Only these two descriptors; the parent's end and all of the daemon's go.
    (void)::dup2(directory.get(), 200);
    (void)::dup2(its.get(), 201);
    (void)::close_range(3, 199, 0);
    (void)::close_range(202, ~0u, 0);
    if (::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0 || ::getppid() != parent) ::_exit(1);
    (void)::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    ::_exit(serve_opener(201, 200));
  }
  return Out{std::move(ours)};
}

std::unique_ptr<audit::Files> remote_files(UniqueFd socket) {
  return std::make_unique<RemoteFiles>(std::move(socket));
}

}  // namespace bulkhead::daemon::siem
