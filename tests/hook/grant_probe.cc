// A process of a tenant that has nothing of the library but its grants (src/hook/grant.cc): told by lines on standard input what to check,
// it answers with the reason and the grant's serial. For tests/e2e/grants.py.
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>

#include "base/clock.h"
#include "hook/audit_grant.h"
#include "hook/grant.h"
#include "hook/process.h"
#include "hook/resolve.h"

namespace bulkhead::hook {
constinit const Place kNowhere{};
constinit Process process{};
bool on_simulator() noexcept { return true; }
}  // namespace bulkhead::hook

namespace {
using namespace bulkhead;
using hook::process;

std::atomic<unsigned long> checks{0}, refused{0};
std::atomic<unsigned> last_reason{0};

hook::AuditEvent event(const std::string& action, unsigned device, unsigned long bytes) {
  hook::AuditEvent e;
  e.bytes = bytes;
  const auto number = static_cast<std::uint8_t>(device);
  e.destination = 0x7f0000000000;
  e.direction = abi::Direction::kHostToDevice;
  e.destination_device = number;
  if (action == "d2h") {
    e.direction = abi::Direction::kDeviceToHost;
    e.source_device = number;
    e.destination_device = abi::kHostDevice;
  }
  if (action == "unknown") e.direction = abi::Direction::kUnknown;
  if (action == "map") e.kind = abi::EntryKind::kMap;
  return e;
}

// The child has the parent's memory but for the table, and asks for itself.
void in_child(const hook::AuditEvent& e) {
  ::fflush(stdout);
  const pid_t child = ::fork();
  if (child == 0) {
    hook::grant_forked_child();
    const hook::GrantAnswer a = hook::grant_check(e, monotonic_ns());
    ::printf("%u %u\n", static_cast<unsigned>(a.reason), a.serial);
    ::fflush(stdout);
    ::_exit(0);
  }
  ::waitpid(child, nullptr, 0);
}

bool attach(const char* tenant) {
  static auto dir = shm::open_dir(shm::dir_options(true, false));
  if (!dir.ok()) return false;
  auto made = shm::attach_tenant(*dir, tenant);
  if (!made.ok()) return false;
  process.tenant.put(std::move(*made));
  process.region = &process.tenant.get().region();
  process.device_count = static_cast<int>(process.tenant.get().device_count());
  for (int i = 0; i < process.device_count; ++i) {
    process.devices[i].number = static_cast<std::uint32_t>(i);
    memcpy(process.devices[i].uuid.bytes, process.region->devices[i].uuid, 16);
  }
  process.mode.store(hook::Mode::kOn);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || !attach(argv[1])) return 1;
  ::setvbuf(stdout, nullptr, _IOLBF, 0);
  ::puts("ready");
  char order[32], action[32];
  unsigned device = 0;
  unsigned long bytes = 0;
  char line[256];
  while (::fgets(line, sizeof line, stdin) != nullptr) {
    if (::sscanf(line, "%31s %31s %u %lu", order, action, &device, &bytes) < 1) continue;
    const std::string what = order;
    if (what == "check" || what == "fork") {
      if (what == "fork") {
        in_child(event(action, device, bytes));
        continue;
      }
      const hook::GrantAnswer a = hook::grant_check(event(action, device, bytes), monotonic_ns());
      ::printf("%u %u\n", static_cast<unsigned>(a.reason), a.serial);
    } else if (what == "spin") {
      std::thread([] {
        for (;;) {
          const hook::GrantAnswer a = hook::grant_check(event("h2d", 0, 64), monotonic_ns());
          checks.fetch_add(1);
          if (a.reason != abi::DenyReason::kNone) {
            last_reason.store(static_cast<unsigned>(a.reason));
            refused.fetch_add(1);
          }
          if (checks.load() % 1000 == 0) ::usleep(1000);  // the machine is others', too
        }
      }).detach();
      ::puts("spinning");
    } else if (what == "count") {
      ::printf("%lu %lu %u\n", checks.load(), refused.load(), last_reason.load());
    } else if (what == "close") {
      for (int fd = 3; fd < 1024; ++fd) ::close(fd);
      ::puts("closed");
    } else if (what ==
               "adopted") {  // what DaemonLink does when another daemon took the region over
      hook::grant_table_is_old();
      hook::grant_second();
      ::puts("asked");
    } else {
      ::puts("?");
    }
  }
  ::_exit(0);
}
