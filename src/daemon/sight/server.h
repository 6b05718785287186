// The child's loop: accepts, reads one request, answers, closes. One thread, poll(), never blocks; a slow or silent
// peer is dropped at its deadline, and when all places are taken the oldest connection gives way.
#pragma once
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "daemon/sight/history.h"
#include "daemon/sight/http.h"
#include "daemon/sight/picture_reader.h"
#include "daemon/sight/sight.h"

namespace bulkhead::daemon {

class SightServer {
 public:
  static constexpr std::size_t kMostConnections = 48;
  static constexpr std::uint64_t kRequestTime_ns = 5'000'000'000;
  static constexpr std::uint64_t kAnswerTime_ns = 20'000'000'000;

  SightServer(PictureReader& picture, std::vector<Listener> listeners, SightOptions options);
  // One round: waits at most `wait_ms`, does what is ready.
  void turn(int wait_ms);

 private:
  struct Connection {
    UniqueFd fd;
    Listener from;
    std::uint64_t deadline_ns = 0;
    std::string in;
    std::string head;
    std::shared_ptr<const std::string> body;  // shared: many readers of one picture cost one text
    std::size_t sent = 0;
    bool answering = false;
  };
  using Body = std::shared_ptr<const std::string>;

  void refresh();
  void accept_one(const Listener& listener, std::uint64_t now_ns);
  bool serve(Connection& c, short ready, std::uint64_t now_ns);  // false: over
  bool read_some(Connection& c, std::uint64_t now_ns);
  bool write_some(Connection& c);
  void answer(Connection& c, const HttpRequest& request);
  void answer_metrics(Connection& c, const HttpRequest& request);
  void answer_console(Connection& c, const HttpRequest& request);
  void reply(Connection& c, int status, std::string_view type, Body body, bool head);
  [[nodiscard]] Body metrics(bool old_format);
  [[nodiscard]] double age_s() const;

  PictureReader& picture_;
  std::vector<Listener> listeners_;
  SightOptions options_;
  History history_;
  std::list<Connection> connections_;  // oldest first
  // Rendered once a picture: [0] OpenMetrics, [1] the older format, [2] console, [3] history.
  Body cached_[4];
  bool was_fresh_ = false;
};

}  // namespace bulkhead::daemon
