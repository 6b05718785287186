// The node page as the daemon writes it: DIR/node, mode 0444, renamed into place at the start, changed in place after.
// Control loop only. The page stays when the daemon ends.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/bus_guard.h"
#include "base/mapping.h"
#include "base/status.h"
#include "shm/compute.h"
#include "shm/dir.h"
#include "shm/node.h"

namespace bulkhead::daemon {

class NodeFile {
 public:
  // Writes a fresh page with what the old one granted to tenants that `exists` names. An old page that is not of this
  // directory's user, or is damaged, grants nothing. kIo, kFull (no room).
  [[nodiscard]] Status open(const shm::Dir& dir, std::uint32_t flags,
                            const std::function<bool(const char* name)>& exists);
  [[nodiscard]] bool ok() const { return map_.ok(); }
  [[nodiscard]] Status set(const std::string& name, const std::uint8_t* uuid, std::uint64_t bytes);
  // Of a pair that has a limit. kNotFound.
  [[nodiscard]] Status set_compute(const std::string& name, const std::uint8_t* uuid,
                                   const shm::ComputeRules& rules);
  // How its share is enforced. kNotFound.
  [[nodiscard]] Status set_mode(const std::string& name, std::uint32_t flags,
                                const std::string& group);
  void set_verdict(const std::uint8_t* uuid, const std::string& driver,
                   const shm::Verdict& verdict);
  // The tenants whose memory it may import, of those that the page names.
  void set_partners(const std::string& name, const std::vector<std::string>& others);
  [[nodiscard]] Status set_audit(const std::string& name, std::uint32_t mode);  // kNotFound
  void set_latency(const std::string& name, bool latency);
  [[nodiscard]] bool latency(const std::string& name) const;
  void drop(const std::string& name);
  // Where a tenant's rate is told; null: the page does not name the pair. Good until drop().
  [[nodiscard]] shm::GivenRate* given_place(const std::string& name, const std::uint8_t* uuid);
  // The page itself, for the governor's words; null: not open.
  [[nodiscard]] shm::NodePage* page() { return map_.as<shm::NodePage>(); }
  void set_flags(std::uint32_t flags);  // shm::NodeFlag
  // kNotFound.
  [[nodiscard]] Result<std::uint64_t> limit(const std::string& name,
                                            const std::uint8_t* uuid) const;

  [[nodiscard]] Result<shm::ComputeRules> compute(const std::string& name,
                                                  const std::uint8_t* uuid) const;

 private:
  Mapping map_;
  GuardedRange guard_;  // a user's own programs may cut the user's own page short
};

}  // namespace bulkhead::daemon
