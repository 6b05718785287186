#include "daemon/mps/control.h"

#include <algorithm>

#include "base/kill_point.h"

namespace bulkhead::daemon {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kMostPause_ns = 60 * kSecond;
constexpr std::uint64_t kEndMatters_ns = 10 * kSecond;
constexpr std::size_t kMostOrders = 256;
constexpr unsigned kLooksAfterStart = 20;

}  // namespace

MpsControl::MpsControl(Poller& poller, MpsPlace place, Post post)
    : place_(std::move(place)), post_(std::move(post)), command_(poller) {}

std::string MpsControl::name() const {
  return "MPS group " + place_.group + " (uid " + std::to_string(place_.uid) + ")";
}

void MpsControl::order(std::string argument, std::string input, MpsCommand::Done done) {
  queue_.push_back({std::move(argument), std::move(input), std::move(done)});
}

void MpsControl::command(const std::string& input, MpsCommand::Done done) {
  order("", input, std::move(done));
  next_order();
}

void MpsControl::next_order() {
  while (!command_.running() && !queue_.empty()) {
    Order next = std::move(queue_.front());
    queue_.pop_front();
    command_.start(place_, next.argument, next.input, now_ns_, std::move(next.done));
  }
}

void MpsControl::pause() {
  pause_ns_ = pause_ns_ == 0 ? kSecond : std::min(pause_ns_ * 2, kMostPause_ns);
  due_ns_ = now_ns_ + pause_ns_;
}

int MpsControl::tick(const Now& now) {
  now_ns_ = now.mono_ns;
  const int patience = command_.tick(now_ns_);
  if (now_ns_ >= due_ns_ && !command_.running() && queue_.empty()) {
    if (state_ == State::kAbsent && (wanted_ || !looked_)) {
      look();
    } else if (state_ == State::kServing) {
      !wanted_ && !busy_ ? stop() : ask();
    }
  }
  next_order();
  if (command_.running()) return patience < 0 ? 1000 : patience;
  if (state_ == State::kAbsent && !wanted_ && looked_) return -1;
  return due_ns_ > now_ns_ ? static_cast<int>((due_ns_ - now_ns_) / 1'000'000) + 1 : 0;
}

// ---- absent -> looking -> starting -> looking -> serving ------------------------------------------
void MpsControl::look() {
  state_ = State::kLooking;
  due_ns_ = now_ns_ + kSecond;
  order("", "get_server_list\n", [this](const MpsReply& r) { looked(r); });
}

void MpsControl::looked(const MpsReply& r) {
  BH_KILL_POINT("mps.looked");
  looked_ = true;
  state_ = State::kAbsent;
  if (r.ok()) {
    take_servers(pids_of(r.text));
    return came(std::exchange(started_, false));
  }
  if (r.how == MpsReply::How::kTimedOut)
    return missed("it does not answer");  // and is there, perhaps
  if (!wanted_) return;
  if (started_ && ++looks_ < kLooksAfterStart) {  // it may not be up yet
    due_ns_ = now_ns_ + kSecond / 10;
    return;
  }
  if (started_) {  // and what was started is not there
    started_ = false;
    if (!std::exchange(told_failed_, true))
      post_(
          wire::EventKind::kMpsFailed, wire::Severity::kWarning,
          name() + " does not answer after its start (" + problem_of(r) + "): see " + place_.log());
    return pause();
  }
  launch();
}

void MpsControl::launch() {
  BH_KILL_POINT("mps.starting");
  state_ = State::kStarting;
  order("-d", "", [this](const MpsReply& r) {
    BH_KILL_POINT("mps.started");
    state_ = State::kAbsent;
    started_ = true;
    looks_ = 0;
    if (r.ok()) {  // it takes a moment until it answers; the program waits for that itself
      due_ns_ = now_ns_;
      return;
    }
    if (!std::exchange(told_failed_, true))
      post_(wire::EventKind::kMpsFailed, wire::Severity::kWarning,
            name() + " cannot be started: " + problem_of(r) + "; its tenants are held in time");
    // Another one may be the reason: the next look finds it. If it does not, that is no news.
    started_ = false;
    pause();
  });
}

void MpsControl::came(bool by_us) {
  state_ = State::kServing;
  misses_ = 0;
  pause_ns_ = 0;
  told_failed_ = false;
  due_ns_ = now_ns_ + kAskEvery_ns;
  post_(by_us ? wire::EventKind::kMpsStarted : wire::EventKind::kMpsAdopted, wire::Severity::kInfo,
        name() + (by_us ? " serves in " : " is taken over in ") + place_.pipe());
}

// ---- serving --------------------------------------------------------------------------------------
void MpsControl::ask() {
  due_ns_ = now_ns_ + kAskEvery_ns;
  order("", "get_server_list\n", [this](const MpsReply& r) { asked(r); });
}

void MpsControl::asked(const MpsReply& r) {
  if (state_ != State::kServing) return;
  if (r.how == MpsReply::How::kEnded && r.exit_code != 0) return is_gone();
  if (!r.ok()) return missed(problem_of(r));
  if (silent())
    post_(wire::EventKind::kMpsAdopted, wire::Severity::kInfo, name() + " answers again");
  misses_ = 0;
  take_servers(pids_of(r.text));
  ask_status(0);
}

// No second one is started for it, and it is not killed: clients may live in it.
void MpsControl::missed(const std::string& what) {
  due_ns_ = now_ns_ + kAskEvery_ns;
  if (++misses_ != kMissesToSilent) return;
  post_(wire::EventKind::kMpsFailed, wire::Severity::kAlarm,
        name() + " is silent: " + what + "; it is left alone, new processes are held in time");
}

void MpsControl::is_gone() {
  post_(wire::EventKind::kMpsFailed, wire::Severity::kAlarm,
        name() + ": its control daemon is gone" + (wanted_ ? ", and is started again" : ""));
  take_servers({});
  state_ = State::kAbsent;
  misses_ = 0;
  pause();
}

// A server that is gone took its clients with it. It ends by itself only when its control daemon does.
void MpsControl::take_servers(const std::vector<std::uint32_t>& servers) {
  for (auto at = servers_.begin(); at != servers_.end();) {
    if (std::find(servers.begin(), servers.end(), at->first) != servers.end()) {
      ++at;
      continue;
    }
    if (busy_) hit(at->first, "is gone");
    at = servers_.erase(at);
  }
  for (const std::uint32_t pid : servers) servers_.try_emplace(pid);
}

void MpsControl::ask_status(std::size_t index) {
  if (index >= servers_.size() || queue_.size() > kMostOrders) return;
  const std::uint32_t server = std::next(servers_.begin(), static_cast<long>(index))->first;
  order("", "get_server_status " + std::to_string(server) + "\n",
        [this, server, index](const MpsReply& r) {
          const auto at = servers_.find(server);
          if (r.ok() && at != servers_.end()) {
            const std::string status = status_of(r.text);
            if (status == "FAULT" && at->second != status) hit(server, "is in state FAULT");
            at->second = status;
          }
          ask_status(index + 1);
        });
}

void MpsControl::hit(std::uint32_t server, const std::string& what) {
  const bool known = !last_end_.empty() && now_ns_ - last_end_ns_ < kEndMatters_ns;
  post_(wire::EventKind::kMpsHit, wire::Severity::kAlarm,
        name() + ": server " + std::to_string(server) + " " + what +
            (known ? " after the end of " + last_end_ : "") +
            ": clients of all its tenants may have failed");
}

void MpsControl::noted_end(const std::string& who) {
  last_end_ = who;
  last_end_ns_ = now_ns_;
  if (state_ == State::kServing) due_ns_ = now_ns_;
}

// ---- serving -> stopping -> absent ----------------------------------------------------------------
void MpsControl::stop() {
  state_ = State::kStopping;
  due_ns_ = now_ns_ + kAskEvery_ns;
  order("", "quit\n", [this](const MpsReply& r) {
    state_ = State::kAbsent;
    looked_ = false;  // look whether it went
    due_ns_ = now_ns_ + kSecond;
    servers_.clear();
    if (r.ok()) {
      looked_ = true;
      post_(wire::EventKind::kMpsStopped, wire::Severity::kInfo, name() + " was ended");
    }
  });
}

// ---- terminate_client -----------------------------------------------------------------------------
void MpsControl::evict(std::uint32_t pid, std::function<void(bool)> done) {
  if (state_ != State::kServing || queue_.size() > kMostOrders) return done(false);
  order("", "get_server_list\n", [this, pid, done = std::move(done)](const MpsReply& r) {
    if (!r.ok()) return done(false);
    evict_from(pid, pids_of(r.text), 0, done);
  });
  next_order();
}

void MpsControl::evict_from(std::uint32_t pid, std::vector<std::uint32_t> servers,
                            std::size_t index, std::function<void(bool)> done) {
  if (index >= servers.size()) return done(false);
  const std::string server = std::to_string(servers[index]);
  order("", "get_client_list " + server + "\n",
        [this, pid, servers = std::move(servers), index, server,
         done = std::move(done)](const MpsReply& r) {
          const std::vector<std::uint32_t> clients =
              r.ok() ? pids_of(r.text) : std::vector<std::uint32_t>{};
          if (std::find(clients.begin(), clients.end(), pid) == clients.end())
            return evict_from(pid, servers, index + 1, done);
          order("", "terminate_client " + server + " " + std::to_string(pid) + "\n",
                [this, pid, done](const MpsReply& ended) {
                  post_(wire::EventKind::kMpsTerminated,
                        ended.ok() ? wire::Severity::kNotice : wire::Severity::kWarning,
                        name() + ": client " + std::to_string(pid) +
                            (ended.ok() ? " was taken out; the others go on"
                                        : " could not be taken out: " + problem_of(ended)));
                  done(true);
                });
        });
}

}  // namespace bulkhead::daemon
