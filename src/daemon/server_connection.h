// One connection of the server, and what one uid may still ask.
#pragma once
#include <algorithm>
#include <deque>
#include <vector>

#include "daemon/server.h"

namespace bulkhead::daemon {

struct Server::Connection {
  Key key = 0;
  UniqueFd socket;
  Peer peer;
  UniqueFd pidfd;
  bool is_operator = false;
  bool parked = false;         // over kMostOfOneUid: not read until one of the others closes
  bool throttled = false;      // its uid has spent its requests: not read until there are more
  bool awaits_answer = false;  // not read until that is answered
  bool closing = false;
  bool following = false;
  std::uint64_t since_ns = 0;    // parked, else the last request
  std::uint64_t next_event = 0;  // following: the first id that was not sent
  std::uint32_t follow_sequence = 0;
  wire::RegisterRequest waits_for{};  // in the queue
  struct Outgoing {
    std::vector<char> bytes;
    std::vector<UniqueFd> fds;  // go with it (SCM_RIGHTS)
  };
  std::deque<Outgoing> out;
  std::uint64_t unread_since_ns = 0;  // out is not empty since
  std::uint32_t interest = 0;
};

// Tokens for requests; refilled by time, never above a second's worth.
struct Server::Bucket {
  double tokens = kRequestsPerSecond;
  std::uint64_t at_ns = 0;
  bool take(std::uint64_t now_ns) {
    if (at_ns != 0 && now_ns > at_ns) {
      const double seconds = static_cast<double>(now_ns - at_ns) * 1e-9;
      tokens = std::min<double>(kRequestsPerSecond, tokens + seconds * kRequestsPerSecond);
    }
    at_ns = now_ns;
    if (tokens < 1) return false;
    tokens -= 1;
    return true;
  }
  void give_back() { tokens = std::min<double>(kRequestsPerSecond, tokens + 1); }
};

}  // namespace bulkhead::daemon
