#include "cli/partition.h"

#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "cli/mode.h"
#include "shm/node.h"
#include "shm/partition.h"

namespace bulkhead::cli {
namespace {

constexpr std::uint64_t kPatience_ns = 30'000'000'000;

// Of a shell that another tenant's partition was given to: what was inherited is not this tenant's.
void leave_partition(const Machine& machine) {
  const char* const pipe = std::getenv("CUDA_MPS_PIPE_DIRECTORY");
  if (pipe == nullptr || std::getenv("CUDA_MPS_SM_PARTITION") == nullptr) return;
  const std::string_view at = pipe;
  if (!at.starts_with(machine.dir.path) || !at.ends_with("+S/pipe")) return;
  ::unsetenv("CUDA_MPS_SM_PARTITION");
  ::unsetenv("CUDA_MPS_PIPE_DIRECTORY");
}

enum : std::uint32_t { kServing = 1, kComing = 2, kRefused = 4 };  // wire::TenantView::mps_state

}  // namespace

std::string enter_partition(const Machine& machine, const std::string& tenant, std::string& note) {
  const auto map = shm::map_node(machine.dir);
  if (!map.ok()) return {};
  const auto how = shm::node_mode(*map->as<const shm::NodePage>(), tenant.c_str());
  if (!how.ok()) return {};
  leave_partition(machine);
  if ((how->flags & shm::kTenantPartition) == 0) return {};
  const std::uint64_t until = monotonic_ns() + kPatience_ns;
  std::uint32_t state = mps_state_of(machine, tenant);
  for (; state == kComing && monotonic_ns() < until; state = mps_state_of(machine, tenant)) {
    const timespec pause{0, 20'000'000};
    ::nanosleep(&pause, nullptr);
  }
  const auto book = shm::read_partition(machine.dir, tenant.c_str());
  if (state == kRefused)
    return fmt::format("tenant {}: {}", tenant,
                       book.ok() && book->refused[0] != '\0'
                           ? static_cast<const char*>(book->refused)
                           : "MPS gave it no partition: 'bulkhead events' says why");
  if (state != kServing || !book.ok() || book->value[0] == '\0') {
    note = fmt::format(
        "MPS has no partition of tenant {} ({}): the command is held in time; 'bulkhead events' "
        "says why",
        tenant, mps_text(state));
    return {};
  }
  const std::string pipe =
      fmt::format("{}/mps/{}/{}+S/pipe", machine.dir.path, ::geteuid(), how->mps_group);
  ::setenv("CUDA_MPS_PIPE_DIRECTORY", pipe.c_str(), 1);
  ::setenv("CUDA_MPS_SM_PARTITION", book->value, 1);
  return {};
}

std::string partition_text(const Machine& machine, const std::string& tenant) {
  const auto book = shm::read_partition(machine.dir, tenant.c_str());
  if (!book.ok()) return {};
  if (book->value[0] == '\0') return fmt::format("none: {}", book->refused);
  return fmt::format("{} chunks, {} multiprocessors ({})", book->chunks, book->sms, book->value);
}

nlohmann::json partition_json(const Machine& machine, const std::string& tenant) {
  const auto book = shm::read_partition(machine.dir, tenant.c_str());
  if (!book.ok()) return nullptr;
  if (book->value[0] == '\0')
    return {{"id", nullptr}, {"refused", static_cast<const char*>(book->refused)}};
  return {{"id", static_cast<const char*>(book->value)},
          {"chunks", book->chunks},
          {"multiprocessors", book->sms},
          {"refused", nullptr}};
}

}  // namespace bulkhead::cli
