// Any bytes as a trust file.
#include <cstdint>
#include <cstdlib>

#include "grant/key.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::grant;
  const auto keys = KeySet::parse({reinterpret_cast<const char*>(data), size});
  if (keys.ok() != keys.problem.empty()) std::abort();
  if (keys.ok() && keys.value->size() > kMostKeys) std::abort();
  return 0;
}
