#include "daemon/siem/stream.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/clock.h"

namespace bulkhead::daemon::siem {
namespace {

std::string errno_text(const std::string& what) { return what + ": " + std::strerror(errno); }

std::string tls_text(const std::string& what) {
  const unsigned long code = ::ERR_get_error();
  ::ERR_clear_error();
  if (code == 0) return what;
  const char* const reason = ::ERR_reason_error_string(code);
  return what + ": " + (reason != nullptr ? reason : "error " + std::to_string(code));
}

// 1: ready, 0: in time it was not.
bool wait_for(int fd, short events, std::uint64_t until_ns) {
  for (;;) {
    const std::uint64_t now = monotonic_ns();
    if (now >= until_ns) return false;
    pollfd p{fd, events, 0};
    const int n = ::poll(&p, 1, static_cast<int>((until_ns - now) / 1'000'000 + 1));
    if (n > 0) return true;
    if (n < 0 && errno != EINTR) return false;
  }
}

bool is_address(const std::string& text) {
  unsigned char room[sizeof(in6_addr)];
  return ::inet_pton(AF_INET, text.c_str(), room) == 1 ||
         ::inet_pton(AF_INET6, text.c_str(), room) == 1;
}

// Where nobody listens on a port of this machine that outgoing connections take, TCP may connect a socket with itself.
bool is_itself(int fd) {
  sockaddr_storage here{}, there{};
  socklen_t a = sizeof here, b = sizeof there;
  return ::getsockname(fd, reinterpret_cast<sockaddr*>(&here), &a) == 0 &&
         ::getpeername(fd, reinterpret_cast<sockaddr*>(&there), &b) == 0 && a == b &&
         std::memcmp(&here, &there, a) == 0;
}

std::string connect_one(const addrinfo& to, int timeout_ms, UniqueFd& out) {
  UniqueFd fd{::socket(to.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, to.ai_protocol)};
  if (!fd.ok()) return errno_text("socket");
  const int on = 1;
  (void)::setsockopt(fd.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  (void)::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (::connect(fd.get(), to.ai_addr, to.ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return errno_text("connect");
    const std::uint64_t until_ns =
        monotonic_ns() + static_cast<std::uint64_t>(timeout_ms) * 1'000'000;
    if (!wait_for(fd.get(), POLLOUT, until_ns)) return "connect: no answer";
    int error = 0;
    socklen_t size = sizeof error;
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0) {
      errno = error;
      return errno_text("connect");
    }
  }
  if (is_itself(fd.get())) return "connect: nobody listens there";
  out = std::move(fd);
  return {};
}

}  // namespace

TlsContext::TlsContext(TlsContext&& other) noexcept
    : context_(std::exchange(other.context_, nullptr)), peer_(std::move(other.peer_)) {}
TlsContext& TlsContext::operator=(TlsContext&& other) noexcept {
  std::swap(context_, other.context_);
  std::swap(peer_, other.peer_);
  return *this;
}
TlsContext::~TlsContext() { ::SSL_CTX_free(context_); }

Outcome<TlsContext> TlsContext::load(const Settings& s, const Target& target) {
  using Out = Outcome<TlsContext>;
  ::ERR_clear_error();
  TlsContext out;
  out.peer_ = s.name.empty() ? target.host : s.name;
  out.context_ = ::SSL_CTX_new(::TLS_client_method());
  if (out.context_ == nullptr || ::SSL_CTX_set_min_proto_version(out.context_, TLS1_2_VERSION) != 1)
    return Out::because(tls_text("TLS"));
  ::SSL_CTX_set_verify(out.context_, SSL_VERIFY_PEER, nullptr);
  (void)::SSL_CTX_set_mode(out.context_, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                             SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                             SSL_MODE_AUTO_RETRY);
  if (::SSL_CTX_load_verify_file(out.context_, s.ca.c_str()) != 1)
    return Out::because(tls_text("[siem] ca " + s.ca));
  if (!s.cert.empty()) {
    if (::SSL_CTX_use_certificate_chain_file(out.context_, s.cert.c_str()) != 1)
      return Out::because(tls_text("[siem] cert " + s.cert));
    if (::SSL_CTX_use_PrivateKey_file(out.context_, s.key.c_str(), SSL_FILETYPE_PEM) != 1 ||
        ::SSL_CTX_check_private_key(out.context_) != 1)
      return Out::because(tls_text("[siem] key " + s.key));
  }
  return Out{std::move(out)};
}

Outcome<std::unique_ptr<Stream>> Stream::connect(const Target& target, const TlsContext* tls,
                                                 int timeout_ms) {
  using Out = Outcome<std::unique_ptr<Stream>>;
  addrinfo want{};
  want.ai_socktype = SOCK_STREAM;
  want.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(target.port);
  if (const int bad = ::getaddrinfo(target.host.c_str(), port.c_str(), &want, &found); bad != 0)
    return Out::because(target.host + ": " + ::gai_strerror(bad));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner{found, ::freeaddrinfo};
  std::string problem = target.host + ": no address";
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    UniqueFd fd;
    problem = connect_one(*one, timeout_ms, fd);
    if (!problem.empty()) continue;
    std::unique_ptr<Stream> out{new Stream{std::move(fd)}};
    if (tls != nullptr) problem = out->handshake(*tls, timeout_ms);
    if (problem.empty()) return Out{std::move(out)};
  }
  return Out::because(target.host + " port " + port + ": " + problem);
}

std::string Stream::handshake(const TlsContext& tls, int timeout_ms) {
  ::ERR_clear_error();
  ssl_ = ::SSL_new(tls.get());
  if (ssl_ == nullptr || ::SSL_set_fd(ssl_, fd_.get()) != 1) return tls_text("TLS");
  const std::string& peer = tls.peer();
  if (is_address(peer)) {
    if (::X509_VERIFY_PARAM_set1_ip_asc(::SSL_get0_param(ssl_), peer.c_str()) != 1)
      return tls_text("TLS: the peer's address");
  } else {
    ::SSL_set_hostflags(ssl_, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (::SSL_set1_host(ssl_, peer.c_str()) != 1 ||
        ::SSL_set_tlsext_host_name(ssl_, const_cast<char*>(peer.c_str())) !=
            1)  // NOLINT: its macro
      return tls_text("TLS: the peer's name");
  }
  const std::uint64_t until_ns =
      monotonic_ns() + static_cast<std::uint64_t>(timeout_ms) * 1'000'000;
  for (;;) {
    const int done = ::SSL_connect(ssl_);
    if (done == 1) break;
    const int why = ::SSL_get_error(ssl_, done);
    if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) {
      const long verified = ::SSL_get_verify_result(ssl_);
      if (verified != X509_V_OK)
        return std::string{"TLS: the receiver's certificate: "} +
               ::X509_verify_cert_error_string(verified);
      return tls_text("TLS: the handshake failed");
    }
    if (!wait_for(fd_.get(), why == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, until_ns))
      return "TLS: no answer to the handshake";
  }
  return {};
}

Stream::~Stream() {
  if (ssl_ != nullptr) {
    (void)::SSL_shutdown(ssl_);
    ::SSL_free(ssl_);
  }
  ::ERR_clear_error();
}

long Stream::tls_result(int result, const char* what) {
  if (result > 0) return result;
  const int why = ::SSL_get_error(ssl_, result);
  if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) {
    wants_read_ = why == SSL_ERROR_WANT_READ;
    return 0;
  }
  if (why == SSL_ERROR_ZERO_RETURN) return over("the receiver closed the connection");
  return over(tls_text(what));
}

long Stream::write(const char* data, std::size_t n) {
  if (ssl_ != nullptr) {
    ::ERR_clear_error();
    wants_read_ = false;
    const int most = static_cast<int>(std::min<std::size_t>(n, 1u << 20));
    return tls_result(::SSL_write(ssl_, data, most), "the connection broke");
  }
  const ssize_t done = ::send(fd_.get(), data, n, MSG_NOSIGNAL);
  if (done >= 0) {
    plain_written_ += static_cast<std::uint64_t>(done);
    return done;
  }
  if (errno == EAGAIN || errno == EINTR) return 0;
  return over(errno_text("the connection broke"));
}

long Stream::read(char* data, std::size_t n) {
  if (ssl_ != nullptr) {
    ::ERR_clear_error();
    const bool before = wants_read_;
    const long got =
        tls_result(::SSL_read(ssl_, data, static_cast<int>(std::min<std::size_t>(n, 1u << 20))),
                   "the connection broke");
    wants_read_ = before;  // it speaks of writing
    return got;
  }
  const ssize_t got = ::recv(fd_.get(), data, n, 0);
  if (got > 0) return got;
  if (got == 0) return over("the receiver closed the connection");
  if (errno == EAGAIN || errno == EINTR) return 0;
  return over(errno_text("the connection broke"));
}

std::uint64_t Stream::written() const {
  return ssl_ == nullptr ? plain_written_ : ::BIO_number_written(::SSL_get_wbio(ssl_));
}

std::uint64_t Stream::acknowledged() const {
  int waiting = 0;
  if (::ioctl(fd_.get(), SIOCOUTQ, &waiting) != 0) return 0;
  const std::uint64_t all = written(), out = static_cast<std::uint64_t>(std::max(waiting, 0));
  return all - std::min(all, out);
}

}  // namespace bulkhead::daemon::siem
