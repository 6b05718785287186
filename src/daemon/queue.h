// Who waits for room on the node: first come, first served among those that want a device in common. Knows neither sockets nor
// sums; control loop only.
#pragma once
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "wire/record.h"

namespace bulkhead::daemon {

class Queue {
 public:
  using Key = std::uint64_t;  // the connection that waits
  static constexpr Key kNobody = ~Key{0};
  static constexpr std::uint64_t kForEver = ~std::uint64_t{0};

  struct Place {
    unsigned place = 0;    // 1 = next
    unsigned waiting = 0;  // all that want a device of it, itself too
    bool operator==(const Place&) const = default;
  };

  void add(Key key, const wire::TenantRecord& record, std::uint64_t deadline_mono_ns);
  void leave(Key key);
  // Whether somebody who came before `key` (kNobody: who has just come) wants a device of `record`.
  [[nodiscard]] bool somebody_ahead(const wire::TenantRecord& record, Key key = kNobody) const;
  [[nodiscard]] Place place(Key key) const;
  // Offers room to each, oldest first, that has nobody ahead. `attempt` says whether it is done with (admitted, or refused for
  // good); it then leaves. `attempt` must not change the queue.
  void offer(const std::function<bool(Key)>& attempt);
  // Takes out those whose time is up.
  [[nodiscard]] std::vector<Key> expire(std::uint64_t mono_ns);
  // Places that were not told yet; told from now on.
  [[nodiscard]] std::vector<std::pair<Key, Place>> moved();
  // Whether somebody left, in whatever way, since this was last asked: those behind may fit.
  [[nodiscard]] bool moved_out() { return std::exchange(left_, false); }
  [[nodiscard]] std::size_t size() const { return waiting_.size(); }
  [[nodiscard]] bool has(Key key) const;
  // The next deadline; kForEver: none.
  [[nodiscard]] std::uint64_t next_deadline_ns() const;

 private:
  struct Waiting {
    Key key;
    wire::TenantRecord record;
    std::uint64_t deadline_ns;
    Place told{};
  };
  [[nodiscard]] bool ahead(const wire::TenantRecord& record, std::size_t before) const;
  [[nodiscard]] Place place_at(std::size_t index) const;
  bool left_ = false;
  std::vector<Waiting> waiting_;  // in order of arrival
};

}  // namespace bulkhead::daemon
