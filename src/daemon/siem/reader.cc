#include "daemon/siem/reader.h"

#include <algorithm>

#include "audit/sha256.h"
#include "audit/tree.h"

namespace bulkhead::daemon::siem {
namespace {

constexpr std::uint64_t kSecond_ns = 1'000'000'000;
constexpr std::size_t kMostNote = 64u << 10;

std::string id_text(std::uint32_t id) {
  char text[16];
  std::snprintf(text, sizeof text, "%08x", id);
  return text;
}

}  // namespace

// The origin and the host key's id are in host.pub, which is made before the log's first leaf.
bool Reader::open_log() {
  const auto text = audit::read_small(files_, "host.pub", kMostNote);
  if (!text) {
    problem_ = "the log has no host.pub yet";
    return false;
  }
  auto policy = audit::parse_policy(*text);
  if (!policy.ok()) {
    problem_ = "host.pub: " + policy.problem;
    return false;
  }
  int error = 0;
  checkpoints_ = files_.open("checkpoints", audit::OpenMode::kRead, error);
  if (checkpoints_ == nullptr) {
    problem_ = "the log has no checkpoints yet";
    return false;
  }
  policy_ = std::move(*policy);
  const audit::VerifierKey* const key = policy_->host();
  log_ = key != nullptr ? id_text(key->id) : "0";
  ocsf_ = std::make_unique<Ocsf>(Origin{policy_->origin, log_, host_, version_});
  return true;
}

bool Reader::start(const std::optional<Position>& from) {
  problem_.clear();
  found_.clear();
  target_.reset();
  told_garbage_ = false;
  if (!open_log()) return false;
  const bool same = from && (from->log == log_ || from->log.empty());
  at_ = same ? from->next : 0;
  checkpoints_at_ = same ? from->checkpoints_at : 0;
  tree_ = same ? from->tree : std::optional<audit::Frontier>{audit::Frontier{}};
  names_ = same ? from->names : std::make_shared<Context>();
  context_ = *names_;
  changed_ = false;
  const std::uint64_t wanted = at_;
  std::optional<audit::Frontier> before;
  if (!follower_.seek(at_, before)) {
    problem_ = follower_.problem();
    return false;
  }
  if (at_ != wanted) {
    tree_ = before;
    if (same && from->next != 0) miss(wanted, at_);
  } else if (!tree_ && before) {
    tree_ = before;
  }
  look();
  if (from && !same)
    find("replaced", "another log (" + from->log + ") stood here before", 0, from->next);
  if (same && at_ != wanted && wanted != 0)
    find("removed", "entries were removed before they were sent", wanted, at_);
  if (checkpoints_at_ > checkpoints_->size()) checkpoints_at_ = 0;
  if (at_ > signed_ && at_ == wanted)
    find("shorter", "more was sent than the log now holds", signed_, at_);
  return true;
}

// Leaves that were gone, each once: a new start may begin below them again.
void Reader::miss(std::uint64_t from, std::uint64_t to) {
  if (missed_log_ != log_) missed_to_ = 0;
  missed_log_ = log_;
  from = std::max(from, missed_to_);
  if (from >= to) return;
  missed_ += to - from;
  missed_to_ = to;
}

void Reader::find(const char* what, const std::string& text, std::uint64_t from, std::uint64_t to) {
  found_.push_back(ocsf_->finding(what, text, from, to, signed_, 0));
}

// None: nothing whole there. `garbage`: and nothing will ever be.
std::optional<Reader::Target> Reader::note_at(std::uint64_t offset, bool& garbage) {
  garbage = false;
  std::string text(kMostNote, '\0');
  const long n = checkpoints_->read_at(text.data(), text.size(), offset);
  if (n <= 0) return std::nullopt;
  text.resize(static_cast<std::size_t>(n));
  std::size_t used = 0;
  const auto note = audit::parse_note(text, used);
  const auto checkpoint = note ? audit::parse_checkpoint(note->text) : std::nullopt;
  if (!checkpoint || checkpoint->origin != policy_->origin) {
    // A note is written at once and is some hundred bytes: with this much behind it, it is not one that is being written.
    garbage = (note && !checkpoint) || text.size() == kMostNote;
    return std::nullopt;
  }
  Target out;
  out.size = checkpoint->size;
  out.root = checkpoint->root;
  out.at = offset;
  out.after = offset + used;
  const audit::VerifierKey* const key = policy_->host();
  out.bad_signature = key != nullptr && audit::check_note(*note, *key) == audit::LineState::kBad;
  return out;
}

void Reader::look() {
  if (checkpoints_ == nullptr) return;
  const std::uint64_t size = checkpoints_->size();
  std::uint64_t from = size > 4096 ? size - 4096 : 0;
  std::string text(static_cast<std::size_t>(size - from), '\0');
  const long n = checkpoints_->read_at(text.data(), text.size(), from);
  text.resize(static_cast<std::size_t>(std::max(n, 0L)));
  const std::string head = policy_->origin + "\n";
  // Only sizes are read here; what is sent rests on next_checkpoint().
  for (std::size_t at = text.rfind(head); at != text.npos;
       at = at == 0 ? text.npos : text.rfind(head, at - 1)) {
    if (at != 0 && text[at - 1] != '\n') continue;
    const std::size_t number = at + head.size(), end = text.find('\n', number);
    if (end == text.npos || text.find("\n\n", end) == text.npos) continue;
    if (const auto value =
            audit::parse_decimal(std::string_view{text}.substr(number, end - number))) {
      signed_ = *value;
      return;
    }
  }
}

bool Reader::next_checkpoint() {
  target_.reset();
  for (;;) {
    bool garbage = false;
    auto target = note_at(checkpoints_at_, garbage);
    if (garbage) {
      if (!told_garbage_)
        find("checkpoints", "the file of checkpoints is damaged", checkpoints_at_, checkpoints_at_);
      told_garbage_ = true;
      problem_ = "the file of checkpoints is damaged at byte " + std::to_string(checkpoints_at_);
      return false;
    }
    if (!target) return false;
    if (target->size > at_) {
      signed_ = std::max(signed_, target->size);
      target_ = target;
      return true;
    }
    checkpoints_at_ = target->after;
  }
}

bool Reader::leaves(Window& w, const LeafBatch& batch) {
  while (w.next() < target_->size && w.next() < batch.first + batch.count && !w.full()) {
    if (batch.entries.empty()) {
      w.skip();
      tree_.reset();
      continue;
    }
    const audit::Bytes leaf = batch.entries[w.next() - batch.first];
    if (!w.add(leaf, context_, changed_)) return false;
    if (tree_) tree_->append(audit::leaf_hash(leaf));
  }
  return true;
}

// Signed, and not there: somebody removed or damaged it. On from the next segment, or from the checkpoint.
void Reader::skip_missing(Window& w) {
  std::uint64_t to = target_->size;
  for (const std::string& name : files_.list("segment")) {
    const auto first = audit::segment_first(name, ".journal");
    if (first && *first > w.next()) to = std::min(to, *first);
  }
  miss(w.next(), to);
  w.add_finding(ocsf_->finding("missing",
                               "entries that were signed cannot be read: " + follower_.problem(),
                               w.next(), to, target_->size, 0));
  while (w.next() < to) w.skip();
  tree_.reset();
  std::uint64_t at = to;
  std::optional<audit::Frontier> before;
  if (follower_.seek(at, before) && at == to && before) tree_ = before;
}

// What belongs to the checkpoint is told by the window that ends at it.
void Reader::check_target(Window& w) {
  if (w.next() != target_->size) return;
  if (target_->bad_signature)
    w.add_finding(ocsf_->finding("signature", "a checkpoint is not signed by the log's key",
                                 w.first(), w.next(), target_->size, 0));
  if (!tree_ || tree_->root() == target_->root) return;
  w.add_finding(ocsf_->finding("changed", "the entries are not those that were signed", w.first(),
                               w.next(), target_->size, 0));
  tree_.reset();
}

// False: the window is whole.
bool Reader::fill(Window& w, std::uint64_t& second) {
  if (w.full() || w.next() >= target_->size) return false;
  const LeafBatch* const batch = follower_.batch(w.next());
  if (batch == nullptr) {
    skip_missing(w);
    return false;
  }
  const std::uint64_t of = batch->drained_ns / kSecond_ns;
  if (w.next() != w.first() && of != second) return false;
  second = of;
  // Behind a finding, or a part that cannot be read: compared again from here on. What its header says is believed no further than
  // the next signed root bears it out.
  if (!tree_) tree_ = follower_.before(w.next());
  if (!batch->good && w.next() == batch->first) {
    w.add_finding(ocsf_->finding("damaged", "a batch of entries was changed after it was written",
                                 batch->first, batch->first + batch->count, target_->size, 0));
  }
  return leaves(w, *batch);
}

bool Reader::next(std::vector<Event>& events, Position& behind) {
  events.clear();
  problem_.clear();
  if (ocsf_ == nullptr) return false;
  if (found_.empty() && (!target_ || at_ >= target_->size) && !next_checkpoint() && found_.empty())
    return false;
  if (!found_.empty()) {
    events = std::move(found_);
    found_.clear();
  } else {
    Window w{*ocsf_, at_, target_->size};
    std::uint64_t second = 0;
    while (fill(w, second)) {
    }
    check_target(w);
    events = w.close(context_, changed_);
    at_ = w.next();
  }
  if (changed_) names_ = std::make_shared<Context>(context_);
  changed_ = false;
  behind = {at_, target_ && at_ >= target_->size ? target_->after : checkpoints_at_, tree_, log_,
            names_};
  return true;
}

}  // namespace bulkhead::daemon::siem
