#include "audit/witness_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/fd.h"

namespace bulkhead::audit {
namespace {

constexpr std::size_t kMostMessage = 1u << 20;

bool address_of(const std::string& path, sockaddr_un& out) {
  out.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof out.sun_path) return false;
  std::memcpy(out.sun_path, path.c_str(), path.size() + 1);
  return true;
}

bool send_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

// A message, or false: the other side is too slow, too long or gone.
bool receive(int fd, HttpMessage& out, const Patience& patience) {
  std::string text;
  for (;;) {
    const HttpState state = parse_http(text, out);
    if (state != HttpState::kNeedMore) return state == HttpState::kWhole;
    pollfd p[2] = {{fd, POLLIN, 0}, {patience.cancel_fd, POLLIN, 0}};  // poll passes over -1
    if (::poll(p, 2, patience.wait_ms) <= 0 || p[1].revents != 0) return false;
    char buffer[8192];
    const ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
    if (n <= 0 || text.size() > kMostMessage) return false;
    text.append(buffer, static_cast<std::size_t>(n));
  }
}

void answer_one(int fd, Witness& witness, WallClock& clock) {
  HttpMessage request;
  WitnessAnswer answer{400, "not a request\n"};
  if (receive(fd, request, {})) {
    answer = request.first_line.starts_with("POST /add-checkpoint ")
                 ? witness.add_checkpoint(request.body, clock.utc_ns() / 1'000'000'000)
                 : WitnessAnswer{404, "only POST /add-checkpoint\n"};
  }
  const char* const type = answer.status == 409 ? "text/x.tlog.size" : "text/plain";
  send_all(fd, "HTTP/1.1 " + std::to_string(answer.status) + " .\r\nContent-Type: " + type +
                   "\r\nConnection: close\r\nContent-Length: " +
                   std::to_string(answer.body.size()) + "\r\n\r\n" + answer.body);
}

}  // namespace

HttpState parse_http(std::string_view text, HttpMessage& out) {
  const std::size_t end = text.find("\r\n\r\n");
  if (end == std::string_view::npos)
    return text.size() > 16384 ? HttpState::kBad : HttpState::kNeedMore;
  const std::string_view head = text.substr(0, end + 2);
  out.first_line = head.substr(0, head.find("\r\n"));
  std::uint64_t length = 0;
  for (std::size_t at = head.find("\r\n") + 2; at < head.size();) {
    const std::size_t stop = head.find("\r\n", at);
    std::string line{head.substr(at, stop - at)};
    at = stop + 2;
    std::transform(
        line.begin(),
        line.begin() + static_cast<std::ptrdiff_t>(std::min(line.find(':'), line.size())),
        line.begin(),
        [](unsigned char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c); });
    if (line.starts_with("transfer-encoding:")) return HttpState::kBad;
    if (!line.starts_with("content-length:")) continue;
    const std::size_t from = std::min(line.find_first_not_of(' ', 15), line.size());
    const auto n = parse_decimal(std::string_view{line}.substr(from));
    if (!n || *n > kMostMessage) return HttpState::kBad;
    length = *n;
  }
  if (text.size() - end - 4 < length) return HttpState::kNeedMore;
  out.body = text.substr(end + 4, static_cast<std::size_t>(length));
  return HttpState::kWhole;
}

std::string post_to_witness(const std::string& socket_path, const std::string& body,
                            WitnessAnswer& answer, const Patience& patience) {
  sockaddr_un address{};
  if (!address_of(socket_path, address)) return "no path of a socket";
  const UniqueFd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  // A witness that was stopped fills its queue: connecting and sending wait for it no longer either.
  const timeval wait{patience.wait_ms / 1000, patience.wait_ms % 1000 * 1000};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
  if (!fd.ok() ||
      ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return std::strerror(errno);
  HttpMessage reply;
  if (!send_all(fd.get(), "POST /add-checkpoint HTTP/1.1\r\nHost: witness\r\nContent-Length: " +
                              std::to_string(body.size()) + "\r\n\r\n" + body) ||
      !receive(fd.get(), reply, patience))
    return "no answer";
  const std::size_t space = reply.first_line.find(' ');
  const auto status = space == std::string::npos
                          ? std::nullopt
                          : parse_decimal(std::string_view{reply.first_line}.substr(space + 1, 3));
  if (!reply.first_line.starts_with("HTTP/1.") || !status) return "no HTTP answer";
  answer = {static_cast<int>(*status), reply.body};
  return {};
}

std::string serve_witness(Witness& witness, const std::string& socket_path, WallClock& clock,
                          const std::function<bool()>& stop) {
  sockaddr_un address{};
  if (!address_of(socket_path, address)) return "the socket's path is too long";
  const UniqueFd listener{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  if (!listener.ok()) return std::strerror(errno);
  // A socket that nobody answers on is a leftover.
  const UniqueFd probe{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0)
    return "a witness is there already";
  if (errno == ECONNREFUSED) ::unlink(socket_path.c_str());
  const mode_t mask = ::umask(0117);
  const bool bound =
      ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  ::umask(mask);
  if (!bound || ::listen(listener.get(), 16) != 0) return std::strerror(errno);
  while (!stop()) {
    pollfd p{listener.get(), POLLIN, 0};
    if (::poll(&p, 1, 1000) <= 0) continue;
    const UniqueFd fd{::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)};
    if (fd.ok()) answer_one(fd.get(), witness, clock);
  }
  ::unlink(socket_path.c_str());
  return {};
}

}  // namespace bulkhead::audit
