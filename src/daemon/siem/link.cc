#include "daemon/siem/link.h"

#include <poll.h>

#include <cerrno>

#include "base/clock.h"
#include "daemon/siem/frame.h"

namespace bulkhead::daemon::siem {

Link::Link(std::unique_ptr<Stream> stream, bool relp, const Options& options)
    : stream_(std::move(stream)), relp_(relp), options_(options), progress_ns_(monotonic_ns()) {
  if (relp_) out_ = client_.open();
}

bool Link::room() const {
  return out_.size() - out_at_ < kMostQueued && (!relp_ || client_.room());
}

void Link::queue(const std::string& message) {
  if (relp_ ? !client_.waits() : out_.empty()) progress_ns_ = monotonic_ns();  // from now on
  const std::string frame = relp_ ? client_.syslog(message) : octet_counted(message);
  out_ += frame;
  given_ += frame.size();
  ++queued_;
  if (!relp_) ends_.push_back(given_);
}

bool Link::flush(bool& moved) {
  while (out_at_ < out_.size()) {
    const long n = stream_->write(out_.data() + out_at_, out_.size() - out_at_);
    if (n < 0) return false;
    if (n == 0) break;
    moved = true;
    out_at_ += static_cast<std::size_t>(n);
    taken_ += static_cast<std::uint64_t>(n);
    for (; !ends_.empty() && ends_.front() <= taken_; ends_.pop_front())
      wire_ends_.push_back(stream_->encrypted() ? stream_->written() : ends_.front());
  }
  if (out_at_ == out_.size() || out_at_ > kMostQueued) {
    out_.erase(0, out_at_);
    out_at_ = 0;
  }
  return true;
}

// What comes without RELP means nothing; it is read so that the end is seen.
bool Link::drain(bool& moved) {
  char part[4096];
  for (int i = 0; i < 64; ++i) {  // a receiver that floods us gets its turn, no more
    const long n = stream_->read(part, sizeof part);
    if (n < 0) return false;
    if (n == 0) return true;
    if (!relp_) continue;
    const std::uint64_t before = client_.confirmed();
    const bool was_ready = client_.ready();
    if (!client_.feed({part, static_cast<std::size_t>(n)})) {
      problem_ = client_.problem();
      return false;
    }
    moved |= client_.confirmed() != before || client_.ready() != was_ready;
  }
  return true;
}

bool Link::due() const { return relp_ ? client_.waits() : out_at_ < out_.size(); }

bool Link::pump(int timeout_ms) {
  bool moved = false;
  const auto turn = [&] { return flush(moved) && drain(moved); };
  bool good = turn();
  if (good && !moved && timeout_ms > 0) {
    const bool out = out_at_ < out_.size() && !stream_->write_waits_for_read();
    pollfd p{stream_->fd(), static_cast<short>(POLLIN | (out ? POLLOUT : 0)), 0};
    (void)::poll(&p, 1, timeout_ms);
    good = turn();
  }
  const std::uint64_t now = monotonic_ns();
  if (moved || !due()) progress_ns_ = now;
  if (good &&
      now - progress_ns_ > static_cast<std::uint64_t>(options_.answer_timeout_ms) * 1'000'000) {
    problem_ = "the receiver does not answer";
    return false;
  }
  if (!good && problem_.empty()) problem_ = stream_->problem();
  return good;
}

std::uint64_t Link::confirmed() {
  if (relp_) return client_.confirmed();
  const std::uint64_t acknowledged = stream_->acknowledged();
  for (; !wire_ends_.empty() && wire_ends_.front() + options_.overlap_bytes <= acknowledged;
       wire_ends_.pop_front())
    ++confirmed_;
  return confirmed_;
}

}  // namespace bulkhead::daemon::siem
