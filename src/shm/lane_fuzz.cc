// What a consumer reads of a hostile slot: whatever it holds, the copy is judged without harm, and what is let through is an
// entry of this place.
#include <cstdlib>

#include "shm/lane.h"

using namespace bulkhead;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 8 + sizeof(shm::LaneSlot)) return 0;
  std::uint64_t expected = 0;
  std::memcpy(&expected, data, sizeof expected);
  expected &= (1ull << 47) - 1;
  alignas(64) unsigned char bytes[sizeof(shm::LaneSlot)];
  std::memcpy(bytes, data + 8, sizeof bytes);
  if ((data[0] & 1) != 0) {  // half of them are committed
    const std::uint64_t commit = expected + 1;
    std::memcpy(bytes, &commit, sizeof commit);
  }
  const auto& slot = *reinterpret_cast<const shm::LaneSlot*>(bytes);
  abi::AuditEntry e{};
  if (shm::read_slot(slot, expected, e) != shm::LaneRead::kEntry) return 0;
  if (shm::well_formed(e, expected)) {
    if (abi::sequence_of(e) != expected || abi::decision_of(e) == abi::Decision::kViolation ||
        abi::kind_of(e) == abi::EntryKind::kRecord) {
      std::abort();
    }
  } else if (!shm::well_formed(e = shm::malformed_entry(expected, 1), expected)) {
    // it says violation, which no library may: only its place must be right
    if (abi::sequence_of(e) != expected) std::abort();
  }
  return 0;
}
