// For tests: a region in shared anonymous memory, and a world whose processes are pawns.
#pragma once
#include <sys/mman.h>

#include <cstring>
#include <map>
#include <set>

#include "base/mapping.h"
#include "shm/quota.h"
#include "shm/slots.h"
#include "shm/tenant.h"

namespace bulkhead::shm {

inline constexpr std::uint64_t kTestUnit = 512;

// Limits are given in units of 512 B, so that small numbers make small sums.
class TestRegion {
 public:
  explicit TestRegion(std::uint64_t limit_units, unsigned devices = 1) {
    void* at =
        ::mmap(nullptr, sizeof(Region), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    map_ = Mapping{at, sizeof(Region)};
    TenantSpec spec;
    spec.device_count = devices;
    for (unsigned d = 0; d < devices; ++d) {
      spec.devices[d].uuid[0] = static_cast<std::uint8_t>(d + 1);
      spec.devices[d].limit_bytes = spec.devices[d].total_bytes = limit_units * kTestUnit;
    }
    format_region(*get(), spec, "test", Identity{});
  }
  Region* get() const { return map_.as<Region>(); }
  Region* operator->() const { return get(); }
  Region& operator*() const { return *get(); }
  // Marks the first `count` slots as claimed by nobody in particular.
  void open_slots(unsigned count) { get()->header.slots_high.store(count); }

 private:
  Mapping map_;
};

// Units instead of bytes, device 0.
inline bool take(Region& r, unsigned slot, std::uint64_t units) {
  return charge(r, slot, 0, units * kTestUnit);
}
inline void give(Region& r, unsigned slot, std::uint64_t units) {
  give_back(r, slot, 0, units * kTestUnit);
}
inline std::uint64_t held(const Region& r) { return held_bytes(r, 0) / kTestUnit; }

// Processes exist because a test says so: {pid, start time} in each namespace, locks by byte and
// owner.
struct FakeNode {
  std::map<std::pair<std::uint64_t, std::uint32_t>, std::uint64_t> running;  // {ns, pid} -> start
  std::map<unsigned, std::pair<std::uint64_t, std::uint32_t>> locks;         // byte -> {ns, pid}
  std::uint64_t now_s = 1000;
};
struct FakeProcess {
  FakeNode& node;
  Identity id;
  FakeProcess(FakeNode& n, std::uint64_t ns, std::uint32_t pid, std::uint64_t start) : node(n) {
    id.pid = pid;
    id.start_ticks = start;
    id.pid_namespace = ns;
    id.image = start ^ (ns << 32);
    node.running[{ns, pid}] = start;
  }
  std::pair<std::uint64_t, std::uint32_t> key() const { return {id.pid_namespace, id.pid}; }
  void die() {
    node.running.erase(key());
    drop_all_locks();
  }
  // What close(2) of any descriptor of the file does, closefrom(3) for instance.
  void drop_all_locks() {
    std::erase_if(node.locks, [&](const auto& lock) { return lock.second == key(); });
  }
  World world() {
    World w;
    w.self = this;
    w.pid_namespace = id.pid_namespace;
    w.presence = [](void* self, std::uint32_t pid, std::uint64_t start) {
      const auto& me = *static_cast<FakeProcess*>(self);
      const auto it = me.node.running.find({me.id.pid_namespace, pid});
      return it != me.node.running.end() && it->second == start ? Presence::kThere
                                                                : Presence::kGone;
    };
    w.lock_state = [](void* self, unsigned byte) {
      const auto& me = *static_cast<FakeProcess*>(self);
      const auto it = me.node.locks.find(byte);
      // one's own lock never conflicts, exactly as F_GETLK answers
      return it != me.node.locks.end() && it->second != me.key() ? Lock::kHeld : Lock::kFree;
    };
    w.take_lock = [](void* self, unsigned byte) {
      auto& me = *static_cast<FakeProcess*>(self);
      return me.node.locks.try_emplace(byte, me.key()).first->second == me.key();
    };
    w.drop_lock = [](void* self, unsigned byte) {
      auto& me = *static_cast<FakeProcess*>(self);
      const auto it = me.node.locks.find(byte);
      if (it != me.node.locks.end() && it->second == me.key()) me.node.locks.erase(it);
    };
    w.boottime_s = [](void* self) { return static_cast<FakeProcess*>(self)->node.now_s; };
    return w;
  }
};

}  // namespace bulkhead::shm
