#include "daemon/siem/exporter.h"

#include <poll.h>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "daemon/siem/frame.h"

namespace bulkhead::daemon::siem {
namespace {

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::size_t kMostPending = 64;
constexpr int kFirstPause_ms = 1000;
constexpr std::uint64_t kLook_ns = 500 * kMs;
constexpr std::uint64_t kLived_ns = 10'000 * kMs;
constexpr int kLinkPart_ms = 50;  // a confirmation without RELP is not an event of poll()

}  // namespace

Exporter::Exporter(audit::Files& log, PositionStore& store, ExporterOptions options)
    : store_(store), options_(std::move(options)), reader_(log, options_.host, options_.version) {
  options_.host = header_host(options_.host);
  bool damaged = false;
  kept_ = store_.load(damaged);
  if (damaged) why_ = "the kept position was damaged: everything is sent again";
}

void Exporter::pause(int timeout_ms) { (void)::poll(nullptr, 0, timeout_ms); }

bool Exporter::connect() {
  auto stream = Stream::connect(options_.target, options_.tls, options_.connect_timeout_ms);
  if (!stream.ok()) {
    lose(stream.problem);
    return false;
  }
  ready_.clear();
  ready_at_ = 0;
  pending_.clear();
  began_ = reader_.start(kept_);
  if (!began_) {
    lose(reader_.problem());
    state_ = LinkState::kStuck;
    return false;
  }
  link_ = std::make_unique<Link>(std::move(*stream), options_.target.relp, options_.link);
  ++connections_;
  counted_ = 0;
  connected_ns_ = monotonic_ns();
  return true;
}

void Exporter::lose(std::string why) {
  link_.reset();
  pending_.clear();
  state_ = LinkState::kAway;
  why_ = std::move(why);
  pause_ms_ = std::clamp(pause_ms_ * 2, kFirstPause_ms, std::max(options_.most_pause_ms, 1));
  pause_ms_ = std::min(pause_ms_, std::max(options_.most_pause_ms, 1));
  retry_ns_ = monotonic_ns() + static_cast<std::uint64_t>(pause_ms_) * kMs;
}

void Exporter::fill() {
  while (link_->room()) {
    if (ready_at_ == ready_.size()) {
      if (!ready_.empty() || ready_at_ != 0) {
        ready_.clear();
        ready_at_ = 0;
      }
      if (pending_.size() >= kMostPending) {
        if (options_.target.relp) return;
        // Without answers the tail is long and quiet: every second mark will do.
        std::deque<Pending> thinner;
        for (std::size_t i = 1; i < pending_.size(); i += 2)
          thinner.push_back(std::move(pending_[i]));
        pending_ = std::move(thinner);
      }
      if (!reader_.next(ready_, ready_behind_)) return;
      if (ready_.empty()) {
        pending_.push_back({ready_behind_, link_->queued()});
        continue;
      }
    }
    const std::string message =
        syslog_message(ready_[ready_at_++], options_.host, options_.enterprise);
    link_->queue(message);
    ++sent_;
    bytes_ += message.size();
    if (ready_at_ == ready_.size()) pending_.push_back({ready_behind_, link_->queued()});
  }
}

void Exporter::keep() {
  const std::uint64_t count = link_->confirmed();
  confirmed_ += count - counted_;
  counted_ = count;
  const std::uint64_t done = options_.keep_before_confirmation ? link_->queued() : count;
  std::optional<Position> newest;
  for (; !pending_.empty() && pending_.front().last <= done; pending_.pop_front())
    newest = std::move(pending_.front().behind);
  if (!newest) return;
  if (const int error = store_.save(*newest); error != 0) {
    // Not kept: sent again after a restart. Said, tried again with the next window.
    why_ = std::string{"the position cannot be kept: "} + std::strerror(error);
    return;
  }
  kept_ = std::move(newest);
}

void Exporter::turn(int timeout_ms) {
  if (link_ == nullptr) {
    const std::uint64_t now = monotonic_ns();
    if (now < retry_ns_) {
      const auto left_ms = static_cast<int>((retry_ns_ - now) / kMs + 1);
      return pause(std::min(timeout_ms, left_ms));
    }
    if (!connect()) return;
  }
  fill();
  const bool more = ready_at_ < ready_.size();
  const int wait_ms = options_.target.relp || pending_.empty() || more
                          ? timeout_ms
                          : std::min(timeout_ms, kLinkPart_ms);
  const bool good = link_->pump(wait_ms);
  keep();  // also what came before the end
  if (!good) return lose(link_->problem());
  if (link_->ready()) {
    const bool stuck = !reader_.problem().empty();
    state_ = stuck ? LinkState::kStuck : LinkState::kConnected;
    if (stuck) why_ = reader_.problem();
    // Who takes a connection and drops it at once is asked less and less often.
    if (counted_ != 0 || monotonic_ns() - connected_ns_ > kLived_ns) pause_ms_ = 0;
  }
  if (const std::uint64_t now = monotonic_ns(); now >= next_look_ns_) {
    next_look_ns_ = now + kLook_ns;
    reader_.look();
  }
}

bool Exporter::settled() const {
  return link_ != nullptr && pending_.empty() && ready_at_ == ready_.size() && kept_ &&
         kept_->next >= reader_.signed_size();
}

Status Exporter::status() const {
  Status s{};
  s.magic = kStatusMagic;
  s.state = state_;
  s.events_sent = sent_;
  s.events_confirmed = confirmed_;
  s.bytes_sent = bytes_;
  s.connections = connections_;
  s.signed_leaves = reader_.signed_size();
  s.sent_leaves = reader_.at();
  s.confirmed_leaves = kept_ ? kept_->next : 0;
  s.missed_leaves = reader_.missed();
  if (state_ != LinkState::kConnected) why_.copy(s.text, sizeof s.text - 1);
  return s;
}

}  // namespace bulkhead::daemon::siem
