// Beside the writer: closed segments are packed, old ones removed by policy, checkpoints taken to the witnesses
// (docs/formats/log.md, 'Upkeep').
//
// Claim  appending never waits for this: a witness that is away, a disk that is slow to pack or to remove, cost only this.
// Proof  a thread of its own at the lowest priority; it takes the writer's lock only where retention appends its record, and no
//        lock while it reads, packs, removes or asks.
// Price  what it cannot do it does later; a packed copy needs its room beside the original for a moment.
#pragma once
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "audit/log_time.h"
#include "audit/upkeep_rules.h"
#include "audit/witness.h"
#include "audit/writer.h"
#include "base/fd.h"

namespace bulkhead::audit {

struct UpkeepFigures {
  std::uint64_t packed = 0, raw_bytes = 0, packed_bytes = 0, removed = 0, cosigned = 0;
  std::uint32_t witnesses = 0, away = 0;
};

class Upkeep {
 public:
  // `told` hears, on this object's thread, one line of each change: a witness that went or came, a segment that cannot be packed,
  // what was removed. `good`: nothing to be done about it.
  using Told = std::function<void(bool good, const std::string& text)>;
  // `directory`: the log's. `origin`: its name.
  // `files`: other ones than the directory's, in a test.
  Upkeep(Writer& writer, std::string directory, std::string origin, UpkeepRules rules, Told told,
         std::unique_ptr<Files> files = nullptr);
  Upkeep(const Upkeep&) = delete;
  Upkeep& operator=(const Upkeep&) = delete;
  ~Upkeep();  // gives up what is under way

  void start();
  // One look at everything that is due. True: there is more to do at once. Only before start(), or by the thread.
  bool look(std::uint64_t utc_ns, std::uint64_t steady_ns);
  [[nodiscard]] UpkeepFigures figures() const;

 private:
  struct Witnessed {
    std::string path, problem;  // of the last round; "": it answered
    bool asked = false;
  };
  void work();
  [[nodiscard]] bool stopping() const;
  [[nodiscard]] bool pack_one(std::uint64_t steady_ns);
  void not_packed(std::uint64_t segment, const std::string& problem, std::uint64_t steady_ns);
  void tell_room(bool short_of_it);
  void retain(std::uint64_t utc_ns, std::uint64_t steady_ns);
  void begin_time(std::uint64_t utc_ns, std::uint64_t steady_ns);
  [[nodiscard]] std::uint64_t too_old(std::uint64_t utc_ns, std::uint64_t steady_ns);
  [[nodiscard]] std::uint64_t too_much();
  [[nodiscard]] std::uint64_t bytes_of(std::uint64_t segment);
  void ask_witnesses();
  void tell_once(std::string& last, bool good, const std::string& text);

  Writer& writer_;
  const std::string directory_, origin_;
  const UpkeepRules rules_;
  const Told told_;
  const std::unique_ptr<Files> own_files_;
  Files& files_;
  UniqueFd cancel_;
  std::vector<Witnessed> witnesses_;
  std::unique_ptr<LogReader> log_;
  std::uint64_t log_segments_ = 0;  // closed ones when log_ was opened
  std::uint64_t asked_size_ = 0;    // the signed size of the last round in which all answered
  std::uint64_t next_witness_ns_ = 0;
  LogTime time_;
  std::map<std::uint64_t, std::uint64_t> bytes_;  // of closed segments
  struct Stuck {                                  // a segment that could not be packed
    std::string problem;
    std::uint64_t next_ns = 0, wait_ns = 0;  // the next trial, by the steady clock
  };
  std::map<std::uint64_t, Stuck> stuck_;
  bool no_room_ = false;
  std::string retain_problem_, reader_problem_;

  mutable std::mutex mutex_;  // for what follows
  std::condition_variable changed_;
  bool stop_ = false;
  UpkeepFigures shown_;
  std::thread thread_;
};

}  // namespace bulkhead::audit
