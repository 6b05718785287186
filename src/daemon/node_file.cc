#include "daemon/node_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/kill_point.h"
#include "shm/files.h"
#include "shm/governed.h"

namespace bulkhead::daemon {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// A copy: the file belongs to this directory's user, whose other programs may cut it short.
std::unique_ptr<shm::NodePage> read_old(const shm::Dir& dir) {
  Result<UniqueFd> fd =
      shm::open_file(dir.fd.get(), "node", O_RDONLY, dir.euid, sizeof(shm::NodePage));
  auto page = std::make_unique<shm::NodePage>();
  if (!fd.ok() || !shm::read_exactly(fd->get(), page.get(), sizeof *page, 0)) return nullptr;
  if (!shm::check_node(*page).ok()) return nullptr;
  shm::repair_node(*page);
  return page;
}

void carry_over(const shm::NodePage& old, shm::NodePage& page,
                const std::function<bool(const char*)>& exists) {
  // orders: relaxed, a copy of our own
  const std::uint32_t end = std::min(old.tenant_count.load(kRelaxed), shm::kMaxTenants);
  for (const shm::NodeVerdict& v : old.verdicts) {
    char driver[sizeof v.driver + 1] = {};
    std::memcpy(driver, v.driver, sizeof v.driver);
    const shm::Verdict seen = shm::node_verdict(old, v.uuid);
    if (seen != shm::Verdict{}) (void)shm::set_node_verdict(page, v.uuid, driver, seen);
  }
  for (std::uint32_t i = 0; i < end; ++i) {
    const shm::NodeTenant& tenant = old.tenants[i];
    if (tenant.name[0] == 0 || !exists(tenant.name)) continue;
    for (std::uint32_t d = 0; d < tenant.device_count.load(kRelaxed); ++d) {
      (void)shm::set_node_limit(page, tenant.name, tenant.limits[d].uuid,
                                tenant.limits[d].limit_bytes.load(kRelaxed));
      const auto rules = shm::node_compute(old, tenant.name, tenant.limits[d].uuid);
      if (rules.ok()) (void)shm::set_node_compute(page, tenant.name, tenant.limits[d].uuid, *rules);
    }
    (void)shm::set_node_audit(page, tenant.name, shm::node_audit(old, tenant.name));
    shm::set_node_latency(page, tenant.name, shm::node_latency(old, tenant.name));
    if (const auto how = shm::node_mode(old, tenant.name); how.ok())
      (void)shm::set_node_mode(page, tenant.name, how->flags, how->mps_group);
  }
  for (std::uint32_t i = 0; i < end; ++i) {  // indices differ: by their names
    std::uint16_t partners[shm::kMaxPartners] = {};
    for (unsigned p = 0; p < shm::kMaxPartners; ++p) {
      const std::uint16_t was = old.tenants[i].share_with[p].load(kRelaxed);
      const unsigned now = was != 0 && was <= end && old.tenants[was - 1].name[0] != 0
                               ? shm::node_index(page, old.tenants[was - 1].name)
                               : shm::kMaxTenants;
      if (now != shm::kMaxTenants) partners[p] = static_cast<std::uint16_t>(now + 1);
    }
    (void)shm::set_node_partners(page, old.tenants[i].name, partners);  // of those that exist
  }
}

constexpr const char* kNew = "node.new";
constexpr const char* kSpare = "node.spare";

// The room of the next page, taken while there is some: a tenant may fill the file system until then (its region is its
// own), and a daemon that died must be able to start again. Without room for it: so be it.
void keep_spare(const shm::Dir& dir) {
  const int at = dir.fd.get();
  ::unlinkat(at, kSpare, 0);
  const UniqueFd fd{::openat(at, kSpare, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600)};
  if (fd.ok() && ::posix_fallocate(fd.get(), 0, sizeof(shm::NodePage)) != 0)
    ::unlinkat(at, kSpare, 0);
}

// kNew with room for all of it: the spare, or a new file. A full tmpfs would be SIGBUS in the middle of a turn.
Result<UniqueFd> make_new(const shm::Dir& dir) {
  const int at = dir.fd.get();
  (void)::renameat(at, kSpare, at,
                   kNew);  // else what a daemon left that died here; we have the lock
  UniqueFd spare{::openat(at, kNew, O_RDWR | O_CLOEXEC | O_NOFOLLOW)};
  struct stat st {};
  const auto bytes = static_cast<off_t>(sizeof(shm::NodePage));
  if (spare.ok() && ::fstat(spare.get(), &st) == 0 && S_ISREG(st.st_mode) &&
      st.st_uid == dir.euid && st.st_nlink == 1 && st.st_size == bytes &&
      st.st_blocks * 512 >= bytes) {
    return spare;
  }
  ::unlinkat(at, kNew, 0);
  UniqueFd fd{::openat(at, kNew, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600)};
  if (!fd.ok()) return Status{Errc::kIo, errno, "cannot make the node page"};
  if (const int error = ::posix_fallocate(fd.get(), 0, sizeof(shm::NodePage)); error != 0) {
    return Status{error == ENOSPC ? Errc::kFull : Errc::kIo, error, "no room for the node page"};
  }
  return fd;
}

}  // namespace

Status NodeFile::open(const shm::Dir& dir, std::uint32_t flags,
                      const std::function<bool(const char*)>& exists) {
  const Result<UniqueFd> made = make_new(dir);
  if (!made.ok()) return made.status();
  const UniqueFd& fd = *made;
  BH_KILL_POINT("page.made");
  void* const at =
      ::mmap(nullptr, sizeof(shm::NodePage), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return Status{Errc::kIo, errno, "cannot map the node page"};
  map_ = Mapping{at, sizeof(shm::NodePage)};
  Result<GuardedRange> guarded = guard(at, sizeof(shm::NodePage));
  if (!guarded.ok()) return guarded.status();
  guard_ = std::move(*guarded);
  auto& page = *map_.as<shm::NodePage>();
  std::memset(at, 0, sizeof page);  // the spare's may be anything
  if (const auto old = read_old(dir)) carry_over(*old, page, exists);
  shm::format_node(page, flags);
  BH_KILL_POINT("page.formatted");
  if (::fchmod(fd.get(), 0444) != 0) return Status{Errc::kIo, errno, "cannot share the node page"};
  if (::renameat(dir.fd.get(), kNew, dir.fd.get(), "node") != 0) {
    return Status{Errc::kIo, errno, "cannot publish the node page"};
  }
  BH_KILL_POINT("page.published");
  keep_spare(dir);
  return Status{};
}

Status NodeFile::set(const std::string& name, const std::uint8_t* uuid, std::uint64_t bytes) {
  std::uint8_t key[shm::kUuidBytes];
  std::memcpy(key, uuid, sizeof key);
  return shm::set_node_limit(*map_.as<shm::NodePage>(), name.c_str(), key, bytes);
}

Status NodeFile::set_compute(const std::string& name, const std::uint8_t* uuid,
                             const shm::ComputeRules& rules) {
  std::uint8_t key[shm::kUuidBytes];
  std::memcpy(key, uuid, sizeof key);
  return shm::set_node_compute(*map_.as<shm::NodePage>(), name.c_str(), key, rules);
}

Status NodeFile::set_mode(const std::string& name, std::uint32_t flags, const std::string& group) {
  return shm::set_node_mode(*map_.as<shm::NodePage>(), name.c_str(), flags, group.c_str());
}

void NodeFile::set_verdict(const std::uint8_t* uuid, const std::string& driver,
                           const shm::Verdict& verdict) {
  std::uint8_t key[shm::kUuidBytes];
  std::memcpy(key, uuid, sizeof key);
  // full: unknown, which is off
  (void)shm::set_node_verdict(*map_.as<shm::NodePage>(), key, driver.c_str(), verdict);
}

void NodeFile::set_flags(std::uint32_t flags) {
  shm::set_node_flags(*map_.as<shm::NodePage>(), flags);
}

Status NodeFile::set_audit(const std::string& name, std::uint32_t mode) {
  return shm::set_node_audit(*map_.as<shm::NodePage>(), name.c_str(), mode);
}

void NodeFile::set_latency(const std::string& name, bool latency) {
  shm::set_node_latency(*map_.as<shm::NodePage>(), name.c_str(), latency);
}

bool NodeFile::latency(const std::string& name) const {
  return shm::node_latency(*map_.as<const shm::NodePage>(), name.c_str());
}

void NodeFile::drop(const std::string& name) {
  shm::remove_node_tenant(*map_.as<shm::NodePage>(), name.c_str());
}

void NodeFile::set_partners(const std::string& name, const std::vector<std::string>& others) {
  auto& page = *map_.as<shm::NodePage>();
  std::uint16_t partners[shm::kMaxPartners] = {};
  unsigned count = 0;
  for (const std::string& other : others) {
    const unsigned index = shm::node_index(page, other.c_str());
    if (index == shm::kMaxTenants || count == shm::kMaxPartners) continue;
    partners[count++] = static_cast<std::uint16_t>(index + 1);
  }
  (void)shm::set_node_partners(page, name.c_str(), partners);
}

shm::GivenRate* NodeFile::given_place(const std::string& name, const std::uint8_t* uuid) {
  std::uint8_t key[shm::kUuidBytes];
  std::memcpy(key, uuid, sizeof key);
  const auto* const at = shm::given_place(*map_.as<const shm::NodePage>(), name.c_str(), key);
  return const_cast<shm::GivenRate*>(at);  // the page is ours
}

Result<shm::ComputeRules> NodeFile::compute(const std::string& name,
                                            const std::uint8_t* uuid) const {
  std::uint8_t key[shm::kUuidBytes];
  std::memcpy(key, uuid, sizeof key);
  return shm::node_compute(*map_.as<const shm::NodePage>(), name.c_str(), key);
}

Result<std::uint64_t> NodeFile::limit(const std::string& name, const std::uint8_t* uuid) const {
  std::uint8_t key[shm::kUuidBytes];
  std::memcpy(key, uuid, sizeof key);
  return shm::node_limit(*map_.as<const shm::NodePage>(), name.c_str(), key);
}

}  // namespace bulkhead::daemon
