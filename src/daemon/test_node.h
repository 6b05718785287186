// A node without files: regions in a map, and a ledger over them. For tests only.
#pragma once
#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "daemon/compute.h"
#include "daemon/config.h"
#include "daemon/ledger.h"
#include "wire/parse.h"

namespace bulkhead::daemon {

inline constexpr std::uint64_t kGib = 1ull << 30;

class FakeRegions : public Regions {
 public:
  struct Fake {
    wire::TenantRecord record;
    std::uint64_t held = 0;
    shm::ComputeRules rules{};  // of its first device
    unsigned processes = 0;
    bool left_alone = false;  // on disk, not taken over
    std::vector<std::string> shares;
    std::uint32_t enforcer = 0;
    std::string mps_group;
  };
  std::map<std::string, Fake> all;
  std::vector<std::string> calls;  // in order, for who must come first
  Errc make_answer = Errc::kOk;

  Status make(const wire::TenantRecord& r) override {
    if (make_answer != Errc::kOk) return Status{make_answer, 0, "told to fail"};
    if (all.contains(r.name)) return Status{Errc::kExists, 0, "exists"};
    all[r.name].record = r;
    all[r.name].rules = rules_of(r, r.devices[0]);
    calls.push_back(std::string{"make "} + r.name);
    return {};
  }
  Status set_limit(const std::string& name, const std::uint8_t* uuid,
                   std::uint64_t bytes) override {
    for (auto& g : all.at(name).record.devices) {
      if (std::memcmp(g.uuid, uuid, sizeof g.uuid) != 0) continue;
      calls.push_back((bytes < g.memory_bytes ? "lower " : "raise ") + name);
      g.memory_bytes = bytes;
      return {};
    }
    return Status{Errc::kNotFound, 0, "no such device"};
  }
  Status set_compute(const std::string& name, const std::uint8_t*,
                     const shm::ComputeRules& rules) override {
    auto& has = all.at(name).rules;
    if (has == rules) return {};
    calls.push_back("share " + name + " " + rules_text(rules));
    has = rules;
    return {};
  }
  Status set_enforcer(const std::string& name, std::uint32_t flags,
                      const std::string& group) override {
    all.at(name).enforcer = flags;
    all.at(name).mps_group = group;
    return {};
  }
  Status set_on_fault(const std::string& name, wire::OnFault value) override {
    all.at(name).record.on_fault = value;
    return {};
  }
  Status set_share_with(const std::string& name, const std::vector<std::string>& with) override {
    all.at(name).shares = with;
    return {};
  }
  Status remove(const std::string& name, bool force) override {
    const auto at = all.find(name);
    if (at == all.end()) return Status{Errc::kNotFound, 0, "no such tenant"};
    if (at->second.processes != 0 && !force) return Status{Errc::kNotReady, 0, "processes run"};
    all.erase(at);
    return {};
  }
  std::uint64_t held(const std::string& name, const std::uint8_t*) const override {
    return all.at(name).held;
  }
  bool view(const std::string& name, wire::TenantView& v) const override {
    const auto at = all.find(name);
    if (at == all.end() || at->second.left_alone) return false;
    const wire::TenantRecord& r = at->second.record;
    wire::put_text(v.name, r.name);
    v.owner_uid = r.owner_uid;
    v.device_count = r.device_count;
    for (unsigned i = 0; i < r.device_count; ++i) {
      std::memcpy(v.devices[i].uuid, r.devices[i].uuid, wire::kUuidBytes);
      v.devices[i].limit_bytes = r.devices[i].memory_bytes;
    }
    return true;
  }
  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const auto& [name, f] : all) {
      if (!f.left_alone) out.push_back(name);
    }
    return out;
  }
  Status watch(const std::string& name, std::uint32_t slot, std::uint32_t, UniqueFd pidfd,
               std::uint32_t pid) override {
    if (!pidfd.ok()) return Status{Errc::kInvalid, 0, "no pidfd"};
    calls.push_back("watch " + name + " " + std::to_string(slot) + " " + std::to_string(pid));
    return {};
  }
  std::vector<Member> members() const override { return {}; }
};

struct Posted {
  wire::EventKind kind;
  std::string text;
};

// Two GPUs of 100 GiB; root's daemon unless told otherwise.
class TestNode {
 public:
  FakeRegions regions;
  std::vector<Posted> posted;
  std::string stored;
  std::vector<std::uint32_t> dead;  // creators
  Now now{1'000'000'000, 1'000'000'000, 1'700'000'000'000'000'000};
  Ledger ledger;

  explicit TestNode(const char* config = "", std::uint32_t daemon_uid = 0)
      : ledger(regions, options(daemon_uid)) {
    ledger.set_capacities(gpus());
    configure(config);
  }
  LedgerOptions options(std::uint32_t daemon_uid) {
    LedgerOptions o;
    o.daemon_uid = daemon_uid;
    o.post = [this](wire::EventKind kind, const std::string& text, const EventFields&) {
      posted.push_back({kind, text});
    };
    o.store = [this](const std::string& json) { stored = json; };
    o.alive = [this](std::uint32_t pid, std::uint64_t) {
      return std::find(dead.begin(), dead.end(), pid) == dead.end();
    };
    return o;
  }
  static std::vector<Capacity> gpus() {
    std::vector<Capacity> out(2);
    for (unsigned i = 0; i < 2; ++i) {
      out[i].index = i;
      out[i].total_bytes = 100 * kGib;
      std::memset(out[i].uuid, static_cast<int>(0x10 + i), sizeof out[i].uuid);
    }
    return out;
  }
  // Configures and settles; the problem, or "".
  std::string configure(const std::string& text) {
    auto c = parse_config(text, "f.toml");
    if (!c.ok()) return c.problem;
    const std::string p = ledger.configure(*c, now);
    if (p.empty()) ledger.settle(now);
    return p;
  }
  void later(std::uint64_t seconds = 2) {
    now.mono_ns += seconds * 1'000'000'000;
    ledger.tick(now);
  }
  bool saw(wire::EventKind kind) const {
    return std::any_of(posted.begin(), posted.end(),
                       [kind](const Posted& p) { return p.kind == kind; });
  }
};

inline Peer peer(std::uint32_t uid, std::uint32_t pid = 100, std::string cgroup = "/x") {
  return {pid, uid, uid, 77, std::move(cgroup)};
}
inline wire::TenantRecord record(const char* name, std::uint64_t bytes, unsigned gpu = 0) {
  wire::TenantRecord r{};
  wire::put_text(r.name, name);
  r.owner_uid = r.match_uid = r.match_gid = wire::kNoId;
  r.device_count = 1;
  std::memset(r.devices[0].uuid, static_cast<int>(0x10 + gpu), wire::kUuidBytes);
  r.devices[0].memory_bytes = bytes;
  return r;
}
inline wire::RegisterRequest request(const wire::TenantRecord& r, std::uint32_t flags = 0,
                                     std::uint64_t wait_ms = 0) {
  wire::RegisterRequest q{};
  wire::begin(q, wire::Kind::kRegister, 1);
  q.record = r;
  q.flags = flags;
  q.wait_ms = wait_ms;
  return q;
}

}  // namespace bulkhead::daemon
