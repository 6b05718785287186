// The journal: every event the daemon reports. Control loop only. Kept in memory (the newest kKept), handed to
// followers and to the store, which writes them to disk on its own thread.
#pragma once
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "daemon/duty.h"
#include "daemon/event_limit.h"
#include "wire/view.h"

namespace bulkhead::daemon {

struct EventFields {
  wire::Severity severity = wire::Severity::kInfo;
  std::string tenant;
  std::uint32_t pid = 0;
  std::uint32_t uid = wire::kNoId;
  std::uint64_t bytes = 0;
  const std::uint8_t* uuid = nullptr;  // 16 bytes, or null
};

class Journal {
 public:
  static constexpr std::size_t kKept = 4096;
  // The first id after a restart is one more than the last on disk.
  explicit Journal(std::uint64_t next_id = 1) : next_id_(next_id) {}

  // `text` is one line; it is cut to what an event holds, control characters become '?'. What peers and tenants provoke is
  // limited (event_limit.h): beyond that it is counted, and settle() tells how many.
  void post(const Now& now, wire::EventKind kind, const std::string& text,
            const EventFields& fields = {});
  // Once a second: one event for each limit that kept something back and has ended; `all`: for the others too.
  void settle(const Now& now, bool all = false);
  [[nodiscard]] std::uint64_t next_id() const { return next_id_; }
  // Events with an id above `after`, oldest first, at most `most`. `lost` = how many of them are no longer kept.
  [[nodiscard]] std::vector<wire::EventView> after(std::uint64_t after, std::size_t most,
                                                   std::uint32_t& lost) const;
  // What an earlier daemon wrote (the store's newest lines), oldest first, before the first post().
  void restore(const std::vector<wire::EventView>& events);

 private:
  void add(const Now& now, wire::EventKind kind, const std::string& text,
           const EventFields& fields);

  EventLimit limit_;
  std::deque<wire::EventView> kept_;
  std::uint64_t next_id_;
};

}  // namespace bulkhead::daemon
