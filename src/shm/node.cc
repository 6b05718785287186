#include "shm/node.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <cstring>

#include "base/kill_point.h"
#include "shm/compute.h"
#include "shm/dir.h"
#include "shm/files.h"
#include "shm/node_writing.h"
#include "shm/quota.h"

namespace bulkhead::shm {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAcquire = std::memory_order_acquire;
constexpr auto kRelease = std::memory_order_release;
constexpr int kTries = 1000;  // an entry is written in well under a microsecond

unsigned tenants_end(const NodePage& page) noexcept {
  const std::uint32_t count = page.tenant_count.load(kAcquire);  // pairs with set_node_limit()
  return count < kMaxTenants ? count : kMaxTenants;
}

bool is_named(const NodeTenant& tenant, const char* name) noexcept {
  // bounded: the page may be anybody's bytes
  return std::strncmp(tenant.name, name, kNameBytes) == 0;
}

}  // namespace

Status check_node(const NodePage& page) noexcept {
  const std::uint64_t magic = page.magic.load(kAcquire);  // pairs with format_node()
  if (magic == 0) return Status{Errc::kNotReady, 0, "the node page is being made"};
  if (magic != kNodeMagic) return Status{Errc::kBadMagic, 0, "not a node page"};
  if (page.major != kNodeMajor)
    return Status{Errc::kBadVersion, 0, "node page of another major version"};
  if (page.page_bytes != sizeof(NodePage))
    return Status{Errc::kBadSize, 0, "node page of another size"};
  return Status{};
}

Result<Mapping> map_node(const Dir& dir) noexcept {
  Result<UniqueFd> fd = open_file(dir.fd.get(), "node", O_RDONLY, kAnyOwner, sizeof(NodePage));
  if (!fd.ok()) return fd.status();
  struct stat st {};
  if (!stat_fd(fd->get(), st) || (st.st_uid != 0 && st.st_uid != dir.euid)) {
    return Status{Errc::kUntrusted, 0, "the node page belongs to another user"};
  }
  void* const at = ::mmap(nullptr, sizeof(NodePage), PROT_READ, MAP_SHARED, fd->get(), 0);
  if (at == MAP_FAILED) return Status{Errc::kIo, errno, "cannot map the node page"};
  Mapping map{at, sizeof(NodePage)};
  if (const Status bad = check_node(*map.as<const NodePage>()); !bad.ok()) return bad;
  return map;
}

namespace {

struct Words {  // of a NodeLimit
  std::uint64_t limit_bytes = 0, share = 0, pace = 0;
};

// The name is looked at within the version, too: an entry that was emptied may get another tenant's.
Result<Words> node_words(const NodePage& page, const char* name,
                         const std::uint8_t (&uuid)[kUuidBytes]) noexcept {
  bool unread = false;
  for (unsigned i = 0, end = tenants_end(page); i < end; ++i) {
    const NodeTenant& tenant = page.tenants[i];
    if (!is_named(tenant, name)) continue;
    unread = true;
    for (int tries = 0; tries < kTries && unread; ++tries) {
      const std::uint64_t version = tenant.version.load(kAcquire);  // pairs with Writing
      if ((version & 1) != 0) continue;
      const bool named = is_named(tenant, name);
      const std::uint32_t count = tenant.device_count.load(kAcquire);  // pairs with its release
      bool found = false;
      Words words;
      for (unsigned d = 0; d < kMaxDevices && d < count && !found; ++d) {
        const NodeLimit& limit = tenant.limits[d];
        found = std::memcmp(limit.uuid, uuid, kUuidBytes) == 0;
        words.limit_bytes = limit.limit_bytes.load(kAcquire);  // pairs with set_node_limit()
        words.share = limit.share.load(kAcquire);              // pairs with set_node_compute()
        words.pace = limit.pace.load(kAcquire);                // pairs with set_node_compute()
      }
      if (tenant.version.load(kRelaxed) != version) continue;  // ordered by the acquires above
      if (named && found) return words;
      if (named) return Status{Errc::kNotFound, 0, "the node page has no limit for this device"};
      unread = false;  // another's by now
    }
  }
  if (unread) return Status{Errc::kNotReady, 0, "the node page is being written"};
  return Status{Errc::kNotFound, 0, "the node page does not name this tenant"};
}

}  // namespace

Result<std::uint64_t> node_limit(const NodePage& page, const char* name,
                                 const std::uint8_t (&uuid)[kUuidBytes]) noexcept {
  const Result<Words> words = node_words(page, name, uuid);
  if (!words.ok()) return words.status();
  return words->limit_bytes;
}

Result<ComputeRules> node_compute(const NodePage& page, const char* name,
                                  const std::uint8_t (&uuid)[kUuidBytes]) noexcept {
  const Result<Words> words = node_words(page, name, uuid);
  if (!words.ok()) return words.status();
  ComputeRules out;
  out.floor_x100 = words->share & 0xffff;
  out.ceiling_x100 = words->share >> 16 & 0xffff;
  out.dampening_x1000 = words->share >> 32 & 0xffff;
  out.burst_us = static_cast<std::uint32_t>(words->pace);
  out.window_us = static_cast<std::uint32_t>(words->pace >> 32);
  return in_range(out);
}

unsigned node_index(const NodePage& page, const char* name) noexcept {
  for (unsigned i = 0, end = tenants_end(page); i < end; ++i) {
    if (is_named(page.tenants[i], name)) return i;
  }
  return kMaxTenants;
}

bool node_partners(const NodePage& page, unsigned index,
                   std::uint16_t (&out)[kMaxPartners]) noexcept {
  if (index >= tenants_end(page)) return false;
  const NodeTenant& tenant = page.tenants[index];
  for (int tries = 0; tries < kTries; ++tries) {
    const std::uint64_t version = tenant.version.load(kAcquire);  // pairs with set_node_partners()
    if ((version & 1) != 0) continue;
    for (unsigned i = 0; i < kMaxPartners; ++i) {
      out[i] = tenant.share_with[i].load(kAcquire);  // pairs with set_node_partners()
    }
    if (tenant.version.load(kRelaxed) == version) return true;  // ordered by the acquires above
  }
  return false;
}

std::uint32_t node_audit(const NodePage& page, const char* name) noexcept {
  const unsigned index = node_index(page, name);
  if (index == kMaxTenants) return 0;
  const std::uint32_t mode = page.tenants[index].flags.load(kRelaxed) & kAuditMask;  // one word
  return mode < 3 ? mode : 2;
}

std::uint32_t apply_page(const NodePage& page, Region& r, unsigned device_count,
                         const char* name) noexcept {
  std::uint32_t granted = 0;
  for (unsigned d = 0; d < device_count && d < kMaxDevices; ++d) {
    std::uint8_t uuid[kUuidBytes];
    std::memcpy(uuid, r.devices[d].uuid, sizeof uuid);
    for (int tries = 0; tries < kTries; ++tries) {
      const Result<std::uint64_t> limit = node_limit(page, name, uuid);
      if (!limit.ok() && limit.status().code() == Errc::kNotFound) break;
      granted |= 1u << d;  // being written: the limit it had stands
      if (!limit.ok() || limit_bytes(r, d) <= *limit) break;
      set_limit(r, d, *limit);  // then look again: a slower process may have set an older figure
    }
  }
  return granted;
}

Result<std::uint32_t> apply_node(const Dir& dir, Region& r, unsigned device_count,
                                 const char* name) noexcept {
  // relaxed: the page it speaks of is opened after it, and checked
  const bool adopted = r.header.adopted.load(kRelaxed) != 0;
  if (!dir.authoritative && !adopted) return ~0u;
  Result<Mapping> map = map_node(dir);
  if (!dir.authoritative) {
    if (map.ok()) static_cast<void>(apply_page(*map->as<const NodePage>(), r, device_count, name));
    return ~0u;
  }
  if (!map.ok()) return map.status();
  return apply_page(*map->as<const NodePage>(), r, device_count, name);
}

void format_node(NodePage& page, std::uint32_t flags) noexcept {
  page.major = kNodeMajor;
  page.minor = kNodeMinor;
  page.header_bytes = offsetof(NodePage, tenants);
  page.page_bytes = sizeof(NodePage);
  page.flags.store(flags, kRelaxed);       // ordered by the magic
  page.magic.store(kNodeMagic, kRelease);  // pairs with check_node()
}

void set_node_flags(NodePage& page, std::uint32_t flags) noexcept {
  page.flags.store(flags, kRelaxed);  // one word; nothing is ordered by it
}

namespace {

// Under Writing.
void empty(NodeTenant& tenant) noexcept {
  tenant.device_count.store(0, kRelease);                              // pairs with node_limit()
  for (auto& partner : tenant.share_with) partner.store(0, kRelease);  // pairs with node_partners()
  tenant.flags.store(0, kRelease);  // pairs with node_latency(), node_mode()
  std::memset(tenant.mps_group, 0, sizeof tenant.mps_group);
  std::memset(tenant.name, 0, sizeof tenant.name);
}

}  // namespace

Status set_node_limit(NodePage& page, const char* name, const std::uint8_t (&uuid)[kUuidBytes],
                      std::uint64_t limit_bytes) noexcept {
  if (!valid_name(name)) return Status{Errc::kInvalid, 0, "not a tenant's name"};
  const unsigned end = tenants_end(page);
  unsigned i = 0, unused = end;
  while (i < end && !is_named(page.tenants[i], name)) {
    if (page.tenants[i].name[0] == 0 && unused == end) unused = i;
    ++i;
  }
  const bool added = i == end;
  if (added) i = unused;
  if (i == kMaxTenants) return Status{Errc::kFull, 0, "the node page is full"};
  NodeTenant& tenant = page.tenants[i];
  unsigned d = 0;
  // own word; a writer that died may have left something in an entry that is not in use yet
  const std::uint32_t count = added ? 0 : tenant.device_count.load(kRelaxed);
  while (d < count && std::memcmp(tenant.limits[d].uuid, uuid, kUuidBytes) != 0) ++d;
  if (d == kMaxDevices) return Status{Errc::kFull, 0, "the tenant has 16 devices already"};
  {
    const Writing odd{tenant};
    if (added) {
      empty(tenant);
      std::memcpy(tenant.name, name, std::strlen(name) + 1);
    }
    if (d == count) {
      std::memcpy(tenant.limits[d].uuid, uuid, kUuidBytes);
      tenant.limits[d].share.store(0, kRelease);  // pairs with node_words(); of who had it before
      tenant.limits[d].pace.store(0, kRelease);   // the same
      page.given_x100[i][d].store(0, kRelaxed);   // one word, advice
    }
    tenant.limits[d].limit_bytes.store(limit_bytes, kRelease);  // pairs with node_limit()
    BH_KILL_POINT("node.limit");
    if (d == count) tenant.device_count.store(count + 1, kRelease);  // pairs with node_limit()
  }
  if (i == end) page.tenant_count.store(end + 1, kRelease);  // pairs with tenants_end()
  return Status{};
}

Status set_node_compute(NodePage& page, const char* name, const std::uint8_t (&uuid)[kUuidBytes],
                        const ComputeRules& wanted) noexcept {
  const Status missing{Errc::kNotFound, 0, "the node page has no limit for this device"};
  const unsigned index = valid_name(name) ? node_index(page, name) : kMaxTenants;
  if (index == kMaxTenants) return missing;
  NodeTenant& tenant = page.tenants[index];
  const std::uint32_t count = tenant.device_count.load(kRelaxed);  // the only writer
  unsigned d = 0;
  while (d < count && std::memcmp(tenant.limits[d].uuid, uuid, kUuidBytes) != 0) ++d;
  if (d == count) return missing;
  const ComputeRules r = in_range(wanted);
  const std::uint64_t share = std::uint64_t{r.floor_x100} | std::uint64_t{r.ceiling_x100} << 16 |
                              std::uint64_t{r.dampening_x1000} << 32;
  const Writing odd{tenant};
  // after odd: pairs with node_words()
  tenant.limits[d].share.store(r.limited() ? share : 0, kRelease);
  BH_KILL_POINT("node.share");
  tenant.limits[d].pace.store(std::uint64_t{r.burst_us} | std::uint64_t{r.window_us} << 32,
                              kRelease);  // as above
  return Status{};
}

Status set_node_audit(NodePage& page, const char* name, std::uint32_t mode) noexcept {
  const unsigned index = valid_name(name) ? node_index(page, name) : kMaxTenants;
  if (index == kMaxTenants) {
    return Status{Errc::kNotFound, 0, "the node page does not name this tenant"};
  }
  // relaxed: one word, the only writer
  AtomicU32& flags = page.tenants[index].flags;
  flags.store((flags.load(kRelaxed) & ~kAuditMask) | (mode & kAuditMask), kRelaxed);
  return Status{};
}

Status set_node_partners(NodePage& page, const char* name,
                         const std::uint16_t (&named)[kMaxPartners]) noexcept {
  const unsigned index = node_index(page, name);
  if (index == kMaxTenants) {
    return Status{Errc::kNotFound, 0, "the node page does not name this tenant"};
  }
  NodeTenant& tenant = page.tenants[index];
  const Writing odd{tenant};
  for (unsigned i = 0; i < kMaxPartners; ++i) {
    tenant.share_with[i].store(named[i], kRelease);  // after odd: pairs with node_partners()
  }
  return Status{};
}

// Those that name it first: the entry may soon be a stranger's.
bool remove_node_tenant(NodePage& page, const char* name) noexcept {
  const unsigned index = valid_name(name) ? node_index(page, name) : kMaxTenants;
  if (index == kMaxTenants) return false;
  for (unsigned i = 0, end = tenants_end(page); i < end; ++i) {
    for (auto& partner : page.tenants[i].share_with) {
      if (partner.load(kRelaxed) != index + 1) continue;  // the only writer
      const Writing odd{page.tenants[i]};
      partner.store(0, kRelease);  // after odd: pairs with node_partners()
    }
  }
  const bool latency = (page.tenants[index].flags.load(kRelaxed) & kNodeLatency) != 0;  // own word
  {
    const Writing odd{page.tenants[index]};
    empty(page.tenants[index]);
  }
  if (latency) page.latency_epoch.fetch_add(1, kRelease);  // pairs with the library's acquire
  return true;
}

bool set_node_latency(NodePage& page, const char* name, bool latency) noexcept {
  const unsigned index = valid_name(name) ? node_index(page, name) : kMaxTenants;
  if (index == kMaxTenants) return false;
  NodeTenant& tenant = page.tenants[index];
  const std::uint32_t flags = tenant.flags.load(kRelaxed);  // the only writer
  const std::uint32_t wanted =
      latency ? flags | kNodeLatency : flags & ~std::uint32_t{kNodeLatency};
  if (wanted == flags) return false;
  {
    const Writing odd{tenant};
    tenant.flags.store(wanted, kRelease);  // after odd: pairs with node_latency()
  }
  page.latency_epoch.fetch_add(1, kRelease);  // pairs with the library's acquire
  return true;
}

bool node_latency(const NodePage& page, const char* name) noexcept {
  const unsigned index = node_index(page, name);
  if (index == kMaxTenants) return false;
  const NodeTenant& tenant = page.tenants[index];
  for (int tries = 0; tries < kTries; ++tries) {
    const std::uint64_t version = tenant.version.load(kAcquire);  // pairs with Writing
    if ((version & 1) != 0) continue;
    const bool named = is_named(tenant, name);
    const std::uint32_t flags = tenant.flags.load(kAcquire);  // pairs with set_node_latency()
    if (tenant.version.load(kRelaxed) != version) continue;   // ordered by the acquires above
    return named && (flags & kNodeLatency) != 0;
  }
  return false;
}

void repair_node(NodePage& page) noexcept {
  for (unsigned i = 0; i < kMaxTenants; ++i) {
    NodeTenant& tenant = page.tenants[i];
    // relaxed: the only writer
    const bool odd = (tenant.version.load(kRelaxed) & 1) != 0;
    const std::uint32_t count = tenant.device_count.load(kRelaxed);
    const bool whole = tenant.name[kNameBytes - 1] == 0 && valid_name(tenant.name) && count > 0 &&
                       count <= kMaxDevices;
    if (!odd && (whole || (tenant.name[0] == 0 && count == 0))) continue;
    const Writing again{tenant};
    if (!whole) empty(tenant);
  }
}

}  // namespace bulkhead::shm
