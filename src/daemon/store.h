// The store: the one thread that writes to the daemon's state directory. In front of it a bounded queue: append() and
// replace() take a mutex that is never held over a system call, and never wait for a disk.
//
// A disk that is full, read-only or gone does not stop anybody: what waits is tried again each retry_ms, in order; what
// does not fit the queue is counted as lost. docs/formats/events.md and usage.md say what the files promise.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "base/outcome.h"

namespace bulkhead::daemon {

inline constexpr const char* kEventsFile = "events.jsonl";
inline constexpr const char* kEventsBefore = "events.1.jsonl";
inline constexpr const char* kUsageFile = "usage.jsonl";
inline constexpr const char* kUsageOpenFile = "usage.open.json";
inline constexpr const char* kTenantsFile = "tenants.json";

struct StoreOptions {
  std::string directory;                     // exists; we may write in it
  std::uint64_t rotate_bytes = 8ull << 20;   // of events.jsonl
  std::size_t event_queue_bytes = 2u << 20;  // lines that wait
  std::size_t usage_queue_bytes = 8u << 20;
  unsigned retry_ms = 1000;
  // usage.jsonl above these bytes is made into so many rows (usage_compact.h); a row has at most 400 bytes.
  std::uint64_t usage_bytes = 4ull << 20;
  std::size_t usage_rows = 8192;
};

struct StoreHealth {
  bool failing = false;  // the last try failed
  int error_number = 0;  // of the failure that is going on or was the last
  std::string file;      // and the file it was about
  std::uint64_t failures = 0;
  std::uint64_t lost_lines = 0;     // since the start
  std::uint64_t written_lines = 0;  // synced
};

class Store {
 public:
  static Outcome<std::unique_ptr<Store>> open(StoreOptions options);
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;
  // As stop().
  ~Store();

  // One line without its newline. Any thread, never waits for a disk. False: no room, counted as lost.
  bool append_event(std::string line) { return append(Target::kEvents, std::move(line)); }
  bool append_usage(std::string line) { return append(Target::kUsage, std::move(line)); }
  // The whole content of a file of ours, by rename: after a crash it is the old or the new one. Of several that wait
  // the last wins; it keeps its order against lines appended before it.
  void replace(const std::string& name, std::string content);
  [[nodiscard]] StoreHealth health() const;
  // Waits until nothing waits and nothing is being written, or `timeout_ms` passed (false).
  bool wait_idle(unsigned timeout_ms);
  // Writes what waits, with one try for each, and ends the thread. Idempotent.
  void stop();

 private:
  enum class Target : std::uint8_t { kEvents, kUsage, kReplace };
  struct Item {
    Target target;
    std::string name;  // of a replacement
    std::string text;
  };
  explicit Store(StoreOptions options) : options_(std::move(options)) {}
  bool append(Target target, std::string line);
  void work();
  std::vector<Item> next_batch();  // under mutex_
  void finish(const std::vector<Item>& batch, int error_number);
  int write(const std::vector<Item>& batch);  // 0 or errno
  int append_to(const char* name, const std::string& text);
  int rotate_if_full(std::size_t more);

  StoreOptions options_;
  UniqueFd directory_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item> queue_;
  std::size_t waiting_bytes_[3] = {};
  StoreHealth health_;
  bool busy_ = false;
  bool stop_ = false;
  std::thread thread_;
};

// The newest whole lines of a file below `directory`, oldest first: at most `most`, out of its last `most_bytes`. A torn
// last line is left out. A file that is not there is empty.
[[nodiscard]] std::vector<std::string> read_last_lines(const std::string& directory,
                                                       const std::string& name, std::size_t most,
                                                       std::size_t most_bytes);
// The whole content of a file of ours, by rename and synced: after a crash the old or the new one. 0 or errno (the old one stays).
[[nodiscard]] int replace_state_file(int directory_fd, const std::string& name,
                                     const std::string& text);
// The whole of a file of ours of at most `most_bytes`; "" if there is none or it is larger.
[[nodiscard]] std::string read_state_file(const std::string& directory, const std::string& name,
                                          std::size_t most_bytes);

}  // namespace bulkhead::daemon
