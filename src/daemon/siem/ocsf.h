// OCSF 1.8.0 events of what the log holds (docs/compliance/siem.md has the table). Pure: the same input gives the same bytes.
#pragma once
#include <compare>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "abi/audit_entry.h"
#include "daemon/siem/context.h"

namespace bulkhead::daemon::siem {

// One event as it is sent. `uid` is the same whenever it is sent again.
struct Event {
  std::string uid;
  const char* msgid = "";
  int severity = 6;          // of syslog
  std::uint64_t utc_ns = 0;  // for the frame's header
  std::string json;
};

// What a sum is made for: all of it equal.
struct SumKey {
  std::uint32_t session = 0, grant = 0;
  std::uint8_t operation = 0, direction = 0, decision = 0;
  std::uint8_t source_device = 0, destination_device = 0;
  auto operator<=>(const SumKey&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14
};
struct Sum {
  std::uint64_t count = 0, bytes = 0;
  std::uint64_t first_ns = 0, last_ns = 0;      // of the entries' own times, least and largest
  std::uint64_t first_leaf = 0, last_leaf = 0;  // of them
};

// Where the events come from; `log` makes uids differ between logs that bear one name: the host key's id.
struct Origin {
  std::string name, log, host, version;
  [[nodiscard]] std::string prefix() const { return name + "/" + log + "/"; }
};

class Ocsf {
 public:
  explicit Ocsf(Origin origin) : origin_(std::move(origin)) {}
  [[nodiscard]] const Origin& origin() const { return origin_; }

  // `checkpoint`: the size of the signed checkpoint that covers the leaves.
  [[nodiscard]] Event sum(const SumKey& key, const Sum& sum, const std::string& uid,
                          std::uint64_t checkpoint, const Context& context) const;
  [[nodiscard]] Event entry(const abi::AuditEntry& entry, std::uint64_t leaf,
                            std::uint64_t checkpoint, const Context& context) const;
  // A record that is shown; the caller has asked shows().
  [[nodiscard]] Event record(const nlohmann::json& record, std::uint64_t leaf,
                             std::uint64_t checkpoint, const Context& context) const;
  [[nodiscard]] static bool shows(const nlohmann::json& record);
  // What the exporter itself found wrong with leaves [from, to).
  [[nodiscard]] Event finding(const char* what, const std::string& text, std::uint64_t from,
                              std::uint64_t to, std::uint64_t checkpoint,
                              std::uint64_t utc_ns) const;

 private:
  using Json = nlohmann::json;
  struct Head {
    int class_uid, category_uid, activity_id, severity_id;
    const char* activity_name;
  };
  [[nodiscard]] Json base(const Head& head, const std::string& uid, std::uint64_t utc_ns,
                          std::uint64_t leaf, const std::string& tenant) const;
  void put_process(Json& j, std::uint32_t session, const Context& context, bool actor) const;
  [[nodiscard]] Json memory(const SumKey& key, int activity, const char* name, int severity,
                            const std::string& uid, std::uint64_t utc_ns, std::uint64_t leaf,
                            const Context& context) const;
  [[nodiscard]] Json finding_json(const std::string& uid, const std::string& title,
                                  const std::string& text, std::uint64_t utc_ns, std::uint64_t leaf,
                                  const std::string& tenant) const;

  Origin origin_;
};

// At most this: what a receiver of RFC 5424 should take.
inline constexpr std::size_t kMostMessage = 2048;

}  // namespace bulkhead::daemon::siem
