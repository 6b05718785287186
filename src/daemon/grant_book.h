// What each grant of this log allowed, by its serial: for the daemon's own check of entries that the library let through. Filled by the
// control loop, asked by the writer's thread.
#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "abi/audit_entry.h"

namespace bulkhead::daemon {

class GrantBook {
 public:
  static constexpr std::int64_t kSlack_ns =
      1'000'000'000;  // clocks of CPUs, and what was under way
  static constexpr std::size_t kKept =
      65'536;  // ended ones; then an entry's grant is not known any more

  struct Rule {
    std::string tenant;
    std::int64_t from_ns = 0, to_ns = 0;  // UTC
    std::int64_t ended_ns = 0;            // taken back then; 0 = not
    std::uint8_t directions = 0;          // grant::Action
    std::vector<std::string> devices;     // UUIDs
    std::uint64_t address = 0, length = 0, bytes = 0;
    std::uint64_t used = 0;  // bytes of the entries that were checked
  };

  void add(std::uint32_t serial, Rule rule);
  void end(std::uint32_t serial, std::int64_t utc_ns);
  // Of an entry that says allowed: kNone, or why it is a violation. `devices`: the session's, an entry's device is an index in it. Any thread.
  [[nodiscard]] abi::DenyReason check(std::string_view tenant,
                                      const std::vector<std::string>& devices,
                                      const abi::AuditEntry& entry);
  // The same with the decision that belongs into the log.
  struct Checked {
    abi::Decision decision = abi::Decision::kAllowed;
    abi::DenyReason reason = abi::DenyReason::kNone;
  };
  [[nodiscard]] Checked recheck(std::string_view tenant, const std::vector<std::string>& devices,
                                const abi::AuditEntry& entry);
  // Bytes that entries have moved under it.
  [[nodiscard]] std::uint64_t used(std::uint32_t serial) const;

 private:
  [[nodiscard]] static abi::DenyReason judge(const Rule& rule,
                                             const std::vector<std::string>& devices,
                                             const abi::AuditEntry& entry);
  mutable std::mutex mutex_;
  std::map<std::uint32_t, Rule> rules_;  // the oldest goes first
  std::uint32_t last_serial_ = 0;        // of last_
  Rule* last_ = nullptr;
};

}  // namespace bulkhead::daemon
