#include "audit/upkeep.h"

#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "audit/pack.h"
#include "base/clock.h"

namespace bulkhead::audit {
namespace {

constexpr std::uint64_t kSecondNs = 1'000'000'000;
constexpr int kLowest = 19;
// Between two trials with a segment that cannot be packed.
constexpr std::uint64_t kFirstWait = 60 * kSecondNs, kLongestWait = 6 * 3600 * kSecondNs;
constexpr unsigned kPackedAtOnce = 16;  // then the witnesses have their turn

// Its writer stands still, or it is gone: the size a file has now.
std::uint64_t size_of(Files& files, const std::string& name) {
  int error = 0;
  const auto file = files.open(name, OpenMode::kRead, error);
  return file == nullptr ? 0 : file->size();
}

}  // namespace

Upkeep::Upkeep(Writer& writer, std::string directory, std::string origin, UpkeepRules rules,
               Told told, std::unique_ptr<Files> files)
    : writer_(writer),
      directory_(std::move(directory)),
      origin_(std::move(origin)),
      rules_(std::move(rules)),
      told_(std::move(told)),
      own_files_(files != nullptr ? std::move(files) : std::make_unique<PosixFiles>(directory_)),
      files_(*own_files_),
      cancel_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      time_(rules_.retain_s, rules_.segment_s) {
  for (const std::string& path : rules_.witnesses) witnesses_.push_back({path, "", false});
  shown_.witnesses = static_cast<std::uint32_t>(witnesses_.size());
}

Upkeep::~Upkeep() {
  {
    const std::lock_guard lock{mutex_};
    stop_ = true;
  }
  const std::uint64_t one = 1;
  static_cast<void>(!::write(cancel_.get(), &one, sizeof one));
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Upkeep::start() {
  thread_ = std::thread([this] { work(); });
}

UpkeepFigures Upkeep::figures() const {
  const std::lock_guard lock{mutex_};
  return shown_;
}

bool Upkeep::stopping() const {
  const std::lock_guard lock{mutex_};
  return stop_;
}

void Upkeep::work() {
  ::prctl(PR_SET_NAME, "bulkheadd-keep");
  static_cast<void>(::setpriority(PRIO_PROCESS, 0, kLowest));  // of this thread alone
  const unsigned wait_ms =
      std::min(rules_.look_ms, witnesses_.empty() ? rules_.look_ms : rules_.witness_ms);
  while (!stopping()) {
    const bool more = look(clock_ns(CLOCK_REALTIME), clock_ns(CLOCK_BOOTTIME));
    std::unique_lock lock{mutex_};
    changed_.wait_for(lock, std::chrono::milliseconds{more ? 0 : wait_ms},
                      [this] { return stop_; });
  }
}

bool Upkeep::look(std::uint64_t utc_ns, std::uint64_t steady_ns) {
  if (!witnesses_.empty() && steady_ns >= next_witness_ns_) {
    next_witness_ns_ = steady_ns + std::uint64_t{rules_.witness_ms} * 1'000'000;
    ask_witnesses();
  }
  if (rules_.retain_s != 0 || rules_.retain_bytes != 0) retain(utc_ns, steady_ns);
  bool more = rules_.pack;
  for (unsigned i = 0; i < kPackedAtOnce && more && !stopping(); ++i) more = pack_one(steady_ns);
  return more;
}

// A problem is told when it is another one than before, and once more when it is over.
void Upkeep::tell_once(std::string& last, bool good, const std::string& text) {
  if (last == text) return;
  last = text;
  if (told_ && !text.empty()) told_(good, text);
}

// The others go on; this one is tried again, each time after twice the time.
void Upkeep::not_packed(std::uint64_t segment, const std::string& problem,
                        std::uint64_t steady_ns) {
  Stuck& s = stuck_[segment];
  s.wait_ns = std::clamp(2 * s.wait_ns, kFirstWait, kLongestWait);
  s.next_ns = steady_ns + s.wait_ns;
  tell_once(s.problem, false, "a segment of the audit log is not packed: " + problem);
}

void Upkeep::tell_room(bool short_of_it) {
  if (no_room_ == short_of_it) return;
  no_room_ = short_of_it;
  if (told_)
    told_(!short_of_it, short_of_it
                            ? "no room to pack a segment of the audit log: it stays as it is"
                            : "no segment of the audit log waits for room to be packed any more");
}

// The oldest that can be. False: there is none.
bool Upkeep::pack_one(std::uint64_t steady_ns) {
  const std::vector<std::uint64_t> closed = writer_.closed_segments();
  stuck_.erase(stuck_.begin(), closed.empty() ? stuck_.end() : stuck_.lower_bound(closed.front()));
  bool no_room = false;
  for (const std::uint64_t first : closed) {
    const auto stuck = stuck_.find(first);
    if (stuck != stuck_.end() && steady_ns < stuck->second.next_ns) continue;
    int error = 0;
    if (files_.open(segment_name(first) + ".data", OpenMode::kRead, error) == nullptr) continue;
    PackResult result;
    const std::string problem = pack_segment(files_, first, result, [this] { return stopping(); });
    if (stopping() && !problem.empty()) return false;
    if (result.no_room) {
      no_room = true;
    } else if (!problem.empty()) {
      not_packed(first, problem, steady_ns);
    } else {
      stuck_.erase(first);
      bytes_.erase(first);
      const std::lock_guard lock{mutex_};
      ++shown_.packed;
      shown_.raw_bytes += result.raw_bytes;
      shown_.packed_bytes += result.packed_bytes;
      return true;
    }
  }
  tell_room(no_room);
  return false;
}

std::uint64_t Upkeep::bytes_of(std::uint64_t segment) {
  const auto known = bytes_.find(segment);
  if (known != bytes_.end()) return known->second;
  const std::string name = segment_name(segment);
  std::uint64_t sum = 0;
  for (const char* ending : {".data", ".zst", ".journal"}) sum += size_of(files_, name + ending);
  return bytes_[segment] = sum;
}

// Where the log's own time stands at this start, by the headers of its segments.
void Upkeep::begin_time(std::uint64_t utc_ns, std::uint64_t steady_ns) {
  std::vector<std::uint64_t> all = writer_.closed_segments();
  all.push_back(writer_.open_segment_first());
  std::vector<LogTime::Begun> begun;
  for (const std::uint64_t first : all) {
    int error = 0;
    const auto journal = files_.open(segment_name(first) + ".journal", OpenMode::kRead, error);
    Buffer head(kJournalHeader + 64 * 32);
    const long n = journal == nullptr ? 0 : journal->read_at(head.data(), head.size(), 0);
    head.resize(static_cast<std::size_t>(std::max(n, 0L)));
    const auto header = parse_journal_header(head);
    begun.push_back({first, header ? std::optional{header->made_ns} : std::nullopt});
  }
  const std::uint64_t ahead =
      time_.begin(begun, writer_.recovered(), writer_.recovered_ns(), utc_ns, steady_ns);
  if (ahead == 0 || !told_) return;
  told_(false, "the wall clock is " + std::to_string(ahead / kSecondNs) +
                   " s ahead of the audit log's last entry, more than the " +
                   std::to_string(time_.away_ns() / kSecondNs) +
                   " s that are believed: nothing in the log grows older by that time");
}

// The end of the last closed segment whose successor was begun before the time that is kept; 0: none.
std::uint64_t Upkeep::too_old(std::uint64_t utc_ns, std::uint64_t steady_ns) {
  if (rules_.retain_s == 0) return 0;
  if (!time_.begun()) begin_time(utc_ns, steady_ns);
  std::vector<std::uint64_t> all = writer_.closed_segments();
  all.push_back(writer_.open_segment_first());
  time_.look(all, steady_ns);
  std::uint64_t end = 0;
  for (std::size_t i = 1; i < all.size(); ++i) {
    if (time_.age_ns(all[i]) <= rules_.retain_s * kSecondNs) break;
    end = all[i];
  }
  return end;
}

std::uint64_t Upkeep::too_much() {
  if (rules_.retain_bytes == 0) return 0;
  const std::vector<std::uint64_t> closed = writer_.closed_segments();
  const std::uint64_t open = writer_.open_segment_first();
  bytes_.erase(open);  // it grows
  std::uint64_t sum = bytes_of(open), end = 0;
  bytes_.erase(open);
  for (const std::uint64_t first : closed) sum += bytes_of(first);
  for (std::size_t i = 0; i < closed.size() && sum > rules_.retain_bytes; ++i) {
    sum -= bytes_of(closed[i]);
    end = i + 1 < closed.size() ? closed[i + 1] : open;
  }
  return end;
}

void Upkeep::retain(std::uint64_t utc_ns, std::uint64_t steady_ns) {
  const std::uint64_t by_age = too_old(utc_ns, steady_ns), by_size = too_much();
  const std::uint64_t end = std::max(by_age, by_size);
  if (end == 0) return;
  const std::string why = by_age >= by_size ? "older than " + std::to_string(rules_.retain_s) + " s"
                                            : "the segments took more than " +
                                                  std::to_string(rules_.retain_bytes) + " bytes";
  std::uint64_t removed = 0;
  const Status status = writer_.retain_from(end, why, removed);
  if (!status.ok()) {
    return tell_once(
        retain_problem_, false,
        std::string{"old segments of the audit log are not removed: "} + status.text());
  }
  retain_problem_.clear();
  if (removed == 0) return;
  bytes_.clear();
  log_.reset();
  if (told_)
    told_(true, "removed " + std::to_string(removed) + " segments of the audit log, up to index " +
                    std::to_string(end) + ": " + why);
  const std::lock_guard lock{mutex_};
  shown_.removed += removed;
}

void Upkeep::ask_witnesses() {
  const WriterState state = writer_.state();
  if (state.signed_size == 0 || state.signed_size == asked_size_) return;
  const std::uint64_t segments = writer_.closed_segments().size();
  if (log_ == nullptr || segments != log_segments_) {
    auto opened = LogReader::open(std::make_unique<PosixFiles>(directory_));
    tell_once(reader_problem_, false, opened.ok() ? "" : "no witness is asked: " + opened.problem);
    if (!opened.ok()) return;
    log_ = std::move(*opened);
    log_segments_ = segments;
  }
  std::vector<std::string> paths, each;
  for (const Witnessed& w : witnesses_) paths.push_back(w.path);
  std::size_t answered = 0;
  const std::string problem = collect_cosignatures(*log_, origin_, paths, answered,
                                                   {rules_.patience_ms, cancel_.get()}, &each);
  if (each.size() != witnesses_.size()) log_.reset();  // it has a new segment
  if (stopping() || each.size() != witnesses_.size()) return;
  std::uint32_t away = 0;
  for (std::size_t i = 0; i < each.size(); ++i) {
    Witnessed& w = witnesses_[i];
    away += !each[i].empty();
    const bool back = w.asked && !w.problem.empty() && each[i].empty();
    tell_once(w.problem, false, each[i].empty() ? "" : "witness " + w.path + ": " + each[i]);
    if (back && told_) told_(true, "witness " + w.path + " answers again");
    w.asked = true;
  }
  // Not kept is not cosigned: `witnessed` could not be written.
  const bool kept = answered > 0 && problem.find("witnessed: ") != 0;
  if (kept && away == 0) asked_size_ = state.signed_size;
  const std::lock_guard lock{mutex_};
  shown_.away = away;
  if (kept) shown_.cosigned = std::max(shown_.cosigned, state.signed_size);
}

}  // namespace bulkhead::audit
