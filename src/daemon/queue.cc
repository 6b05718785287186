#include "daemon/queue.h"

#include <algorithm>
#include <cstring>

namespace bulkhead::daemon {
namespace {

bool share_a_device(const wire::TenantRecord& a, const wire::TenantRecord& b) {
  for (unsigned i = 0; i < a.device_count; ++i) {
    for (unsigned j = 0; j < b.device_count; ++j) {
      if (std::memcmp(a.devices[i].uuid, b.devices[j].uuid, wire::kUuidBytes) == 0) return true;
    }
  }
  return false;
}

}  // namespace

void Queue::add(Key key, const wire::TenantRecord& record, std::uint64_t deadline_mono_ns) {
  waiting_.push_back({key, record, deadline_mono_ns, {}});
}

void Queue::leave(Key key) {
  left_ |= std::erase_if(waiting_, [key](const Waiting& w) { return w.key == key; }) != 0;
}

bool Queue::has(Key key) const {
  return std::any_of(waiting_.begin(), waiting_.end(),
                     [key](const Waiting& w) { return w.key == key; });
}

bool Queue::ahead(const wire::TenantRecord& record, std::size_t before) const {
  for (std::size_t i = 0; i < before; ++i) {
    if (share_a_device(waiting_[i].record, record)) return true;
  }
  return false;
}

bool Queue::somebody_ahead(const wire::TenantRecord& record, Key key) const {
  std::size_t before = 0;
  while (before < waiting_.size() && waiting_[before].key != key) ++before;
  return ahead(record, before);
}

Queue::Place Queue::place_at(std::size_t index) const {
  Place out{1, 0};
  for (std::size_t i = 0; i < waiting_.size(); ++i) {
    if (!share_a_device(waiting_[i].record, waiting_[index].record)) continue;
    ++out.waiting;
    if (i < index) ++out.place;
  }
  return out;
}

Queue::Place Queue::place(Key key) const {
  for (std::size_t i = 0; i < waiting_.size(); ++i) {
    if (waiting_[i].key == key) return place_at(i);
  }
  return {};
}

void Queue::offer(const std::function<bool(Key)>& attempt) {
  for (std::size_t i = 0; i < waiting_.size();) {
    if (!ahead(waiting_[i].record, i) && attempt(waiting_[i].key)) {
      waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
}

std::vector<Queue::Key> Queue::expire(std::uint64_t mono_ns) {
  std::vector<Key> out;
  for (const Waiting& w : waiting_) {
    if (w.deadline_ns <= mono_ns) out.push_back(w.key);
  }
  for (const Key key : out) leave(key);
  return out;
}

std::vector<std::pair<Queue::Key, Queue::Place>> Queue::moved() {
  std::vector<std::pair<Key, Place>> out;
  for (std::size_t i = 0; i < waiting_.size(); ++i) {
    const Place now = place_at(i);
    if (now == waiting_[i].told) continue;
    waiting_[i].told = now;
    out.emplace_back(waiting_[i].key, now);
  }
  return out;
}

std::uint64_t Queue::next_deadline_ns() const {
  std::uint64_t out = kForEver;
  for (const Waiting& w : waiting_) out = std::min(out, w.deadline_ns);
  return out;
}

}  // namespace bulkhead::daemon
