#include "hook/mode.h"

#include <stdlib.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "hook/compute_books.h"
#include "hook/ioctl.h"
#include "hook/next.h"
#include "hook/private_lock.h"
#include "hook/process.h"
#include "hook/resolve.h"
#include "hook/slice.h"
#include "policy/spatial.h"
#include "shm/compute.h"
#include "shm/dir.h"
#include "shm/files.h"
#include "shm/node.h"
#include "shm/partition.h"
#include "shm/slots.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAttributeSms = static_cast<CUdevice_attribute>(16);  // MULTIPROCESSOR_COUNT

struct Partition {
  std::uint32_t own = 0;  // multiprocessors that the driver shows this process
  std::uint32_t all = 0;  // that the GPU has, by the self-test; 0: not known, or not held by MPS
};
struct Enforcer {
  // Written under process.binding before the mode becomes kOn, read after.
  Partition partition[kMaxDevices]{};
  bool spatial = false;  // by MPS: a percentage or a partition
};
constinit Enforcer enforcer{};

// The tenant by the environment as it stands: settings() is read at the first call through a door, and not before.
const char* tenant_asked() noexcept {
  const char* const name = ::getenv("BULKHEAD_TENANT");
  return name != nullptr && shm::valid_name(name) ? name : nullptr;
}

// The lowest share of the tenant's GPUs: one variable is for all of them. 0: no GPU has one.
std::uint32_t lowest_share(const shm::NodePage& page, unsigned index, const char* name) noexcept {
  std::uint32_t lowest = 0;
  const shm::NodeTenant& tenant = page.tenants[index];
  const std::uint32_t count = tenant.device_count.load(kRelaxed);  // checked by node_compute()
  for (unsigned d = 0; d < count && d < shm::kMaxDevices; ++d) {
    std::uint8_t uuid[shm::kUuidBytes];
    std::memcpy(uuid, tenant.limits[d].uuid, sizeof uuid);
    const auto rules = shm::node_compute(page, name, uuid);
    if (!rules.ok() || !rules->limited()) continue;
    if (lowest == 0 || rules->floor_x100 < lowest) lowest = rules->floor_x100;
  }
  return lowest;
}

void set_if_other(const char* name, const char* value) noexcept {
  const char* const has = ::getenv(name);
  if (has == nullptr || std::strcmp(has, value) != 0) static_cast<void>(::setenv(name, value, 1));
}

// Appends, always with its end; false: no room.
bool append(char*& at, const char* end, const char* text) noexcept {
  while (*text != '\0' && at < end - 1) *at++ = *text++;
  *at = '\0';
  return *text == '\0';
}

bool append_number(char*& at, const char* end, std::uint32_t value) noexcept {
  char digits[11];
  char* first = digits + 10;
  *first = '\0';
  do {
    *--first = static_cast<char>('0' + value % 10);
    value /= 10;
  } while (value != 0);
  return append(at, end, first);
}

// DIR/mps/UID/GROUP/pipe; `kind` is "+S" where MPS hands out partitions.
bool put_pipe(const shm::Dir& dir, const char* group, const char* kind) noexcept {
  char pipe[shm::kPathBytes + 96];
  char* at = pipe;
  const char* const end = pipe + sizeof pipe;
  if (!append(at, end, dir.path) || !append(at, end, "/mps/") ||
      !append_number(at, end, static_cast<std::uint32_t>(dir.euid)) || !append(at, end, "/") ||
      !append(at, end, group) || !append(at, end, kind) || !append(at, end, "/pipe"))
    return false;
  set_if_other("CUDA_MPS_PIPE_DIRECTORY", pipe);
  return true;
}

// A partition of ours that was inherited is another tenant's, or gone: who has none is in none. What is not ours stays.
void leave_partition(const shm::Dir& dir) noexcept {
  const char* const pipe = ::getenv("CUDA_MPS_PIPE_DIRECTORY");
  if (pipe == nullptr || ::getenv("CUDA_MPS_SM_PARTITION") == nullptr) return;
  constexpr char kEnd[] = "+S/pipe";
  const std::size_t n = std::strlen(pipe), d = std::strlen(dir.path), e = sizeof kEnd - 1;
  if (n < d + e || std::strncmp(pipe, dir.path, d) != 0 || std::strcmp(pipe + n - e, kEnd) != 0)
    return;
  ::unsetenv("CUDA_MPS_SM_PARTITION");
  ::unsetenv("CUDA_MPS_PIPE_DIRECTORY");
}

// Without a partition of the tenant nothing is set: under -S such a client can make no context, so it is held in time.
void enter_partition(const shm::Dir& dir, const char* group, const char* tenant) noexcept {
  const Result<shm::PartitionBook> book = shm::read_partition(dir, tenant);
  if (!book.ok() || book->value[0] == '\0' || std::strcmp(book->group, group) != 0 ||
      book->uid != static_cast<std::uint32_t>(dir.euid))
    return leave_partition(dir);
  if (put_pipe(dir, group, "+S")) set_if_other("CUDA_MPS_SM_PARTITION", book->value);
}

void point_at(const shm::Dir& dir, const char* group, std::uint32_t share_x100) noexcept {
  if (!put_pipe(dir, group, "")) return;
  constexpr const char* kPercentage = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE";
  std::uint32_t asked = 0;
  if (policy::parse_percentage(::getenv(kPercentage), &asked) && asked < share_x100)
    share_x100 = asked;
  char percent[policy::kPercentageText];
  set_if_other(kPercentage, policy::format_percentage(share_x100, percent));
}

// Who comes after us, and nothing else: a process that never touches CUDA opens nothing (I10).
[[gnu::constructor]] void at_load() noexcept { find_next_ioctl(); }

}  // namespace

// `run` has put the variables where they belong: here they are only put back, and an existing one is replaced in its place,
// so another thread's getenv() is not disturbed.
void take_enforcer(bool simulated) noexcept {
  if (::getauxval(AT_SECURE) != 0) return;
  slices_by_environment();
  const char* const name = tenant_asked();
  if (name == nullptr) return;
  const Undisturbed keep;
  Result<shm::Dir> dir = shm::open_dir(shm::dir_options(simulated, false));
  if (!dir.ok()) return;
  const Result<Mapping> map = shm::map_node(*dir);
  if (!map.ok()) return;
  const shm::NodePage& page = *map->as<const shm::NodePage>();
  const Result<shm::NodeMode> how = shm::node_mode(page, name);
  if (!how.ok()) return;
  if ((how->flags & shm::kTenantSlice) != 0) want_slices(kSlice_us);
  if ((how->flags & shm::kTenantPartition) == 0) leave_partition(*dir);
  if ((how->flags & (shm::kTenantSpatial | shm::kTenantPartition)) == 0) return;
  if (!shm::valid_name(how->mps_group)) return;
  if ((how->flags & shm::kTenantPartition) != 0) return enter_partition(*dir, how->mps_group, name);
  const std::uint32_t share = lowest_share(page, shm::node_index(page, name), name);
  if (share != 0) point_at(*dir, how->mps_group, share);
}

void measure_partition() noexcept {
  const Process& p = process;
  Enforcer& e = enforcer;
  e.spatial = false;
  for (Partition& part : e.partition) part = {};
  Result<shm::Dir> dir = shm::open_dir(shm::dir_options(on_simulator(), false));
  if (!dir.ok()) return;
  const Result<Mapping> map = shm::map_node(*dir);
  if (!map.ok()) return;
  const shm::NodePage& page = *map->as<const shm::NodePage>();
  const Result<shm::NodeMode> how = shm::node_mode(page, settings().tenant);
  if (!how.ok()) return;
  const bool own = (how->flags & shm::kTenantPartition) != 0;
  e.spatial = own || (how->flags & shm::kTenantSpatial) != 0;
  for (int i = 0; e.spatial && i < p.device_count; ++i) {
    std::uint8_t uuid[shm::kUuidBytes];
    std::memcpy(uuid, p.devices[i].uuid.bytes, sizeof uuid);
    const shm::Verdict seen = shm::node_verdict(page, uuid);
    int sms = 0;
    if ((own ? seen.partitions : seen.spatial) != shm::Seen::kWorks ||
        next.cuDeviceGetAttribute(&sms, kAttributeSms, p.devices[i].ordinal) != CUDA_SUCCESS)
      continue;
    e.partition[i].own = sms > 0 ? static_cast<std::uint32_t>(sms) : 0;
    e.partition[i].all = seen.sms;
  }
}

std::uint32_t rate_in_partition(unsigned number, std::uint32_t floor_x100) noexcept {
  const Partition& part = enforcer.partition[number % kMaxDevices];
  if (part.own == 0 || part.own >= part.all) return floor_x100;
  const std::uint64_t rate = std::uint64_t{floor_x100} * part.all / part.own;
  return rate < kPartition_x100 ? static_cast<std::uint32_t>(rate) : kPartition_x100;
}

bool alone_in_partition() noexcept {
  const Process& p = process;
  if (!enforcer.spatial || p.region == nullptr) return false;
  for (int i = 0; i < p.device_count; ++i) {
    const shm::ComputeEntry* const e = share_of(p.devices[i]);
    if (e == nullptr) continue;
    const std::uint32_t floor = e->floor_x100.load(kRelaxed);  // one number
    if (floor != 0 && rate_in_partition(p.devices[i].number, floor) != kPartition_x100)
      return false;
  }
  // relaxed: a look, repeated each second
  const std::uint32_t high = p.region->header.slots_high.load(kRelaxed);
  unsigned living = 0;
  for (std::uint32_t i = 0; i < high && i < shm::kMaxSlots; ++i) {
    living += shm::state_of(p.region->slots[i].state.load(kRelaxed)) == shm::kLive ? 1u : 0u;
  }
  return living <= 1;
}

}  // namespace bulkhead::hook
