// The log as windows of events, from a position on. What is made depends on the log and the position alone: read again from any
// position that was handed out, the same windows come with the same events.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "audit/host_key.h"
#include "audit/note.h"
#include "daemon/siem/follower.h"
#include "daemon/siem/position.h"
#include "daemon/siem/window.h"

namespace bulkhead::daemon::siem {

class Reader {
 public:
  // `host` and `version` as events name them.
  Reader(audit::Files& files, std::string host, std::string version)
      : files_(files), follower_(files), host_(std::move(host)), version_(std::move(version)) {}

  // Begins at `from` (none: at the oldest leaf). False: not yet, there is no log (problem()).
  bool start(const std::optional<Position>& from);
  // The next window that is whole, and the position behind it. False: there is none yet. After problem() is set: later, perhaps.
  bool next(std::vector<Event>& events, Position& behind);

  // The newest signed size that is known, and how many leaves were gone before they were read: each once, however often start() is called.
  [[nodiscard]] std::uint64_t signed_size() const { return signed_; }
  [[nodiscard]] std::uint64_t at() const { return at_; }
  [[nodiscard]] std::uint64_t missed() const { return missed_; }
  [[nodiscard]] const std::string& problem() const { return problem_; }
  // Looks at the end of `checkpoints` only: how far the log is.
  void look();

 private:
  struct Target {                               // the checkpoint that bounds the window
    std::uint64_t size = 0, at = 0, after = 0;  // offsets in `checkpoints`
    audit::Hash root{};
    bool bad_signature = false;
  };
  bool open_log();
  bool next_checkpoint();
  std::optional<Target> note_at(std::uint64_t offset, bool& garbage);
  bool fill(Window& window, std::uint64_t& second);
  bool leaves(Window& window, const LeafBatch& batch);
  void skip_missing(Window& window);
  void miss(std::uint64_t from, std::uint64_t to);
  void find(const char* what, const std::string& text, std::uint64_t from, std::uint64_t to);
  void check_target(Window& window);

  audit::Files& files_;
  Follower follower_;
  std::string host_, version_, log_, problem_;
  std::optional<audit::TrustPolicy> policy_;
  std::unique_ptr<Ocsf> ocsf_;
  std::unique_ptr<audit::File> checkpoints_;

  std::uint64_t at_ = 0, checkpoints_at_ = 0, signed_ = 0, missed_ = 0;
  std::uint64_t missed_to_ = 0;  // all that was missed lies below
  std::string missed_log_;       // of that log
  std::optional<audit::Frontier> tree_;
  std::shared_ptr<const Context> names_;
  Context context_;
  bool changed_ = false;
  std::optional<Target> target_;
  std::vector<Event> found_;  // to be told before the next window
  bool told_garbage_ = false;
};

}  // namespace bulkhead::daemon::siem
