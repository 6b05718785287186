// One connection to the receiver, and what of the messages on it is confirmed (docs/compliance/siem.md, Delivery).
//
// Claim  confirmed() never counts a message that the receiver may not have: with RELP it answered 200 for it and all before; without,
//        `overlap` more bytes behind it were acknowledged by the receiver's kernel.
// Proof  (without RELP) of what its kernel acknowledged, its program has not read at most what fits its socket buffer.
// Price  memory: kMostQueued bytes that were not written, and a number a message within the overlap.
#pragma once
#include <deque>
#include <memory>
#include <string>

#include "daemon/siem/relp.h"
#include "daemon/siem/stream.h"

namespace bulkhead::daemon::siem {

class Link {
 public:
  static constexpr std::size_t kMostQueued = 256u << 10;
  struct Options {
    std::uint64_t overlap_bytes = 8u << 20;
    int answer_timeout_ms = 60'000;  // without progress that is due: given up
  };
  Link(std::unique_ptr<Stream> stream, bool relp, const Options& options);

  // The receiver has agreed to take messages.
  [[nodiscard]] bool ready() const { return !relp_ || client_.ready(); }
  // Another message may be queued.
  [[nodiscard]] bool room() const;
  void queue(const std::string& message);
  // Writes and reads what can be; waits at most timeout_ms if nothing can. False: over (problem()).
  [[nodiscard]] bool pump(int timeout_ms);
  // Of all that were queued, from the first.
  [[nodiscard]] std::uint64_t confirmed();
  [[nodiscard]] std::uint64_t queued() const { return queued_; }
  [[nodiscard]] const std::string& problem() const { return problem_; }

 private:
  bool flush(bool& moved);
  bool drain(bool& moved);
  [[nodiscard]] bool due() const;

  std::unique_ptr<Stream> stream_;
  bool relp_;
  Options options_;
  RelpClient client_;
  std::string out_;
  std::size_t out_at_ = 0;  // written of out_
  std::uint64_t queued_ = 0, confirmed_ = 0;
  // Without RELP. Where in the stream each message ends, until it is written; then where on the wire, or (TLS) a place behind that.
  std::uint64_t taken_ = 0, given_ = 0;  // bytes of the stream written, queued
  std::deque<std::uint64_t> ends_, wire_ends_;
  std::uint64_t progress_ns_ = 0;
  std::string problem_;
};

}  // namespace bulkhead::daemon::siem
