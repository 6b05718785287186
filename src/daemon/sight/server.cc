#include "daemon/sight/server.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "base/clock.h"
#include "daemon/sight/console.h"
#include "daemon/sight/metrics.h"
#include "daemon/sight/page.h"
#include "daemon/sight/text.h"

namespace bulkhead::daemon {
namespace {

constexpr std::string_view kJson = "application/json; charset=utf-8";
constexpr std::string_view kText = "text/plain; charset=utf-8";

std::shared_ptr<const std::string> shared(std::string text) {
  return std::make_shared<const std::string>(std::move(text));
}

}  // namespace

SightServer::SightServer(PictureReader& picture, std::vector<Listener> listeners,
                         SightOptions options)
    : picture_(picture), listeners_(std::move(listeners)), options_(std::move(options)) {}

void SightServer::turn(int wait_ms) {
  std::vector<pollfd> polled;
  polled.reserve(listeners_.size() + connections_.size());
  for (const Listener& l : listeners_) polled.push_back({l.fd, POLLIN, 0});
  for (const Connection& c : connections_) {
    polled.push_back({c.fd.get(), static_cast<short>(c.answering ? POLLOUT : POLLIN), 0});
  }
  const int n = ::poll(polled.data(), polled.size(), wait_ms);
  refresh();
  const std::uint64_t now = monotonic_ns();
  std::size_t i = listeners_.size();
  for (auto it = connections_.begin(); it != connections_.end(); ++i) {
    it = serve(*it, n > 0 ? polled[i].revents : short{0}, now) ? std::next(it)
                                                               : connections_.erase(it);
  }
  for (std::size_t l = 0; n > 0 && l < listeners_.size(); ++l) {
    if ((polled[l].revents & POLLIN) != 0) accept_one(listeners_[l], now);
  }
}

void SightServer::refresh() {
  const std::uint64_t now = monotonic_ns();
  const bool changed = picture_.refresh(now);
  const bool fresh = picture_.fresh(now);
  history_.sample(now, fresh ? picture_.copy() : nullptr);
  if (changed || fresh != was_fresh_) {
    for (Body& body : cached_) body.reset();
  }
  was_fresh_ = fresh;
}

void SightServer::accept_one(const Listener& listener, std::uint64_t now_ns) {
  UniqueFd fd{::accept4(listener.fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
  if (!fd.ok()) return;
  if (connections_.size() >= kMostConnections) connections_.pop_front();
  Connection c;
  c.fd = std::move(fd);
  c.from = listener;
  c.deadline_ns = now_ns + kRequestTime_ns;
  connections_.push_back(std::move(c));
}

bool SightServer::serve(Connection& c, short ready, std::uint64_t now_ns) {
  if (now_ns > c.deadline_ns) return false;
  if (ready == 0) return true;
  if (c.answering) return write_some(c);
  return read_some(c, now_ns);
}

bool SightServer::read_some(Connection& c, std::uint64_t now_ns) {
  char buffer[2048];
  const ssize_t n = ::recv(c.fd.get(), buffer, sizeof buffer, 0);
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return false;
  if (n < 0) return true;
  c.in.append(buffer, static_cast<std::size_t>(n));
  HttpRequest request;
  int status = 0;
  const HttpParse parsed = parse_request(c.in, request, status);
  if (parsed == HttpParse::kMore) return true;
  if (parsed == HttpParse::kRefuse) {
    reply(c, status, kText, shared(std::string{status_text(status)} + "\n"), false);
  } else {
    answer(c, request);
  }
  c.answering = true;
  c.deadline_ns = now_ns + kAnswerTime_ns;
  return write_some(c);
}

bool SightServer::write_some(Connection& c) {
  const std::size_t head = c.head.size();
  const std::size_t total = head + (c.body ? c.body->size() : 0);
  while (c.sent < total) {
    const bool in_head = c.sent < head;
    const char* from = in_head ? c.head.data() + c.sent : c.body->data() + (c.sent - head);
    const std::size_t left = in_head ? head - c.sent : total - c.sent;
    const ssize_t n = ::send(c.fd.get(), from, left, MSG_NOSIGNAL | (in_head ? MSG_MORE : 0));
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    c.sent += static_cast<std::size_t>(n);
  }
  // Closing with unread bytes in the buffer would reset the connection under the peer's feet.
  ::shutdown(c.fd.get(), SHUT_WR);
  char rest[1024];
  while (::recv(c.fd.get(), rest, sizeof rest, MSG_DONTWAIT) > 0) {
  }
  return false;
}

void SightServer::reply(Connection& c, int status, std::string_view type, Body body, bool head) {
  HttpAnswer a;
  a.status = status;
  a.type = type;
  a.body = *body;
  a.page = c.from.door == Door::kConsole;
  c.head = answer_head(a);
  c.body = head ? nullptr : std::move(body);
}

void SightServer::answer(Connection& c, const HttpRequest& request) {
  const bool unix_socket = c.from.door == Door::kMetricsUnix;
  if (!unix_socket && !host_is_ours(request.host, c.from.port)) {
    reply(c, 421, kText, shared("This server answers only as 127.0.0.1, localhost or [::1].\n"),
          request.head);
    return;
  }
  c.from.door == Door::kConsole ? answer_console(c, request) : answer_metrics(c, request);
}

double SightServer::age_s() const {
  if (picture_.copy() == nullptr) return 0;
  const auto unix_now = static_cast<std::int64_t>(clock_ns(CLOCK_REALTIME));
  return std::max(0.0, static_cast<double>(unix_now - picture_.copy()->unix_ns) / 1e9);
}

SightServer::Body SightServer::metrics(bool old_format) {
  Body& cached = cached_[old_format ? 1 : 0];
  if (cached) return cached;
  MetricsInput in;
  in.picture = picture_.copy();
  in.fresh = was_fresh_;
  in.age_s = age_s();
  in.hami_names = options_.hami_names;
  in.dcgm_names = options_.dcgm_names;
  cached = shared(render_metrics(in, old_format ? Format::kPrometheus : Format::kOpenMetrics));
  return cached;
}

void SightServer::answer_metrics(Connection& c, const HttpRequest& request) {
  if (request.path == "/healthz") {
    reply(c, was_fresh_ ? 200 : 503, kText, shared(was_fresh_ ? "ok\n" : "the daemon is silent\n"),
          request.head);
    return;
  }
  if (request.path != "/metrics") {
    reply(c, 404, kText, shared("/metrics and /healthz are here.\n"), request.head);
    return;
  }
  // OpenMetrics, unless the reader names only the older format.
  const bool old_format = request.accept.find("openmetrics") == std::string_view::npos &&
                          request.accept.find("text/plain") != std::string_view::npos;
  reply(c, 200, old_format ? kPrometheusType : kOpenMetricsType, metrics(old_format), request.head);
}

void SightServer::answer_console(Connection& c, const HttpRequest& request) {
  // The page itself holds nothing of anybody: it asks for the token, and sends it with each question.
  for (const PageFile& file : kPageFiles) {
    if (request.path == file.path) {
      reply(c, 200, file.type, shared(std::string{file.text}), request.head);
      return;
    }
  }
  const bool state = request.path == "/api/v1/state";
  if (!state && request.path != "/api/v1/history") {
    reply(c, 404, kText, shared("Not here.\n"), request.head);
    return;
  }
  if (options_.token.empty() || !same_secret(request.bearer, options_.token)) {
    reply(c, 401, kText, shared("A token is needed: Authorization: Bearer TOKEN.\n"), request.head);
    return;
  }
  Body& cached = cached_[state ? 2 : 3];
  if (!cached) {
    cached = shared(state ? console_state({picture_.copy(), was_fresh_, age_s()})
                          : console_history(history_));
  }
  reply(c, 200, kJson, cached, request.head);
}

}  // namespace bulkhead::daemon
