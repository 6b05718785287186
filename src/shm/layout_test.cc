// The golden files of the region format: whoever moves a field must bump the version and keep the old
// file.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

#include "shm/region.h"

namespace bulkhead::shm {
namespace {

std::string layout() {
  std::ostringstream out;
#define BH_SIZE(type) out << #type << " size " << sizeof(type) << " align " << alignof(type) << "\n"
#define BH_AT(type, member)                                                                      \
  out << #type << "." << #member << " " << offsetof(type, member) << " " << sizeof(type::member) \
      << "\n"
  out << "magic " << std::hex << kRegionMagic << std::dec << " major " << kRegionMajor << "\n";
  BH_SIZE(RegionHeader);
  BH_AT(RegionHeader, magic);
  BH_AT(RegionHeader, major);
  BH_AT(RegionHeader, minor);
  BH_AT(RegionHeader, header_bytes);
  BH_AT(RegionHeader, region_bytes);
  BH_AT(RegionHeader, device_count);
  BH_AT(RegionHeader, slot_count);
  BH_AT(RegionHeader, owner_uid);
  BH_AT(RegionHeader, flags);
  BH_AT(RegionHeader, creator_pid);
  BH_AT(RegionHeader, creator_start_ticks);
  BH_AT(RegionHeader, creator_pid_namespace);
  BH_AT(RegionHeader, name);
  BH_AT(RegionHeader, on_fault);
  BH_AT(RegionHeader, adopted);
  BH_AT(RegionHeader, slots_high);
  BH_AT(RegionHeader, ask);
  BH_AT(RegionHeader, sampled);
  BH_AT(RegionHeader, sampler_beat_s);
  BH_AT(RegionHeader, shares_high);
  BH_AT(RegionHeader, exports_lost);
  BH_AT(RegionHeader, imports_refused);
  BH_AT(RegionHeader, imports_unknown);
  BH_AT(RegionHeader, audit);
  BH_AT(RegionHeader, comms);
  BH_SIZE(DeviceEntry);
  BH_AT(DeviceEntry, uuid);
  BH_AT(DeviceEntry, total_bytes);
  BH_AT(DeviceEntry, unit_shift);
  BH_AT(DeviceEntry, flags);
  BH_AT(DeviceEntry, limit_bytes);
  BH_AT(DeviceEntry, slack_cap);
  BH_AT(DeviceEntry, turn);
  BH_AT(DeviceEntry, context_bytes);
  BH_AT(DeviceEntry, extra_context_bytes);
  BH_AT(DeviceEntry, alloc_granularity);
  BH_AT(DeviceEntry, small_slab_bytes);
  BH_AT(DeviceEntry, array_granularity);
  BH_AT(DeviceEntry, pool_granularity);
  BH_SIZE(ProcSlot);
  BH_AT(ProcSlot, state);
  BH_AT(ProcSlot, pid);
  BH_AT(ProcSlot, uid);
  BH_AT(ProcSlot, start_ticks);
  BH_AT(ProcSlot, pid_namespace);
  BH_AT(ProcSlot, image);
  BH_AT(ProcSlot, heartbeat_s);
  BH_AT(ProcSlot, witness);
  BH_AT(ProcSlot, own_device);
  BH_AT(ProcSlot, own_moved);
  BH_AT(ProcSlot, own_copies);
  BH_AT(ProcSlot, allocs);
  BH_AT(ProcSlot, frees);
  BH_AT(ProcSlot, refused);
  BH_AT(ProcSlot, faults);
  BH_AT(ProcSlot, uncovered);
  BH_AT(ProcSlot, first_allocs);
  BH_AT(ProcSlot, first_frees);
  BH_AT(ProcSlot, poke);
  BH_AT(ProcSlot, own_audited_calls);
  BH_AT(ProcSlot, own_audited_bytes);
  BH_SIZE(MemCell);
  BH_AT(MemCell, w);
  BH_AT(MemCell, p);
  BH_AT(MemCell, n);
  BH_AT(MemCell, other_bytes);
  BH_AT(MemCell, unseen_bytes);
  BH_AT(MemCell, work);
  BH_AT(MemCell, empty_ns);
  BH_SIZE(ShareEntry);
  BH_AT(ShareEntry, word);
  BH_AT(ShareEntry, payer);
  BH_AT(ShareEntry, key);
  BH_AT(ShareEntry, bytes);
  BH_AT(ShareEntry, block);
  BH_AT(ShareEntry, holders);
  BH_SIZE(ComputeEntry);
  BH_AT(ComputeEntry, tat_ns);
  BH_AT(ComputeEntry, floor_x100);
  BH_AT(ComputeEntry, ceiling_x100);
  BH_AT(ComputeEntry, burst_us);
  BH_AT(ComputeEntry, window_us);
  BH_AT(ComputeEntry, dampening_x1000);
  BH_AT(ComputeEntry, flags);
  BH_AT(ComputeEntry, rules);
  BH_AT(ComputeEntry, copy_rate_mb_s);
  BH_AT(ComputeEntry, used_ns);
  BH_AT(ComputeEntry, borrowed_ns);
  BH_AT(ComputeEntry, forgiven_ns);
  BH_AT(ComputeEntry, held_ns);
  BH_AT(ComputeEntry, launches);
  BH_AT(ComputeEntry, copied_bytes);
  BH_AT(ComputeEntry, rate_x100);
  BH_AT(ComputeEntry, wanted_at_ns);
  BH_AT(ComputeEntry, longest_op_ns);
  BH_AT(ComputeEntry, copy_tat_ns);
  BH_AT(ComputeEntry, held_until_ns);
  BH_AT(ComputeEntry, raw_ns);
  BH_AT(ComputeEntry, shared_raw_ns);
  BH_AT(ComputeEntry, short_ns);
  BH_AT(ComputeEntry, gated_ns);
  BH_AT(ComputeEntry, gates);
  BH_AT(ComputeEntry, stream_ops);
  BH_AT(ComputeEntry, copy_held_ns);
  BH_AT(ComputeEntry, moved_bytes);
  BH_AT(ComputeEntry, streams_placed);
  BH_AT(ComputeEntry, streams_left);
  BH_SIZE(Region);
  BH_AT(Region, header);
  BH_AT(Region, devices);
  BH_AT(Region, slots);
  BH_AT(Region, cells);
  BH_AT(Region, observed);
  BH_AT(Region, shares);
  BH_AT(Region, compute);
#undef BH_AT
#undef BH_SIZE
  return out.str();
}

std::string golden(const char* name) {
  std::ifstream file{std::string{BH_GOLDEN_DIR "/"} + name};
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Layout, Region11IsWhatWasReleased) {
  EXPECT_EQ(layout(), golden("region-1.1.txt"))
      << "a changed layout needs a new version and its own golden file";
}

TEST(Layout, AMinorOnlyAdds) {
  const std::string now = "\n" + layout();
  std::istringstream before{golden("region-1.0.txt")};
  unsigned lines = 0;
  for (std::string line; std::getline(before, line); ++lines)
    EXPECT_NE(now.find("\n" + line + "\n"), std::string::npos) << line;
  EXPECT_GT(lines, 50u);
}

}  // namespace
}  // namespace bulkhead::shm

int main(int argc, char** argv) {
  if (argc == 2 && std::string{argv[1]} == "--print") {  // how a golden file is made
    std::fputs(bulkhead::shm::layout().c_str(), stdout);
    return 0;
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
