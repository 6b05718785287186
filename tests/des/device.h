// A GPU in virtual time: contexts share it by time slices, streams of one context run together, work may be preempted.
// What is modelled is what was measured on one H200 (docs/compute.md): slices of 2 ms, a switch of 0.2 ms, event stamps
// taken when the context is resident, 1.6 us between kernels, 2 us for a timing event.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <limits>
#include <vector>

namespace bulkhead::des {

using Ns = std::uint64_t;
inline constexpr Ns kNever = std::numeric_limits<Ns>::max();

struct DeviceModel {
  Ns slice_ns = 2'000'000;
  Ns switch_ns = 220'000;
  Ns gap_ns = 1'600;
  Ns stamp_ns = 2'000;
};

struct Item {
  double left_ns = 0;
  double useful = 0;     // share of left_ns that is the kernel itself
  double occupancy = 1;  // of the device; streams of one context run together while the sum is <= 1
  std::uint64_t tag = 0;  // 0: a kernel; else a stamp, the owner's name for it
};

struct Stream {
  std::deque<Item> items;
};

struct Context {
  std::vector<Stream> streams;
  std::uint64_t queued = 0;
  double useful_ns = 0;    // kernel time done
  double resident_ns = 0;  // time in which it ran
};

class Watcher {
 public:
  virtual ~Watcher() = default;
  virtual void retired(std::size_t context, std::size_t stream, const Item& item, Ns at) = 0;
};

class Device {
 public:
  DeviceModel model;
  std::vector<Context> contexts;
  double busy_ns = 0;    // some context was running
  double switch_ns = 0;  // spent on switching

  void push(std::size_t c, std::size_t s, const Item& item, Ns now) {
    contexts[c].streams[s].items.push_back(item);
    if (contexts[c].queued++ == 0) ++with_work_;
    if (!running_ && !switching_) choose(now);
  }
  // When something happens next by itself.
  [[nodiscard]] Ns next() const {
    if (switching_) return switch_end_;
    if (!running_) return kNever;
    Ns t = now_ + static_cast<Ns>(std::max(1.0, first_end()));
    if (with_work_ > 1) t = std::min(t, std::max(slice_end_, now_));
    return t;
  }
  // `t` <= next().
  void run_to(Ns t, Watcher& watcher) {
    if (switching_) {
      now_ = t;
      if (t >= switch_end_) start(t);
      return;
    }
    if (!running_) {
      now_ = std::max(now_, t);
      return;
    }
    work(static_cast<double>(t - now_), t, watcher);
    now_ = t;
    Context& c = contexts[current_];
    if (c.queued == 0) {
      --with_work_;
      running_ = false;
      choose(t);
    } else if (t >= slice_end_) {
      if (with_work_ > 1) {
        running_ = false;
        choose(t);
      } else {
        slice_end_ = t + model.slice_ns;
      }
    }
  }

 private:
  [[nodiscard]] double speed() const {
    double sum = 0;
    for (const Stream& s : contexts[current_].streams)
      if (!s.items.empty()) sum += s.items.front().tag != 0 ? 0 : s.items.front().occupancy;
    return sum > 1 ? 1 / sum : 1;
  }
  [[nodiscard]] double first_end() const {
    double least = std::numeric_limits<double>::max();
    for (const Stream& s : contexts[current_].streams)
      if (!s.items.empty()) least = std::min(least, s.items.front().left_ns);
    return std::ceil(least / speed());
  }
  void work(double dt, Ns at, Watcher& watcher) {
    Context& c = contexts[current_];
    const double done = dt * speed();
    busy_ns += dt;
    c.resident_ns += dt;
    for (std::size_t i = 0; i < c.streams.size(); ++i) {
      auto& items = c.streams[i].items;
      if (items.empty()) continue;
      Item& head = items.front();
      const double part = std::min(done, head.left_ns);
      c.useful_ns += part * head.useful;
      head.left_ns -= part;
      if (head.left_ns > 0.5) continue;
      const Item gone = head;
      items.pop_front();
      --c.queued;
      watcher.retired(current_, i, gone, at);
    }
  }
  void choose(Ns now) {
    now_ = std::max(now_, now);
    if (with_work_ == 0) return;
    std::size_t next = current_;
    for (std::size_t i = 1; i <= contexts.size(); ++i) {
      next = (current_ + i) % contexts.size();
      if (contexts[next].queued != 0) break;
    }
    if (next == current_) return start(now);
    current_ = next;
    switching_ = true;
    switch_end_ = now_ + model.switch_ns;
    switch_ns += static_cast<double>(model.switch_ns);
  }
  void start(Ns now) {
    switching_ = false;
    running_ = true;
    slice_end_ = now + model.slice_ns;
  }

  std::size_t current_ = 0, with_work_ = 0;
  bool running_ = false, switching_ = false;
  Ns now_ = 0, slice_end_ = 0, switch_end_ = 0;
};

}  // namespace bulkhead::des
