// Hostile bytes in a region (its own tenant can write all of it): every reader and every protocol step ends,
// within bounds. The input is a list of patches {offset: 3 bytes, value: 8 bytes} over a fresh region; if its first
// byte is odd the region was noise before, of a seed from the input.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "shm/compute.h"
#include "shm/node.h"
#include "shm/test_rubbish.h"

namespace bulkhead::shm {
namespace {

constexpr std::size_t kUsedBytes = offsetof(Region, cells[1]);
constexpr std::size_t kSharesBytes = 64 * sizeof(ShareEntry);

// splitmix64 (Steele, Lea, Flood 2014). Not every word: a scan that never meets a free slot learns little.
void make_noise(std::uint8_t* bytes, std::uint64_t seed) {
  for (std::size_t at = 0; at + 8 <= kUsedBytes; at += 8) {
    std::uint64_t x = seed += 0x9e37'79b9'7f4a'7c15;
    x = (x ^ (x >> 30)) * 0xbf58'476d'1ce4'e5b9;
    x = (x ^ (x >> 27)) * 0x94d0'49bb'1331'11eb;
    x ^= x >> 31;
    if ((x & 3) != 0) std::memcpy(bytes + at, &x, sizeof x);
  }
}

void fuzz_node(const std::uint8_t* data, std::size_t size) {
  static NodePage page;
  std::memset(static_cast<void*>(&page), 0, sizeof page);
  std::memcpy(static_cast<void*>(&page), data, size < sizeof page ? size : sizeof page);
  static_cast<void>(check_node(page));
  const std::uint8_t uuid[kUuidBytes] = {};
  static_cast<void>(node_limit(page, "a", uuid));
  static_cast<void>(node_compute(page, "a", uuid));
}

}  // namespace
}  // namespace bulkhead::shm

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::shm;
  static Region region;
  // what is looked at: all but the cells of devices that are not there
  std::memset(static_cast<void*>(&region.header), 0, kUsedBytes);
  std::memset(static_cast<void*>(&region.observed), 0, sizeof region.observed[0]);
  std::memset(static_cast<void*>(&region.shares), 0, sizeof region.shares);
  TenantSpec spec;
  spec.device_count = 1;
  spec.devices[0].limit_bytes = spec.devices[0].total_bytes = 1ull << 30;
  format_region(region, spec, "fuzz", Identity{});
  auto* bytes = reinterpret_cast<std::uint8_t*>(&region);
  if (size > 1 && (data[0] & 1) != 0) make_noise(bytes, data[1]);
  for (std::size_t at = 0; at + 11 <= size; at += 11) {
    const std::size_t offset =
        (data[at] | std::size_t{data[at + 1]} << 8 | std::size_t{data[at + 2]} << 16) %
        (kUsedBytes + kSharesBytes - 8);
    if (offset > kUsedBytes - 8 && offset < kUsedBytes) continue;
    const std::size_t there =
        offset < kUsedBytes ? offset : offsetof(Region, shares) + offset - kUsedBytes;
    std::memcpy(bytes + there, data + at + 3, 8);
  }
  static_cast<void>(check_region(region));
  // even after a good attach the bytes may change to anything
  use_rubbish(region, 1, size != 0 ? (data[size - 1] * 4u) % kMaxSlots : 0);
  fuzz_node(data, size);
  return 0;
}
