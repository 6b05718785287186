// Connections: accept, bounds, reading, writing. What requests mean is in server_requests.cc.
#include "daemon/server.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "daemon/server_connection.h"
#include "wire/parse.h"

namespace bulkhead::daemon {
namespace {

constexpr int kBacklog = 128;
constexpr std::uint64_t kListenerRest_ns = 100'000'000;
constexpr std::size_t kMostUnread = 4u << 20;  // bytes of answers one peer may leave lying

sockaddr_un address(int dir_fd) {
  sockaddr_un at{};
  at.sun_family = AF_UNIX;
  const std::string path = "/proc/self/fd/" + std::to_string(dir_fd) + "/" + wire::kSocketName;
  std::memcpy(at.sun_path, path.c_str(), path.size() + 1);
  return at;
}

// One message, with the descriptors that belong to it.
ssize_t send_one(int socket, const std::vector<char>& bytes, const std::vector<UniqueFd>& fds) {
  if (fds.empty()) return ::send(socket, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  alignas(cmsghdr) char control[CMSG_SPACE(wire::kMostOfAReply * sizeof(int))] = {};
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr m{};
  m.msg_iov = &part;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
  cmsghdr* const c = CMSG_FIRSTHDR(&m);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
  for (std::size_t i = 0; i < fds.size(); ++i) {
    const int fd = fds[i].get();
    std::memcpy(CMSG_DATA(c) + i * sizeof fd, &fd, sizeof fd);
  }
  return ::sendmsg(socket, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace

Server::Server(Poller& poller, Ledger& ledger, ServerOptions options, ServerProviders providers)
    : poller_(poller),
      ledger_(ledger),
      options_(std::move(options)),
      providers_(std::move(providers)) {}

Server::~Server() { stop(); }

Status Server::listen(int dir_fd) {
  dir_ = UniqueFd{::fcntl(dir_fd, F_DUPFD_CLOEXEC, 3)};
  listener_ = UniqueFd{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (!dir_.ok() || !listener_.ok()) return Status{Errc::kIo, errno, "cannot make the socket"};
  ::unlinkat(dir_.get(), wire::kSocketName, 0);
  const sockaddr_un at = address(dir_.get());
  // 0600 from its first moment; opened wider only once it is there
  const mode_t old = ::umask(0177);
  const int bound = ::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&at), sizeof at);
  ::umask(old);
  if (bound != 0) return Status{Errc::kIo, errno, "cannot bind control.sock"};
  const mode_t mode = options_.daemon_uid == 0 ? 0666 : 0600;
  if (::fchmodat(dir_.get(), wire::kSocketName, mode, 0) != 0) {
    return Status{Errc::kIo, errno, "cannot set the mode of control.sock"};
  }
  if (::listen(listener_.get(), kBacklog) != 0) return Status{Errc::kIo, errno, "cannot listen"};
  return poller_.add(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_one(); });
}

void Server::stop() {
  for (auto& [key, c] : connections_) {
    poller_.remove(c->socket.get());
    queue_.leave(key);
  }
  connections_.clear();
  closing_.clear();
  if (!listener_.ok()) return;
  poller_.remove(listener_.get());
  listener_.reset();
  ::unlinkat(dir_.get(), wire::kSocketName, 0);
}

// One a turn: identifying reads /proc.
void Server::accept_one() {
  UniqueFd socket{::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
  if (socket.ok()) return take(std::move(socket));
  if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) return;
  // Who waits there stays ready: without a rest the loop would turn for nothing but that.
  if (poller_.change(listener_.get(), 0).ok())
    listener_rests_until_ns_ = options_.clock().mono_ns + kListenerRest_ns;
}

void Server::listen_again(const Now& now) {
  if (listener_rests_until_ns_ == 0 || now.mono_ns < listener_rests_until_ns_) return;
  if (poller_.change(listener_.get(), EPOLLIN).ok()) listener_rests_until_ns_ = 0;
}

void Server::take(UniqueFd socket) {
  ++counts_.connections;
  auto who = options_.identify(socket.get());
  if (!who.ok()) {
    ++counts_.dropped;
    return;
  }
  auto c = std::make_unique<Connection>();
  c->peer = std::move(who->peer);
  c->pidfd = std::move(who->pidfd);
  c->is_operator = ledger_.is_operator(c->peer);
  const unsigned most = kMostConnections - (c->is_operator ? 0 : kKeptForOperators);
  if (connections_.size() >= most) {
    ++counts_.dropped;
    return;
  }
  c->parked = !c->is_operator && active_of(c->peer.uid) >= kMostOfOneUid;
  if (c->parked && parked_of(c->peer.uid) >= kMostParkedOfOneUid) {
    ++counts_.dropped;
    return;
  }
  c->key = next_key_++;
  c->since_ns = options_.clock().mono_ns;
  c->socket = std::move(socket);
  const Key key = c->key;
  c->interest = c->parked ? 0u : EPOLLIN;
  const Status added = poller_.add(c->socket.get(), c->interest,
                                   [this, key](std::uint32_t ready) { on_ready(key, ready); });
  if (added.ok()) connections_.emplace(key, std::move(c));
}

unsigned Server::active_of(std::uint32_t uid) const {
  unsigned n = 0;
  for (const auto& [key, c] : connections_) {
    n += c->peer.uid == uid && !c->parked && !c->closing && !queue_.has(key) ? 1 : 0;
  }
  return n;
}

unsigned Server::parked_of(std::uint32_t uid) const {
  unsigned n = 0;
  for (const auto& [key, c] : connections_) n += c->peer.uid == uid && c->parked ? 1 : 0;
  return n;
}

unsigned Server::waiting_of(std::uint32_t uid) const {
  unsigned n = 0;
  for (const auto& [key, c] : connections_) n += c->peer.uid == uid && queue_.has(key) ? 1 : 0;
  return n;
}

void Server::on_ready(Key key, std::uint32_t ready) {
  const auto at = connections_.find(key);
  if (at == connections_.end() || at->second->closing) return;
  Connection& c = *at->second;
  if ((ready & EPOLLOUT) != 0 && !ledger_.unstored()) flush(c);
  if (!c.closing && (ready & EPOLLIN) != 0) read_one(c);
  // Without POLLIN there is nothing more to read: the peer is gone.
  if (!c.closing && (ready & EPOLLIN) == 0 && (ready & (EPOLLHUP | EPOLLERR)) != 0) close(key);
  update_interest(c);
}

void Server::read_one(Connection& c) {
  // one request at a time: the next is read when the answer to the last has gone
  if (c.parked || c.awaits_answer || !c.out.empty()) return;
  const Now now = options_.clock();
  if (!c.is_operator && !spend(c.peer.uid, now)) {
    c.throttled = true;
    return;
  }
  alignas(8) static char buffer[wire::kMaxMessage + 8];  // the control loop's own
  const ssize_t got = ::recv(c.socket.get(), buffer, sizeof buffer, MSG_DONTWAIT | MSG_TRUNC);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) return close(c.key);
  c.since_ns = now.mono_ns;
  ++counts_.requests;
  const Status s = wire::check_request(buffer, static_cast<std::size_t>(got));
  if (s.code() == Errc::kBadVersion) {
    wire::Header h;
    std::memcpy(&h, buffer, sizeof h);
    h.protocol = wire::kProtocol;
    h.kind |= wire::kReplyBit;
    h.bytes = sizeof h;
    h.result = static_cast<std::uint32_t>(Errc::kBadVersion);
    h.flags = 0;
    h.reserved = 0;
    put(c, &h, sizeof h);
    flush(c);  // it is closed now; nothing of the ledger is in it
    ++counts_.refused;
    return close(c.key);
  }
  // A second request while one waits in the queue has no place to be answered.
  if (!s.ok() || queue_.has(c.key)) {
    ++counts_.malformed;
    return close(c.key);
  }
  dispatch(c, buffer, now);
}

bool Server::spend(std::uint32_t uid, const Now& now) { return buckets_[uid].take(now.mono_ns); }

// What the ledger has not stored yet is not answered: the end of the turn stores it, once for all who asked in it
// (let_go()). Who hears that a limit is set finds it set after our SIGKILL.
void Server::put(Connection& c, const void* message, std::size_t bytes, std::vector<UniqueFd> fds) {
  if (c.closing) return;
  const auto* at = static_cast<const char*>(message);
  if (c.out.empty()) c.unread_since_ns = options_.clock().mono_ns;
  c.out.push_back({{at, at + bytes}, std::move(fds)});
  if (!ledger_.unstored()) flush(c);
  std::size_t lying = 0;
  for (const auto& m : c.out) lying += m.bytes.size();
  if (lying > kMostUnread) {
    ++counts_.dropped;
    close(c.key);
  }
  update_interest(c);
}

void Server::flush(Connection& c) {
  while (!c.out.empty()) {
    const Connection::Outgoing& m = c.out.front();
    const ssize_t sent = send_one(c.socket.get(), m.bytes, m.fds);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) return;
    if (sent < 0) return close(c.key);
    c.out.pop_front();
    c.unread_since_ns = options_.clock().mono_ns;
  }
}

void Server::update_interest(Connection& c) {
  if (c.closing) return;
  std::uint32_t want = c.out.empty() ? 0u : EPOLLOUT;
  if (!c.parked && !c.throttled && !c.awaits_answer && c.out.empty()) want |= EPOLLIN;
  if (want == c.interest) return;
  c.interest = want;
  (void)poller_.change(c.socket.get(), want);
}

// Its descriptor goes at once, the object at the end of the turn: callers up the stack still hold it.
void Server::close(Key key) {
  const auto at = connections_.find(key);
  if (at == connections_.end() || at->second->closing) return;
  Connection& c = *at->second;
  c.closing = true;
  poller_.remove(c.socket.get());
  c.socket.reset();
  queue_.leave(key);
  closing_.push_back(key);
}

// Deadlines: the idle, the parked, those that do not read, those whose uid has requests again.
void Server::watch_over(const Now& now) {
  const auto past = [&now](std::uint64_t since, std::uint64_t patience) {
    return now.mono_ns > since && now.mono_ns - since > patience;
  };
  for (auto& [key, c] : connections_) {
    if (c->closing) continue;
    if (!c->out.empty() && past(c->unread_since_ns, kUnread_ns)) {
      ++counts_.dropped;
      close(key);
    } else if (c->parked && active_of(c->peer.uid) < kMostOfOneUid) {
      c->parked = false;
      c->since_ns = now.mono_ns;
    } else if (c->parked ? past(c->since_ns, kParked_ns)
                         : !c->following && !queue_.has(key) && past(c->since_ns, kIdle_ns)) {
      ++counts_.dropped;
      close(key);
    }
    c->throttled = false;  // it asks again, and is told again if there is still nothing left
    update_interest(*c);
  }
  for (const Key key : closing_) connections_.erase(key);
  closing_.clear();
  // A full bucket is as good as none.
  std::erase_if(buckets_, [&now](const auto& b) {
    return now.mono_ns > b.second.at_ns && now.mono_ns - b.second.at_ns > 1'000'000'000;
  });
}

// What the turn's requests were answered, now that the ledger has stored it.
void Server::let_go() {
  for (auto& [key, c] : connections_) {
    if (c->closing || c->out.empty()) continue;
    flush(*c);
    update_interest(*c);
  }
}

int Server::tick(const Now& now) {
  ledger_.tick(now);
  serve_queue(now);
  ledger_.keep();
  let_go();
  follow(now);
  watch_over(now);
  listen_again(now);
  const auto busy = [](const auto& c) {
    return c.second->parked || c.second->throttled || !c.second->out.empty();
  };
  const bool soon = std::any_of(connections_.begin(), connections_.end(), busy);
  return soon || listener_rests_until_ns_ != 0 ? 100 : 1000;
}

}  // namespace bulkhead::daemon
