#include "hook/share_peers.h"

#include <fcntl.h>

#include <cstring>

#include "hook/process.h"
#include "hook/resolve.h"
#include "policy/share.h"
#include "shm/files.h"
#include "shm/node.h"

namespace bulkhead::hook {
namespace {

bool partners_of(const shm::NodePage& page, unsigned index, policy::Partners& out) noexcept {
  static_assert(sizeof out.named == sizeof(std::uint16_t[shm::kMaxPartners]));
  return shm::node_partners(page, index, out.named);
}

// The table of another tenant, a few entries at a time: its file is read, never mapped.
bool table_has(const shm::Dir& dir, const char* name, shm::ShareKind kind,
               shm::ShareKey key) noexcept {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  constexpr unsigned kPiece = 16;
  Result<UniqueFd> fd = shm::open_region(dir, name, O_RDONLY);
  if (!fd.ok()) return false;
  alignas(shm::ShareEntry) unsigned char bytes[kPiece * sizeof(shm::ShareEntry)];
  std::uint32_t high = 0;
  std::uint64_t magic = 0;
  if (!shm::read_exactly(fd->get(), &magic, sizeof magic, 0) || magic != shm::kRegionMagic ||
      !shm::read_exactly(fd->get(), &high, sizeof high, offsetof(shm::RegionHeader, shares_high))) {
    return false;
  }
  for (unsigned i = 0; i < high && i < shm::kMaxShares; i += kPiece) {
    const std::uint64_t at = offsetof(shm::Region, shares) + i * sizeof(shm::ShareEntry);
    if (!shm::read_exactly(fd->get(), bytes, sizeof bytes, at)) return false;
    const auto* const entries = reinterpret_cast<const shm::ShareEntry*>(bytes);
    for (unsigned j = 0; j < kPiece; ++j) {
      // relaxed: a copy of our own
      const std::uint64_t word = entries[j].word.load(kRelaxed);
      const std::uint64_t state = shm::share_state(word);
      // relaxed, both: as above
      if ((state == shm::kShareLive || state == shm::kShareReleased) &&
          shm::share_kind(word) == kind && entries[j].key[0].load(kRelaxed) == key.a &&
          entries[j].key[1].load(kRelaxed) == key.b) {
        return true;
      }
    }
  }
  return false;
}

}  // namespace

bool peer_exports(shm::ShareKind kind, shm::ShareKey key) noexcept {
  Result<shm::Dir> dir = shm::open_dir(shm::dir_options(on_simulator(), false));
  if (!dir.ok()) return false;
  Result<Mapping> map = shm::map_node(*dir);
  if (!map.ok()) return false;
  const shm::NodePage& page = *map->as<const shm::NodePage>();
  const unsigned me = shm::node_index(page, process.tenant.get().name());
  policy::Partners mine, theirs;
  if (me == shm::kMaxTenants || !partners_of(page, me, mine)) return false;
  for (const std::uint16_t named : mine.named) {
    const unsigned other = named - 1u;
    if (named == 0 || other == me || !partners_of(page, other, theirs)) continue;
    if (!policy::may_share(me, mine, other, theirs)) continue;
    char name[shm::kNameBytes];
    std::memcpy(name, page.tenants[other].name, sizeof name);
    name[sizeof name - 1] = 0;
    if (table_has(*dir, name, kind, key)) return true;
  }
  return false;
}

}  // namespace bulkhead::hook
