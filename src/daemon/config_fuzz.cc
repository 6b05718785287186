// Any text: no crash; a problem is one line, and what is accepted makes records the socket's parser would take.
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "daemon/config.h"
#include "wire/parse.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead;
  const auto require = [](bool held) {
    if (!held) std::abort();
  };
  auto config = daemon::parse_config({reinterpret_cast<const char*>(data), size}, "f");
  if (!config.ok()) {
    require(!config.problem.empty() && config.problem.find('\n') == std::string::npos);
    return 0;
  }
  std::vector<daemon::Capacity> devices(2);
  for (unsigned i = 0; i < 2; ++i) {
    devices[i].index = i;
    devices[i].total_bytes = 100ull << 30;
    std::memset(devices[i].uuid, static_cast<int>(1 + i), sizeof devices[i].uuid);
  }
  auto records = daemon::resolve_tenants(*config, devices, 0);
  if (!records.ok()) return 0;
  for (const wire::TenantRecord& r : *records) {
    require(wire::check_record(r, wire::RecordUse::kRegister).ok());
  }
  return 0;
}
