// The node page's words on how shares are enforced, and what self-tests saw. docs/spatial.md.
#include <cstring>

#include "base/kill_point.h"
#include "shm/files.h"
#include "shm/node.h"
#include "shm/node_writing.h"

namespace bulkhead::shm {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAcquire = std::memory_order_acquire;
constexpr auto kRelease = std::memory_order_release;
constexpr int kTries = 1000;  // an entry is written in well under a microsecond

Seen seen_at(std::uint64_t state, unsigned shift) noexcept {
  const auto value = static_cast<std::uint32_t>(state >> shift & 3);
  return value <= 2 ? static_cast<Seen>(value) : Seen::kUnknown;
}

std::uint64_t state_of(const Verdict& v) noexcept {
  const auto at = [](Seen seen, unsigned shift) {
    return static_cast<std::uint64_t>(seen) << shift;
  };
  return at(v.spatial, 0) | at(v.partitions, 2) | at(v.green, 4) | at(v.slice, 6) |
         std::uint64_t{v.sms & 0xffff} << 16 | std::uint64_t{v.sm_unit & 0xff} << 32 |
         std::uint64_t{v.sm_least & 0xff} << 40 | std::uint64_t{v.chunk_sms & 0xff} << 48 |
         std::uint64_t{v.chunks & 0xff} << 56;
}

bool is_empty(const NodeVerdict& v) noexcept {
  constexpr std::uint8_t kNone[kUuidBytes] = {};
  return std::memcmp(v.uuid, kNone, sizeof kNone) == 0;
}

}  // namespace

Result<NodeMode> node_mode(const NodePage& page, const char* name) noexcept {
  const Status missing{Errc::kNotFound, 0, "the node page does not name this tenant"};
  const unsigned index = node_index(page, name);
  if (index == kMaxTenants) return missing;
  const NodeTenant& tenant = page.tenants[index];
  for (int tries = 0; tries < kTries; ++tries) {
    const std::uint64_t version = tenant.version.load(kAcquire);  // pairs with Writing
    if ((version & 1) != 0) continue;
    const bool named = std::strncmp(tenant.name, name, kNameBytes) == 0;
    NodeMode out;
    std::memcpy(out.mps_group, tenant.mps_group, sizeof out.mps_group - 1);
    out.flags = tenant.flags.load(kAcquire) & kEnforcerMask;  // pairs with set_node_mode()
    // the group's bytes are read before this: release in Writing's end orders them for the writer
    std::atomic_thread_fence(kAcquire);
    if (tenant.version.load(kRelaxed) != version) continue;
    if (!named) return missing;
    return out;
  }
  return Status{Errc::kNotReady, 0, "the node page is being written"};
}

Status set_node_mode(NodePage& page, const char* name, std::uint32_t flags,
                     const char* group) noexcept {
  const unsigned index = valid_name(name) ? node_index(page, name) : kMaxTenants;
  if (index == kMaxTenants)
    return Status{Errc::kNotFound, 0, "the node page does not name this tenant"};
  NodeTenant& tenant = page.tenants[index];
  char text[sizeof tenant.mps_group] = {};
  for (std::size_t i = 0; i + 1 < sizeof text && group[i] != '\0'; ++i) text[i] = group[i];
  // relaxed: the only writer
  const std::uint32_t is = tenant.flags.load(kRelaxed);  // the only writer
  const std::uint32_t wanted = (is & ~kEnforcerMask) | (flags & kEnforcerMask);
  if (is == wanted && std::memcmp(tenant.mps_group, text, sizeof text) == 0) return Status{};
  const Writing odd{tenant};
  std::memcpy(tenant.mps_group, text, sizeof text);
  BH_KILL_POINT("node.mode");
  tenant.flags.store(wanted, kRelease);  // after odd: pairs with node_mode()
  return Status{};
}

Verdict node_verdict(const NodePage& page, const std::uint8_t (&uuid)[kUuidBytes]) noexcept {
  Verdict out;
  for (const NodeVerdict& v : page.verdicts) {
    const std::uint64_t state = v.state.load(kAcquire);  // pairs with set_node_verdict()
    if (is_empty(v)) break;
    if (state == 0 || std::memcmp(v.uuid, uuid, sizeof uuid) != 0) continue;
    out.spatial = seen_at(state, 0);
    out.partitions = seen_at(state, 2);
    out.green = seen_at(state, 4);
    out.slice = seen_at(state, 6);
    out.sms = static_cast<std::uint32_t>(state >> 16 & 0xffff);
    out.sm_unit = static_cast<std::uint32_t>(state >> 32 & 0xff);
    out.sm_least = static_cast<std::uint32_t>(state >> 40 & 0xff);
    out.chunk_sms = static_cast<std::uint32_t>(state >> 48 & 0xff);
    out.chunks = static_cast<std::uint32_t>(state >> 56 & 0xff);
    out.tested_unix_s = v.tested_unix_s.load(kRelaxed);  // for people
    return out;
  }
  return out;
}

Status set_node_verdict(NodePage& page, const std::uint8_t (&uuid)[kUuidBytes], const char* driver,
                        const Verdict& verdict) noexcept {
  for (NodeVerdict& v : page.verdicts) {
    const bool empty = is_empty(v);
    if (!empty && std::memcmp(v.uuid, uuid, sizeof uuid) != 0) continue;
    char text[sizeof v.driver] = {};
    for (std::size_t i = 0; i + 1 < sizeof text && driver[i] != '\0'; ++i) text[i] = driver[i];
    if (empty || std::memcmp(v.driver, text, sizeof text) != 0) {
      v.state.store(0, kRelease);  // unknown while the rest is of two; pairs with node_verdict()
      std::memcpy(v.driver, text, sizeof text);
      std::memcpy(v.uuid, uuid, sizeof v.uuid);
    }
    v.tested_unix_s.store(verdict.tested_unix_s, kRelaxed);  // for people
    v.state.store(state_of(verdict), kRelease);              // pairs with node_verdict()
    return Status{};
  }
  return Status{Errc::kFull, 0, "the node page has verdicts of 64 GPUs"};
}

}  // namespace bulkhead::shm
